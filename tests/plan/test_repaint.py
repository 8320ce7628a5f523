"""RePaint's resampling as Restart intervals on the main grid's own points."""

from __future__ import annotations

import pytest

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError

CASES = [(250, 10, 10), (50, 10, 10), (20, 5, 3), (7, 2, 4), (12, 1, 2), (9, 4, 1)]


def walked(T, j, r):
    """The points at which diffusers' scheduler evaluates, counted from the clean image, and its transitions."""
    scheduler = pytest.importorskip("diffusers").RePaintScheduler(num_train_timesteps=T)
    scheduler.set_timesteps(T, jump_length=j, jump_n_sample=r)
    times, last = scheduler.timesteps.tolist(), T
    down = [t for t, before in zip(times, [last, *times], strict=False) if t < before]
    return down, len(times)


@pytest.mark.parametrize(("T", "j", "r"), CASES)
def test_it_walks_where_diffusers_walks(T, j, r):
    plan = rs.Plan.build(steps=T, solver="ddpm", restart=f"repaint:j={j},r={r}")
    points = {level: T - 1 - i for i, level in enumerate(plan.grid[:-1])}
    down, _ = walked(T, j, r)
    assert [points[row.sigma] for row in plan.rows] == down
    jumps = [step for step in plan.steps if step.lift_to > step.s]
    assert all(plan.grid.index(step.s) - plan.grid.index(step.lift_to) == j for step in jumps)
    assert len(jumps) == (r - 1) * len(range(0, T - j, j))


def test_the_settings_of_the_paper():
    """250 steps, jumps of 10, each stretch 10 times: 4,570 transitions, 2,410 of them evaluations."""
    plan = rs.Plan.build(steps=250, solver="ddpm", restart="repaint")
    assert plan.nfe == 2410
    down, transitions = walked(250, 10, 10)
    assert (len(down), transitions) == (2410, 4570)


def test_notations_and_the_recipe():
    config = rs.RestartConfig.repaint(j=4, r=3)
    assert config == rs.RestartConfig.parse("repaint:j=4,r=3") == rs.RestartConfig.parse(" RePaint: r=3 , j=4 ")
    assert rs.RestartConfig.parse("repaint").resampling == (10, 10)
    assert rs.RestartConfig.parse(config.to_json()) == config
    plan = rs.Plan.build(steps=12, restart=config)
    assert plan.config.family == "restart"
    assert rs.Plan.build(**plan.config.to_dict()).digest == plan.digest
    assert "restart 0" in plan.explain()
    assert rs.Plan.build(steps=12, restart="repaint:r=1").config.family == "ode"


@pytest.mark.parametrize(
    "text", ["repaint:k=3", "repaint:j", "repaint:j=0", "repaint:j=2,j=3", "repaint:j=-1", "repaint:j=1.5"]
)
def test_text_that_says_something_else(text):
    with pytest.raises(ConfigError):
        rs.RestartConfig.parse(text)


def test_jumps_longer_than_the_grid():
    with pytest.raises(ConfigError, match="do not fit a grid of 8 steps"):
        rs.Plan.build(steps=8, restart="repaint:j=8,r=2")
