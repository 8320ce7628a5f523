r"""Lists of levels that several grids draw on: those of a trained model at its timesteps, and published curves.

A model has a level at each of T timesteps, and between them by a rule: Stable Diffusion's, linear in ln σ, for "ve";
t = s·v/(1 + (s − 1)v) with v = (timestep + 1)/1000 and the shift s, for "flow". A grid between two levels uses the
timesteps from the nearest to the one to the nearest to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...common.errors import ConfigError
from ..levels import SD_TIMESTEPS, sd_sigmas
from .rule import checked, positive


@dataclass(frozen=True)
class Table:
    """The timesteps first … last, whole numbers, and `at`: timesteps, whole or not → levels."""

    first: int
    last: int
    at: Callable[[np.ndarray], np.ndarray]

    @property
    def T(self) -> int:
        """How many timesteps there are."""
        return self.last - self.first + 1


def table(n: int, low: float, high: float, process: str, shift: float) -> Table:
    """Return the timesteps whose levels reach from the one nearest to `low` to the one nearest to `high`."""
    low, high = checked(n, low, high)
    levels, at = _model(process, shift)
    first, last = (int(np.argmin(np.abs(levels - end))) for end in (low, high))
    if first == last:
        raise ConfigError(f"the model has no two levels between {low:g} and {high:g}; it has {levels[first]:.5g} there")
    return Table(first, last, at)


def ends(process: str = "ve", shift: float = 1.0) -> tuple[float, float]:
    """Return the lowest and the highest level of the model."""
    levels, _ = _model(process, shift)
    return float(levels[0]), float(levels[-1])


def too_many(name: str, n: int, found: Table) -> ConfigError:
    """Return the error for more points than there are timesteps."""
    return ConfigError(
        f"{name} keeps at most {found.T} levels of this range apart, fewer than the {n} asked for; use fewer steps"
    )


def _model(process: str, shift: float) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    s = positive("shift", shift)
    if process != "flow":
        if s != 1:
            raise ConfigError(f"shift is of flow models, got {s:g}; give process='flow' with it")
        return _stable_diffusion(), lambda t: along(_stable_diffusion(), t)

    def at(t: np.ndarray) -> np.ndarray:
        v = (t + 1) / SD_TIMESTEPS
        return s * v / (1 + (s - 1) * v)

    return at(np.arange(SD_TIMESTEPS)), at


@cache
def _stable_diffusion() -> np.ndarray:
    return sd_sigmas()


def along(knots: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return levels at positions 0 … len(knots) − 1, linear in ln σ between knots and exact at them."""
    positions = np.asarray(positions, dtype=np.float64)
    nearest = np.rint(positions)
    between = np.exp(np.interp(positions, np.arange(len(knots)), np.log(knots)))
    return np.where(np.abs(positions - nearest) < 1e-9, knots[nearest.astype(int)], between)


def positions(knots: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Return where on a descending curve `high` and `low` lie; levels outside of it count as its ends."""
    at = np.interp(-np.log([high, low]), -np.log(knots), np.arange(len(knots)))
    return float(at[0]), float(at[1])
