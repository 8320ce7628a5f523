"""EDM's grid of VE networks (arXiv 2206.00364, Table 1)."""

from __future__ import annotations

import numpy as np

from .exponential import exponential
from .rule import Rule


def ve(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """VE grid (EDM Table 1): σ = √τ with τ = σ_max²(σ_min²/σ_max²)^u, which is `exponential`."""
    return exponential(n, sigma_min, sigma_max)


SCHEDULE = Rule(
    "ve", ve, title="even in ln σ²", source="EDM, arXiv 2206.00364, Table 1, VE", ends=(0.02, 100.0), rank=3
)
