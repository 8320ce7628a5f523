r"""DPM-Solver-2, single-step midpoint form (Lu et al., arXiv 2206.00927, Algorithm 1 with r₁ = 1/2).

In σ space the logarithmic midpoint is m = √(ts) and all the α, λ algebra cancels:
u = x − (t − m)·d(x; t);  x' = x − (t − s)·d(u; m),  d(x; t) = (x − D(x; t))/t.

Limiting cases: s = 0 is one Euler step; s = t is the identity.
"""

from __future__ import annotations

import math

from . import euler
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    if s == 0:
        return euler.step(x, t, s, D, position)
    m = math.sqrt(t * s)
    u = x - (t - m) * ((x - D(x, t)) / t)
    return Update(x - (t - s) * ((u - D(u, m)) / m))


SOLVER = Solver(
    "dpm2",
    step,
    order=2,
    title="DPM-Solver-2 (single-step)",
    label="DPM-Solver-2",
    source="DPM-Solver, arXiv 2206.00927, Algorithm 1",
    aliases=("dpm-solver-2",),
    rank=5,
)
