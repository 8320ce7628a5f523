r"""SEEDS-3, a stochastic exponential solver of three stages (SEEDS, arXiv 2305.14267, Algorithm 3).

With m₁, m₂ at r₁ = 1/3 and r₂ = 2/3 of the step in λ: a first-order SDE step to m₁, then steps from t to m₂ and to s in
which D is linear in λ through D(x; t) and the newest value. The noise of all stages is that of one path.

Limiting cases: η = 0 is an ODE solver of order 3; s = 0 is D.
"""

from __future__ import annotations

from .integrals import combined, leap
from .process import lam, length, level
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after three evaluations, at t, m₁ and m₂, and the std of the fresh noise."""
    process, eta = position.process, position.eta
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    start, h = lam(process, t), length(process, t, s)
    m_1, m_2 = level(process, start + h / 3), level(process, start + 2 * h / 3)
    to_1, to_2, to_s = (leap(process, t, end, eta) for end in (m_1, m_2, s))
    part_2, part_3 = leap(process, m_1, m_2, eta), leap(process, m_2, s, eta)
    noise = to_1.std * D.draw()
    D_1 = D(to_1.x * x + to_1.first * D_0 + noise, m_1)
    noise = part_2.x * noise + part_2.std * D.draw()
    D_2 = D(to_2.x * x + combined(to_2.weights((t, m_1)), (D_0, D_1)) + noise, m_2)
    return Update(to_s.x * x + combined(to_s.weights((t, m_2)), (D_0, D_2)) + part_3.x * noise, part_3.std)


SOLVER = Solver(
    "seeds3",
    step,
    order=3,
    title="SEEDS-3",
    source="SEEDS, arXiv 2305.14267, Algorithm 3",
    processes=("ve", "flow"),
    aliases=("seeds_3", "seeds-3"),
    rank=29,
)
