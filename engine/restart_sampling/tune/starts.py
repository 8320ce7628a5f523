r"""Where a search begins: plans that are known to be good, so that it does not have to find them.

In this order, each once: for every budget the benchmark's rule (one interval, bench/engine.py) and plain Heun; the published
presets that fit; the paper's multi-level ImageNet rows of up to twice the most evaluations, cut to the number of levels and with
fewer repeats until they fit; the other solvers with the rule's interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.engine import plan_for
from ..errors import ConfigError
from ..plan import Plan
from ..presets import Preset, presets
from .space import Options, Params, Refused, Space, build, options_of, params_of

Key = Callable[[Plan], str]  # names what a plan draws


@dataclass(frozen=True)
class Start:
    """A plan to begin with: `options` build it, `params` is its point of the space, `preset` its name where it is one."""

    label: str
    options: Options
    params: Params
    preset: str = ""


def starts(space: Space, budgets: Sequence[int], key: Key) -> list[Start]:
    """The plans that fit into the space, best known first. `key` is equal for plans that draw the same."""
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


def fitting(space: Space, budget: int, accepts: Callable[[Plan], Any]) -> list[tuple[Preset, Plan]]:
    """Published configurations of at most `budget` evaluations that `accepts` takes without ConfigError; Restart first, and
    of these the most evaluations."""
    found = []
    for preset in presets():
        if preset.nfe > budget:
            continue
        plan = Plan.build(**preset.plan_options)
        if plan.config.guided or plan.config.schedule != "edm":
            continue
        try:
            accepts(plan)
        except ConfigError:
            continue
        found.append((preset, plan))
    return sorted(found, key=lambda pair: (not pair[1].intervals, -pair[1].nfe))


def _start(label: str, plan: Plan, preset: str, space: Space, key: Key) -> Start | None:
    """The plan as it is where it is a point of the space, else the nearest point; None outside."""
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
        if preset.nfe <= space.max_nfe:
            yield f"preset {preset.name}", Plan.build(**preset.plan_options), preset.name
    for preset in sorted(presets(), key=lambda p: p.nfe):
        several = str(preset.plan_options.get("restart", "")).count("[") > 1
        if preset.name.startswith("imagenet64-edm-") and several and preset.nfe <= 2 * space.max_nfe:
            scaled = _scaled(preset, space)
            if scaled is not None:
                yield f"{preset.name}, scaled", scaled, ""
    for solver in space.solvers:
        for budget in budgets:
            plan = plan_for(solver, budget, jumping=True)
            if plan is not None:
                yield f"{solver} + Restart by rule, {budget} NFE", plan, ""


def _scaled(preset: Preset, space: Space) -> Plan | None:
    """A multi-level preset with its lowest `space.levels` intervals, repeats lowered until it fits."""
    whole = Plan.build(**preset.plan_options)
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
