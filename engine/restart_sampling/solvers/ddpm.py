r"""DDPM ancestral sampling: draw x_s from the Gaussian posterior q(x_s | x_t, x₀ = D(x_t; t)).

For x_t = x₀ + t·ε and η = 1 (DDPM, arXiv 2006.11239, eq. 7, written in σ)

    x_s = D + (s²/t²)·(x_t − D) + noise·ε,   noise = η·s·√(1 − s²/t²).

For 0 < η < 1 the coefficient of x_t − D is √(s² − noise²)/t, DDIM's interpolation (arXiv 2010.02502, eq. 16).

Limiting cases: eta = 0 is DDIM (Euler); s = 0 returns D; s = t is the identity, without noise.
"""

from __future__ import annotations

import math

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean of x_s and the std of its noise after one evaluation at t."""
    D_0 = D(x, t)
    noise = position.eta * s * math.sqrt((1 - s / t) * (1 + s / t))
    down = math.sqrt((s - noise) * (s + noise))
    return Update(D_0 + (down / t) * (x - D_0), noise)


SOLVER = Solver(
    "ddpm",
    step,
    order=1,
    title="DDPM ancestral",
    label="DDPM",
    source="DDPM, arXiv 2006.11239, Algorithm 2; ancestral sampling on EDM's grid",
    aliases=("ancestral",),
    rank=4,
)
