r"""The SDE step of Flow-GRPO (arXiv 2505.05470, eq. 12), with which policy-gradient methods train flow models.

With the velocity v = (x − D)/t, Δ = s − t < 0 and g = η·√(t/(1 − t))

    x' = x·(1 + g²·Δ/(2t)) + v·(1 + g²·(1 − t)/(2t))·Δ + noise·ε,   noise = g·√(−Δ).

At t = 1, where g is infinite, 1 − t is replaced by 1 − s in g, as the method's authors do. The paper takes η = 0.7.

Limiting cases: η = 0 is Euler; s = 0 is Euler as well, so the image is clean.
"""

from __future__ import annotations

import math

from . import euler
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, and the std of the noise."""
    if s == 0 or position.eta == 0:
        return euler.step(x, t, s, D, position)
    v = (x - D(x, t)) / t
    g = position.eta * math.sqrt(t / (1 - t if t < 1 else 1 - s))
    change = s - t
    mean = (1 + g * g * change / (2 * t)) * x + (1 + g * g * (1 - t) / (2 * t)) * change * v
    return Update(mean, g * math.sqrt(-change))


SOLVER = Solver(
    "flow-grpo",
    step,
    order=1,
    title="Flow-GRPO SDE",
    source="Flow-GRPO, arXiv 2505.05470, eq. 12",
    processes=("flow",),
    aliases=("flow-sde",),
    rank=8,
)
