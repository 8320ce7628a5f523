"""EDM's grid (arXiv 2206.00364, eq. 5), which other libraries call Karras."""

from __future__ import annotations

import numpy as np

from .rule import Rule, checked, positive, with_ends


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """EDM grid (EDM eq. 5, Restart Algorithm 1). ρ = 1 is linear; ρ → ∞ is `exponential`.

    Level i is (σ_max^(1/ρ) + u(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ, u = i/(n−1).
    """
    low, high = checked(n, sigma_min, sigma_max)
    power = 1.0 / positive("rho", rho)
    with np.errstate(all="ignore"):
        first, last = np.float64(high) ** power, np.float64(low) ** power
        levels = (first + np.linspace(0.0, 1.0, n) * (last - first)) ** (1.0 / power)
    return with_ends(levels, low, high)


SCHEDULE = Rule(
    "edm",
    karras,
    title="even in σ^(1/ρ)",
    source="EDM, arXiv 2206.00364, eq. 5",
    aliases=("karras", "get_sigmas_karras", "use_karras_sigmas"),
    flows=True,
    uses_rho=True,
    rank=0,
)
