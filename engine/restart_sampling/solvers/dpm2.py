r"""DPM-Solver-2 in its single-step midpoint form (DPM-Solver, arXiv 2206.00927, Algorithm 1 with r₁ = 1/2).

In σ space the logarithmic midpoint is m = √(t·s) and all the algebra of α and λ cancels. With d(x; t) = (x − D(x; t))/t

    u  = x − (t − m)·d(x; t)
    x' = x − (t − s)·d(u; m)

The midpoint of t and 0 is 0, so the step to 0 is Euler's.

Limiting cases: s = 0 is one Euler step; s = t is the identity.
"""

from __future__ import annotations

import math

from . import euler
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after two evaluations, at t and at √(t·s); after one if s = 0."""
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
    processes=("ve", "flow"),
    aliases=("dpm-solver-2", "dpm_2"),
    rank=5,
)
