r"""DDPM ancestral sampling: draw x_s from the Gaussian posterior q(x_s | x_t, x₀ = D(x_t; t)).

For x_t = x₀ + tε and η = 1:  x_s = D + (s²/t²)(x_t − D) + s·√(1 − s²/t²)·ε (Ho et al., arXiv 2006.11239, eq. 7, in σ).
For 0 < η < 1 it is DDIM's interpolation, with √(s² − noise²)/t before x_t − D (Song et al., arXiv 2010.02502, eq. 16).

Limiting cases: eta = 0 is DDIM (Euler); s = 0 returns D.
"""

from __future__ import annotations

import math

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
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
    family="sde",
    source="DDPM, arXiv 2006.11239, Algorithm 2; ancestral sampling on EDM's grid",
    noisy=True,
    aliases=("ancestral", "euler-ancestral"),
    rank=4,
)
