"""EDM's grid of VP networks (arXiv 2206.00364, Table 1)."""

from __future__ import annotations

import math

import numpy as np

from ...common.checks import real
from ...common.errors import ConfigError
from ..levels import vp_sigma
from .rule import Rule, checked, positive, with_ends


def vp(
    n: int,
    sigma_min: float,
    sigma_max: float,
    beta_d: float | None = 19.9,
    beta_min: float | None = 0.1,
    epsilon_s: float = 1e-3,
) -> np.ndarray:
    """VP grid (EDM Table 1): σ(t) = √(exp(β_d t²/2 + β_min t) − 1), t linear between the two ends.

    β_d = β_min = None solves σ(1) = sigma_max and σ(epsilon_s) = sigma_min for them, as EDM does; epsilon_s counts only
    then. With sigma_min = σ(epsilon_s), sigma_max = σ(1) both ways are one grid, t from 1 to epsilon_s. β_d = 0 is
    constant β: levels evenly spaced in ln(1 + σ²).
    """
    low, high = checked(n, sigma_min, sigma_max)
    top, bottom = math.log1p(high * high), math.log1p(low * low)
    if (beta_d is None) != (beta_min is None):
        raise ConfigError("beta_d and beta_min are either both given or both None (derived from sigma_min, sigma_max)")
    if beta_d is None or beta_min is None:
        eps = positive("epsilon_s", epsilon_s)
        if eps >= 1:
            raise ConfigError(f"epsilon_s must be below 1, got {eps:g}")
        beta_d = 2.0 * (top - bottom / eps) / (1.0 - eps)
        beta_min = top - 0.5 * beta_d
    beta_d, beta_min = real("beta_d", beta_d), real("beta_min", beta_min)

    def time(log_total: float) -> float:
        """The t at which β_d t²/2 + β_min t = ln(1 + σ²), in the form that also holds for β_d = 0."""
        root = beta_min**2 + 2.0 * beta_d * log_total
        total = beta_min + math.sqrt(root) if root >= 0 else 0.0
        if total <= 0:
            raise ConfigError(f"beta_d = {beta_d:g}, beta_min = {beta_min:g} never reach the given sigma_max {high:g}")
        return 2.0 * log_total / total

    with np.errstate(all="ignore"):
        levels = vp_sigma(np.linspace(time(top), time(bottom), n), beta_d, beta_min)
    return with_ends(levels, low, high)


SCHEDULE = Rule(
    "vp",
    vp,
    title="even in the time of VP",
    source="EDM, arXiv 2206.00364, Table 1, VP",
    aliases=("get_sigmas_vp",),
    ends=(float(vp_sigma(1e-3)), float(vp_sigma(1.0))),
    rank=2,
)
