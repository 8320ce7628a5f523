r"""The plan: what a sampling run will do, exactly, before it runs.

Glossary (the paper's symbols are the names, here and in every file)
    sigma, t      noise level; σ(t) = t in the EDM convention, the state is x_t = x₀ + t·ε (`flow`: (1−t)x₀ + tε)
    D             the denoiser, D(x; σ) = E[x₀ | x]; F is the raw network inside it (parameterization.py)
    NFE           network evaluations per sample
    N_main        points of the main grid, without the final 0 (`steps`)
    interval      [N, K, t_min, t_max]: at t_min the state is lifted to t_max by fresh noise and solved back down, K times,
                  over N grid points (N − 1 steps)
    S_noise       factor on the std of every injected noise; S_churn, S_min, S_max, gamma: EDM's churn
    eta           noise of ancestral sampling; guidance_scale w: F = F_u + w(F_c − F_u)
    row           one network evaluation and the affine update after it (table.py)

Algorithm (Restart, arXiv 2306.14878, Algorithm 2): walk the main grid t_0 > … > t_N = 0; when the walk arrives at the
grid point nearest to an interval's t_min, jump up to t_max and walk the interval's own grid down again, K times; go on.
Jumps and churn are noise added on arrival, so they cost no evaluation.

A plan is pure float64 numbers and needs no tensor library. Binding it to a network (`Plan.for_network`) first clips and
rounds the grid to the levels the network knows, as EDM does, and says so in `notes`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..common.errors import ConfigError
from ..solvers import get_solver
from ..solvers.edm_stochastic import gamma
from . import rounding
from .intervals import Interval, Round, resolve, settle_collisions
from .limits import stop_at_last_level, within
from .options import MAX_STEPS, PlanConfig
from .restart import Step, Walk
from .schedule import get_schedule


@dataclass(frozen=True)
class Row:
    """One network evaluation of a plan: where it stands and what is injected after it (`noise` std, 0 for none)."""

    index: int
    sigma: float
    stage: int
    t: float
    s: float
    interval: int | None
    iteration: int
    noise: float
    draw: int


@dataclass(frozen=True, repr=False)
class Plan:
    """A frozen sampling program. Make one with :meth:`build`, read it with :meth:`explain`.

    `grid` is the main grid with its final 0, `intervals` the Restart intervals as they will run, `steps` the program,
    `initial_noise` the std of the initial latent (draw 0), `notes` everything that was moved, disabled or dropped.
    """

    config: PlanConfig
    grid: tuple[float, ...]
    intervals: tuple[Interval, ...]
    steps: tuple[Step, ...] = field(repr=False)
    initial_noise: float
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        steps: int | None = None,
        solver: str = "heun",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
        restart: Any = None,
        s_noise: float = 1.0,
        s_churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        restart_gamma: float = 0.0,
        **options: Any,
    ) -> Plan:
        """Compile a plan.

        Args:
            steps: N_main, points of the main grid without the final 0; ≥ 2. Default 18, or what the Restart line says.
                One step alone is `sigmas=[sigma_max]`.
            solver: euler, heun, edm-stochastic, ddpm, dpm2, dpm3 or dpm++2m.
            sigma_min, sigma_max: ends of the main grid; default: the schedule's own, 0.002 and 80 for edm.
            rho: exponent of the EDM/Karras grid.
            restart: intervals in any format `RestartConfig.parse` reads.
            s_noise: factor on every injected noise.
            s_churn, s_min, s_max: EDM's churn on the main grid.
            restart_gamma: churn inside Restart intervals, while s_min ≤ t ≤ s_max.
            **options: the further fields of :class:`PlanConfig` (schedule, restart_solver, restart_schedule,
                on_collision, eta, guidance_scale, guidance_interval, …).

        Raises:
            ConfigError: the plan cannot run as written; the message says what to change.
        """
        config = PlanConfig.make(
            steps=steps,
            solver=solver,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            rho=rho,
            restart=restart,
            s_noise=s_noise,
            s_churn=s_churn,
            s_min=s_min,
            s_max=s_max,
            restart_gamma=restart_gamma,
            **options,
        )
        return _compile(config)

    @property
    def nfe(self) -> int:
        """Network evaluations per sample (each is two with guidance_scale ≠ 1)."""
        return sum(len(step.stages) for step in self.steps)

    @property
    def draws(self) -> int:
        """Noise injections along the trajectory, the initial latent not counted."""
        return max(step.draw for step in self.steps)

    @property
    def process(self) -> str:
        """The state the plan walks, "ve" or "flow"."""
        return self.config.process

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the recipe: equal for equal options, however they were written, on any machine."""
        recipe = json.dumps(self.config.to_dict(), sort_keys=True)
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The program, one row per network evaluation."""
        rows: list[Row] = []
        for step in self.steps:
            for k, stage in enumerate(step.stages):
                last = k == len(step.stages) - 1
                rows.append(
                    Row(
                        len(rows),
                        stage.level,
                        k,
                        step.t,
                        step.s,
                        step.interval,
                        step.iteration,
                        step.noise if last else 0.0,
                        step.draw if last and step.noise else 0,
                    )
                )
        return tuple(rows)

    def for_network(self, sigma_min: float, sigma_max: float, round_sigma: Round | None = None) -> Plan:
        """This plan on the levels a network knows: the grid is clipped to [sigma_min, sigma_max] and rounded.

        Returns the same plan when nothing moves. Steps that rounding makes empty are dropped and noted. Levels that
        were given one by one (`sigmas`) may leave the range by rounding alone, see limits.py; farther outside is a
        ConfigError."""
        config, notes = within(self.config, sigma_min, sigma_max)
        same = config is self.config
        if same and (round_sigma is None or np.array_equal(round_sigma(np.array(self.grid[:-1])), self.grid[:-1])):
            return self
        moved = _compile(config, round_sigma)
        if self.steps[-1].s > 0:
            moved = stop_at_last_level(moved)
        return replace(moved, config=self.config, notes=(*notes, *moved.notes))

    def explain(self) -> str:
        """The plan as a table a person can read."""
        from .explain import explain

        return explain(self)

    def __repr__(self) -> str:
        levels = f"sigma {self.grid[0]:.5g} → {self.grid[-2]:.5g}"
        jumps = f", {len(self.intervals)} intervals" if len(self.intervals) != 1 else ", 1 interval"
        return f"Plan({self.nfe} NFE, {self.config.solver}, {len(self.grid) - 1} points, {levels}{jumps})"

    def __str__(self) -> str:
        return self.explain()


def _compile(config: PlanConfig, round_sigma: Round | None = None) -> Plan:
    schedule = get_schedule(config.schedule, rho=config.rho, **dict(config.schedule_options))
    restart_schedule = schedule
    if config.restart_schedule:
        restart_schedule = get_schedule(config.restart_schedule, rho=config.rho, segment="own")
    solver, restart_solver = get_solver(config.solver), get_solver(config.restart_solver or config.solver)
    notes: list[str] = list(config.restart.notes)
    if config.process == "flow":
        config, moved = within(config, 0.0, 1.0)
        notes += moved

    levels = config.sigmas or schedule.grid(config.steps, config.sigma_min, config.sigma_max)
    grid = np.append(np.asarray(levels, dtype=np.float64), 0.0)
    if round_sigma is not None:
        rounded = np.append(round_sigma(grid[:-1]), 0.0)
        if not np.array_equal(rounded, grid):
            notes.append("grid points rounded to the levels the network was trained on")
        grid = rounded

    asked = [(n, i) for n, i in enumerate(config.restart.intervals) if i.K > 0]
    top = max(config.sigma_max, float(grid[0]))
    intervals = [resolve(i, n, grid, restart_schedule, top, round_sigma) for n, i in asked]
    intervals = settle_collisions(intervals, config.on_collision, notes)
    notes += [
        f"interval {i.number}: t_min moved from {i.asked.t_min:.5g} to grid point {i.index}, sigma {i.t_min:.5g}"
        for i in intervals
        if f"{i.t_min:.3g}" != f"{i.asked.t_min:.3g}"
    ]
    notes += [
        f"interval {i.number}: t_max {i.asked.t_max:.9g} moved by rounding to {top:.9g}, the highest level"
        for i in intervals
        if i.asked.t_max > top
    ]

    def main_gamma(t: float) -> float:
        return gamma(t, config.s_churn, config.s_min, config.s_max, config.steps) if config.s_churn else 0.0

    def restart_gamma(t: float) -> float:
        return config.restart_gamma if config.s_min <= t <= config.s_max else 0.0

    total = len(grid) - 1 + sum(i.K * (i.N - 1) for i in intervals)
    if total > MAX_STEPS:
        raise ConfigError(f"the plan has {total:,} steps, more than {MAX_STEPS:,}; lower K, N or steps")

    walk = Walk(config, round_sigma)
    walk.initial = float(grid[0])
    costs: dict[int, int] = {}
    for m in range(len(grid) - 1):
        walk.leg((float(grid[m]), float(grid[m + 1])), solver, main_gamma, remaining=len(grid) - 1 - m)
        for interval in (i for i in intervals if i.index == m + 1):
            before = walk.nfe
            for iteration in range(interval.K):
                walk.lift(interval.t_min, interval.t_max)
                walk.forget()
                walk.leg(interval.levels, restart_solver, restart_gamma, interval.number, iteration)
            costs[interval.number] = walk.nfe - before
    if walk.dropped:
        notes.append(f"{walk.dropped} steps of zero length dropped (grid points rounded to the same level)")
    if intervals and config.s_noise == 0:
        notes.append("s_noise = 0: the Restart jumps inject no noise")
    intervals = [replace(i, nfe=costs[i.number]) for i in intervals]
    program = walk.finish()
    if lost := rounding.note(program):
        notes.append(lost)
    return Plan(config, tuple(map(float, grid)), tuple(intervals), program, walk.initial, tuple(notes))
