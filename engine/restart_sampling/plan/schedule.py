r"""Noise-level grids by name: n strictly descending levels, float64, without the final 0.

The grids are the files of schedules/, one each; Most end exactly at the given levels
sigma_max and sigma_min. Those that own a list of levels, such as `sd`, use the ones between the nearest to sigma_min
and the nearest to sigma_max, so their ends are levels of the list.

A Restart interval is walked on `Schedule.segment(t_min, t_max, N)`, with bitwise exact end points. Its rule is Karras
whatever the main grid (`segment="karras"`, what the paper does), or the grid's own (`segment="own"`). The own rule of
sd is linear in the integer timestep, as the paper's Stable Diffusion runs (`segment="timestep"`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..common.checks import choice, did_you_mean, shown
from ..common.errors import ConfigError
from .levels import sd_sigmas as sd_sigmas
from .schedules.edm import karras as karras
from .schedules.exponential import exponential as exponential
from .schedules.flow import flow as flow
from .schedules.iddpm import iddpm as iddpm
from .schedules.registry import BY_ANY_NAME, RULES
from .schedules.rule import FLOW_ENDS, checked, positive, with_ends
from .schedules.sd import SPACINGS as SPACINGS
from .schedules.sd import sd as sd
from .schedules.ve import ve as ve
from .schedules.vp import vp as vp

PROCESSES = ("ve", "flow")
SCHEDULES: tuple[str, ...] = tuple(RULES)


@dataclass(frozen=True)
class Schedule:
    """A named grid rule. Both callables return float64 arrays, strictly descending.

    `grid(n, sigma_min, sigma_max)` is the main grid without the final 0, `segment(t_min, t_max, N)` the grid
    of a Restart interval, from t_max to t_min with exact ends. `process` is the state walked: "ve" or "flow".
    `sigma_min`, `sigma_max` are the ends the schedule is used with unless others are given.
    """

    name: str
    grid: Callable[[int, float, float], np.ndarray]
    segment: Callable[[float, float, int], np.ndarray]
    process: str = "ve"
    sigma_min: float = 0.002
    sigma_max: float = 80.0


def get_schedule(name: str, rho: float = 7.0, **options: Any) -> Schedule:
    """The schedule called `name`, one of SCHEDULES or an alias of one, such as "karras" (= edm).

    Args:
        rho: exponent of the edm grid, and of Karras segments.
        **options: the grid's own, such as shift, and `segment`, the rule inside Restart intervals: "karras" (default),
            "own", or "timestep" (sd's own). With process="flow" a grid that can walks the times of a flow.

    Raises:
        ConfigError: unknown name or option (the closest match is named), rho not positive and finite.
    """
    positive("rho", rho)
    rule = BY_ANY_NAME.get(name) if isinstance(name, str) else None
    if rule is None:
        raise ConfigError(
            f"schedule {shown(name)} is not known; choose one of {', '.join(SCHEDULES)}"
            + did_you_mean(name, BY_ANY_NAME)
        )
    inside = options.pop("segment", "karras")
    for option in options:
        if option not in rule.options:
            known = ", ".join((*rule.options, "segment"))
            raise ConfigError(
                f"schedule {rule.name!r} has no option {option!r}; its options are {known}"
                + did_you_mean(option, rule.options)
            )
    rules = ("karras", "own", *rule.segments)
    if not isinstance(inside, str) or inside not in rules:
        raise ConfigError(
            f"segment {shown(inside)} is not known for schedule {rule.name!r}; choose one of {', '.join(rules)}"
        )
    process = choice("process", options.pop("process", rule.process), PROCESSES) if rule.flows else rule.process
    if rule.asks_process:
        options["process"] = process
    ends = rule.ends(**options) if callable(rule.ends) else FLOW_ENDS if process == "flow" else rule.ends
    if rule.uses_rho:
        options["rho"] = rho
    grid = partial(rule.function, **options)
    inner: Callable[[int, float, float], np.ndarray] = partial(karras, rho=rho)
    if inside != "karras":
        inner = grid if rule.segment is None else partial(rule.segment, **options)
    return Schedule(rule.name, grid, partial(_segment, inner), process, *ends)


def _segment(rule: Callable[[int, float, float], np.ndarray], t_min: float, t_max: float, N: int) -> np.ndarray:
    """N levels of `rule` from t_max down to t_min, end points exact. N = 2 is the two end points."""
    low, high = checked(N, t_min, t_max, ("t_min", "t_max", "N"))
    return np.array([high, low]) if N == 2 else with_ends(np.array(rule(N, low, high)), low, high)
