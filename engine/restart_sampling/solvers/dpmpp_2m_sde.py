r"""DPM-Solver++(2M) SDE, a stochastic multistep solver (DPM-Solver++, arXiv 2211.01095, section 4.2).

With λ = ln(α/σ), h = λ_s − λ_t, c = 1 + η and r = h_last/h

    x' = (s/t)·e^(−ηh)·x + α·(1 − e^(−ch))·D + α·g·(D − D_previous)/r + s·√(1 − e^(−2ηh))·ε

where g = ½·(1 − e^(−ch)) for the variant "midpoint" and φ₂(ch) = 1 + (e^(−ch) − 1)/(ch), which is exact for a D that is
linear in λ, for "heun".

Limiting cases: η = 0 is the ODE solver 2M; a fresh history is the first-order SDE step; s = 0 is D.
"""

from __future__ import annotations

import math

from .integrals import leap, phi2
from .option import Option
from .process import lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and D for the next step."""
    process = position.process
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    to_s = leap(process, t, s, position.eta)
    new = to_s.x * x + to_s.first * D_0
    if position.history:
        r = (lam(process, t) - lam(process, position.levels[0])) / to_s.h
        z = to_s.c * to_s.h
        g = -0.5 * math.expm1(-z) if position.options["variant"] == "midpoint" else phi2(z)
        new = new + (to_s.alpha * g / r) * (D_0 - position.history[0])
    return Update(new, to_s.std, keep=(D_0,))


SOLVER = Solver(
    "dpm++2m-sde",
    step,
    order=2,
    title="DPM-Solver++(2M) SDE",
    source="DPM-Solver++, arXiv 2211.01095, section 4.2",
    processes=("ve", "flow"),
    aliases=("dpmpp_2m_sde", "dpmpp_2m_sde_heun:variant=heun", "sde-dpmsolver++"),
    options=(Option("variant", "midpoint", "how the second order is reached", ("midpoint", "heun")),),
    rank=14,
)
