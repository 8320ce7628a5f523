"""k-diffusion's polyexponential grid: a power of the way along ln σ."""

from __future__ import annotations

import math

import numpy as np

from .rule import Rule, checked, positive, with_ends


def polyexponential(n: int, sigma_min: float, sigma_max: float, power: float = 1.0) -> np.ndarray:
    """Levels σ_min(σ_max/σ_min)^((1−u)^power), u = i/(n−1). power = 1 is `exponential`.

    k-diffusion calls the power rho. Here it is not the plan's rho, whose default of 7 is meant for EDM's grid and which
    also shapes the inside of Restart intervals.
    """
    low, high = checked(n, sigma_min, sigma_max)
    ramp = np.linspace(1.0, 0.0, n) ** positive("power", power)
    return with_ends(np.exp(ramp * (math.log(high) - math.log(low)) + math.log(low)), low, high)


SCHEDULE = Rule(
    "polyexponential",
    polyexponential,
    title="a power of the way along ln σ",
    source="k-diffusion, get_sigmas_polyexponential",
    aliases=("get_sigmas_polyexponential",),
    flows=True,
    rank=7,
)
