"""Levels that a user or a library gives, and the range of levels that a network or a process knows.

Other libraries compute their noise levels in float32 and print them with a few digits. Such levels leave the exact
range by a relative 1e-7 to 1e-5, although nobody meant them to. So a level that is outside by at most `ROUNDING` of
itself counts as the end of the range: it is moved there, and a note says so. A level farther outside is an error.

Limiting cases: levels inside the range come back unchanged, bit for bit; ROUNDING = 0 would refuse every float32 table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..common.errors import ConfigError

if TYPE_CHECKING:
    from .options import PlanConfig
    from .plan import Plan

ROUNDING = 1e-4  # relative; float32 is 6e-8, a table printed with five digits 5e-5


def inside(level: float, low: float, high: float) -> float | None:
    """Return `level` if it lies in [low, high], the end that it misses by rounding alone, or None if it is outside."""
    if level > high:
        return high if level <= high * (1 + ROUNDING) else None
    if level < low:
        return low if level >= low * (1 - ROUNDING) else None
    return level


def within(config: PlanConfig, low: float, high: float) -> tuple[PlanConfig, tuple[str, ...]]:
    """Return `config` with its main grid inside [low, high], the levels a network knows, and a note for each moved end.

    The ends of a named grid are cut to the range. Levels that were given one by one are moved by rounding alone.

    Raises:
        ConfigError: given levels outside the range, or a grid that does not meet it.
    """
    if config.sigmas:
        return _given(config, low, high)
    new_low, new_high = max(config.sigma_min, low), min(config.sigma_max, high)
    if new_low >= new_high:
        raise ConfigError(
            f"the plan covers sigma {config.sigma_min:g} .. {config.sigma_max:g} but the network knows "
            f"{low:g} .. {high:g}; choose sigma_min and sigma_max inside that range"
        )
    notes = []
    if new_low != config.sigma_min:
        notes.append(f"sigma_min raised from {config.sigma_min:g} to {new_low:g}, the lowest the network knows")
    if new_high != config.sigma_max:
        notes.append(f"sigma_max lowered from {config.sigma_max:g} to {new_high:g}, the highest the network knows")
    return (replace(config, sigma_min=new_low, sigma_max=new_high) if notes else config), tuple(notes)


def _given(config: PlanConfig, low: float, high: float) -> tuple[PlanConfig, tuple[str, ...]]:
    """Do what `within` does for `config.sigmas`; levels that meet at an end of the range become one."""
    levels: list[float] = []
    for given in config.sigmas:
        level = inside(given, low, high)
        if level is None:
            raise ConfigError(
                f"sigmas run over {config.sigma_max:g} .. {config.sigma_min:g} but the network knows "
                f"{low:g} .. {high:g}; give levels inside that range"
            )
        if not levels or level < levels[-1]:
            levels.append(level)
    if tuple(levels) == config.sigmas:
        return config, ()
    notes = tuple(
        f"sigmas: {given:.9g} moved by rounding to {end:.9g}, the {name} level the network knows"
        for given, end, name in ((config.sigma_max, levels[0], "highest"), (config.sigma_min, levels[-1], "lowest"))
        if given != end
    )
    moved = replace(config, sigmas=tuple(levels), steps=len(levels), sigma_min=levels[-1], sigma_max=levels[0])
    return moved, notes


def stop_at_last_level(plan: Plan) -> Plan:
    """Return `plan` without its last step, the one to 0.

    The result of a run is then the state at the last level of the grid, with the noise of that level in it.
    """
    note = f"the run ends at sigma {plan.grid[-2]:.5g}, where the given sigmas end; there is no step to 0"
    return replace(plan, steps=plan.steps[:-1], notes=(*plan.notes, note))
