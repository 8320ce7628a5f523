"""Levels by the quantiles of a Laplace law of ln σ (arXiv 2407.03297)."""

from __future__ import annotations

import numpy as np

from ...common.checks import real
from .rule import Rule, checked, positive, with_ends


def laplace(n: int, sigma_min: float, sigma_max: float, mu: float = 0.0, b: float = 0.5) -> np.ndarray:
    """Levels exp(μ − b·sgn(½−u)·ln(1 − 2|½−u| + 1e-5)), u = i/(n−1), clipped to [sigma_min, sigma_max].

    The law's ends are infinite, so the first and the last level are sigma_max and sigma_min. k-diffusion and ComfyUI
    end a run there; here, as with every grid, the step from the last level to 0 follows.
    """
    low, high = checked(n, sigma_min, sigma_max)
    u = np.linspace(0.0, 1.0, n)
    log_tail = np.log(1 - 2 * np.abs(0.5 - u) + 1e-5)
    levels = np.exp(real("mu", mu) - positive("b", b) * np.sign(0.5 - u) * log_tail)
    return with_ends(np.clip(levels, low, high), low, high)


SCHEDULE = Rule(
    "laplace",
    laplace,
    title="quantiles of a Laplace law of ln σ",
    source="arXiv 2407.03297; k-diffusion, get_sigmas_laplace",
    aliases=("get_sigmas_laplace",),
    rank=14,
)
