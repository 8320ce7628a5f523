"""Levels of Stable Diffusion at whole timesteps, by the spacings of its pipelines."""

from __future__ import annotations

import numpy as np

from ...common.checks import integer, shown
from ...common.errors import ConfigError
from ..levels import sd_sigmas
from .rule import Rule, checked, descending, text

SPACINGS = ("linspace", "leading", "trailing")


def sd(n: int, sigma_min: float, sigma_max: float, spacing: str = "linspace", steps_offset: int = 1) -> np.ndarray:
    """n of Stable Diffusion's levels, from timestep a, nearest to sigma_min, to b, nearest to sigma_max.

    spacing, with T = b − a + 1: "linspace" rounds n even steps from b to a; "leading" is a + steps_offset + i·⌊T/n⌋, i
    = n−1..0, what the SD pipelines use (958, 925, …, 34, 1 for n = 30); "trailing" is a − 1 + round(T − i·T/n).
    """
    low, high = checked(n, sigma_min, sigma_max)
    sigmas = sd_sigmas()
    a, b = _nearest_timestep(sigmas, low), _nearest_timestep(sigmas, high)
    T = b - a + 1
    if n > T:
        raise ConfigError(f"sd has {T} levels in [{low:g}, {high:g}], fewer than the {n} asked for; use fewer steps")
    spacing = text(spacing)
    if spacing == "linspace":
        t = np.round(np.linspace(b, a, n)).astype(int)
    elif spacing == "leading":
        t = a + integer("steps_offset", steps_offset, 0) + np.arange(n)[::-1] * (T // n)
        if t[0] > b:
            raise ConfigError(
                f"leading spacing of {n} steps with steps_offset {steps_offset} needs timestep {t[0]}, "
                f"but the last is {b}; use fewer steps or steps_offset 0"
            )
    elif spacing == "trailing":
        t = a - 1 + np.round(T - np.arange(n) * (T / n)).astype(int)
    else:
        raise ConfigError(f"spacing {shown(spacing)} is not known; choose one of {', '.join(SPACINGS)}")
    return descending(sigmas[t])


def timesteps(n: int, low: float, high: float, **_: object) -> np.ndarray:
    """SD levels at n rounded timesteps, linear from the one nearest to `high` to the one nearest to `low`."""
    sigmas = sd_sigmas()
    return sigmas[np.round(np.linspace(_nearest_timestep(sigmas, high), _nearest_timestep(sigmas, low), n)).astype(int)]


def _nearest_timestep(sigmas: np.ndarray, sigma: float) -> int:
    return int(np.argmin(np.abs(sigmas - sigma)))


SCHEDULE = Rule(
    "sd",
    sd,
    title="Stable Diffusion's levels at whole timesteps",
    source="Latent Diffusion, arXiv 2112.10752",
    ends=(float(sd_sigmas()[0]), float(sd_sigmas()[-1])),
    segment=timesteps,
    segments=("timestep",),
    rank=5,
)
