"""Each solver converges at its declared order on a nonlinear denoiser in closed form (float64 registers)."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_sampling.solvers.registry import SOLVERS

SHAPE = (2, 3)
RANGE = dict(sigma_min=0.5, sigma_max=5.0)
DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.noisy]
# A multistep solver of a higher order begins with steps of a low one; its slope is in test_slopes.py.
WITH_OWN_START = [name for name in DETERMINISTIC if not (SOLVERS[name].multistep and SOLVERS[name].order > 2)]


def final_state(plan: rs.Plan, data) -> torch.Tensor:
    denoiser = rs.Denoiser.from_function(data, shape=SHAPE)
    return rs.Sampler(denoiser, plan, register_dtype=torch.float64).run(range(16))


def slope(sizes: list[int], errors: list[float]) -> float:
    return -float(np.polyfit(np.log([n - 1 for n in sizes]), np.log(errors), 1)[0])


@functools.cache
def exact_state() -> torch.Tensor:
    return final_state(rs.Plan.build(steps=1025, solver="dpm3", **RANGE), problems.mixture(SHAPE, c=0.8))


@pytest.mark.parametrize("name", WITH_OWN_START)
def test_error_slope_equals_the_order(name):
    data = problems.mixture(SHAPE, c=0.8)
    # The last step, from sigma_min to 0, is one Euler step in every run: only what happens above sigma_min converges.
    sizes = [33, 65, 129, 257] if SOLVERS[name].order >= 3 else [65, 129, 257, 513]
    runs = [final_state(rs.Plan.build(steps=n, solver=name, **RANGE), data) for n in sizes]
    errors = [(x - exact_state()).abs().max().item() for x in runs]
    assert abs(slope(sizes, errors) - SOLVERS[name].order) <= 0.1


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_t_max_equal_to_t_min_is_the_identity(name):
    """In the limit t_max → t_min an interval is a detour of no length: the run is the plain one."""
    data = problems.mixture(SHAPE, c=0.8)
    plain = rs.Plan.build(steps=12, solver=name, **RANGE)
    t_m = plan_level = plain.grid[6]
    detour = rs.Plan.build(steps=12, solver=name, restart=[4, 3, t_m, plan_level * (1 + 1e-9)], s_noise=0.0, **RANGE)
    assert detour.nfe > plain.nfe
    x, y = final_state(plain, data), final_state(detour, data)
    # A multistep solver starts a fresh history after a jump, which costs it one first-order step.
    tolerance = 0.02 if SOLVERS[name].multistep else 1e-7
    assert (x - y).abs().max() <= tolerance * x.abs().max()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_exact_flow_of_gaussian_data(name):
    """Gaussian data: the ODE solution is known in closed form."""
    x = final_state(rs.Plan.build(steps=400, solver=name, **RANGE), problems.gaussian(0.5))
    start = RANGE["sigma_max"] * rs.noise.normal(range(16), 0, SHAPE).double()
    at_sigma_min = problems.gaussian_flow(start, RANGE["sigma_max"], RANGE["sigma_min"])
    want = 0.5 * at_sigma_min  # D at sigma_min = c = 0.5 halves the state
    tolerance = 2e-2 if SOLVERS[name].order == 1 else 1e-4
    assert (x - want).abs().max() <= tolerance * want.abs().max()


def variance_error(steps: int, c: float = 0.5, eta: float = 1.0) -> float:
    """Error of the variance that ancestral sampling gives Gaussian data: exact recursion, no Monte Carlo."""
    plan = rs.Plan.build(steps=steps, solver="ddpm", eta=eta, **RANGE)
    variance = c * c + plan.grid[0] ** 2
    for step in plan.steps[:-1]:
        shrink = c * c / (c * c + step.t**2)
        gain = step.result.x + step.result.D[0] * shrink
        variance = gain**2 * variance + step.noise**2
    return abs(variance - (c * c + plan.grid[-2] ** 2))


def test_ancestral_variance_converges_at_order_1():
    sizes = [65, 129, 257, 513]
    assert abs(slope(sizes, [variance_error(n) for n in sizes]) - 1) <= 0.1


def test_eta_0_is_ddim():
    data = problems.mixture(SHAPE)
    ddpm = final_state(rs.Plan.build(steps=20, solver="ddpm", eta=0.0, **RANGE), data)
    ddim = final_state(rs.Plan.build(steps=20, solver="ddim", **RANGE), data)
    assert (ddpm - ddim).abs().max() <= 1e-13


def test_s_churn_0_is_heun():
    data = problems.mixture(SHAPE)
    a = final_state(rs.Plan.build(steps=12, solver="edm-stochastic"), data)
    b = final_state(rs.Plan.build(steps=12, solver="heun"), data)
    assert torch.equal(a, b)


def test_ancestral_posterior():
    """Mean and variance of q(x_s | x_t, x₀) for x_t = x₀ + tε: precision-weighted, std s·√(1 − s²/t²)."""
    plan = rs.Plan.build(steps=2, solver="ddpm", sigma_min=1.0, sigma_max=2.0)
    step = plan.steps[0]
    assert step.result.x == pytest.approx(1 / 4)
    assert step.result.D[0] == pytest.approx(3 / 4)
    assert step.noise == pytest.approx(math.sqrt(3) / 2)
