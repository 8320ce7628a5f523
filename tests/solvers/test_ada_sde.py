"""AdaSDE against its formulas, written out, with noise of its own; and its limiting case."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.plan.start import beginning
from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.solvers import get_solver
from restart_sampling.solvers.trace import Update

OPTIONS = {
    "r": [0.4, 0.55, 0.6],
    "w": [1.0, 0.9, 1.0],
    "c": [1.02, 0.97, 1.0],
    "a": [0.9, 1.1, 1.05],
    "gamma": [0.01, 0.02, 0.005],
}
SIGMAS = (20.0, 5.0, 1.0, 0.2)


def D(x, sigma):
    """A denoiser that is not linear."""
    return torch.tanh(x / (1 + sigma)) * 0.7 + x / (1 + sigma**2)


def test_a_run_is_the_formulas():
    plan = rs.Plan.build(sigmas=SIGMAS, solver="ada-sde", solver_options=OPTIONS)
    assert plan.nfe == 7 and plan.draws == 2 and plan.config.family == "sde"
    den = rs.Denoiser.from_function(lambda x, sigma: D(x, sigma.view(-1, 1)), shape=(5,))
    seeds = range(4)
    x = rs.Sampler(den, plan, batch_size=4).run(seeds)
    noise = [rs.noise.normal(seeds, draw=k, shape=(5,)).double() for k in range(4)]
    want = noise[0]
    for i, (t, s) in enumerate(pairwise(SIGMAS)):
        r, w, c, a, gamma = (OPTIONS[name][i] for name in OPTIONS)
        up = t * (1 + gamma)
        raised = want + math.sqrt(up**2 - t**2) * noise[i] if i else up * noise[0]
        d = (raised - D(raised, up)) / up
        m = s**r * up ** (1 - r)
        middle = raised + (m - up) * d
        want = raised + w * c * (s - up) * (middle - D(middle, torch.tensor(a * m))) / m
        assert plan.rows[2 * i + 1].sigma == pytest.approx(a * m)
    want = D(want, SIGMAS[-1])
    np.testing.assert_allclose(x.numpy(), want.numpy(), rtol=2e-5, atol=1e-5)


def test_without_values_it_is_dpm2():
    plain, other = (rs.Plan.build(steps=6, sigma_min=0.05, solver=name) for name in ("ada-sde", "dpm2"))
    assert plain.nfe == other.nfe
    for a, b in zip(plain.steps, other.steps, strict=True):
        assert [stage.level for stage in a.stages] == pytest.approx([stage.level for stage in b.stages])
        assert (*a.result.D, a.result.x) == pytest.approx((*b.result.D, b.result.x))


def test_a_run_that_begins_later_has_the_values_of_its_steps():
    plan = rs.Plan.build(sigmas=SIGMAS, solver="ada-sde", solver_options=OPTIONS)
    later = beginning(plan, sigma=SIGMAS[1])
    assert dict(later.config.solver_options)["r"] == tuple(OPTIONS["r"][1:])
    assert [row.sigma for row in later.rows] == [row.sigma for row in plan.rows[2:]]


def test_inside_intervals_it_is_euler():
    plan = rs.Plan.build(sigmas=SIGMAS, solver="ada-sde", solver_options=OPTIONS, restart=[3, 1, 1.0, 3.0])
    inside = [step for step in plan.steps if step.interval is not None]
    assert [len(step.stages) for step in inside] == [1, 1]


def test_a_solver_that_first_asks_elsewhere_is_refused():
    """Its input would be that of the row before, which knows nothing of it."""
    wrong = replace(get_solver("euler"), step=lambda x, t, s, D, position: Update(D(0.5 * x, t)))
    with pytest.raises(rs.ConfigError, match="solver 'euler' must make its first evaluation at the state it is given"):
        Trajectory(1.0, "ve", 1.0, 1.0).backward((1.0, 0.5), wrong, lambda t: 0.0)
