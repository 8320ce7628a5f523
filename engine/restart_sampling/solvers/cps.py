r"""Coefficients-preserving sampling of flows (arXiv 2509.05952): noise of any size, and each level has the right total.

With x̂₀ = D(x; t) and ε̂ = (x − (1 − t)·D)/t

    noise = s·sin(η·π/2),   x' = (1 − s)·x̂₀ + √(s² − noise²)·ε̂ + noise·ε.

Limiting cases: η = 0 is Euler; η = 1 draws all of the noise anew; s = 0 is D.
"""

from __future__ import annotations

import math

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, and the std of the noise."""
    D_0 = D(x, t)
    angle = position.eta * math.pi / 2
    return Update((1 - s) * D_0 + (s * math.cos(angle) / t) * (x - (1 - t) * D_0), s * math.sin(angle))


SOLVER = Solver(
    "cps",
    step,
    order=1,
    title="Coefficients-preserving sampling",
    label="CPS",
    source="CPS, arXiv 2509.05952",
    processes=("flow",),
    rank=9,
)
