r"""Restart intervals on a grid: where they attach, the levels they walk, and what happens when two meet.

An interval [N, K, t_min, t_max] attaches to the point of the main grid nearest to t_min (the final 0 counts as a point,
as in the official code, but attaching there is refused); t_max is used as given. Every interval that could not run as
written is a ConfigError, never skipped in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..common.errors import ConfigError
from .limits import inside
from .notation import RestartInterval, snap
from .schedule import Schedule

Round = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A Restart interval as it will run. `t_min`, `t_max` are the levels used, `asked` what was given."""

    asked: RestartInterval
    number: int
    index: int
    t_min: float
    t_max: float
    levels: tuple[float, ...]
    nfe: int

    @property
    def N(self) -> int:
        return self.asked.N

    @property
    def K(self) -> int:
        return self.asked.K


def resolve(
    asked: RestartInterval,
    number: int,
    grid: np.ndarray,
    schedule: Schedule,
    sigma_max: float,
    round_sigma: Round | None,
) -> Interval:
    name = f"interval {number} [{asked.N}, {asked.K}, {asked.t_min:g}, {asked.t_max:g}]"
    index = snap(grid, asked.t_min)
    t_m = float(grid[index])
    top = inside(asked.t_max, 0.0, sigma_max)
    if top is None:
        raise ConfigError(
            f"{name}: t_max {asked.t_max:g} is above sigma_max {sigma_max:g}; lower t_max or raise sigma_max"
        )
    if index == 0:
        raise ConfigError(
            f"{name}: t_min {asked.t_min:g} snaps to the first grid point {t_m:g}, where the run starts, so it would never "
            f"be reached; choose t_min below {(grid[0] + grid[1]) / 2:g} or more steps"
        )
    if t_m == 0:
        raise ConfigError(
            f"{name}: t_min {asked.t_min:g} snaps to 0, the finished image; the lowest grid point is {grid[-2]:g}: "
            f"choose t_min above {grid[-2] / 2:g} or a lower sigma_min"
        )
    if t_m >= top:
        raise ConfigError(
            f"{name}: t_min {asked.t_min:g} snaps to grid point {t_m:g}, not below t_max {asked.t_max:g}; "
            f"raise t_max or use more steps"
        )
    levels = schedule.segment(t_m, top, asked.N)
    if round_sigma is not None:
        levels = round_sigma(levels)
        if levels[0] <= t_m:
            raise ConfigError(
                f"{name}: t_max rounds to {levels[0]:g}, the nearest level the network was trained on, which is not above "
                f"t_min {t_m:g}; raise t_max"
            )
    return Interval(asked, number, index, t_m, float(levels[0]), tuple(map(float, levels)), 0)


def settle_collisions(intervals: list[Interval], rule: str, notes: list[str]) -> list[Interval]:
    """Apply `on_collision` to intervals that share a grid point; `intervals` keep the given order."""
    kept: dict[int, list[Interval]] = {}
    for interval in intervals:
        kept.setdefault(interval.index, []).append(interval)
    for index, group in kept.items():
        if len(group) == 1:
            continue
        names = " and ".join(str(i.number) for i in group)
        point = f"intervals {names} both snap to grid point {index} (sigma {group[0].t_min:.6g})"
        if rule == "error":
            raise ConfigError(f"{point}; move a t_min, use more steps, or set on_collision to both, last or first")
        if rule == "both":
            notes.append(f"{point}; all run there, in the given order")
        else:
            kept[index] = [group[-1] if rule == "last" else group[0]]
            notes.append(f"{point}; only interval {kept[index][0].number} runs (on_collision={rule!r})")
    return [i for i in intervals if i in kept[i.index]]
