r"""DPM-Solver-3 in its single-step form (DPM-Solver, arXiv 2206.00927, Algorithm 2 with r₁ = 1/3, r₂ = 2/3).

In σ space only L = ln(t/s) is left of the algebra. With m₁ = t·e^(−L/3), m₂ = t·e^(−2L/3), d(x; t) = (x − D(x; t))/t

    e₀ = d(x; t),  e₁ = d(x − (t − m₁)·e₀; m₁)
    u  = x − (t − m₂)·e₀ − 2·m₂·((e^(2L/3) − 1)/(2L/3) − 1)·(e₁ − e₀),  e₂ = d(u; m₂)
    x' = x − (t − s)·e₀ − 1.5·s·((e^L − 1)/L − 1)·(e₂ − e₀)

On the main grid the order falls at the end, as in the paper's experiments: after steps of order 3 there is one of
order 2, then one Euler step to 0, which makes 3·N_main − 3 evaluations. Steps inside a Restart interval have order 3.

Limiting cases: s = 0 is one Euler step; the last step before it is DPM-Solver-2; s = t is the identity.
"""

from __future__ import annotations

import math

from . import dpm2, euler
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after three evaluations, at t, m₁ and m₂; at the end of the main grid fewer."""
    if s == 0:
        return euler.step(x, t, s, D, position)
    if not position.restart and position.remaining <= 2:
        return dpm2.step(x, t, s, D, position)
    L = math.log(t / s)
    m_1, m_2 = t * math.exp(-L / 3), t * math.exp(-2 * L / 3)
    e_0 = (x - D(x, t)) / t
    u_1 = x - (t - m_1) * e_0
    e_1 = (u_1 - D(u_1, m_1)) / m_1
    u_2 = x - (t - m_2) * e_0 - 2 * m_2 * _phi(2 * L / 3) * (e_1 - e_0)
    e_2 = (u_2 - D(u_2, m_2)) / m_2
    return Update(x - (t - s) * e_0 - 1.5 * s * _phi(L) * (e_2 - e_0))


def _phi(h: float) -> float:
    """Return (e^h − 1)/h − 1; by its series for small h, where the subtraction would cancel. h = 0 is 0."""
    return h / 2 * (1 + h / 3 * (1 + h / 4 * (1 + h / 5))) if abs(h) < 1e-3 else math.expm1(h) / h - 1


SOLVER = Solver(
    "dpm3",
    step,
    order=3,
    title="DPM-Solver-3 (single-step)",
    label="DPM-Solver-3",
    source="DPM-Solver, arXiv 2206.00927, Algorithm 2",
    aliases=("dpm-solver-3",),
    rank=6,
)
