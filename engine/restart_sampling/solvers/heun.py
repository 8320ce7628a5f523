r"""Heun's second-order step (EDM, arXiv 2206.00364, Algorithm 1; Restart, arXiv 2306.14878, Algorithm 3).

p = x + (s − t)·d(x; t);  x' = x + (s − t)·(d(x; t) + d(p; s))/2,  d(x; t) = (x − D(x; t))/t.

Limiting cases: s = 0 is one Euler step and one evaluation; s = t is the identity.
"""

from __future__ import annotations

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    d = (x - D(x, t)) / t
    p = x + (s - t) * d
    if s == 0:
        return Update(p)
    return Update(x + 0.5 * (s - t) * (d + (p - D(p, s)) / s))


SOLVER = Solver(
    "heun", step, order=2, title="Heun", source="EDM, arXiv 2206.00364, Algorithm 1", processes=("ve", "flow"), rank=2
)
