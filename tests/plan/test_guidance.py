"""The weight of each row under guidance, and what it costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.plan.guidance import weights
from restart_sampling.sampler.table import bind


def test_guidance_in_an_interval_costs_only_there():
    whole = rs.Plan.build(steps=18, guidance_scale=3.0)
    part = rs.Plan.build(steps=18, guidance_scale=3.0, guidance_interval=(0.2, 5.0))
    inside = [0.2 <= row.sigma <= 5.0 for row in part.rows]
    assert (weights(part) == np.where(inside, 3.0, 1.0)).all()
    assert whole.network_calls == 2 * whole.nfe == 70
    assert part.network_calls == part.nfe + sum(inside) < whole.network_calls
    assert rs.Plan.build(steps=18).network_calls == 35
    text = part.explain()
    assert f"35 NFE · {part.network_calls} network calls" in text
    assert f"{sum(inside)} of 35 evaluations run the network on 2 inputs" in text
    assert bind(part, parameterization.edm()).network_calls == part.network_calls


def plus_plus(D_c, D_u, x, levels, w, noise=None):
    """CFG++ as its paper writes it (arXiv 2406.08070, Algorithm 2), in σ: denoise by the guided D, renoise by D_u."""
    for i, (t, s) in enumerate(pairwise(levels)):
        c, u = D_c(x, t), D_u(x, t)
        guided = u + w * (c - u)
        up = min(s, s * np.sqrt(1 - (s / t) ** 2)) if noise else 0.0
        dn = np.sqrt(s * s - up * up)
        x = guided + dn * (x - u) / t + (up * noise[i] if noise else 0.0)
    return x


@pytest.mark.parametrize("solver", ["euler", "ddpm"])
def test_cfg_plus_plus_is_a_weight_of_its_own_for_each_row(solver):
    plan = rs.Plan.build(steps=9, solver=solver, guidance_scale=0.6, guidance="cfg++")
    levels, W = plan.grid, weights(plan)
    assert W[-1] == pytest.approx(0.6)
    if solver == "euler":
        assert np.allclose(W, 0.6 / (1 - np.array(levels[1:]) / np.array(levels[:-1])))

    def D(mean, var):
        return lambda x, t: mean + var / (var + t * t) * (x - mean)

    D_c, D_u = D(0.8, 0.1), D(-0.3, 0.6)
    noise = [0.3, -1.2, 0.8, 0.1, 1.4, -0.6, 0.2, -0.9, 0.0] if solver == "ddpm" else None
    x = 31.0
    for step, w in zip(plan.steps, W, strict=True):
        c, u = D_c(x, step.t), D_u(x, step.t)
        x = (
            step.result.x * x
            + step.result.D[0] * (u + w * (c - u))
            + (step.noise * noise[step.draw - 1] if step.noise else 0)
        )
    assert x == pytest.approx(plus_plus(D_c, D_u, 31.0, levels, 0.6, noise), rel=1e-12)


def test_cfg_plus_plus_on_a_flow_and_through_jumps():
    """x' = α·D_w + σ·(the direction of D_u), whatever a jump scales afterwards."""
    plan = rs.Plan.build(
        steps=6, solver="euler", schedule="flow", restart="[3, 2, 0.3, 0.7]", guidance_scale=0.5, guidance="cfg++"
    )
    for step, W in zip(plan.steps, weights(plan), strict=True):
        x, c, u = 0.7, 0.2, -0.4
        lifted = (1 - step.lift_to) / (1 - step.s)
        direction = (x - (1 - step.t) * u) / step.t
        expected = lifted * ((1 - step.s) * (u + 0.5 * (c - u)) + step.s * direction)
        found = step.result.x * x + step.result.D[0] * (u + W * (c - u))
        assert found == pytest.approx(expected, rel=1e-12)


def test_rows_without_network():
    plan = rs.Plan.build(
        steps=6, solver="euler", schedule="flow", guidance_scale=4.0, guidance="zero-star", zero_init=2
    )
    assert plan.network_calls == 2 * plan.nfe - 4
    table = bind(plan, parameterization.flow())
    assert table.kinds.tolist() == [0, 0, 2, 2, 2, 2]
    assert table.coef[1, 0] == pytest.approx(1.0)  # a velocity of 0 leaves a flow's state as it is
    assert "zero_init 2" in plan.explain()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(guidance="cfgpp"), "guidance must be"),
        (dict(guidance="cfg++", solver="heun"), "euler or ddpm"),
        (dict(guidance="cfg++", solver="dpm++2m"), "euler or ddpm"),
        (dict(guidance="cfg++", solver="euler", restart_solver="heun", restart=[3, 1, 0.1, 0.4]), "'heun'"),
        (dict(guidance="cfg++", solver="euler", guidance_scale=0.0), "above 0"),
        (dict(guidance="apg", guidance_rescale=0.5), "guidance_rescale to 0"),
        (dict(guidance_rescale=1.5), "guidance_rescale must be"),
        (dict(zero_init=1), "zero_init to 0"),
        (dict(zero_init=-1, guidance="zero-star"), "zero_init must be"),
    ],
)
def test_options_that_do_not_go_together(options, reason):
    with pytest.raises(ConfigError, match=reason.replace("+", r"\+")):
        rs.Plan.build(steps=5, **options)


def test_recipes_of_before_keep_their_digests():
    """A later option at its default is not in the recipe."""
    assert "guidance" not in rs.Plan.build(steps=5).config.to_dict()
    plan = rs.Plan.build(steps=5, guidance="apg", guidance_scale=3.0, apg_eta=0.5)
    again = rs.Plan.build(**plan.config.to_dict())
    assert again.digest == plan.digest != rs.Plan.build(steps=5, guidance="apg", guidance_scale=3.0).digest
    assert rs.preset("fashion-mnist-22").digest == FASHION


FASHION = "b30d77921c7c"
