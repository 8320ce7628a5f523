"""The plan compiler: NFE, order of intervals, snapping, explain(), and every bad input it must refuse."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.sampler.table import bind
from restart_sampling.solvers.registry import SOLVERS, handling

EDM = parameterization.edm()


@pytest.mark.parametrize("preset", rs.presets(), ids=lambda p: p.name)
def test_presets_have_their_published_nfe(preset):
    assert rs.preset(preset.name).nfe == preset.nfe


@pytest.mark.parametrize(
    ("solver", "nfe"),
    [("euler", 18), ("heun", 35), ("edm-stochastic", 35), ("ddpm", 18), ("dpm2", 35), ("dpm3", 51), ("dpm++2m", 18)],
)
def test_nfe_of_each_solver(solver, nfe):
    assert rs.Plan.build(steps=18, solver=solver).nfe == nfe


@pytest.mark.parametrize("solver", handling("ve"))
def test_restart_on_top_of_any_solver(solver):
    plan = rs.Plan.build(steps=18, solver=solver, restart=[4, 3, 0.14, 0.30])
    per_interval = 3 * SOLVERS[solver].evaluations - (solver == "heunpp2")  # its last slope lies beyond the interval
    assert plan.nfe == rs.Plan.build(steps=18, solver=solver).nfe + 3 * per_interval
    assert bind(plan, EDM).nfe == plan.nfe == len(plan.rows)


def test_grid_is_the_papers():
    grid = rs.Plan.build(steps=18).grid
    want = [80, 57.586, 40.786, 28.375, 19.353, 12.910, 8.4009, 5.3152, 3.2568, 1.9233, 1.0882, 0.5853, 0.2964, 0.1395]
    assert np.allclose(grid[:14], want, rtol=4e-4)  # printed to four digits
    assert grid[-2:] == (pytest.approx(0.002), 0.0)


def test_intervals_fire_in_order_of_decreasing_t_min():
    plan = rs.Plan.build(steps=18, restart='{"0": [3, 1, 0.06, 0.30], "1": [3, 2, 1.09, 1.92]}')
    visited = [s.interval for s in plan.steps if s.interval is not None]
    assert visited == [1] * 4 + [0] * 2


def test_jump_noise_sits_on_the_row_that_arrives():
    plan = rs.Plan.build(steps=18, restart=[3, 2, 0.14, 0.30], s_noise=1.003)
    (interval,) = plan.intervals
    std = 1.003 * math.sqrt(0.30**2 - interval.t_min**2)
    noisy = [row for row in plan.rows if row.noise]
    assert [row.draw for row in noisy] == [1, 2]
    assert all(row.noise == pytest.approx(std, rel=1e-14) for row in noisy)
    assert noisy[0].interval is None
    assert noisy[1].interval == 0
    assert plan.draws == 2


def test_same_grid_point_runs_both_and_says_so():
    restart = [[3, 2, 0.59, 1.09], [4, 1, 1.09, 1.92]]
    both = rs.Plan.build(steps=14, restart=restart)
    assert [i.number for i in both.intervals] == [0, 1]
    assert "both snap to grid point" in both.explain()
    assert "in the given order" in both.explain()
    last = rs.Plan.build(steps=14, restart=restart, on_collision="last")
    assert [i.number for i in last.intervals] == [1]
    first = rs.Plan.build(steps=14, restart=restart, on_collision="first")
    assert [i.number for i in first.intervals] == [0]
    with pytest.raises(ConfigError, match="0 and 1 both snap"):
        rs.Plan.build(steps=14, restart=restart, on_collision="error")


def test_explain_shows_asked_and_used(capsys):
    text = rs.Plan.build(steps=36, restart=[7, 25, 0.06, 0.30], s_noise=1.003).explain()
    for piece in ("371 NFE", "0.06", "0.055484", "25 × 12 = 300", "t_min moved from 0.06", "S_noise 1.003", "Heun"):
        assert piece in text, piece


def test_t_max_is_used_as_given():
    (interval,) = rs.Plan.build(steps=18, restart=[3, 2, 0.14, 0.31]).intervals
    assert interval.t_max == 0.31
    assert interval.levels[0] == 0.31
    assert interval.levels[-1] == interval.t_min == pytest.approx(0.1395, abs=1e-4)


BAD = {
    "steps_1": (dict(steps=1), "steps must be an integer ≥ 2, got 1"),
    "steps_bool": (dict(steps=True), "steps must be an integer"),
    "steps_float": (dict(steps=18.0), "steps must be an integer"),
    "rho_0": (dict(rho=0), "rho must be a finite number > 0"),
    "rho_nan": (dict(rho=math.nan), "rho"),
    "sigma_order": (dict(sigma_min=80, sigma_max=0.002), "sigma_min must be below sigma_max"),
    "sigma_equal": (dict(sigma_min=1.0, sigma_max=1.0), "sigma_min must be below sigma_max"),
    "sigma_max_nan": (dict(sigma_max=math.nan), "sigma_max"),
    "sigma_max_inf": (dict(sigma_max=math.inf), "sigma_max"),
    "sigma_min_0": (dict(sigma_min=0.0), "sigma_min must be a finite number > 0"),
    "s_churn_nan": (dict(s_churn=math.nan), "s_churn"),
    "s_churn_negative": (dict(s_churn=-1), "s_churn"),
    "s_noise_nan": (dict(s_noise=math.nan), "s_noise"),
    "s_noise_negative": (dict(s_noise=-1.0), "s_noise"),
    "s_noise_inf": (dict(s_noise=math.inf), "s_noise"),
    "restart_gamma_inf": (dict(restart_gamma=math.inf), "restart_gamma"),
    "s_min_above_s_max": (dict(s_min=2.0, s_max=1.0), "s_min must not be above s_max"),
    "solver": (dict(solver="huen"), "did you mean 'heun'"),
    "option": (dict(restart_gama=0.1), "did you mean 'restart_gamma'"),
    "schedule": (dict(schedule="edn"), "edm"),
    "never_reached": (dict(restart=[3, 2, 79.0, 80.0]), "never"),
    "snaps_to_zero": (dict(restart=[3, 2, 0.0005, 0.3]), "snaps to 0"),
    "above_sigma_max": (dict(restart=[3, 2, 0.14, 81.0]), "above sigma_max 80"),
    "snap_lifts_t_min": (dict(steps=4, restart=[3, 2, 0.4, 0.45]), "not below t_max"),
    "steps_twice": (dict(steps=20, restart='18 {"0": [3, 2, 0.14, 0.30]}'), "give only one"),
    "absurd_K": (dict(restart=[3, 10**9, 0.14, 0.30]), "evaluations|steps"),
    "many_rows": (dict(restart=[3, 10**6, 0.14, 0.30]), "lower K"),
    "collision": (dict(on_collision="later"), "on_collision must be one of"),
    "solver_option": (
        dict(solver="unipc", solver_options={"ordr": 2}),
        "no option 'ordr'; its options are order.* mean 'order'",
    ),
    "order": (dict(solver="unipc:order=5"), "order of solver 'unipc' must be 1, 2 or 3, got 5"),
    "no_options": (dict(solver="heun:order=2"), "solver 'heun' has no option 'order'; it has none"),
    "how_options_are_written": (dict(solver="unipc:2"), "name:option=value,option=value, as in unipc:order=2"),
    "options_of_no_solver": (dict(restart_solver_options={"order": 2}), "without restart_solver"),
    "eta": (dict(solver="dpm++2m-sde", eta=1.5), "eta must be a finite number ≥ 0 and ≤ 1, got 1.5"),
    "eta_of_the_noise_form": (dict(solver="dpm-solver:sde=true", eta=0.5), "must be 0 or 1, got 0.5"),
    "network_sigmas": (
        dict(sigmas=[3, 2, 1], network_sigmas=[3, 2]),
        "a positive level for each of sigmas, got 2 for 3",
    ),
    "flow_solver": (dict(solver="dpm3", schedule="flow"), "does not handle 'flow'"),
    "guidance": (dict(guidance_scale=-1.0), "guidance_scale"),
    "guidance_interval": (dict(guidance_interval=(3.0, 0.5)), "0 ≤ low < high"),
    "not_a_number": (dict(s_noise="1"), "s_noise must be a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence(name):
    options, message = BAD[name]
    with pytest.raises(rs.RestartError, match=message):
        rs.Plan.build(**options)


def test_s_noise_0_is_noted():
    assert "inject no noise" in rs.Plan.build(restart=[3, 2, 0.14, 0.30], s_noise=0.0).explain()


def test_K_0_is_noted():
    plan = rs.Plan.build(restart=[3, 0, 0.14, 0.30])
    assert plan.nfe == 35
    assert "disabled" in plan.explain()


def test_config_round_trips():
    options = dict(
        steps=14,
        solver="dpm2",
        restart='{"0": [3, 2, 0.59, 1.09], "1": [4, 1, 1.09, 1.92]}',
        s_noise=1.003,
        on_collision="last",
        restart_gamma=0.05,
        s_max=1.0,
        guidance_scale=2.0,
    )
    plan = rs.Plan.build(**options)
    assert rs.Plan.build(**plan.config.to_dict()) == plan


@pytest.mark.parametrize("interval", [(0.5, math.inf), (0.5, 3.0), (0.0, math.inf)])
def test_guidance_interval_round_trips(interval):
    plan = rs.Plan.build(guidance_scale=2.0, guidance_interval=interval)
    again = rs.Plan.build(**json.loads(json.dumps(plan.config.to_dict())))
    assert again.config.guidance_interval == interval
    weights = bind(again, EDM).coef[1:, layout.W]
    acts = np.array([interval[0] <= row.sigma <= interval[1] for row in plan.rows])
    assert np.array_equal(weights, np.where(acts, 2.0, 1.0))


def test_clipping_to_the_network_is_noted():
    table = bind(rs.Plan.build(), parameterization.ve())
    assert table.plan.grid[-2] == pytest.approx(0.02)
    assert "sigma_min raised from 0.002 to 0.02" in table.plan.explain()


def test_levels_are_rounded_to_an_iddpm_networks():
    levels = parameterization.iddpm()
    table = bind(rs.Plan.build(steps=64, restart=[5, 2, 0.06, 0.3], restart_gamma=0.05), levels)
    known = parameterization.iddpm_levels()
    assert all(np.isclose(known, t, rtol=1e-12).any() for t in table.plan.grid[:-1])
    assert np.isfinite(table.coef).all()
    assert (np.diff(table.plan.grid) <= 0).all()


def test_plan_outside_the_network_is_refused():
    with pytest.raises(ConfigError, match="the network knows"):
        bind(rs.Plan.build(sigma_min=200.0, sigma_max=300.0), parameterization.vp())


def test_churn_above_the_network_is_refused():
    plan = rs.Plan.build(s_churn=40.0, sigma_max=100.0)
    with pytest.raises(ConfigError, match="lower s_churn"):
        bind(plan, parameterization.ve())


def test_flow_plan_needs_a_flow_network():
    with pytest.raises(ConfigError, match="flow"):
        bind(rs.Plan.build(schedule="flow"), EDM)


def test_flow_jump_matches_the_process():
    """x_t = (1 − t)x₀ + tε lifted by a·x + std·ε must have signal 1 − t' and noise t'."""
    plan = rs.Plan.build(schedule="flow", steps=20, solver="euler", restart=[4, 1, 0.3, 0.6])
    (interval,) = plan.intervals
    jump = next(s for s in plan.steps if s.noise)
    a = (1 - interval.t_max) / (1 - interval.t_min)
    assert jump.result.x + sum(jump.result.D) == pytest.approx(a)
    assert jump.noise**2 + (a * interval.t_min) ** 2 == pytest.approx(interval.t_max**2)


def test_heun_moves_24_bytes_per_element():
    """What each row reads and writes, float32 registers and a bf16 network (the budget is 28)."""
    table = bind(rs.Plan.build(steps=6), EDM)
    cost = {
        layout.READ_X: 4,
        layout.READ_H: 4,
        layout.READ_F: 2,
        layout.STORE_X: 4,
        layout.STORE_H: 4,
        layout.STORE_NET: 2,
    }
    total = [sum(c for flag, c in cost.items() if code & flag) for code in table.code[:, layout.FLAGS]]
    assert [a + b for a, b in zip(total[1:-1:2], total[2:-1:2], strict=True)] == [24] * 5


def test_sigmas_replace_the_grid():
    plan = rs.Plan.build(sigmas=[10.0, 3.0, 1.0, 0.0], restart=[3, 1, 1.0, 2.0])
    assert plan.grid == (10.0, 3.0, 1.0, 0.0)
    assert plan.nfe == 5 + 4
    assert rs.Plan.build(**plan.config.to_dict()) == plan
    with pytest.raises(ConfigError, match="leave out steps"):
        rs.Plan.build(steps=18, sigmas=[10.0, 1.0])
    with pytest.raises(ConfigError, match="strictly descending"):
        rs.Plan.build(sigmas=[1.0, 10.0])
    with pytest.raises(ConfigError, match="give levels inside that range"):
        bind(plan.build(sigmas=[200.0, 1.0]), parameterization.ve())


def test_restart_schedule_sets_the_grid_inside_intervals():
    levels = {
        name: rs.Plan.build(restart=[5, 1, 0.14, 1.0], restart_schedule=name).intervals[0].levels
        for name in (None, "edm", "exponential")
    }
    assert levels[None] == levels["edm"]
    ratios = np.divide(levels["exponential"][1:], levels["exponential"][:-1])
    assert np.allclose(ratios, ratios[0])


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [("edm", 0.002, 80), ("vp", 0.010486, 152.167), ("ve", 0.02, 100), ("sd", 0.0292, 14.6146), ("flow", 1e-3, 1.0)],
)
def test_each_schedule_has_its_own_range(schedule, low, high):
    plan = rs.Plan.build(schedule=schedule, steps=12)
    assert plan.grid[0] == pytest.approx(high, rel=1e-3)
    assert plan.grid[-2] == pytest.approx(low, rel=2e-3)


def test_options_of_both_solvers_are_in_the_recipe():
    """In the digest, in explain(), and in the options that make the plan again."""
    given = dict(steps=9, solver="unipc:order=2", restart_solver="lms:order=3", restart=[4, 1, 0.14, 0.3])
    plan = rs.Plan.build(**given)
    config = plan.config.to_dict()
    assert (config["solver_options"], config["restart_solver_options"]) == ((("order", 2),), (("order", 3),))
    again = rs.Plan.build(**config)
    assert (again.digest, again.steps) == (plan.digest, plan.steps)
    assert "options of unipc: order 2" in plan.explain() and "inside intervals: Linear multistep" in plan.explain()
    for name, other in (("solver", "unipc"), ("restart_solver", "lms")):
        changed = rs.Plan.build(**{**given, name: other})
        assert changed.digest != plan.digest and changed.steps != plan.steps
