"""Levels that are even in ln σ."""

from __future__ import annotations

import math

import numpy as np

from .rule import Rule, checked, with_ends


def exponential(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Levels evenly spaced in ln σ."""
    low, high = checked(n, sigma_min, sigma_max)
    return with_ends(np.exp(np.linspace(math.log(high), math.log(low), n)), low, high)


SCHEDULE = Rule(
    "exponential",
    exponential,
    title="even in ln σ",
    source="Score SDE, arXiv 2011.13456",
    aliases=("get_sigmas_exponential", "use_exponential_sigmas"),
    flows=True,
    rank=1,
)
