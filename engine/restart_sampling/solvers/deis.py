r"""DEIS, an exponential multistep integrator (arXiv 2204.13902).

The noise prediction is a polynomial through its last `order` values, integrated exactly:

    x'/α_s = x/α_t + Σ_j e_j ∫ l_j dρ,   ρ = σ/α,   e = (x − α·D)/σ.

The polynomial is in the time of a VP process for the variant "tab" (tAB-DEIS, eq. 15; on levels and d = (x − D)/t for
flows too, as in diff-sampler and ComfyUI), in ln ρ for "log-rho" (as in diffusers). "rhoab" of other libraries is
`lms`.

Limiting cases: a fresh history is Euler; s = 0 is D.
"""

from __future__ import annotations

import math

from .integrals import combined, exponential, polynomial_in
from .option import Option
from .process import finite_alpha, lam, vp_time
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and slopes for the next step."""
    D_0, order, tab = D(x, t), position.options["order"], position.options["variant"] == "tab"
    if s == 0:
        return Update(D_0)
    n = position.lowered(order, 1) if position.options["lower_final"] else order
    e = (x - (1.0 if tab else finite_alpha(position.process, t)) * D_0) / t
    used, levels = (e, *position.history)[:n], (t, *position.levels)[:n]
    v = [lam(position.process, level) - lam(position.process, t) for level in (s, *levels[: len(used)])]
    ratio = 1.0 if tab else (s / t) * math.exp(v[0])  # α_s/α_t
    w = polynomial_in(vp_time, t, s, levels[: len(used)]) if tab else [s * b for b in exponential(-1.0, v[0], v[1:])]
    return Update(ratio * x + combined(w, used), keep=(e, *position.history)[: order - 1])


SOLVER = Solver(
    "deis",
    step,
    order=3,
    title="DEIS",
    source="DEIS, arXiv 2204.13902, eq. 15",
    processes=("ve", "flow"),
    aliases=("tab-deis", "DEISMultistepScheduler:order=2,variant=log-rho"),
    options=(
        Option("order", 3, "values that a step uses", (2, 3, 4)),
        Option("lower_final", False, "lower the order on the last steps above 0"),
        Option("variant", "tab", "what the polynomial is in", ("tab", "log-rho")),
    ),
    rank=23,
)
