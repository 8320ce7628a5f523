r"""Euler, which is DDIM (η = 0) for every process.

x' = x + (s − t)·d, d = (x − D(x; t))/t, the first-order step of the probability-flow ODE dx/dt = d (EDM, arXiv
2206.00364, eq. 1 with σ(t) = t). In flow matching x_t = (1−t)x₀ + tε the velocity ε − x₀ is (x − D)/t as well, so the
same line serves both.

Limiting cases: s = 0 returns D(x; t); s = t is the identity.
"""

from __future__ import annotations

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    d = (x - D(x, t)) / t
    return Update(x + (s - t) * d)


SOLVER = Solver(
    "euler",
    step,
    order=1,
    title="Euler (DDIM)",
    source="DDIM, arXiv 2010.02502, eq. 12 with eta = 0; Euler on EDM's ODE",
    processes=("ve", "flow"),
    aliases=("ddim",),
    rank=1,
)
