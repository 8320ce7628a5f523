"""Noise-level grids: published values, limiting cases, exact ends, and every input they must refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restart_sampling.common.errors import ConfigError
from restart_sampling.models.parameterization import iddpm_levels, vp_sigma
from restart_sampling.plan import schedule
from restart_sampling.plan.schedule import SCHEDULES, Schedule, get_schedule, sd_sigmas

SMALLEST, LARGEST = float(vp_sigma(1e-3)), float(vp_sigma(1.0))


def assert_grid(levels, n):
    assert levels.dtype == np.float64
    assert levels.shape == (n,)
    assert np.isfinite(levels).all()
    assert (levels > 0).all()
    assert (np.diff(levels) < 0).all()


def timesteps(levels):
    """Stable Diffusion timesteps of levels that are its own."""
    indices = np.searchsorted(sd_sigmas(), levels)
    assert np.array_equal(sd_sigmas()[indices], levels)
    return indices.tolist()


# Restart, arXiv 2306.14878: the levels its tables name are points of this grid.
def test_main_grid_of_the_paper():
    expected = [80, 57.586, 40.786, 28.375, 19.353, 12.910, 8.4009, 5.3152, 3.2568, 1.9233, 1.0882]
    expected += [0.5853, 0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.0020]
    grid = schedule.karras(18, 0.002, 80.0)
    np.testing.assert_allclose(grid, expected, rtol=4e-3)
    np.testing.assert_allclose(grid[:9], expected[:9], rtol=5e-5)
    for point, named in {2: 40.79, 4: 19.35, 9: 1.92, 10: 1.09, 11: 0.59, 12: 0.30, 13: 0.14, 14: 0.06}.items():
        assert round(float(grid[point]), 2) == named


def test_rho_1_is_linear():
    np.testing.assert_allclose(schedule.karras(9, 1.0, 9.0, rho=1.0), np.arange(9.0, 0.0, -1.0), rtol=1e-14)


def test_rho_to_infinity_is_exponential():
    limit = schedule.exponential(12, 0.002, 80.0)
    errors = [np.abs(schedule.karras(12, 0.002, 80.0, rho=r) / limit - 1).max() for r in (1e2, 1e3, 1e4)]
    assert errors[0] > 9 * errors[1] > 81 * errors[2]
    assert errors[2] < 1e-2


def test_ve_is_exponential():
    grid = schedule.ve(7, 0.02, 100.0)
    tau = 100.0**2 * (0.02**2 / 100.0**2) ** (np.arange(7) / 6)
    np.testing.assert_allclose(grid, np.sqrt(tau), rtol=1e-13)
    assert np.array_equal(grid, schedule.exponential(7, 0.02, 100.0))


def test_vp_is_linear_in_time_from_1_to_epsilon_s():
    t = 1 + np.arange(20) / 19 * (1e-3 - 1)
    for betas in ((19.9, 0.1), (None, None)):
        np.testing.assert_allclose(schedule.vp(20, SMALLEST, LARGEST, *betas), vp_sigma(t), rtol=1e-9)
    assert (round(SMALLEST, 6), round(LARGEST, 3)) == (0.010486, 152.167)


def test_vp_derived_betas_reach_both_ends():
    grid = schedule.vp(1000, 0.002, 80.0, beta_d=None, beta_min=None)
    t = np.linspace(1.0, 1e-3, 1000)
    # ln(1 + σ²) must be quadratic in t: the third difference vanishes.
    log_total = np.log1p(grid**2)
    assert np.abs(np.diff(log_total, 3)).max() < 1e-12
    beta_d = np.polyfit(t, log_total, 2)[0] * 2
    assert beta_d == pytest.approx(2 * (math.log(6401) - math.log1p(4e-6) / 1e-3) / (1 - 1e-3), rel=1e-9)


def test_vp_beta_d_0_is_even_in_log_variance():
    log_total = np.log1p(schedule.vp(11, 0.01, 50.0, beta_d=0.0, beta_min=3.0) ** 2)
    np.testing.assert_allclose(np.diff(log_total), np.diff(log_total)[0], rtol=1e-9)


def test_iddpm_is_edm_table_1():
    u, N, j_0, M = iddpm_levels(), 18, 8, 1000
    assert 80 < u[j_0] < 81 < u[j_0 - 1]
    j = np.floor(j_0 + (M - 1 - j_0) / (N - 1) * np.arange(N) + 0.5).astype(int)
    assert np.array_equal(schedule.iddpm(N, 0.002, 81.0), u[j])


def test_iddpm_of_all_levels_is_every_level():
    assert np.array_equal(schedule.iddpm(1000, 1e-6, 1e6), iddpm_levels()[:-1])
    with pytest.raises(ConfigError, match=r"1000 levels .* fewer than the 1001 asked"):
        schedule.iddpm(1001, 1e-6, 1e6)


def test_sd_range():
    sigmas = sd_sigmas()
    assert sigmas.shape == (1000,)
    assert (np.diff(sigmas) > 0).all()
    assert (round(float(sigmas[0]), 4), round(float(sigmas[-1]), 4)) == (0.0292, 14.6146)
    assert round(float(sigmas[1]), 4) == 0.0413


# What the Stable Diffusion pipelines run for 30 steps.
def test_sd_leading_is_the_pipelines_timesteps():
    t = timesteps(schedule.sd(30, 0.0292, 14.6146, spacing="leading"))
    assert t == list(range(958, 0, -33))
    assert (t[1], t[-2]) == (925, 34)


def test_sd_linspace_and_trailing():
    t = timesteps(schedule.sd(30, 0.0292, 14.6146))
    assert (t[0], t[-1]) == (999, 0)
    t = timesteps(schedule.sd(30, 0.0292, 14.6146, spacing="trailing"))
    assert (t[0], t[1], t[-1]) == (999, 966, 32)


def test_sd_takes_the_nearest_levels_to_its_ends():
    assert np.array_equal(schedule.sd(30, 0.002, 80.0), schedule.sd(30, 0.02916753850480225, 14.614643096923828))
    assert len(schedule.sd(1000, 0.002, 80.0)) == 1000
    assert timesteps(schedule.sd(10, 0.1, 2.0))[0] == 562


# Restart's Stable Diffusion runs: sub-grids of [10, 2, 0.1, 3] and [5, 2, 1, 9] (first and last timestep).
@pytest.mark.parametrize(
    ("t_min", "t_max", "N", "first", "last"), [(0.0413, 2.998, 10, 673, 1), (1.034, 8.992, 5, 914, 364)]
)
def test_sd_segment_is_linear_in_timestep(t_min, t_max, N, first, last):
    sigmas = sd_sigmas()
    levels = get_schedule("sd", segment="timestep").segment(float(sigmas[last]), float(sigmas[first]), N)
    assert (round(levels[-1], 3), round(levels[0], 3)) == (round(t_min, 3), t_max)
    assert timesteps(levels) == np.round(np.linspace(first, last, N)).astype(int).tolist()
    assert np.array_equal(levels, get_schedule("sd", segment="own").segment(float(levels[-1]), float(levels[0]), N))


def test_flow_shift_1_is_linear():
    np.testing.assert_allclose(schedule.flow(5, 0.2, 1.0), [1.0, 0.8, 0.6, 0.4, 0.2], rtol=1e-15)


def test_flow_shift_is_the_moebius_map():
    assert schedule.flow(3, 1e-9, 1.0, shift=3.0)[1] == pytest.approx(0.75)
    a, b = (schedule.flow(9, 0.1, 1.0, shift=s) for s in (1.0, 3.0))
    assert (b[1:-1] > a[1:-1]).all()


RANGES = {"flow": (0.01, 1.0), "vp": (SMALLEST, LARGEST), "iddpm": (0.01, 79.0)}
ENDS_ARE_ITS_OWN = {"iddpm", "sd", "normal", "simple", "sgm_uniform", "ddim_uniform", "beta", "linear_quadratic"} | {
    "ays",
    "gits",
}
NUMBERS = {"gits": [10]}  # the points of its list


@pytest.mark.parametrize(
    ("name", "n"), [(s, n) for s in [*SCHEDULES, "karras"] for n in NUMBERS.get(s, [2, 3, 17, 64])]
)
def test_every_grid_descends(name, n):
    made = get_schedule(name)
    low, high = RANGES.get(name, (0.1, 14.0))
    levels = made.grid(n, low, high)
    assert_grid(levels, n)
    assert made.process == ("flow" if name == "flow" else "ve")
    if name not in ENDS_ARE_ITS_OWN:
        assert (levels[0], levels[-1]) == (high, low)


DISCRETE = {"iddpm", "sd", "normal", "simple", "sgm_uniform", "ddim_uniform", "beta"}


@settings(deadline=None, derandomize=True, database=None, max_examples=120)
@given(
    name=st.sampled_from([name for name in SCHEDULES if name not in ("gits", "laplace")]),
    rule=st.sampled_from(["karras", "own"]),
    N=st.integers(2, 9),
    low=st.floats(0.04, 0.5),
    ratio=st.floats(1.5, 1.9),
)
def test_segment_ends_are_bitwise_exact(name, rule, N, low, ratio):
    high = low * ratio
    if rule == "own" and name in DISCRETE:
        low, high, N = low, high + 1.0, min(N, 4)  # discrete levels: leave room for N of them
    levels = get_schedule(name, segment=rule).segment(low, high, N)
    assert_grid(levels, N)
    assert levels[0].tobytes() == np.float64(high).tobytes()
    assert levels[-1].tobytes() == np.float64(low).tobytes()


def test_karras_is_the_segment_of_every_schedule():
    expected = schedule.karras(6, 0.06, 0.3, rho=5.0)
    for name in SCHEDULES:
        assert np.array_equal(get_schedule(name, rho=5.0).segment(0.06, 0.3, 6), expected)
    own = get_schedule("exponential", segment="own").segment(0.06, 0.3, 6)
    assert np.array_equal(own, schedule.exponential(6, 0.06, 0.3))


def test_names():
    older = ("edm", "exponential", "vp", "ve", "iddpm", "sd", "flow")
    newer = ("polyexponential", "normal", "simple", "sgm_uniform", "ddim_uniform", "beta", "kl_optimal", "laplace")
    assert (*older, *newer, "linear_quadratic", "cosine", "ays", "gits") == SCHEDULES
    assert get_schedule("karras").name == "edm"
    assert isinstance(get_schedule("vp", beta_d=10.0, beta_min=0.2), Schedule)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule.karras(1, 0.002, 80.0), "n must be an integer ≥ 2, got 1"),
        (lambda: schedule.karras(2.0, 0.002, 80.0), "n must be an integer ≥ 2, got 2.0"),
        (lambda: schedule.karras(True, 0.002, 80.0), "n must be an integer"),
        (lambda: schedule.karras(5, 80.0, 0.002), "sigma_min must be below sigma_max, got 80 and 0.002"),
        (lambda: schedule.karras(5, 1.0, 1.0), "sigma_min must be below sigma_max"),
        (lambda: schedule.karras(5, 0.0, 1.0), "sigma_min must be a finite number > 0, got 0.0"),
        (lambda: schedule.karras(5, 0.1, math.nan), "sigma_max must be a finite number > 0, got nan"),
        (lambda: schedule.karras(5, 0.1, math.inf), "sigma_max must be a finite number > 0, got inf"),
        (lambda: schedule.karras(5, 0.1, 10**400), "sigma_max must be a finite number"),
        (lambda: schedule.karras(5, "0.1", 1.0), "sigma_min must be a number, got '0.1'"),
        (lambda: schedule.karras(5, 0.1, 1.0, rho=0), "rho must be a finite number > 0, got 0"),
        (lambda: schedule.karras(5, 0.1, 1.0, rho=math.nan), "rho must be"),
        (lambda: schedule.karras(5, 0.1, 80.0, rho=1e308), "cannot be kept apart"),
        (lambda: schedule.karras(5, 1.0, 1.0 + 2**-52), "cannot be kept apart"),
        (lambda: schedule.vp(5, 0.1, 1e200), "cannot be kept apart"),
        (lambda: schedule.vp(5, 0.1, 80.0, beta_d=None), "both given or both None"),
        (lambda: schedule.vp(5, 0.1, 80.0, beta_d=-1.0, beta_min=0.1), "never reach"),
        (lambda: schedule.vp(5, 0.1, 80.0, None, None, epsilon_s=1.0), "epsilon_s must be below 1"),
        (lambda: schedule.sd(1001, 0.01, 80.0), "sd has 1000 levels"),
        (lambda: schedule.sd(1000, 0.01, 80.0, spacing="leading"), "needs timestep 1000"),
        (lambda: schedule.sd(10, 0.01, 80.0, spacing="middle"), "choose one of linspace, leading, trailing"),
        (lambda: schedule.flow(5, 0.1, 1.5), "t_max of a flow schedule must be at most 1"),
        (lambda: schedule.flow(5, 0.1, 1.0, shift=0.0), "shift must be a finite number > 0"),
        (lambda: get_schedule("edmm"), "schedule 'edmm' is not known; choose one of .*; did you mean 'edm'"),
        (lambda: get_schedule(None), "schedule None is not known"),
        (lambda: get_schedule("edm", rho=-7.0), "rho must be"),
        (lambda: get_schedule("vp", betad=3), "no option 'betad'.*did you mean 'beta_d'"),
        (lambda: get_schedule("vp", segment="timestep"), "segment 'timestep' is not known for schedule 'vp'"),
        (lambda: get_schedule("edm").segment(0.3, 0.06, 3), "t_min must be below t_max"),
        (lambda: get_schedule("edm").segment(0.0, 0.06, 3), "t_min must be a finite number > 0"),
        (lambda: get_schedule("edm").segment(0.1, 0.2, 1), "N must be an integer ≥ 2"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
