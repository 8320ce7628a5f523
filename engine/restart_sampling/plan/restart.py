r"""Restart sampling: Algorithm 2 of arXiv 2306.14878.

The main grid has the levels t_0 > t_1 > … > t_N = 0. Interval j is (N_j, K_j, t_min, t_max); its t_min is a point of
the main grid. The lines are numbered here, not in the paper:

     1  x ~ N(0, t_0²·I)
     2  for i = 0 … N − 1:
     3      x ← solver step from t_i to t_{i+1}                            backward: the ODE on the main grid
     4      for every interval with t_min = t_{i+1}:
     5          repeat K times:
     6              x ← x + S_noise·√(t_max² − t_min²)·ε                   forward: jump up to t_max with fresh noise
     7              for each step t → s of the interval's N points:
     8                  x ← solver step from t to s                        backward: the ODE inside the interval
     9  return x

With churn, EDM's stochastic sampler (arXiv 2206.00364, Algorithm 2), each solver step from t first raises x to
t̂ = t(1 + γ) by fresh noise and starts there.

`algorithm_2` is this loop. It runs before any network does, on a :class:`Trajectory` that records each step as linear
algebra, so a plan is known exactly before it runs; sampler/reference.py is the same loop on tensors, literally.

Limiting cases: no interval or K = 0 is the plain solver; S_churn = 0 and restart_gamma = 0 is the ODE between jumps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..common.errors import ConfigError
from ..solvers.edm_stochastic import gamma
from . import rounding
from .intervals import Interval, place
from .limits import within
from .options import MAX_STEPS, PlanConfig
from .schedule import get_schedule
from .trajectory import Round, Step, Trajectory


def algorithm_2(
    config: PlanConfig, grid: tuple[float, ...], intervals: list[Interval], round_sigma: Round | None
) -> Trajectory:
    """Run Algorithm 2 on `grid` (with its final 0) and record it."""
    solver, restart_solver = config.solvers

    def churn(t: float) -> float:
        return gamma(t, config.s_churn, config.s_min, config.s_max, config.steps) if config.s_churn else 0.0

    def restart_churn(t: float) -> float:
        return config.restart_gamma if config.s_min <= t <= config.s_max else 0.0

    N = len(grid) - 1
    first, end = config.eta_window or (0, N)
    restart_eta = config.eta if config.eta_window is None else 0.0
    x = Trajectory(grid[0], config.process, config.s_noise, config.eta, round_sigma, network_levels(config))
    for i, (t, s) in enumerate(pairwise(grid)):
        eta = config.eta if first <= i < end else 0.0
        after = (*grid, 0.0)[i + 2]
        x.backward((t, s), solver, churn, eta=eta, remaining=N - i, first=grid[0], after=after, index=i)  # line 3
        for j in (j for j in intervals if j.index == i + 1):
            for k in range(j.K):
                x.forward(j.t_min, j.t_max)  # line 6: the jump
                x.forget()  # the history of a multistep solver
                place = {"interval": j.number, "iteration": k, "index": i}
                x.backward(j.levels, restart_solver, restart_churn, eta=restart_eta, **place)  # lines 7 and 8
    return x


def network_levels(config: PlanConfig) -> Callable[[float], float] | None:
    """Return level of the state → level that the network is told, None where they are the same.

    `network_sigmas` has one for each level of the main grid; between two of them the network's is interpolated in ln σ,
    and outside it keeps the ratio of the nearest one.
    """
    if not config.network_sigmas:
        return None
    known = np.log(np.array(config.sigmas[::-1]))
    ratio = np.log(np.array(config.network_sigmas[::-1])) - known
    exact = dict(zip(config.sigmas, config.network_sigmas, strict=True))
    return lambda t: exact.get(t) or t * float(np.exp(np.interp(np.log(t), known, ratio)))


class Compiled(NamedTuple):
    """What :func:`compile_plan` finds: the fields of a `Plan`."""

    grid: tuple[float, ...]
    intervals: tuple[Interval, ...]
    steps: tuple[Step, ...]
    initial_noise: float
    notes: tuple[str, ...]


def compile_plan(config: PlanConfig, round_sigma: Round | None = None) -> Compiled:
    """Make the grid, place the intervals on it, run Algorithm 2, and note everything that was moved or dropped.

    Raises:
        ConfigError: an interval that cannot run as written, or more than MAX_STEPS steps.
    """
    notes: list[str] = list(config.restart.notes)
    if config.process == "flow":
        config, moved = within(config, 0.0, 1.0)
        notes += moved
    grid = main_grid(config, round_sigma, notes)
    intervals = place(config, grid, round_sigma, notes)
    total = len(grid) - 1 + sum(j.K * (j.N - 1) for j in intervals)
    if total > MAX_STEPS:
        raise ConfigError(f"the plan has {total:,} steps, more than {MAX_STEPS:,}; lower K, N or steps")

    x = algorithm_2(config, grid, intervals, round_sigma)
    steps = x.steps()
    if x.dropped:
        notes.append(f"{x.dropped} steps of zero length dropped (grid points rounded to the same level)")
    if intervals and config.s_noise == 0:
        notes.append("s_noise = 0: the Restart jumps inject no noise")
    for churn, solver in zip((config.s_churn, config.restart_gamma * bool(intervals)), config.solvers, strict=True):
        if churn and solver.multistep:
            notes.append(f"{solver.name} begins without its history, at first order, in every step that churn lifts")
    if lost := rounding.note(steps):
        notes.append(lost)
    nfe = Counter(step.interval for step in steps for _ in step.stages)
    used = tuple(replace(j, nfe=nfe[j.number]) for j in intervals)
    return Compiled(grid, used, steps, x.initial_noise, tuple(notes))


def main_grid(config: PlanConfig, round_sigma: Round | None, notes: list[str]) -> tuple[float, ...]:
    """Return the levels of the main grid, its final 0 included, rounded to those that the network knows."""
    schedule = get_schedule(config.schedule, rho=config.rho, **dict(config.schedule_options))
    levels = config.sigmas or schedule.grid(config.steps, config.sigma_min, config.sigma_max)
    levels = np.asarray(levels, dtype=np.float64)
    if round_sigma is not None:
        rounded = round_sigma(levels)
        if not np.array_equal(rounded, levels):
            notes.append("grid points rounded to the levels the network was trained on")
        levels = rounded
    return (*map(float, levels), 0.0)
