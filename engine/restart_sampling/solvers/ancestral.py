r"""Ancestral steps: a deterministic step to a lower level, then fresh noise up to s.

ve: the step goes to dn = √(s² − up²), and up = min(s, η·s·√(1 − s²/t²)) is added (DDPM's posterior, arXiv 2006.11239,
eq. 7, at η = 1).

flow: the step goes to dn = s·(1 + η·(s/t − 1)), the state is scaled by k = (1 − s)/(1 − dn) so that its signal is that
of s, and up = √(s² − (k·dn)²) is added.

Limiting cases: η = 0 has dn = s and no noise; s = 0 has dn = 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Split(NamedTuple):
    """The lower level, the factor on the state there, and the std of the noise."""

    dn: float
    k: float
    up: float


def split(process: str, t: float, s: float, eta: float) -> Split:
    """Return how an ancestral step from t to s is split."""
    if process == "flow":
        dn = s * (1 + eta * (s / t - 1))
        k = (1 - s) / (1 - dn)
        return Split(dn, k, math.sqrt(max(0.0, (s - k * dn) * (s + k * dn))))
    return Split(*_ve(t, s, eta))


def _ve(t: float, s: float, eta: float) -> tuple[float, float, float]:
    up = min(s, eta * s * math.sqrt((1 - s / t) * (1 + s / t)))
    return math.sqrt((s - up) * (s + up)), 1.0, up


def in_ratio(rho_t: float, rho_s: float, eta: float) -> tuple[float, float]:
    """Return (dn, up) of ρ = σ/α, which behaves as σ does in ve."""
    dn, _, up = _ve(rho_t, rho_s, eta)
    return dn, up
