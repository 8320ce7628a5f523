"""Levels even in the arc tangent of σ, optimal for Gaussian data by the Kullback-Leibler bound of Align Your Steps."""

from __future__ import annotations

import math

import numpy as np

from .rule import Rule, checked, with_ends


def kl_optimal(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Levels tan((1−u)·atan σ_max + u·atan σ_min), u = i/(n−1)."""
    low, high = checked(n, sigma_min, sigma_max)
    return with_ends(np.tan(np.linspace(math.atan(high), math.atan(low), n)), low, high)


SCHEDULE = Rule(
    "kl_optimal",
    kl_optimal,
    title="even in atan σ",
    source="Align Your Steps, arXiv 2404.14507",
    aliases=("kl-optimal",),
    flows=True,
    rank=13,
)
