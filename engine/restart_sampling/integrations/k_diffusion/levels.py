"""The noise levels a host hands over: read, checked, and drawn again with fewer points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...common.errors import ConfigError
from ...plan.limits import inside
from ...plan.schedule import karras

RHO = 7.0
JUST_BELOW_ONE = 1 - 1e-6  # what float32 makes of a flow model's first level, 1, where a shift was computed


@dataclass(frozen=True)
class Levels:
    """A main grid: strictly descending positive `sigmas`, and whether the run goes on from the last of them to 0.

    A run that does not go to 0 ends at its last level: another sampler continues from there.
    """

    sigmas: tuple[float, ...]
    to_zero: bool

    @property
    def steps(self) -> int:
        """Solver steps of a run over it without Restart."""
        return len(self.sigmas) if self.to_zero else max(len(self.sigmas) - 1, 0)

    @property
    def top(self) -> float:
        """The highest level, where the run begins."""
        return self.sigmas[0]

    @property
    def bottom(self) -> float:
        """The lowest level above 0."""
        return self.sigmas[-1]

    def resampled(self, n: int) -> Levels:
        """Return n ≥ 2 levels along the same curve, ends exact.

        σ^(1/7) is interpolated over the index, evenly: a Karras grid (rho = 7) of any length becomes the Karras grid of
        n points. With as many points as before it is the identity.
        """
        if n == len(self.sigmas):
            return self
        curve = np.array(self.sigmas) ** (1 / RHO)
        at = np.linspace(0, len(curve) - 1, n)
        inner = np.interp(at, np.arange(len(curve)), curve)[1:-1] ** RHO
        return Levels((self.top, *inner.tolist(), self.bottom), self.to_zero)

    def karras(self, n: int) -> Levels:
        """Return the Karras grid of n ≥ 2 levels between the same ends."""
        return Levels(tuple(karras(n, self.bottom, self.top, RHO).tolist()), self.to_zero)

    def of_flow(self) -> Levels:
        """Return the same levels for a flow model, t in (0, 1].

        Hosts compute their first level in float32; one that is 1 up to rounding becomes 1.

        Raises:
            ConfigError: a level above 1.
        """
        if self.sigmas and inside(self.top, 0.0, 1.0) is None:
            raise ConfigError(f"levels of a flow model are in (0, 1], got {self.top:g}; use process='ve'")
        below = tuple(s for s in self.sigmas if s < JUST_BELOW_ONE)
        return self if len(below) == len(self.sigmas) else replace(self, sigmas=(1.0, *below))

    def nearest(self, sigma: float) -> int:
        """Return the index of the level nearest to sigma, the first on a tie."""
        return int(np.argmin(np.abs(np.array(self.sigmas) - sigma)))


def read(sigmas: Any) -> Levels:
    """Return the host's sigmas (a 1-d tensor, array or list) as levels, without steps of length zero.

    Raises:
        ConfigError: NaN, infinite, negative or ascending levels, or a 0 that is not the end.
    """
    values = sigmas.tolist() if hasattr(sigmas, "tolist") else sigmas
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"sigmas must be a 1-d tensor or a list of levels, got {type(sigmas).__name__}")
    values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    for i, value in enumerate(values):
        if isinstance(value, Sequence) and not isinstance(value, str):
            raise ConfigError("sigmas must be 1-d, one level for each point of the grid; got more dimensions")
        if not isinstance(value, (int, float)):
            raise ConfigError(f"sigmas must be numbers, got {value!r} at place {i}")
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"sigmas must be finite and ≥ 0, got {value} at place {i}")
    for i, (a, b) in enumerate(pairwise(values)):
        if b > a:
            raise ConfigError(
                f"sigmas must not ascend, got {a:g} then {b:g} at place {i}; this sampler only goes down in noise"
            )
    positive = [float(v) for v in values if v > 0]
    distinct = [v for i, v in enumerate(positive) if i == 0 or v < positive[i - 1]]
    return Levels(tuple(distinct), len(positive) < len(values) and bool(positive))
