r"""From a host's sigmas and a Restart notation to a plan that keeps to what the host asked for.

A host chooses a number of steps, and with it the evaluations it will wait for: what the solver takes on the given
sigmas without Restart, 2·n − 1 for Heun and n steps down to 0. That is the allowance. With `budget="steps"` the main
grid is drawn again with fewer points along the given sigmas (levels.py), as many as fit beside the intervals;
`budget="extra"` keeps the grid and puts the intervals on top.

Two things may keep an interval from running as asked; a RestartWarning and the plan's notes say each:
1. The run does not cover it. [t_min, t_max] is cut to the levels of the run; an interval that is then empty, or has no
   grid point to attach to, does not run.
2. The allowance is too small. The main grid keeps a third of its points; until the intervals fit beside that, the
   costliest one loses a repeat, at K = 1 a point, and at N = 2 it does not run.

`restart="a1111"` is AUTOMATIC1111's rule by step count instead: a Karras grid of its own length and [R + 1, K, 0.1, 2]
with both ends at grid points, as many steps in all as were asked for. An interval whose ends meet at one point does not
run, and the given sigmas run instead."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...common.checks import choice
from ...plan.budget import most_points
from ...plan.limits import inside, stop_at_last_level
from ...plan.notation import RestartConfig, RestartInterval, restart_of
from ...plan.plan import Plan
from ...solvers import get_solver
from .levels import Levels, read

BUDGETS = ("steps", "extra")
PROCESSES = {"ve": "edm", "flow": "flow"}  # the state, and the schedule that walks it
LEAST_SHARE = 3  # the main grid keeps at least one of this many of its points


class RestartWarning(UserWarning):
    """Something runs differently than asked, or not at all."""


@dataclass(frozen=True)
class Wanted:
    """An interval on its way into a plan: as asked, as it is now, and what was done to it."""

    asked: RestartInterval
    now: RestartInterval
    done: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The interval as it was asked for: "[N, K, t_min, t_max]"."""
        a = self.asked
        return f"[{a.N}, {a.K}, {a.t_min:g}, {a.t_max:g}]"

    def say(self, what: str) -> str:
        """Return a sentence about the interval."""
        return f"Restart interval {self.name}: {what}"


@dataclass(frozen=True)
class Options:
    """What every plan of a run has in common."""

    solver: str
    s_noise: float
    process: str
    on_collision: str
    eta: float

    @property
    def per_step(self) -> int:
        """The most evaluations that a step of the solver takes."""
        return get_solver(self.solver).evaluations

    def plan(self, levels: Levels, intervals: Sequence[RestartInterval] = ()) -> Plan:
        """Return the plan over `levels` with `intervals`, which attach to its points."""
        plan = Plan.build(
            sigmas=levels.sigmas,
            restart=RestartConfig(tuple(intervals)),
            schedule=PROCESSES[self.process],
            solver=self.solver,
            s_noise=self.s_noise,
            eta=self.eta,
            on_collision=self.on_collision,
        )
        return plan if levels.to_zero else stop_at_last_level(plan)


def restart_plan(
    sigmas: Any,
    restart: Any = "default",
    *,
    solver: str = "heun",
    s_noise: float = 1.0,
    budget: str = "steps",
    process: str = "ve",
    restart_list: Any = None,
    eta: float = 1.0,
) -> Plan | None:
    """Return the plan that `sample_restart` runs for these sigmas; None if there is no step to make.

    Args:
        sigmas: the host's levels, descending, with or without a final 0; 1-d tensor, array or list.
        restart: intervals in any notation `RestartConfig.parse` reads, "default" (ComfyUI's preset), "a1111" or None.
            Of two that attach to one point, the first runs in ComfyUI's notation, and both in all others.
        solver: any solver of the engine that handles the process, as in "unipc:order=2"; ComfyUI's names are aliases.
        s_noise: factor on the std of every injected noise.
        budget: "steps": no more evaluations than the solver takes on these sigmas without Restart; "extra": intervals
            on top. "a1111" splits the steps by its own rule.
        process: "ve", or "flow" for flow-matching models, where a level is t in (0, 1].
        restart_list: another name of restart.
        eta: scale of the noise of stochastic solvers; 0 is none.

    Raises:
        ConfigError: sigmas, intervals or options that cannot be read.

    Warns:
        RestartWarning: an interval runs differently than asked, or not at all; one warning for all of them.
    """
    plan, said = fit(
        sigmas,
        restart,
        solver=solver,
        s_noise=s_noise,
        budget=budget,
        process=process,
        restart_list=restart_list,
        eta=eta,
    )
    if said:
        warnings.warn("; ".join(said), RestartWarning, stacklevel=2)
    return plan


def steps(sigmas: Any, restart: Any = "default", **options: Any) -> int:
    """Return how many solver steps `sample_restart` makes with these arguments, which is how often it calls back."""
    plan, _ = fit(sigmas, restart, **options)
    return 0 if plan is None else len(plan.steps)


def fit(
    sigmas: Any,
    restart: Any = "default",
    *,
    solver: str = "heun",
    s_noise: float = 1.0,
    budget: str = "steps",
    process: str = "ve",
    restart_list: Any = None,
    eta: float = 1.0,
) -> tuple[Plan | None, tuple[str, ...]]:
    """Return the plan of `restart_plan`, and its warnings as sentences instead of warning."""
    restart = restart_of(restart, restart_list, "default")
    choice("budget", budget, BUDGETS)
    choice("process", process, tuple(PROCESSES))
    levels = read(sigmas)
    rounded: tuple[str, ...] = ()
    if process == "flow":
        given, levels = levels, levels.of_flow()
        if levels.sigmas and given.top != levels.top:
            rounded = (f"sigmas: {given.top:.9g} moved by rounding to 1, where a flow model begins",)
    config = RestartConfig.parse(restart, steps=max(levels.steps, 2))
    rule = "first" if config.source == "comfyui" else "both"
    options = Options(get_solver(solver).spec, s_noise, process, rule, eta)
    if levels.steps == 0:
        return None, ()
    said: list[str] = []
    grid = levels
    if config.source == "a1111":
        if config.intervals:
            grid = levels.karras(len(levels.sigmas) - levels.steps + (config.steps or 0))
        wanted = _at_grid_points(config.intervals, grid, said)
        budget = "extra"
    else:
        wanted = [Wanted(i, i) for i in config.intervals if i.K > 0]
        if config.steps is not None:
            said.append(f"N_main = {config.steps} of the Restart line is not used: the given sigmas decide")
    wanted = _covered(wanted, levels, process, said)
    if config.source == "a1111" and not wanted:
        grid = levels
    allowance = options.plan(levels).nfe if budget == "steps" else None
    plan, running = _chosen(grid, wanted, options, allowance, said)
    said += [w.say(", ".join(w.done)) for w in running if w.done]
    return replace(plan, notes=(*plan.notes, *rounded, *said)), tuple(said)


def _at_grid_points(intervals: Sequence[RestartInterval], grid: Levels, said: list[str]) -> list[Wanted]:
    """Return A1111's intervals with both ends at the nearest grid points; `said` grows for those whose ends meet."""
    kept = []
    for interval in intervals:
        t_min, t_max = (grid.sigmas[grid.nearest(t)] for t in (interval.t_min, interval.t_max))
        if t_min < t_max:
            kept.append(Wanted(interval, replace(interval, t_min=t_min, t_max=t_max)))
        else:
            met = Wanted(interval, interval)
            said.append(met.say(f"does not run: both its ends are nearest to grid point {t_min:.4g}"))
    return kept


def _covered(wanted: list[Wanted], levels: Levels, process: str, said: list[str]) -> list[Wanted]:
    """Return the intervals cut to the levels of the run; `said` grows for those that cannot run."""
    kept = []
    for w in wanted:
        t_min, t_max = max(w.now.t_min, levels.bottom), min(w.now.t_max, levels.top)
        if t_min >= t_max:
            said.append(w.say(f"does not run: the run covers sigma {levels.top:.4g} to {levels.bottom:.4g}"))
        elif process == "flow" and t_max >= 1:
            said.append(w.say("does not run: at t = 1 a flow model's state is noise alone, a jump there begins anew"))
        else:
            done = list(w.done)
            if inside(w.now.t_max, 0.0, levels.top) is None:
                done.append(f"t_max lowered to {t_max:.4g}, where the run begins")
            if inside(w.now.t_min, levels.bottom, levels.top) is None:
                done.append(f"t_min raised to {t_min:.4g}, the lowest level of the run")
            kept.append(Wanted(w.asked, replace(w.now, t_min=t_min, t_max=t_max), tuple(done)))
    return kept


def _chosen(
    levels: Levels, wanted: list[Wanted], options: Options, allowance: int | None, said: list[str]
) -> tuple[Plan, list[Wanted]]:
    """Return the plan with the longest main grid that keeps to `allowance`, and the intervals that run in it."""
    per_step = options.per_step
    while True:
        least = max(2, math.ceil(len(levels.sigmas) / LEAST_SHARE))
        n, now = len(levels.sigmas), wanted
        if allowance is not None and wanted and n >= least:
            now = _affordable(wanted, allowance - options.plan(levels.resampled(least)).nfe, per_step, allowance)
        tried: dict[int, tuple[Plan, list[Wanted], list[Wanted]]] = {}

        def cost(points: int, now: list[Wanted] = now, tried: dict[int, Any] = tried) -> int:
            tried[points] = _attached(levels.resampled(points), now, options)
            return 0 if allowance is None else tried[points][0].nfe  # without an allowance everything fits

        n = most_points(cost, allowance or 0, per_step, start=n, least=min(least, n)) or least
        if n not in tried:
            cost(n)
        plan, running, lost = tried[n]
        dear = f"does not run: it does not fit into {allowance} evaluations beside the main grid"
        kept = [w.asked for w in now]
        lost += [replace(w, done=(*w.done, dear)) for w in wanted if w.asked not in kept]
        room = allowance is not None and n < len(levels.sigmas) and plan.nfe + per_step <= allowance
        if lost and room:  # the others may use the evaluations of those that do not run
            said += [w.say(w.done[-1]) for w in lost]
            wanted = [w for w in wanted if w.asked not in [x.asked for x in lost]]
            continue
        said += [w.say(w.done[-1]) for w in lost]
        return plan, running


def _affordable(wanted: list[Wanted], room: int, per_step: int, allowance: int) -> list[Wanted]:
    """Return intervals made smaller until they take at most `room` evaluations, without those that become nothing."""

    def cost(w: Wanted) -> int:
        return w.now.K * (w.now.N - 1) * per_step

    now = list(wanted)
    while now and sum(map(cost, now)) > room:
        i = max(range(len(now)), key=lambda j: cost(now[j]))
        v = now[i].now
        if v.K > 1:
            now[i] = replace(now[i], now=replace(v, K=v.K - 1))
        elif v.N > 2:
            now[i] = replace(now[i], now=replace(v, N=v.N - 1))
        else:
            del now[i]
    return [_with_reason(w, allowance) for w in now]


def _with_reason(w: Wanted, allowance: int) -> Wanted:
    smaller = [f"{n} = {getattr(w.now, n)}" for n in ("N", "K") if getattr(w.now, n) < getattr(w.asked, n)]
    if not smaller:
        return w
    return replace(w, done=(*w.done, f"runs with {' and '.join(smaller)} to keep to {allowance} evaluations"))


def _attached(grid: Levels, wanted: list[Wanted], options: Options) -> tuple[Plan, list[Wanted], list[Wanted]]:
    """Return the plan on `grid`, the intervals that run in it, and those that do not, with the reason."""
    fits, lost = [], []
    for w in wanted:
        m = grid.nearest(w.now.t_min)
        if m == 0:
            reason = f"does not run: its t_min is nearest to {grid.top:.4g}, where the run begins"
        elif grid.sigmas[m] >= w.now.t_max:
            reason = f"does not run: its t_min is nearest to grid point {grid.sigmas[m]:.4g}, not below its t_max"
        else:
            fits.append(w)
            continue
        lost.append(replace(w, done=(*w.done, reason)))
    plan = options.plan(grid, [w.now for w in fits])
    ran = {interval.number for interval in plan.intervals}
    other = "does not run: it shares its grid point with an interval before it"
    lost += [replace(w, done=(*w.done, other)) for i, w in enumerate(fits) if i not in ran]
    return plan, [w for i, w in enumerate(fits) if i in ran], lost
