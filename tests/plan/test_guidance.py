"""The weight of each row under guidance, and what it costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.plan.guidance import weights
from restart_sampling.plan.start import beginning
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


# --- the interval of arXiv 2404.07724: (lo, hi] rounded to the grid, w constant within a step

EDM32 = dict(steps=32, guidance_interval_rounding="grid")
# (lo, hi], w, the first and the last guided step, and evaluations of the guide
PAPER = {
    "S, FID": ((0.28, 2.90), 2.1, 15, 21, 14),
    "S, FD": ((0.60, 5.00), 3.2, 13, 19, 14),
    "XXL, FID": ((0.19, 1.61), 2.0, 17, 22, 12),
    "XXL, FD": ((0.60, 5.00), 2.9, 13, 19, 14),
}


def guided_steps(plan):
    """The steps of which every evaluation is guided, and those of which only some are."""
    W, row, whole, part = weights(plan), 0, [], []
    for i, step in enumerate(plan.steps):
        inside = W[row : row + len(step.stages)] != 1
        row += len(step.stages)
        whole += [i] * bool(inside.all())
        part += [i] * bool(inside.any() and not inside.all())
    return whole, part


@pytest.mark.parametrize("name", PAPER)
def test_intervals_of_the_paper(name):
    interval, w, first, last, evaluations = PAPER[name]
    plan = rs.Plan.build(guidance_scale=w, guidance_interval=interval, **EDM32)
    assert guided_steps(plan) == ([*range(first, last + 1)], [])
    assert (plan.nfe, plan.network_calls) == (63, 63 + evaluations)
    assert (bind(plan, parameterization.edm()).kinds == np.where(weights(plan) != 1, 2, 1)).all()


def test_levels_that_the_paper_rounds_to():
    grid = rs.Plan.build(steps=32).grid
    found = [float(f"{grid[i]:.6g}") for i in (13, 15, 17, 20, 22, 23)]
    assert found == [4.99911, 2.90153, 1.60857, 0.597700, 0.283044, 0.188600]
    plan = rs.Plan.build(guidance_scale=2.1, guidance_interval=(0.28, 2.90), **EDM32)
    assert (
        "in steps from sigma in (0.28304, 2.9015] (asked 0.28 … 2.9, rounded to the grid): 14 of 63" in plan.explain()
    )


def test_without_rounding_each_evaluation_counts_by_its_own_level():
    """It guides the corrector of the step above, and not that of the last step (facts of arXiv 2404.07724)."""
    plan = rs.Plan.build(steps=32, guidance_scale=2.0, guidance_interval=(0.19, 1.61))
    assert guided_steps(plan) == ([*range(17, 22)], [16, 22])


def test_rounding_leaves_ends_without_limit_alone():
    for interval in ((0.0, None), (0.0005, 200.0)):
        plan = rs.Plan.build(guidance_scale=2.0, guidance_interval=interval, **EDM32)
        assert guided_steps(plan) == ([*range(32)], [])
    plan = rs.Plan.build(guidance_scale=2.0, guidance_interval=(1.55, 1.65), **EDM32)
    assert guided_steps(plan) == ([], []) and plan.network_calls == plan.nfe


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm3", "dpm++2m", "edm-stochastic"])
def test_rounding_guides_whole_steps_of_any_solver(solver):
    """Churn lifts the level at which a step evaluates, and not the step."""
    churn = {"s_churn": 20.0} if solver == "edm-stochastic" else {}
    plan = rs.Plan.build(solver=solver, guidance_scale=2.1, guidance_interval=(0.28, 2.90), **EDM32, **churn)
    assert guided_steps(plan) == ([*range(15, 22)], [])


@pytest.mark.parametrize(("t_max", "inside"), [(3.0, [1, 2, 4, 5]), (1.5, [0, 1, 2, 3, 4, 5])])
def test_rounding_in_restart_intervals(t_max, inside):
    """A step there counts by the level at which it begins, the first of each repeat at t_max."""
    options = dict(steps=18, restart=[4, 2, 0.3, t_max], guidance_scale=2.0, restart_gamma=0.05)
    plan = rs.Plan.build(**options, guidance_interval=(0.3, 2.0), guidance_interval_rounding="grid")
    (interval,) = plan.intervals
    lo, hi = plan.grid[interval.index], min(plan.grid, key=lambda t: abs(t - 2.0))
    repeat = interval.levels[:-1]
    begins = [*plan.grid[: interval.index], *repeat, *repeat, *plan.grid[interval.index : -1]]
    want = [i for i, t in enumerate(begins) if lo < t <= hi]
    assert guided_steps(plan) == (want, [])
    assert [i - interval.index for i in want if plan.steps[i].interval is not None] == inside


def test_rounding_is_that_of_the_grid_as_it_runs():
    """Levels that the network does not know are cut off first, and the rest of a plan has the points it had."""
    plan = rs.Plan.build(guidance_scale=2.1, guidance_interval=(0.28, 2.90), **EDM32)
    moved = plan.for_network(0.01, 40.0)
    lo, hi = (min(moved.grid, key=lambda t: abs(t - end)) for end in (0.28, 2.90))
    assert guided_steps(moved)[0] == [i for i, t in enumerate(moved.grid) if lo < t <= hi]
    later = beginning(plan, sigma=10.0)
    skipped = len(plan.steps) - len(later.steps)
    assert guided_steps(later) == ([i - skipped for i in range(15, 22)], [])


def test_the_option_of_rounding_is_checked_and_kept():
    with pytest.raises(ConfigError, match="guidance_interval_rounding must be one of none, grid, got 'up'"):
        rs.Plan.build(guidance_interval_rounding="up")
    plan = rs.Plan.build(guidance_scale=2.1, guidance_interval=(0.28, 2.90), **EDM32)
    again = rs.Plan.build(**plan.config.to_dict())
    assert again == plan and again.digest == plan.digest
    assert plan.digest != rs.Plan.build(steps=32, guidance_scale=2.1, guidance_interval=(0.28, 2.90)).digest
    assert "guidance_interval_rounding" not in rs.Plan.build(steps=32).config.to_dict()
