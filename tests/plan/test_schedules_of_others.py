"""Grids of other libraries and papers: their published numbers, their formulas, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.levels import sd_sigmas
from restart_sampling.plan.schedule import SCHEDULES, get_schedule, sd
from restart_sampling.plan.schedules import ays, gits, registry
from restart_sampling.plan.schedules.incomplete_beta import quantiles
from restart_sampling.plan.schedules.registry import RULES, option_of

SD = sd_sigmas()
LOW, HIGH = float(SD[0]), float(SD[-1])
# Six points between the ends of Stable Diffusion, by the references named in each file, to four digits.
SIX = {
    "beta": [14.6146, 8.7078, 3.6758, 1.6183, 0.7624, 0.3235],
    "beta diffusers": [14.6146, 12.8218, 9.3245, 5.3193, 1.8220, 0.0292],
    "normal": [14.6146, 5.0924, 2.2797, 1.1629, 0.5712, 0.0292],
    "sgm_uniform": [14.6146, 5.9489, 2.9183, 1.6156, 0.9324, 0.4936],
    "simple": [14.6146, 5.9631, 2.9183, 1.6129, 0.9324, 0.4924],
    "kl_optimal": [14.6146, 2.6329, 1.2948, 0.7116, 0.3356, 0.0292],
    "laplace": [14.6146, 1.5811, 1.1180, 0.8944, 0.6325, 0.0292],
    "linear_quadratic": [14.6146, 14.4929, 14.3711, 14.2493, 12.5848, 7.8351],
}


@pytest.mark.parametrize("case", SIX)
def test_six_points(case):
    name, _, variant = case.partition(" ")
    levels = get_schedule(name, **({"variant": variant} if variant else {})).grid(6, LOW, HIGH)
    np.testing.assert_allclose(levels, SIX[case], atol=5.1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if RULES[name].asks_process])
def test_rules_of_a_model_default_to_its_ends(name):
    made = get_schedule(name)
    assert (made.sigma_min, made.sigma_max) == (LOW, HIGH)
    assert rs.Plan.build(steps=5, schedule=name).grid == (*made.grid(5, LOW, HIGH).tolist(), 0.0)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if RULES[name].asks_process])
def test_a_range_takes_the_levels_inside_it(name):
    levels = get_schedule(name).grid(5, float(SD[100]), float(SD[700]))
    assert levels[0] <= SD[700] and levels[-1] >= SD[100]
    assert levels[0] >= SD[580 if name == "ddim_uniform" else 690]


AYS = {
    "sd15": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
    "sdxl": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
}


@pytest.mark.parametrize("model", AYS)
def test_ays_of_ten_steps_is_the_published_timesteps(model):
    plan = rs.Plan.build(steps=10, schedule="ays", schedule_options={"model": model})
    assert plan.grid == (*SD[AYS[model]].tolist(), 0.0)


def test_ays_of_video_is_the_published_levels():
    plan = rs.Plan.build(steps=10, schedule="align_your_steps", schedule_options={"model": "svd"})
    assert plan.grid == (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0)


def test_ays_of_other_numbers_is_log_linear():
    knots = ays.curve("sdxl")
    twenty = get_schedule("ays", model="sdxl").grid(20, knots[-1], knots[0])
    assert np.array_equal(twenty[::2], knots[:-1])
    np.testing.assert_allclose(twenty[1::2], np.sqrt(knots[:-1] * knots[1:]), rtol=1e-14)


def test_ays_of_a_range_stays_on_its_curve():
    knots = ays.curve("svd")
    levels = get_schedule("ays", model="svd").grid(4, knots[6], knots[2])
    np.testing.assert_allclose(levels, knots[2:6], rtol=1e-14)


def test_gits_is_its_list():
    plan = rs.Plan.build(steps=10, schedule="gits")
    assert plan.grid == (*gits.LISTS["sd"], 0.0) and plan.grid[0] == 14.61464119 and plan.grid[9] == 0.09824532
    plan = rs.Plan.build(steps=7, schedule="gits", schedule_options={"model": "cifar10"})
    assert plan.grid == (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002, 0.0)


def test_power_1_of_polyexponential_is_exponential():
    even = get_schedule("exponential").grid(9, 0.002, 80.0)
    np.testing.assert_allclose(get_schedule("polyexponential").grid(9, 0.002, 80.0), even, rtol=1e-13)
    squared = get_schedule("polyexponential", power=2.0).grid(3, 0.01, 100.0)
    assert squared[1] == pytest.approx(0.01 * 1e4**0.25)


def test_kl_optimal_is_even_in_the_arc_tangent():
    angles = np.arctan(get_schedule("kl_optimal").grid(30, 0.01, 50.0))
    np.testing.assert_allclose(np.diff(angles), (math.atan(0.01) - math.atan(50.0)) / 29, rtol=1e-9)


def test_cosine_is_even_in_its_time():
    alpha_bar = 1 / (1 + get_schedule("cosine").grid(12, 0.02, 60.0) ** 2)
    t = np.arccos(np.sqrt(alpha_bar * math.cos(0.008 / 1.008 * math.pi / 2) ** 2)) * 2 / math.pi * 1.008 - 0.008
    np.testing.assert_allclose(np.diff(t, 2), 0, atol=1e-12)
    assert 0 < t[-1] < t[0] < 1


def test_linear_quadratic_is_linear_and_then_meets_0():
    for n, m in ((8, None), (9, 2), (40, 30)):
        levels = get_schedule("linear_quadratic", threshold_noise=0.1, linear_steps=m).grid(n, 1e-3, 10.0)
        m = n // 2 if m is None else m
        np.testing.assert_allclose(levels[: m + 1], 10 * (1 - 0.1 * np.arange(m + 1) / m), rtol=1e-12)
        fall = np.diff([*levels[m:], 0.0], 2)
        np.testing.assert_allclose(fall, fall[0] if len(fall) else 0, rtol=1e-9)


def test_laplace_moves_with_mu_and_b():
    plain, moved = (get_schedule("laplace", **o).grid(7, 1e-3, 1e3) for o in ({}, dict(mu=0.5, b=1.0)))
    np.testing.assert_allclose(np.log(moved[1:-1]), 0.5 + 2 * np.log(plain[1:-1]), atol=1e-12)
    assert plain[3] == pytest.approx(1.0)


def test_sgm_uniform_is_normal_of_a_point_more_without_its_last():
    assert np.array_equal(
        get_schedule("sgm_uniform").grid(8, LOW, HIGH), get_schedule("normal").grid(9, LOW, HIGH)[:-1]
    )


@pytest.mark.parametrize("steps", [5, 6, 20, 30, 33, 50, 150])
def test_ddim_uniform_has_the_lists_of_comfyui(steps):
    theirs = SD[1 :: 1000 // steps][::-1]
    assert np.array_equal(get_schedule("ddim_uniform").grid(len(theirs), LOW, HIGH), theirs)
    if 1000 % steps == 0:
        assert len(theirs) == steps
        assert np.array_equal(theirs, sd(steps, LOW, HIGH, spacing="leading"))


FLOWS = [name for name in SCHEDULES if RULES[name].flows]


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_walked_by_name(name):
    plan = rs.Plan.build(steps=6, solver="euler", schedule=name, schedule_options={"process": "flow"})
    assert plan.process == "flow" and len(plan.grid) == 7
    assert 0.99 < plan.grid[0] <= 1.0
    inside = [3, 1, 0.2, 0.6]
    again = rs.Plan.build(steps=6, solver="euler", schedule="flow", restart=inside, restart_schedule=name)
    assert again.process == "flow" and 0.2 < again.intervals[0].levels[1] < 0.6


def test_the_shift_moves_the_times_of_a_model_once():
    even, moved = (
        get_schedule("normal", process="flow", shift=s).grid(9, s * 1e-3 / (1 + (s - 1) * 1e-3), 1.0)
        for s in (1.0, 3.0)
    )
    np.testing.assert_allclose(even, np.linspace(1, 1e-3, 9), rtol=1e-12)
    np.testing.assert_allclose(moved, 3 * even / (1 + 2 * even), rtol=1e-12)
    sgm = get_schedule("sgm_uniform", process="flow", shift=3.0).grid(9, moved[-1], 1.0)
    assert sgm[0] == 1.0 and (sgm > moved).sum() == 8


@pytest.mark.parametrize("a, b", [(0.6, 0.6), (1, 1), (0.5, 2), (3, 0.2), (20, 40), (50, 50), (0.05, 0.05)])
def test_quantiles_of_the_beta_law(a, b):
    special = pytest.importorskip("scipy.special")
    p = np.linspace(0, 1, 401)
    np.testing.assert_allclose(quantiles(p, a, b), special.betaincinv(a, b, p), rtol=1e-12, atol=1e-300)
    tails = np.geomspace(1e-12, 1e-3, 40)
    np.testing.assert_allclose(special.betainc(a, b, quantiles(tails, a, b)), tails, rtol=1e-12)


def test_quantiles_have_closed_forms():
    p = np.linspace(0, 1, 101)
    np.testing.assert_allclose(quantiles(p, 1, 1), p, atol=1e-15)
    np.testing.assert_allclose(quantiles(p, 0.5, 0.5), np.sin(np.pi * p / 2) ** 2, rtol=1e-12)
    np.testing.assert_allclose(quantiles(p, 3, 1), p ** (1 / 3), rtol=1e-13)
    np.testing.assert_allclose(quantiles(p, 2, 5) + quantiles(1 - p, 5, 2), 1, atol=1e-14)


def grid(name, n=6, low=LOW, high=HIGH, **options):
    return lambda: get_schedule(name, **options).grid(n, low, high)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (grid("simple", 1001), "simple keeps at most 1000 levels of this range apart, fewer than the 1001 asked"),
        (grid("ddim_uniform", 1000), "ddim_uniform keeps at most 1000 levels"),
        (grid("simple", 9, 1.0, 1.01), "simple keeps at most [0-9] levels"),
        (grid("normal", 3, 100.0, 200.0), "the model has no two levels between 100 and 200; it has 14.615 there"),
        (grid("beta", 200), "beta puts two of 200 points on one of the model's 1000 timesteps; .* variant='diffusers'"),
        (grid("beta", variant="sgm"), "variant must be one of comfyui, diffusers, got 'sgm'"),
        (grid("beta", alpha=0), "alpha must be a finite number > 0 and ≤ 50, got 0"),
        (grid("beta", beta=51), "beta must be a finite number > 0 and ≤ 50, got 51"),
        (grid("gits", 6), "gits has a list of 10 points with coeff 1.2 for 'sd', got 6 points with coeff 1.2"),
        (grid("gits", 10, coeff=1.15), "got 10 points with coeff 1.15"),
        (grid("gits", 10, model="sdxl"), "model must be one of sd, cifar10, got 'sdxl'"),
        (grid("ays", model="sd3"), "model must be one of sd15, sdxl, svd, got 'sd3'"),
        (grid("ays", 1), "n must be an integer ≥ 2, got 1"),
        (grid("simple", 1), "n must be an integer ≥ 2, got 1"),
        (grid("laplace", 20000, 0.002, 80.0), "cannot be kept apart"),
        (grid("laplace", b=0), "b must be a finite number > 0"),
        (grid("polyexponential", power=0), "power must be a finite number > 0"),
        (grid("cosine", s=0), "s must be a finite number > 0"),
        (grid("linear_quadratic", linear_steps=6), "linear_steps must be an integer ≤ 5, got 6"),
        (grid("linear_quadratic", threshold_noise=2), "threshold_noise must be"),
        (grid("linear_quadratic", 100, 1.0, 2.0), "linear_quadratic falls to .*, below sigma_min = 1"),
        (grid("simple", shift=3.0), "shift is of flow models, got 3; give process='flow' with it"),
        (grid("normal", process="vp"), "process must be one of ve, flow, got 'vp'"),
        (
            grid("kl_optimal", rho=7.0, mu=1),
            "schedule 'kl_optimal' has no option 'mu'; its options are process, segment",
        ),
        (grid("kl-optimall"), "schedule 'kl-optimall' is not known; .*; did you mean 'kl-optimal'"),
        (lambda: option_of("flow", "shift"), "written NAME=VALUE, as in shift=3, got 'shift'"),
        (lambda: option_of("flow", "shift=wide"), "shift of schedule 'flow' must be a number, got 'wide'"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ConfigError, match=message) as info:
        call()
    assert "\n" not in str(info.value)


def test_options_are_read_with_the_type_of_their_default():
    assert option_of("flow", "shift=3") == ("shift", 3.0)
    assert option_of("vp", "beta_d = none") == ("beta_d", None)
    assert option_of("sd", "steps_offset=0") == ("steps_offset", 0)
    assert option_of("linear_quadratic", "linear_steps=4") == ("linear_steps", 4)
    assert option_of("beta", "variant=diffusers") == ("variant", "diffusers")
    assert option_of("edm", "segment=own") == ("segment", "own")


def test_every_name_of_a_rule_leads_to_it():
    for rule in RULES.values():
        for name in (rule.name, *rule.aliases):
            assert get_schedule(name).name == rule.name
    assert {"get_sigmas_karras", "use_beta_sigmas", "sgm-uniform", "align_your_steps"} - set(registry.BY_ANY_NAME) == {
        "use_beta_sigmas"  # the beta grid of diffusers is variant="diffusers" of another default
    }
