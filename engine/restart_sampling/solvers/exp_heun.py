r"""Exponential Heun: D is linear in λ between both ends of the step, integrated exactly (SEEDS, arXiv 2305.14267, eq.
12).

With the first-order step u to s, x' = (s/t)·e^(−ηh)·x + w_t·D(x; t) + w_s·D(u; s) + noise, and the noise of u is that
of x'. These are `exp_heun_2_x0` (η = 0) and `exp_heun_2_x0_sde` of ComfyUI.

Limiting cases: without `sde` this is the ODE; s = 0 is D.
"""

from __future__ import annotations

from .integrals import combined, leap
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after two evaluations, at t and s; its noise is a draw that both share."""
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    sde = position.options["sde"]
    to_s = leap(position.process, t, s, position.eta if sde else 0.0)
    carried = to_s.x * x + to_s.std * D.draw() if sde else to_s.x * x
    D_s = D(carried + to_s.first * D_0, s)
    return Update(carried + combined(to_s.weights((t, s)), (D_0, D_s)))


SOLVER = Solver(
    "exp-heun",
    step,
    order=2,
    title="Exponential Heun",
    source="SEEDS, arXiv 2305.14267, eq. 12",
    processes=("ve", "flow"),
    aliases=("exp_heun_2_x0", "exp_heun_2_x0_sde:sde=true"),
    options=(Option("sde", False, "add noise of scale eta"),),
    rank=26,
)
