r"""Gradient estimation (arXiv 2306.04848, Algorithm 2): the slope is extrapolated beyond the newest one.

With d(x; t) = (x − D(x; t))/t:  x' = x + (s − t)·(γ·d + (1 − γ)·d_previous). The paper takes γ = 2.

Limiting cases: γ = 1, or a fresh history, is Euler; s = 0 is D.
"""

from __future__ import annotations

from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and the slope for the next step."""
    D_0, gamma = D(x, t), position.options["gamma"]
    if s == 0:
        return Update(D_0)
    d = (x - D_0) / t
    used = gamma * d + (1 - gamma) * position.history[0] if position.history else d
    return Update(x + (s - t) * used, keep=(d,))


SOLVER = Solver(
    "gradient-estimation",
    step,
    order=1,
    title="Gradient estimation",
    source="Gradient estimation, arXiv 2306.04848, Algorithm 2",
    processes=("ve", "flow"),
    aliases=("gradient_estimation", "ge"),
    options=(Option("gamma", 2.0, "weight of the newest slope", low=1.0, high=5.0),),
    rank=24,
)
