r"""The plan: what a sampling run will do, exactly, before it runs.

Glossary (the paper's symbols are the names, here and in every file; docs/glossary.md has them all)
    sigma, t      noise level; σ(t) = t in the EDM convention, the state is x_t = x₀ + t·ε (`flow`: (1−t)x₀ + tε)
    D             the denoiser, D(x; σ) = E[x₀ | x]; F is the raw network inside it (models/parameterization.py)
    NFE           network evaluations per sample
    N_main        points of the main grid, without the final 0 (`steps`)
    interval      [N, K, t_min, t_max]: at t_min the state is raised to t_max by fresh noise and solved back down over
                  N grid points (N − 1 steps), K times
    S_noise       factor on the std of every injected noise; S_churn, S_min, S_max, gamma: EDM's churn
    eta           noise of ancestral sampling; guidance_scale w: F = F_u + w(F_c − F_u)
    row           one network evaluation and the affine update after it (sampler/table.py)

restart.py is the algorithm. A plan is pure float64 numbers and needs no tensor library. Binding it to a network
(`Plan.for_network`) first clips and rounds the grid to the levels the network knows, as EDM does, and says so in
`notes`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .guidance import kinds
from .intervals import Interval
from .limits import stop_at_last_level, within
from .options import PlanConfig
from .restart import compile_plan
from .trajectory import Round, Step


@dataclass(frozen=True)
class Row:
    """One network evaluation of a plan, and what is injected after it.

    Attributes:
        index: from 0.
        sigma: the level that the network is told, which is that of the state but for learned schedules.
        stage: which evaluation of its step, from 0.
        t, s: the levels the step begins and ends at.
        interval, iteration: the Restart interval and which of its K iterations, from 0; None and 0 on the main grid.
        noise: std of the noise injected after it, 0 for none.
        draw: the number of that noise.
    """

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

    Attributes:
        config: the recipe, every option checked.
        grid: the main grid with its final 0.
        intervals: the Restart intervals as they will run.
        steps: the solver steps in running order.
        initial_noise: std of the initial latent, draw 0.
        notes: everything that was moved, disabled or dropped.
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
        schedule: str = "edm",
        schedule_options: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
        restart_solver: str | None = None,
        restart_schedule: str | None = None,
        on_collision: str = "both",
        eta: float = 1.0,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float | None] = (0.0, None),
        sigmas: Any = (),
        guidance: str = "cfg",
        guidance_rescale: float = 0.0,
        apg_eta: float = 0.0,
        apg_norm: float = 0.0,
        zero_init: int = 0,
        eta_window: tuple[int, int] | None = None,
        solver_options: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
        restart_solver_options: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
        network_sigmas: Any = (),
        guidance_interval_rounding: str = "none",
        **unknown: Any,
    ) -> Plan:
        """Compile a plan.

        Args:
            steps: N_main, points of the main grid without the final 0; ≥ 2. Default 18, or what the Restart line says.
                One step alone is `sigmas=[sigma_max]`.
            solver: a name or alias of solvers/, such as euler, heun or dpm++2m, with options as in "unipc:order=2".
            sigma_min, sigma_max: ends of the main grid; default: the schedule's own, 0.002 and 80 for edm.
            rho: exponent of the EDM/Karras grid.
            restart: intervals in any format that `RestartConfig.parse` reads.
            s_noise: factor on the std of every injected noise.
            s_churn, s_min, s_max: EDM's churn on the main grid.
            restart_gamma: churn inside Restart intervals, while s_min ≤ t ≤ s_max.
            schedule, schedule_options: the main grid, a name of plan/schedules such as edm or ays, and its options.
            restart_solver, restart_schedule: solver and grid inside intervals; default: those of the main grid.
            on_collision: which intervals run where several snap to one grid point: "both" (all, in the given order),
                "last" (as the official code does), "first", or "error".
            eta: noise of ancestral solvers; 0 is DDIM.
            guidance_scale: w of classifier-free guidance; 1 is off.
            guidance_interval: the levels where guidance acts; None is no upper limit.
            sigmas: the main grid itself, one level or more, descending, with or without a final 0; it replaces steps,
                sigma_min, sigma_max and rho.
            guidance: the method, "cfg", "cfg++", "zero-star" or "apg", see guidance.py.
            guidance_rescale: φ of rescaled guidance (arXiv 2305.08891), for "cfg"; 0 is off.
            apg_eta, apg_norm: η, the weight of the part along the conditional output, and the norm that the difference
                is clipped to (0: never), for "apg".
            zero_init: the first evaluations, which leave out the network, for "zero-star".
            eta_window: (a, b): eta is 0 but for steps a ≤ i < b of the main grid, as rollouts for training use it.
            solver_options, restart_solver_options: options of the solvers, on top of those in their names.
            network_sigmas: with `sigmas`, the levels that the network is told instead of them, as LD3 learns them
                (arXiv 2405.15506).
            guidance_interval_rounding: "none" compares the level of each evaluation with guidance_interval; "grid"
                rounds its ends to points of the main grid and guides whole steps, as its paper does
                (arXiv 2404.07724), see guidance.py.

        Raises:
            ConfigError: the plan cannot run as written; the message says what to change.
        """
        given = {name: value for name, value in locals().items() if name not in ("cls", "unknown")}
        config = PlanConfig.make(**given, **unknown)
        return cls(config, *compile_plan(config))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Plan:
        """Return the plan in the text of a plan file, or in the dict that JSON makes of it.

        Raises:
            ConfigError: it is no plan file, its version is newer, it has an unknown field, or its digest is wrong.
        """
        from .files import read

        return read(text, cls.build)

    @classmethod
    def from_file(cls, path: str | Path) -> Plan:
        """Return the plan in a file: one of :meth:`to_json`, or a dp_record.txt of GITS with one line.

        `rs.load_plan` also reads what LD3 and AdaSDE have learned.

        Raises:
            ConfigError: with the path, what is wrong with the file.
        """
        from .files import open_plan

        return open_plan(path, cls.build)

    def to_json(self) -> str:
        """Return the text of a plan file, which :meth:`from_json` reads back to a plan with the same digest.

        Raises:
            ConfigError: this is not the plan of its recipe, since it was moved to the levels of a network.
        """
        from .files import written

        return written(self, self.build(**self.config.to_dict()))

    @cached_property
    def nfe(self) -> int:
        """Network evaluations per sample, one for each row."""
        return sum(len(step.stages) for step in self.steps)

    @cached_property
    def network_calls(self) -> int:
        """Network calls per sample: one for each evaluation, two where guidance acts."""
        return int(kinds(self).sum())

    @cached_property
    def draws(self) -> int:
        """Noise injections along the trajectory, the initial latent not counted."""
        return max(max((step.draw, *step.draws)) for step in self.steps)

    @property
    def process(self) -> str:
        """The state that the plan samples, "ve" or "flow"."""
        return self.config.process

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that name the recipe: equal for equal options on any machine, however they were written."""
        recipe = json.dumps(self.config.to_dict(), sort_keys=True)
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The program, one row per network evaluation."""
        rows: list[Row] = []
        for step in self.steps:
            for k, stage in enumerate(step.stages):
                last = k == len(step.stages) - 1
                noise, draw = (step.noise, step.draw) if last else (0.0, 0)
                at = (stage.network, k, step.t, step.s, step.interval, step.iteration)
                rows.append(Row(len(rows), *at, noise, draw))
        return tuple(rows)

    def for_network(self, sigma_min: float, sigma_max: float, round_sigma: Round | None = None) -> Plan:
        """Return this plan on the levels a network knows: the grid is clipped to [sigma_min, sigma_max] and rounded.

        It is the same object when nothing moves. Steps that rounding makes empty are dropped and noted.

        Raises:
            ConfigError: levels given one by one (`sigmas`) leave the range by more than rounding, see limits.py.
        """
        config, notes = within(self.config, sigma_min, sigma_max)
        same = config is self.config
        if same and (round_sigma is None or np.array_equal(round_sigma(np.array(self.grid[:-1])), self.grid[:-1])):
            return self
        moved = Plan(config, *compile_plan(config, round_sigma))
        if self.steps[-1].s > 0:
            moved = stop_at_last_level(moved)
        return replace(moved, config=self.config, notes=(*notes, *moved.notes))

    def explain(self) -> str:
        """Return the plan as a table that a person can read."""
        from .explain import explain

        return explain(self)

    def __repr__(self) -> str:
        levels = f"sigma {self.grid[0]:.5g} → {self.grid[-2]:.5g}"
        jumps = f", {len(self.intervals)} intervals" if len(self.intervals) != 1 else ", 1 interval"
        return f"Plan({self.nfe} NFE, {self.config.solver}, {len(self.grid) - 1} points, {levels}{jumps})"

    def __str__(self) -> str:
        return self.explain()
