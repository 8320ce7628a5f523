r"""iPNDM: Adams–Bashforth with the weights of equal steps, on any grid (DEIS, arXiv 2204.13902, section 3; PNDM,
2202.09778).

With d(x; t) = (x − D(x; t))/t and the last `order` slopes, x' = x + (s − t)·Σ_j b_j·d_j,

    b = 1;   3, −1 over 2;   23, −16, 5 over 12;   55, −59, 37, −9 over 24.

The weights fit steps of one length. Slopes of a Restart interval, whose steps have another length, are therefore not
used on the main grid after it. For weights that follow the steps see `lms`. The step to 0 returns D.

Limiting cases: a fresh history is Euler; on equal steps this is `lms`.
"""

from __future__ import annotations

from .integrals import combined
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update

WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and slopes for the next step."""
    D_0, order = D(x, t), position.options["order"]
    if s == 0:
        return Update(D_0)
    earlier = position.history if position.note == position.restart else ()
    slopes = ((x - D_0) / t, *earlier[: order - 1])
    return Update(
        x + (s - t) * combined(WEIGHTS[len(slopes) - 1], slopes), keep=slopes[: order - 1], note=position.restart
    )


SOLVER = Solver(
    "ipndm",
    step,
    order=2,
    title="iPNDM",
    source="DEIS, arXiv 2204.13902, section 3, iPNDM",
    processes=("ve", "flow"),
    aliases=("IPNDMScheduler",),
    options=(Option("order", 4, "slopes that a step uses", (1, 2, 3, 4)),),
    rank=22,
)
