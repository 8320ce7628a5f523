r"""Linear multistep (Adams–Bashforth) on EDM's ODE dx/dt = d for steps of any length (arXiv 2206.00364, eq. 1).

x' = x + Σ_j d_j·∫_t^s l_j(σ) dσ over the last `order` slopes d = (x − D)/t, l_j the Lagrange polynomials of their
levels. This is `lms` of k-diffusion and ComfyUI, and what `ipndm_v` of other libraries means to be; the weights that
those use for orders 3 and 4 are not Adams–Bashforth's.

The step to 0 returns D, as ComfyUI does. k-diffusion and diffusers integrate to 0 with the full order: that is
`to_zero="k-diffusion"`.

Limiting cases: a fresh history, or order 1, is Euler.
"""

from __future__ import annotations

from .integrals import combined, polynomial
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and slopes for the next step."""
    return adams(x, t, s, D, position, position.options["order"], position.options["to_zero"] == "D")


def adams(x: Form, t: float, s: float, D: Tracer, position: Position, order: int, denoised: bool) -> Update:
    """Take the Adams–Bashforth step of an order; `denoised` makes the step to 0 return D."""
    D_0 = D(x, t)
    if s == 0 and denoised:
        return Update(D_0)
    slopes = ((x - D_0) / t, *position.history[: order - 1])
    levels = (t, *position.levels)[: len(slopes)]
    return Update(x + combined(polynomial(t, s, levels), slopes), keep=slopes[: order - 1])


SOLVER = Solver(
    "lms",
    step,
    order=4,
    title="Linear multistep",
    source="Adams–Bashforth on EDM's ODE, arXiv 2206.00364, eq. 1",
    processes=("ve", "flow"),
    aliases=("ipndm_v", "LMSDiscreteScheduler:to_zero=k-diffusion"),
    options=(
        Option("order", 4, "slopes that a step uses", (1, 2, 3, 4)),
        Option("to_zero", "D", "the last step, to level 0", ("D", "k-diffusion")),
    ),
    rank=20,
)
