"""Plans that multiply rounding errors: the fused step loses no more than a plain float32 loop, and the plan says what
is lost.
"""

from __future__ import annotations

import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_sampling.plan.rounding import amplification

SHAPE = (1, 4, 4)
SEEDS = range(8)


def literal(plan, D, dtype):
    """The plan's steps as they stand there, in plain PyTorch."""
    noise = lambda draw: rs.noise.normal(SEEDS, draw, SHAPE).to(dtype)  # noqa: E731
    x, kept = noise(0) * plan.initial_noise, []
    for step in plan.steps:
        outputs = []

        def value(form, x=x, kept=kept, outputs=outputs):
            y = form.x * x
            for w, d in (*zip(form.history, kept, strict=False), *zip(form.D, outputs, strict=False)):
                y = y + w * d
            return y

        for stage in step.stages:
            outputs.append(D(value(stage.z), torch.full((len(SEEDS),), stage.level, dtype=dtype)))
        fresh = [value(form) for form in step.keep]
        x = value(step.result)
        if step.noise:
            x = x + step.noise * noise(step.draw)
        kept = fresh
    return x.double()


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        (dict(steps=2, rho=2.0), True),
        (dict(steps=3, rho=2.0), True),
        (dict(steps=2, rho=2.0, restart=[3, 10, 5.0, 79.0]), True),
        (dict(steps=2, rho=2.0, solver="edm-stochastic", restart=[2, 4, 5.0, 79.0]), True),
        (dict(steps=2, rho=2.0, solver="euler", restart=[3, 4, 5.0, 79.0]), False),
        (dict(steps=12, restart=[3, 2, 0.1, 0.5]), False),
    ],
)
def test_float32_loses_what_a_plain_loop_loses(options, noted):
    plan, D = rs.Plan.build(**options), problems.mixture(SHAPE)
    den = rs.Denoiser.from_function(D, SHAPE)
    exact = literal(plan, D, torch.float64)
    scale = exact.norm()
    plain = float((literal(plan, D, torch.float32) - exact).norm() / scale)
    fused = float((rs.sample(den, plan, SEEDS).double() - exact).norm() / scale)
    wide = float((rs.sample(den, plan, SEEDS, register_dtype=torch.float64).double() - exact).norm() / scale)
    assert fused <= 2 * plain + 1e-6
    assert wide <= 1e-4 * max(plain, 1e-6)
    notes = [note for note in plan.notes if "rounding errors" in note]
    assert bool(notes) == noted
    assert all(note in plan.explain() for note in notes)


def test_the_factor_of_heun_is_the_ratio_of_the_levels():
    (step, last) = rs.Plan.build(steps=2).steps
    t, s = 80.0, 0.002
    # x + (s − t)/2·((x − D)/t + (x' − D')/s), x' = x·s/t + (1 − s/t)·D: the weights of D and D'.
    first, second = (t - s) / (2 * t) - (t - s) / (2 * s) * (1 - s / t), (t - s) / (2 * s)
    assert amplification(step) == pytest.approx(abs(first) + second)
    assert amplification(last) == 1.0
    assert amplification(rs.Plan.build(steps=2, solver="euler").steps[0]) == pytest.approx(1 - s / t)


def test_no_published_plan_is_noted():
    for preset in rs.presets():
        assert not any("rounding errors" in note for note in rs.preset(preset.name).notes), preset.name


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++3m", "lms", "unipc:lower_final=false"])
def test_a_history_that_would_multiply_rounding_errors_is_dropped(solver):
    """Steps 200 times as long as the one before keep the history of one level; of two, the product of ratios counts."""
    levels = [20.0, 20 * 0.985**0.01, 20 * 0.985, 0.9]  # steps in ln t of 1, 100 and 20,000 units
    plan = rs.Plan.build(sigmas=levels, solver=solver)
    uses = [any(step.result.history) for step in plan.steps[:3]]
    assert uses == [False, True, solver == "dpm++2m"]
    assert max(map(amplification, plan.steps)) < 1000


def test_what_a_multistep_solver_keeps_counts():
    """The weights of earlier outputs are as large as those of the newest one, with the other sign."""
    plan = rs.Plan.build(sigmas=[20.0, 20 * 0.985**0.01, 20 * 0.985, 0.9], solver="dpm++2m")
    (step,) = plan.steps[2:3]
    assert amplification(step) == pytest.approx(abs(step.result.D[0]) + abs(step.result.history[0]))
