r"""Where a search begins: plans that are known to be good, so that it does not have to find them.

In this order, each once: for every budget the benchmark's rule (one interval, measure/engine.py) and plain Heun; the
published presets that fit; those with one interval and as many repeats as a budget pays for, because more of them help
for long (paper, Table 3); the paper's multi-level ImageNet rows of up to twice the most evaluations, cut to the number
of levels and with fewer repeats until they fit; for every other solver the presets with one interval and that solver on
the main grid, and there and in the interval; the other solvers with the rule's interval.

A search of one family (:func:`of_family`) begins with every solver once, on its own main grid, so that nobody is left
out: ODE solvers at the budgets around 12 evaluations, SDE solvers at those around 27, each with what it is studied
with. Restart begins with the rule's interval at every budget, and with shapes that a person would try: the paper's
VP interval, and levels and repeats at higher noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...common.errors import ConfigError
from ...plan.plan import Plan
from ...plan.presets import Preset, find, presets
from ...solvers import get_solver
from ..measure.engine import plan_for
from .space import Options, Params, Refused, Space, build, options_of, params_of, with_guidance

Key = Callable[[Plan], str]  # names what a plan draws


@dataclass(frozen=True)
class Start:
    """A plan to begin with: `options` build it, `params` is its point of the space, `preset` its name if it is one."""

    label: str
    options: Options
    params: Params
    preset: str = ""


def starts(space: Space, budgets: Sequence[int], key: Key) -> list[Start]:
    """Return the plans that fit into the space, best known first. `key` is equal for plans that draw the same."""
    found: dict[str, Start] = {}
    for label, plan, preset in _candidates(space, sorted(budgets, reverse=True)):
        try:
            start = _start(label, plan, preset, space, key)
            name = key(build(start.options, space)) if start else ""
        except ConfigError:  # a network may refuse more than the space does
            continue
        if start is not None and (name not in found or (start.preset and not found[name].preset)):
            found[name] = start  # in the place of the first; a preset gives it its name
    return list(found.values())


AROUND = {"ode": 12, "sde": 27}  # evaluations at which a solver of the family is tried first
SHAPES = (  # of DPM-Solver++(2M), with the points that leave room for them
    ("[[3, 1, 0.3, 1], [3, 1, 0.06, 0.3]]", (12, 18, 27)),
    ("[[3, 3, 1, 3], [3, 3, 0.3, 1], [3, 3, 0.06, 0.3]]", (43, 63)),
    ("[[4, 6, 0.3, 2], [3, 3, 0.06, 0.3]]", (43, 63)),
    ("[[3, 2, 1, 3], [3, 2, 0.3, 1], [3, 2, 0.06, 0.3]]", (27,)),
    ("[[3, 1, 1, 3], [3, 1, 0.3, 1], [3, 1, 0.06, 0.3]]", (18, 27)),
    ("[3, 2, 0.3, 1]", (18,)),
)


def of_family(family: str, space: Space, budgets: Sequence[int], key: Key) -> list[Start]:
    """Return the plans that a search of one family begins with, see the module docstring."""
    found: dict[str, Start] = {}
    for label, plan in _of_restart(budgets) if family == "restart" else _of_solvers(family, space, budgets):
        try:
            start = _start(label, plan, "", space, key)
        except ConfigError:
            continue
        if start is not None:
            found.setdefault(key(build(start.options, space)), start)
    return list(found.values())


def _of_solvers(family: str, space: Space, budgets: Sequence[int]) -> Iterator[tuple[str, Plan]]:
    """Yield every solver of the space once, in turn at the four budgets nearest to AROUND."""
    near = sorted(budgets, key=lambda budget: abs(math.log(budget / AROUND[family])))[:4]
    for place, spec in enumerate(space.solvers):
        tries = [near[(place + k) % len(near)] for k in range(len(near))]  # the next ones where one is too small
        plans = (plan_for(spec, budget, options=get_solver(spec).study) for budget in tries)
        plan = next((plan for plan in plans if plan is not None), None)
        if plan is not None:
            yield spec, plan


def _of_restart(budgets: Sequence[int]) -> Iterator[tuple[str, Plan]]:
    """Yield the rule's interval at every budget, then SHAPES."""
    for budget in budgets:
        plan = plan_for("dpm++2m", budget, jumping=True)
        if plan is not None:
            yield f"dpm++2m + Restart by rule, {budget} NFE", plan
    for restart, at in SHAPES:
        for budget in at:
            plan = plan_for("dpm++2m", budget, True, restart)
            if budget in budgets and plan is not None:
                yield f"dpm++2m + {restart}, {budget} NFE", plan


def given(plans: Sequence[Any], space: Space, key: Key) -> list[Start]:
    """Return the plans of a user, options of `Plan.build` each, in their order.

    Raises ConfigError if one of them is not in the space.
    """
    found = []
    for number, options in enumerate(plans, 1):
        if not isinstance(options, dict):
            raise ConfigError(f"plan {number} is {options!r}; a plan is an object with options of Plan.build")
        try:
            start = _start("given", build(options, space), "", space, key)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"plan {number}, {options}, cannot be searched: {error}") from error
        if start is None:
            raise ConfigError(
                f"plan {number}, {options}, is outside what is searched; see --solver, --levels and --max-nfe"
            )
        found.append(start)
    return found


def fitting(space: Space, budget: int, accepts: Callable[[Plan], Any]) -> list[tuple[Preset, Plan]]:
    """Return the published presets of at most `budget` evaluations that `accepts` takes without ConfigError.

    Presets with Restart come first, and of these the one with the most evaluations. Presets that a search found are
    left out.
    """
    found = []
    for preset in presets():
        if preset.nfe > budget or preset.tuned or preset.group:
            continue
        plan = _plan_of(preset.name)
        if plan.config.guided or plan.config.schedule != "edm":
            continue
        try:
            accepts(plan)
        except ConfigError:
            continue
        found.append((preset, plan))
    return sorted(found, key=lambda pair: (not pair[1].intervals, -pair[1].nfe))


def _start(label: str, plan: Plan, preset: str, space: Space, key: Key) -> Start | None:
    """Return the plan itself if it is a point of the space, else the nearest point; None outside.

    Without guidance it gets that of the space.
    """
    plan = with_guidance(plan, space)
    params = params_of(plan, space)
    if params is None:
        return None
    nearest = options_of(params, space)
    if key(build(nearest, space)) == key(plan):
        return Start(label, plan.config.to_dict(), params, preset)
    return None if preset else Start(label, nearest, params)


def _candidates(space: Space, budgets: Sequence[int]) -> Iterator[tuple[str, Plan, str]]:
    for jumping in (True, False):
        for budget in budgets:
            plan = plan_for("heun", budget, jumping)
            if plan is not None:
                yield f"{'Restart by rule' if jumping else 'Heun'}, {budget} NFE", plan, ""
    for preset in presets():
        if preset.nfe <= space.max_nfe and not preset.group:
            yield (f"preset {preset.name}", _plan_of(preset.name), "" if preset.tuned else preset.name)
    yield from _transplants((None,), space, budgets)
    for preset in sorted(presets(), key=lambda p: p.nfe):
        several = str(preset.plan_options.get("restart", "")).count("[") > 1
        if preset.name.startswith("imagenet64-edm-") and several and preset.nfe <= 2 * space.max_nfe:
            scaled = _scaled(preset, space)
            if scaled is not None:
                yield f"{preset.name}, scaled", scaled, ""
    yield from _transplants(space.solvers, space, budgets)
    for solver in space.solvers:
        for budget in budgets:
            plan = plan_for(solver, budget, jumping=True)
            if plan is not None:
                yield f"{solver} + Restart by rule, {budget} NFE", plan, ""


def _transplants(
    solvers: Sequence[str | None], space: Space, budgets: Sequence[int]
) -> Iterator[tuple[str, Plan, str]]:
    """Yield variations of the presets with one interval, for each of `solvers`.

    None stands for the preset's own solver, with as many repeats as a budget pays for. Another solver is put on the
    main grid, with the preset's repeats and with as many as a budget pays for, and then also in the interval.
    """
    single = [preset for preset in presets() if _jumps_once(preset)]
    for solver in solvers:
        others = [p for p in single if p.plan_options.get("solver", "heun") != solver]
        for preset in others:
            own = preset.plan_options.get("solver", "heun")
            options, label = preset.plan_options, preset.name
            if solver is not None:
                options, label = (
                    {**options, "solver": solver, "restart_solver": own},
                    f"{label}, main walk by {solver}",
                )
                yield label, Plan.build(**options), ""
            for budget in budgets:
                plan = _filled(options, budget, space)
                if plan is not None:
                    yield f"{label}, repeats for {budget} NFE", plan, ""
        for preset in others if solver is not None else ():
            yield f"{preset.name} by {solver}", Plan.build(**{**preset.plan_options, "solver": solver}), ""


@cache
def _plan_of(name: str) -> Plan:
    """Return the plan of a preset, which never changes; every list of starts asks for it many times."""
    return Plan.build(**find(name).plan_options)


def _jumps_once(preset: Preset) -> bool:
    """Return whether the preset has one interval, on EDM's grid and without guidance."""
    plan = _plan_of(preset.name)
    return len(plan.intervals) == 1 and plan.config.schedule == "edm" and not plan.config.guided


def _filled(options: Options, budget: int, space: Space) -> Plan | None:
    """Return the plan of one interval with the most repeats that fit in `budget`; None if not one fits."""
    plan = Plan.build(**options)
    (interval,) = plan.intervals
    K = min(interval.K + (budget - plan.nfe) // (interval.nfe // interval.K), space.K[1])
    asked = interval.asked
    return Plan.build(**{**options, "restart": [asked.N, K, asked.t_min, asked.t_max]}) if K >= 1 else None


def _scaled(preset: Preset, space: Space) -> Plan | None:
    """Return a multi-level preset with its lowest `space.levels` intervals, repeats lowered until it fits."""
    whole = _plan_of(preset.name)
    intervals = sorted((i.asked for i in whole.intervals), key=lambda i: -i.t_min)[-space.levels :]
    if not space.levels:
        return None
    top = max(i.K for i in intervals)
    for limit in range(min(top, space.K[1]), 0, -1):
        restart = [[min(i.N, space.N[1]), min(i.K, limit), i.t_min, i.t_max] for i in intervals]
        try:
            return build({**preset.plan_options, "restart": restart}, space)
        except Refused:
            continue
    return None
