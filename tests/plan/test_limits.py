"""Levels given by users and libraries against the range of a network: rounding is moved and said, more is an error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.plan.limits import ROUNDING, stop_at_last_level
from restart_sampling.sampler.table import bind


def network():
    from restart_sampling.plan.schedule import sd_sigmas

    return parameterization.discrete(sd_sigmas())


CONTAINERS = {
    "list": lambda t: t.tolist(),
    "tuple of tensors": lambda t: tuple(t),
    "numpy float32": lambda t: t.numpy(),
    "numpy float64": lambda t: t.numpy().astype(np.float64),
    "torch float32": lambda t: t,
    "torch bfloat16 in range": lambda t: t.to(torch.bfloat16),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_float32_levels_of_ve_in_every_container(kind):
    """0.02 in float32 is 4e-8 below the lowest level of VE."""
    levels = torch.linspace(100, 0.02, 10)
    if "bfloat16" in kind:
        levels = torch.linspace(90, 1, 10)
    table = bind(rs.Plan.build(sigmas=CONTAINERS[kind](levels)), parameterization.ve())
    want = np.linspace(*((90, 1, 10) if "bfloat16" in kind else (100, 0.02, 10)))
    assert np.allclose(table.plan.grid[:-1], want, rtol=5e-3 if "bfloat16" in kind else 1e-6)
    assert table.sigma.min() >= 0.02 and table.sigma.max() <= 100


def test_what_was_moved_is_said():
    known = network()
    plan = rs.Plan.build(sigmas=[known.sigma_max * (1 + 4e-7), 1.0, known.sigma_min * (1 - 4e-7)])
    moved = bind(plan, known).plan
    top, low = known.sigma_max, known.sigma_min
    assert moved.grid == (known.sigma_max, 1.0, known.sigma_min, 0.0)
    assert [n for n in moved.notes if "moved by rounding" in n] == [
        f"sigmas: {top * (1 + 4e-7):.9g} moved by rounding to {top:.9g}, the highest level the network knows",
        f"sigmas: {low * (1 - 4e-7):.9g} moved by rounding to {low:.9g}, the lowest level the network knows",
    ]
    assert "moved by rounding" in moved.explain()
    assert moved.config == plan.config  # the recipe is what was given


def test_levels_inside_are_left_alone():
    known = network()
    plan = rs.Plan.build(sigmas=[known.sigma_max, 1.0, known.sigma_min])
    assert bind(plan, known).plan is plan


@pytest.mark.parametrize("excess, fine", [(0.9 * ROUNDING, True), (1.1 * ROUNDING, False)])
@pytest.mark.parametrize("end", ["top", "bottom"])
def test_the_tolerance_is_one_in_ten_thousand(excess, fine, end):
    known = network()
    sigmas = [known.sigma_max, 1.0, known.sigma_min]
    sigmas[0 if end == "top" else -1] *= 1 + excess if end == "top" else 1 - excess
    if fine:
        assert bind(rs.Plan.build(sigmas=sigmas), known).plan.grid[0] == known.sigma_max
    else:
        with pytest.raises(ConfigError, match="give levels inside that range"):
            bind(rs.Plan.build(sigmas=sigmas), known)


def test_levels_that_meet_at_the_end_of_the_range_are_one():
    known = network()
    top = known.sigma_max
    plan = bind(rs.Plan.build(sigmas=[top * (1 + 2e-6), top * (1 + 1e-6), top, 1.0]), known).plan
    assert plan.grid == (top, 1.0, 0.0) and plan.nfe == 3


def test_a_flow_grid_may_begin_above_one_by_rounding():
    """A shift computed in float32 gives 1 + 1e-7."""
    one = float(np.nextafter(np.float32(1), np.float32(2)))
    for sigmas in ([one, 0.5], [one, 1.0, 0.5]):
        plan = rs.Plan.build(sigmas=sigmas, schedule="flow")
        assert plan.grid == (1.0, 0.5, 0.0) and any("moved by rounding to 1" in n for n in plan.notes)
        assert bind(plan, parameterization.flow()).plan.grid == plan.grid
    with pytest.raises(ConfigError, match=r"runs over t in \(0, 1\]"):
        rs.Plan.build(sigmas=[1.001, 0.5], schedule="flow")


def test_t_max_may_be_above_the_grid_by_rounding():
    top = 80.0
    plan = rs.Plan.build(steps=18, sigma_max=top, restart=[3, 1, 10.0, top * (1 + 1e-6)])
    assert plan.intervals[0].t_max == top and any("t_max" in n and "rounding" in n for n in plan.notes)
    with pytest.raises(ConfigError, match="above sigma_max"):
        rs.Plan.build(steps=18, sigma_max=top, restart=[3, 1, 10.0, top * (1 + 1e-3)])


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++2m", "ddpm"])
def test_one_level_is_one_step_and_gives_D(solver):
    plan = rs.Plan.build(sigmas=[2.0], solver=solver)
    assert plan.grid == (2.0, 0.0) and plan.nfe == 1 and plan.initial_noise == 2.0
    assert rs.Plan.build(**plan.config.to_dict()) == plan
    D = rs.Denoiser.from_function(lambda x, sigma: torch.full_like(x, 0.25), shape=(1, 2, 2))
    assert torch.equal(rs.sample(D, plan, seeds=range(3)), torch.full((3, 1, 2, 2), 0.25))


def test_one_point_of_a_named_grid_says_that_two_is_the_least():
    with pytest.raises(ConfigError, match=r"≥ 2, got 1: .* give sigmas=\[sigma\]"):
        rs.Plan.build(steps=1)


@pytest.mark.parametrize(
    "sigmas, message",
    [
        (3.0, "must be a list of descending levels such as .*, got 3.0"),
        ("3, 1", "must be a list of descending levels"),
        ([[3.0, 1.0]], "each of sigmas must be a number"),
        ([3.0, math.nan], "each of sigmas must be a finite number"),
        ([1.0, 1.0], "strictly descending"),
        ([0.0], "strictly descending positive"),
    ],
)
def test_what_is_no_list_of_levels(sigmas, message):
    with pytest.raises(ConfigError, match=message):
        rs.Plan.build(sigmas=sigmas)


def test_a_run_that_ends_above_zero_still_does_when_its_levels_move():
    known = network()
    plan = stop_at_last_level(rs.Plan.build(sigmas=[known.sigma_max * (1 + 1e-6), 1.0, 0.1]))
    moved = bind(plan, known).plan
    assert moved.grid[0] == known.sigma_max
    assert moved.steps[-1].s == plan.steps[-1].s == 0.1 and moved.nfe == plan.nfe == 4
