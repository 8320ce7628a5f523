"""Plans that begin lower: strength and sigma."""

from __future__ import annotations

import pytest

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.limits import stop_at_last_level
from restart_sampling.plan.start import beginning

PLAN = rs.Plan.build(steps=18, restart="[3, 2, 0.06, 0.30], [4, 1, 1.09, 14.61]")


@pytest.mark.parametrize("strength", [1.0, 0.99, 0.75, 0.5, 0.3, 0.06])
def test_strength_is_the_share_of_steps_as_in_diffusers(strength):
    """Pipelines of diffusers begin at timestep N − min(int(N·strength), N)."""
    begun = beginning(PLAN, strength=strength)
    first = 18 - min(int(18 * strength), 18)
    assert begun.grid == PLAN.grid[first:]
    assert begun.initial_noise == PLAN.grid[first]


def test_sigma_is_the_nearest_point():
    assert beginning(PLAN, sigma=80.0) is PLAN or beginning(PLAN, sigma=80.0).grid == PLAN.grid
    assert beginning(PLAN, sigma=500.0).grid == PLAN.grid
    assert beginning(PLAN, sigma=0.9 * PLAN.grid[5] + 0.1 * PLAN.grid[6]).grid == PLAN.grid[5:]


def test_intervals_above_the_start_are_left_out_and_said():
    begun = beginning(PLAN, sigma=2.0)
    assert [(i.N, i.K, i.t_min, i.t_max) for i in begun.intervals] == [
        (i.N, i.K, i.t_min, i.t_max) for i in PLAN.intervals[:1]
    ]
    assert any("Restart interval 1" in note and "left out" in note for note in begun.notes)
    steps = [(s.t, s.s, s.interval) for s in PLAN.steps if s.interval in (None, 0)]
    assert [(s.t, s.s, s.interval) for s in begun.steps] == steps[-len(begun.steps) :]


def test_churn_stays_what_it_is_at_each_level():
    plan = rs.Plan.build(steps=10, solver="edm-stochastic", s_churn=3.0)
    begun = beginning(plan, strength=0.5)
    assert [s.t for s in begun.steps] == pytest.approx([s.t for s in plan.steps[5:]], rel=1e-12)


def test_repaint_goes_on_among_the_points_that_are_left():
    plan = rs.Plan.build(steps=12, solver="ddpm", restart="repaint:j=3,r=2")
    begun = beginning(plan, strength=0.5)
    assert [(i.t_min, i.t_max) for i in begun.intervals] == [(i.t_min, i.t_max) for i in plan.intervals[-1:]]
    short = beginning(plan, strength=0.25)
    assert not short.intervals and "jumps of 3 points are left out of a run of 3 steps" in short.notes[-1]
    assert [step.s for step in short.steps] == list(plan.grid[-3:])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "got neither"),
        (dict(strength=0.5, sigma=1.0), "got both"),
        (dict(strength=0.0), "strength must be"),
        (dict(strength=1.1), "strength must be"),
        (dict(strength=0.05), "leaves no step"),
        (dict(sigma=0.0009), "no step is left"),
        (dict(sigma=-1.0), "sigma must be"),
        (dict(strength="half"), "strength must be"),
    ],
)
def test_bad_starts(given, reason):
    with pytest.raises(ConfigError, match=reason):
        beginning(PLAN, **given)


def test_a_plan_that_stops_at_its_last_level_has_a_step_less():
    plan = stop_at_last_level(rs.Plan.build(steps=4))
    assert beginning(plan, strength=0.5).nfe == 2
    for given in (dict(strength=0.25), dict(sigma=0.002)):
        with pytest.raises(ConfigError, match=r"no step"):
            beginning(plan, **given)
    begun = beginning(plan, sigma=plan.grid[2] * 1.01)
    assert (begun.steps[0].t, begun.steps[-1].s) == plan.grid[2:4]
