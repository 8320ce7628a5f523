r"""Restart intervals on a grid: where they attach, their own levels, and what happens when two meet.

An interval [N, K, t_min, t_max] attaches to the point of the main grid nearest to t_min; t_max is used as given. The
final 0 counts as a point, as in the official code, but attaching there is an error: it is the finished image. An
interval that cannot run as written is a ConfigError and is never skipped silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.errors import ConfigError
from .limits import inside
from .notation import RestartInterval, snap
from .options import PlanConfig
from .schedule import Schedule, get_schedule
from .schedules.registry import RULES
from .trajectory import Round


@dataclass(frozen=True)
class Interval:
    """A Restart interval as it will run.

    Attributes:
        asked: the interval as it was given.
        number: its place among those given, from 0.
        index: the point of the main grid that it attaches to.
        t_min, t_max: the levels used.
        levels: its own grid, N levels from t_max down to t_min.
        nfe: network evaluations of all K iterations.
    """

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


def place(config: PlanConfig, grid: Sequence[float], round_sigma: Round | None, notes: list[str]) -> list[Interval]:
    """Return the intervals of `config` as they run on `grid`, in the given order; what moves or is dropped is noted.

    Raises:
        ConfigError: an interval that cannot run as written, or two at one grid point under on_collision="error".
    """
    if config.restart.resampling is not None:
        return on_grid(grid, *config.restart.resampling)
    schedule = get_schedule(config.schedule, rho=config.rho, **dict(config.schedule_options))
    if config.restart_schedule:
        walk = {"process": "flow"} if config.process == "flow" and RULES[config.restart_schedule].flows else {}
        schedule = get_schedule(config.restart_schedule, rho=config.rho, segment="own", **walk)
    asked = [(n, i) for n, i in enumerate(config.restart.intervals) if i.K > 0]
    top = max(config.sigma_max, grid[0])
    points = np.asarray(grid)
    found = [resolve(i, n, points, schedule, top, round_sigma) for n, i in asked]
    found = settle_collisions(found, config.on_collision, notes)
    notes += [
        f"interval {i.number}: t_min moved from {i.asked.t_min:.5g} to grid point {i.index}, sigma {i.t_min:.5g}"
        for i in found
        if f"{i.t_min:.3g}" != f"{i.asked.t_min:.3g}"
    ]
    notes += [
        f"interval {i.number}: t_max {i.asked.t_max:.9g} moved by rounding to {top:.9g}, the highest level"
        for i in found
        if i.asked.t_max > top
    ]
    return found


def on_grid(grid: Sequence[float], j: int, r: int) -> list[Interval]:
    """Return the intervals of RePaint on `grid` (with its final 0), see `RestartConfig.repaint`.

    With T steps they begin at the points m = 0, j, 2j, … < T − j, counted from the clean image, and reach j points up.

    Raises:
        ConfigError: the jumps are longer than the grid.
    """
    T = len(grid) - 1
    if r > 1 and j >= T:
        raise ConfigError(f"repaint: jumps of {j} points do not fit a grid of {T} steps; lower j or use more steps")
    found: list[Interval] = []
    for m in reversed(range(0, T - j, j) if r > 1 else ()):
        levels = tuple(grid[T - m - j : T - m + 1])
        asked = RestartInterval(j + 1, r - 1, levels[-1], levels[0])
        found.append(Interval(asked, len(found), T - m, levels[-1], levels[0], levels, 0))
    return found


def resolve(
    asked: RestartInterval,
    number: int,
    grid: np.ndarray,
    schedule: Schedule,
    sigma_max: float,
    round_sigma: Round | None,
) -> Interval:
    """Attach one interval to `grid` (with its final 0) and make its levels on `schedule`; its `nfe` is still 0."""
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
            f"{name}: t_min {asked.t_min:g} snaps to the first grid point {t_m:g}, where the run starts, so it would "
            f"never be reached; choose t_min below {(grid[0] + grid[1]) / 2:g} or more steps"
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
                f"{name}: t_max rounds to {levels[0]:g}, the nearest level the network was trained on, which is not "
                f"above t_min {t_m:g}; raise t_max"
            )
    return Interval(asked, number, index, t_m, float(levels[0]), tuple(map(float, levels)), 0)


def settle_collisions(intervals: list[Interval], rule: str, notes: list[str]) -> list[Interval]:
    """Return the intervals that run where several share a grid point, in the given order; `rule` is on_collision."""
    running: dict[int, list[Interval]] = {}
    for interval in intervals:
        running.setdefault(interval.index, []).append(interval)
    for index, group in running.items():
        if len(group) == 1:
            continue
        names = " and ".join(str(i.number) for i in group)
        point = f"intervals {names} both snap to grid point {index} (sigma {group[0].t_min:.6g})"
        if rule == "error":
            raise ConfigError(f"{point}; move a t_min, use more steps, or set on_collision to both, last or first")
        if rule == "both":
            notes.append(f"{point}; all run there, in the given order")
        else:
            running[index] = [group[-1] if rule == "last" else group[0]]
            notes.append(f"{point}; only interval {running[index][0].number} runs (on_collision={rule!r})")
    return [i for i in intervals if i in running[i.index]]
