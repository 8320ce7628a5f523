r"""DPM-Solver-3, single-step (Lu et al., arXiv 2206.00927, Algorithm 2 with r₁ = 1/3, r₂ = 2/3).

In σ space only L = ln(t/s) is left of the algebra; with m₁ = t·e^(−L/3), m₂ = t·e^(−2L/3) and d(x; t) = (x − D(x;
t))/t:

    e₀ = d(x; t),  e₁ = d(x − (t − m₁)e₀; m₁)
    u  = x − (t − m₂)e₀ − 2m₂·((e^(2L/3) − 1)/(2L/3) − 1)·(e₁ − e₀),  e₂ = d(u; m₂)
    x' = x − (t − s)e₀ − 1.5·s·((e^L − 1)/L − 1)·(e₂ − e₀)

On the main grid the order falls at the end as in the paper's experiments: order 3, then one step of order 2, then Euler
to 0, 3·N_main − 3 evaluations; steps inside a Restart interval always have order 3.

Limiting cases: s = 0 is one Euler step; the last step before 0 is DPM-Solver-2.
"""

from __future__ import annotations

import math

from . import dpm2, euler
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
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
    """(e^h − 1)/h − 1; a series where the subtraction would cancel."""
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
