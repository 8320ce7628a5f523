r"""Adams–Bashforth of order 2 on EDM's ODE dx/dt = d (arXiv 2206.00364, eq. 1), for steps of any length.

With h = s − t and r = h/h_previous:  x' = x + h·((1 + r/2)·d − (r/2)·d_previous),  d(x; t) = (x − D(x; t))/t.

Limiting cases: a fresh history, or s = 0, is one Euler step.
"""

from __future__ import annotations

from .lms import adams
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and the slope for the next step."""
    return adams(x, t, s, D, position, order=2, denoised=True)


SOLVER = Solver(
    "ab2",
    step,
    order=2,
    title="Adams–Bashforth 2",
    source="Adams–Bashforth on EDM's ODE, arXiv 2206.00364, eq. 1",
    processes=("ve", "flow"),
    rank=21,
)
