"""Random plans against the papers' algorithms in float64.

More of them: `pytest tests/plan/test_random_plans.py --trials 100 --trial-seed 7`.
"""

from __future__ import annotations

import math

import pytest
import torch
from support import problems, steps

import restart_sampling as rs
from restart_sampling.sampler import reference

SHAPE = (1, 2, 3)
SEEDS = [0, 2**40 + 1]
STEPS = {"heun": reference.heun_step, "euler": reference.euler_step, "dpm2": steps.dpm2_step}


def random_case(rng):
    """(options of Plan.build, options of the literal loop); some are refused by both or by the plan alone."""
    steps = rng.choice([2, 3, 4, 7, 12, 18, 25, 36])
    low = 10 ** rng.uniform(-3.5, -0.5)
    high = low * 10 ** rng.uniform(0.7, 4.5)
    rho = rng.choice([1.0, 2.0, 3.0, 5.0, 7.0, 9.5])
    solver = rng.choice(["euler", "heun", "heun", "dpm2", "edm-stochastic"])
    intervals = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
        t_min = math.exp(rng.uniform(math.log(low * 0.9), math.log(high)))
        t_max = math.exp(rng.uniform(math.log(t_min), math.log(high * 1.02)))
        intervals.append([rng.randint(2, 7), rng.randint(0, 4), t_min, t_max])
    same = dict(s_noise=rng.choice([1.0, 1.003, 0.0, 1.2]))
    if rng.random() < 0.4:
        same |= dict(s_min=low * 2, s_max=high / 2, restart_gamma=rng.choice([0.0, 0.05, 0.3]))
    if solver == "edm-stochastic":
        same |= dict(s_churn=rng.choice([0.0, 5.0, 40.0, 1000.0]))
    plan = dict(steps=steps, sigma_min=low, sigma_max=high, rho=rho, solver=solver, restart=intervals, **same)
    name = {"edm-stochastic": "heun"}.get(solver, solver)
    loop = dict(
        steps=steps,
        sigma_min=low,
        sigma_max=high,
        rho=rho,
        intervals=[tuple(i) for i in intervals],
        step=STEPS[name],
        **same,
    )
    return plan, loop


def literal(D, loop):
    calls = []

    def counted(x, level):
        calls.append(level)
        return D(x, torch.full((len(x),), float(level), dtype=torch.float64))

    x = reference.restart(counted, lambda k: rs.noise.normal(SEEDS, k, SHAPE).double(), **loop)
    return x, len(calls)


def test_random_plans_equal_the_papers_algorithm(trials):
    """Every plan that is not refused has the literal loop's evaluations and, in float64, its samples."""
    rng, D = trials.random("plans"), problems.mixture(SHAPE)
    ran = refused = 0
    for trial in range(trials.count(40)):
        options, loop = random_case(rng)
        try:
            plan = rs.Plan.build(**options)
        except rs.RestartError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400, error
            continue
        want, nfe = literal(D, loop)
        where = f"trial {trial} of seed {trials.seed}: {options}"
        assert plan.nfe == nfe, where
        denoiser = rs.Denoiser.from_function(D, shape=SHAPE)
        x = rs.Sampler(denoiser, plan, batch_size=2, register_dtype=torch.float64).run(SEEDS)
        error = ((x - want).abs().max() / want.abs().max()).item()
        assert error <= 1e-9, f"{where}: {error:.3g}"
        ran += 1
    assert ran >= refused, "most random plans should run"


@pytest.mark.parametrize("bad", [0, 1, -3, 2.5, "many", None])
def test_the_generator_of_cases_is_not_lenient(bad, trials):
    """A K below zero or a broken N must be refused, or the trials above would compare nothing."""
    options, _ = random_case(trials.random("refused"))
    options["restart"] = [[bad, 2, options["sigma_min"] * 3, options["sigma_max"] / 3]]
    with pytest.raises(rs.RestartError):
        rs.Plan.build(**options)
