"""EDM's grid of iDDPM networks (arXiv 2206.00364, Table 1)."""

from __future__ import annotations

import numpy as np

from ...common.checks import integer
from ...common.errors import ConfigError
from ..levels import iddpm_levels
from .rule import Rule, checked, descending, positive


def iddpm(
    n: int, sigma_min: float, sigma_max: float, M: int = 1000, C_1: float = 0.001, C_2: float = 0.008
) -> np.ndarray:
    """iDDPM grid (EDM Table 1): n of the M levels u_j that lie in [sigma_min, sigma_max], at positions ⌊u(L−1) + ½⌋.

    The end points are the outermost levels inside. n = all of them is every level; more is a ConfigError.
    """
    low, high = checked(n, sigma_min, sigma_max)
    u = iddpm_levels(integer("M", M, 2), positive("C_1", C_1), positive("C_2", C_2))[:-1]
    inside = u[(u >= low) & (u <= high)]
    if n > len(inside):
        raise ConfigError(
            f"iddpm has {len(inside)} levels in [{low:g}, {high:g}], fewer than the {n} asked for; "
            f"use fewer steps or a wider range (it spans {u[-1]:.4g} .. {u[0]:.6g})"
        )
    return descending(inside[np.floor(np.linspace(0, len(inside) - 1, n) + 0.5).astype(int)])


SCHEDULE = Rule(
    "iddpm",
    iddpm,
    title="levels of iDDPM, even in their index",
    source="EDM, arXiv 2206.00364, Table 1, iDDPM",
    ends=(0.002, 81.0),
    rank=4,
)
