"""What a file of this folder defines, and the checks and ends that all grids share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ...common.checks import integer, real, shown
from ...common.errors import ConfigError

Grid = Callable[..., np.ndarray]
FLOW_ENDS = (1e-3, 1.0)
OWN_ARGUMENTS = 3  # n, sigma_min, sigma_max; those after them are options


@dataclass(frozen=True)
class Rule:
    """A grid with a name.

    Attributes:
        name: as `--schedule` has it. aliases: other names for it; those of other libraries among them.
        function: (n, sigma_min, sigma_max, **options) → n levels, float64 and strictly descending, without the final 0.
        title: what it is, in a few words. source: the paper, or the library that named it.
        process: the state that it walks, "ve" or "flow".
        ends: (sigma_min, sigma_max) unless others are given; or what finds them from the options.
        segment: (N, t_min, t_max, **options) → levels inside an interval by this rule, if it is not `function`.
        segments: names of further rules for the inside of intervals that `segment` stands for.
        flows: whether it also walks flows, by its option process="flow".
        uses_rho: whether the exponent of the plan is one of its arguments.
        rank: its place in lists; a rule without one comes after those that have one, by name.
        options: its options with their defaults, found in the signature of `function`.
    """

    name: str
    function: Grid
    title: str
    source: str
    aliases: tuple[str, ...] = ()
    process: str = "ve"
    ends: tuple[float, float] | Callable[..., tuple[float, float]] = (0.002, 80.0)
    segment: Grid | None = None
    segments: tuple[str, ...] = ()
    flows: bool = False
    uses_rho: bool = False
    rank: float = math.inf
    options: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        arguments = list(inspect.signature(self.function).parameters.values())[OWN_ARGUMENTS:]
        options = {a.name: a.default for a in arguments if not (self.uses_rho and a.name == "rho")}
        if self.flows:
            options["process"] = self.process
        object.__setattr__(self, "options", MappingProxyType(options))

    @property
    def asks_process(self) -> bool:
        """Whether the process is an argument of the function."""
        return "process" in inspect.signature(self.function).parameters


def open_segment(function: Grid) -> Grid:
    """Return the rule of intervals for a grid whose last level is above its lower end: one point less, and the end."""

    def segment(N: int, t_min: float, t_max: float, **options: Any) -> np.ndarray:
        return np.append(function(N - 1, t_min, t_max, **options), t_min)

    return segment


def with_ends(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the levels with exactly these ends."""
    levels[0], levels[-1] = high, low
    return descending(levels)


def descending(levels: np.ndarray) -> np.ndarray:
    """Return the levels. Raises ConfigError unless they are finite and strictly descending."""
    if not (np.isfinite(levels).all() and (np.diff(levels) < 0).all()):
        raise ConfigError(
            f"{len(levels)} levels from {levels[0]:g} to {levels[-1]:g} cannot be kept apart with these "
            "settings; use fewer points, a wider range or a smaller rho"
        )
    return levels


def checked(
    n: int, low: float, high: float, names: tuple[str, ...] = ("sigma_min", "sigma_max")
) -> tuple[float, float]:
    """Return (low, high) as floats after the checks all grids share: n ≥ 2, both positive and finite, low < high."""
    integer(names[2] if len(names) > 2 else "n", n, 2)
    low, high = positive(names[0], low), positive(names[1], high)
    if low >= high:
        raise ConfigError(f"{names[0]} must be below {names[1]}, got {low:g} and {high:g}")
    return low, high


def positive(name: str, value: Any) -> float:
    """Return a positive finite number."""
    return real(name, value, 0.0, open_low=True)


def text(value: Any) -> str:
    """Return the name of a choice, or what a message shows in its place."""
    return value if isinstance(value, str) else shown(value)
