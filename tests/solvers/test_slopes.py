"""Orders of convergence: ODE solvers against the exact solution, SDE solvers in mean and variance of a Gaussian.

Multistep solvers begin with steps that are tiny and grow, so that their first ones, of low order, cost nothing. There
is no step to 0 and no lowering of the order at the end.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from support import sheet
from support.steps import states

from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.solvers import SOLVERS, get_solver

ENDS = {"ve": (10.0, 0.1, 9.0), "flow": (0.98, 0.05, 0.9)}  # first level, last level, start
STARTUP = [0.35**k for k in range(12, 0, -1)]


def levels(process, n):
    """A Karras grid of n steps, linear in t for flows, with a start of growing steps."""
    first, last, _ = ENDS[process]
    u = np.array([0.0, *(s / n for s in STARTUP), *(np.arange(1, n + 1) / n)])
    if process == "flow":
        return tuple(first + u * (last - first))
    return tuple((first ** (1 / 7) + u * (last ** (1 / 7) - first ** (1 / 7))) ** 7)


def steps(spec, grid, process, eta=1.0):
    path = Trajectory(grid[0], process, 1.0, eta)
    path.backward(grid, get_solver(spec), lambda t: 0.0, remaining=10**6)
    return path.steps()


@functools.cache
def exact(process):
    """The ODE's solution by RK4 in ln t, dx/d ln t = x − D."""
    first, last, x = ENDS[process]
    D, n = sheet.denoiser_of(process), 4000
    u, h = math.log(first), math.log(last / first) / n

    def slope(x, u):
        return x - D(x, math.exp(u))

    for _ in range(n):
        a = slope(x, u)
        b = slope(x + h / 2 * a, u + h / 2)
        c = slope(x + h / 2 * b, u + h / 2)
        d = slope(x + h * c, u + h)
        x, u = x + h / 6 * (a + 2 * b + 2 * c + d), u + h
    return x


def measured(spec, process, eta=0.0, sizes=(128, 256)):
    D, errors = sheet.denoiser_of(process), []
    for n in sizes:
        *_, x = states(steps(spec, levels(process, n), process, eta), D, ENDS[process][2], lambda k: 0.0)
        errors.append(abs(x - exact(process)))
    return math.log2(errors[0] / errors[1])


# Of SDE solvers with eta = 0. In ve as published for the references; heunpp2, which has none, as its docstring says.
SLOPES = {
    "euler": 1.0, "euler-ancestral": 1.0, "ddpm": 1.0, "gradient-estimation": 1.0, "heunpp2": 1.0,
    "heun": 2.0, "dpm2": 2.0, "dpm2-ancestral": 2.0, "dpm++2s-ancestral": 2.0, "dpm++sde": 2.0, "exp-heun": 2.0,
    "seeds2": 2.0, "seeds2:weights=phi2": 2.0, "dpm++2m": 2.0, "dpm++2m-sde": 2.0, "dpm++2m-sde:variant=heun": 2.0,
    "dpm++3m:variant=k-diffusion": 1.9, "res-multistep": 2.0, "ab2": 2.0, "lms:order=2": 2.0, "ipndm:order=2": 2.0,
    "ipndm": 2.0, "deis:order=2": 2.0, "deis:order=2,variant=log-rho": 2.0, "dpm-solver": 1.9,
    "dpm-solver:order=3,variant=diffusers": 2.0, "er-sde:order=2": 2.0, "unipc:order=1,lower_final=false": 2.0,
    "sa-solver:predictor=2,corrector=2,simple=true": 2.0,
    "dpm3": 3.0, "seeds3": 3.0, "dpm++3m": 3.1, "dpm++3m-sde": 3.1, "lms:order=3": 3.0, "deis": 2.9,
    "deis:variant=log-rho": 3.0, "dpm-solver:order=3": 3.0, "unipc:order=2,lower_final=false": 3.0,
    "lms": 4.0, "deis:order=4": 4.0, "unipc:lower_final=false": 3.8, "sa-solver": 3.8, "sa-solver:pece=true": 3.8,
}  # fmt: skip


@pytest.mark.parametrize("spec", SLOPES)
def test_the_error_falls_at_the_order_in_ve(spec):
    assert measured(spec, "ve") == pytest.approx(SLOPES[spec], abs=0.15)


# On these grids the error of er-sde changes its sign in ve; its order shows on fine grids of a flow.
FINE = {"er-sde": 3.0, "er-sde:order=2": 2.0, "er-sde:variant=published": 1.0}


@pytest.mark.parametrize("spec", FINE)
def test_the_error_of_er_sde_falls_at_the_order(spec):
    assert measured(spec, "flow", sizes=(1024, 2048)) == pytest.approx(FINE[spec], abs=0.15)


FLOW = {"euler": (1.0, 1.0), "heun": (2.0, 2.0), "dpm++2m": (1.8, 2.0), "exp-heun": (2.0, 2.0), "seeds3": (2.7, 3.0)}
FLOW |= {"unipc:lower_final=false": (3.5, 4.0), "unipc:order=2,lower_final=false": (3.0, 3.0), "lms": (3.8, 4.0)}


@pytest.mark.parametrize("spec", FLOW)
def test_the_error_falls_at_the_order_in_a_flow(spec):
    low, high = FLOW[spec]
    assert low - 0.15 <= measured(spec, "flow") <= high + 0.15


def test_every_solver_has_a_slope():
    assert set(SOLVERS) - {spec.partition(":")[0] for spec in SLOPES | FINE} <= {
        "edm-stochastic",  # heun
        "flow-grpo", "cps", "lcm", "tcd",  # of no order, or of flows alone
        "ada-sde",
    }  # fmt: skip
    for spec, slope in (SLOPES | FINE).items():
        solver = get_solver(spec)
        if not solver.chosen:
            assert solver.order <= slope + 0.2, f"{spec} says order {solver.order}"


SDE = [
    (spec, process)
    for spec in (*(name for name, s in SOLVERS.items() if s.noisy), "exp-heun:sde=true", "res-multistep:sde=true",
                 "dpm-solver:sde=true", "dpm++2m-sde:variant=heun", "seeds2:weights=phi2", "sa-solver:pece=true")
    for process in get_solver(spec).processes
    if not spec.startswith(("lcm", "tcd", "cps"))  # with eta = 1 these draw all noise anew in each step
]  # fmt: skip


def moments(spec, process, n, mean=0.3, std=0.5):
    """Mean and variance of the result for Gaussian data, by following every draw: no random numbers."""
    first, last = (5.0, 0.3) if process == "ve" else (0.98, 0.2)
    u = np.linspace(0, 1, n + 1)
    grid = first + u * (last - first) if process == "flow" else first * (last / first) ** u
    program = steps(spec, tuple(grid), process)
    draws = 2 + max(max((step.draw, *step.draws)) for step in program)

    def scale(t):
        return 1 - t if process == "flow" else 1.0

    def vector(place, value):
        v = np.zeros(draws)
        v[place] = value
        return v

    def D(x, t):
        """E[x₀ | x] for x = α·x₀ + t·ε, x as (mean, coefficients of the draws)."""
        a = scale(t)
        gain = a * std**2 / (a * a * std**2 + t * t)
        return gain * x + vector(0, mean * (1 - gain * a))

    a = scale(grid[0])
    start = vector(0, a * mean) + vector(1, math.sqrt(a * a * std**2 + grid[0] ** 2))
    *_, x = states(program, D, start, lambda number: vector(1 + number, 1.0))
    a = scale(grid[-1])
    return x[0] - a * mean, float((x[1:] ** 2).sum()) - (a * a * std**2 + grid[-1] ** 2)


@pytest.mark.parametrize("spec, process", SDE)
def test_mean_and_variance_of_a_gaussian_converge(spec, process):
    (m_1, v_1), (m_2, v_2) = moments(spec, process, 100), moments(spec, process, 200)
    assert abs(v_2) < 0.02
    assert abs(m_2) < 0.02
    assert abs(v_2) <= 0.6 * abs(v_1) + 1e-12
    assert abs(m_2) <= 0.6 * abs(m_1) + 1e-12
