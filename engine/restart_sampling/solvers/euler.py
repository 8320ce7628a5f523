r"""Euler's method on the probability-flow ODE, which is DDIM with η = 0 for every process.

The ODE is dx/dt = d(x; t) with d(x; t) = (x − D(x; t))/t (EDM, arXiv 2206.00364, eq. 1 with σ(t) = t), and the step

    x' = x + (s − t)·d(x; t).

In flow matching x_t = (1 − t)·x₀ + t·ε the velocity ε − x₀ is (x − D)/t as well, so the same line serves both. DDIM
with η = 0, its state divided by √ᾱ, is this line (arXiv 2010.02502, section 4.3).

Limiting cases: s = 0 returns D(x; t); s = t is the identity.
"""

from __future__ import annotations

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t."""
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
