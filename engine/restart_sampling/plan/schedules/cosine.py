"""The cosine schedule of improved DDPM (arXiv 2102.09672, eq. 17), in its continuous time."""

from __future__ import annotations

import math

import numpy as np

from .rule import Rule, checked, positive, with_ends


def cosine(n: int, sigma_min: float, sigma_max: float, s: float = 0.008) -> np.ndarray:
    """Levels σ = √(1/ᾱ − 1), ᾱ = f(t)/f(0), f = cos²(π/2·(t + s)/(1 + s)), t linear between the ends' times."""
    low, high = checked(n, sigma_min, sigma_max)
    s = positive("s", s)
    scale = math.pi / 2 / (1 + s)
    f_0 = math.cos(s * scale) ** 2

    def time(sigma: float) -> float:
        return math.acos(math.sqrt(f_0 / (1 + sigma * sigma))) / scale - s

    t = np.linspace(time(high), time(low), n)
    alpha_bar = np.cos((t + s) * scale) ** 2 / f_0
    return with_ends(np.sqrt(np.maximum(1 / alpha_bar - 1, 0.0)), low, high)


SCHEDULE = Rule(
    "cosine",
    cosine,
    title="even in the time of the cosine schedule",
    source="improved DDPM, arXiv 2102.09672, eq. 17",
    rank=16,
)
