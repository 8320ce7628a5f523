"""Grids of plan/schedules in RestartScheduler, by name, with the levels of the model as their ends."""

from __future__ import annotations

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers")

from restart_sampling.common.errors import ConfigError  # noqa: E402
from restart_sampling.integrations.diffusers import RestartScheduler  # noqa: E402
from restart_sampling.integrations.diffusers.grids import GRIDS  # noqa: E402
from restart_sampling.plan.levels import sd_sigmas  # noqa: E402
from restart_sampling.plan.schedule import get_schedule  # noqa: E402

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
LOW, HIGH = float(sd_sigmas()[0]), float(sd_sigmas()[-1])


def plan(n=10, **options):
    scheduler = RestartScheduler(**SD | options, restart=None, solver="euler", steps_are="main")
    scheduler.set_timesteps(n)
    return scheduler.plan


@pytest.mark.parametrize(
    "name", [name for name in GRIDS if name not in ("model", "karras", "exponential", "beta", "vp")]
)
def test_a_grid_by_name(name):
    made = plan(grid=name)
    assert made.config.schedule == name
    np.testing.assert_allclose(made.grid[:-1], get_schedule(name).grid(10, LOW, HIGH), rtol=1e-9)


def test_beta_is_that_of_diffusers_without_scipy(monkeypatch):
    theirs = diffusers.EulerDiscreteScheduler(**SD, use_beta_sigmas=True)
    theirs.set_timesteps(10)
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    made = plan(grid="beta")
    assert dict(made.config.schedule_options) == {"variant": "diffusers"}
    ours, others = np.array(made.grid[:-1]), theirs.sigmas.numpy()[:-1].astype(np.float64)
    # Where between its ends each level lies: the ends of diffusers are computed in float32.
    shares = [(levels - levels[-1]) / (levels[0] - levels[-1]) for levels in (ours, others)]
    np.testing.assert_allclose(*shares, atol=2e-7)
    assert plan(use_beta_sigmas=True).grid == made.grid


def test_rules_of_stable_diffusion_are_refused_for_another_model():
    with pytest.raises(
        ConfigError, match="the grid 'simple' is of Stable Diffusion's levels, and this model has others"
    ):
        plan(grid="simple", beta_schedule="squaredcos_cap_v2")
    assert len(plan(grid="ays", beta_schedule="linear").grid) == 11


def test_an_unknown_grid_is_refused():
    with pytest.raises(ConfigError, match=r"grid must be one of model, karras, .*; did you mean 'simple'"):
        plan(grid="simpel")
