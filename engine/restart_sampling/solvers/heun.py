r"""Heun's second-order method (EDM, arXiv 2206.00364, Algorithm 1; Restart, arXiv 2306.14878, Algorithm 3).

With d(x; t) = (x − D(x; t))/t the step is Euler to s, then the mean of the slopes at both ends:

    p  = x + (s − t)·d(x; t)
    x' = x + (s − t)·(d(x; t) + d(p; s))/2

The slope at s = 0 does not exist, so the step to 0 is p.

Limiting cases: s = 0 is one Euler step and one evaluation; s = t is the identity.
"""

from __future__ import annotations

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after two evaluations, at t and at s; after one if s = 0."""
    d = (x - D(x, t)) / t
    p = x + (s - t) * d
    if s == 0:
        return Update(p)
    return Update(x + 0.5 * (s - t) * (d + (p - D(p, s)) / s))


SOLVER = Solver(
    "heun", step, order=2, title="Heun", source="EDM, arXiv 2206.00364, Algorithm 1", processes=("ve", "flow"), rank=2
)
