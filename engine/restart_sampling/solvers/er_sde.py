r"""ER-SDE-Solver, for the reverse SDE with noise of any scale n(ρ) (arXiv 2309.06169, Algorithm 3 and eq. 25).

With ρ = σ/α, n(v) = v·(e^(v^0.3) + 10), r = n(ρ_s)/n(ρ_t), Δ = ρ_s − ρ_t and divided differences D', D'' of D in ρ
    x' = α_s·[r·x/α_t + (1 − r)·D + (Δ + n(ρ_s)·I₀)·D' + (Δ²/2 + n(ρ_s)·I₁)·D'' + √(ρ_s² − r²ρ_t²)·ε],
    I₀ = ∫ dv/n(v),  I₁ = ∫ (v − ρ_t)/n(v) dv  from ρ_s to ρ_t.

This is the variant "published", with sums over 200 points for I₀ and I₁ as in the authors' code and in ComfyUI; its D'
is the slope between two levels. With "third-order", the default, D is the parabola through three values, and the
integrals are exact. η is the power of e^(…) + 10 in n; η = 1 is the paper's.
Limiting cases: η = 0 is an ODE solver; a fresh history, or order 1, uses no D'; s = 0 is D.
"""

from __future__ import annotations

import numpy as np

from .integrals import differences, left_sum, quadrature
from .option import Option
from .process import alpha, lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and two D's for the next step."""
    process, order, D_0 = position.process, position.options["order"], D(x, t)
    if s == 0:
        return Update(D_0)

    def n(v: np.ndarray | float) -> np.ndarray:
        return v * (np.exp(np.power(v, 0.3)) + 10) ** position.eta

    rho_t, rho_s, *older = (float(np.exp(-lam(process, at))) for at in (t, s, *position.levels[: order - 1]))
    r, change, a = float(n(rho_s) / n(rho_t)), rho_s - rho_t, alpha(process, s)
    published = position.options["variant"] == "published"
    points, width = (left_sum if published else quadrature)(rho_s, rho_t)
    slope, half, gap = differences((D_0, *position.history), (rho_t, *older), 1.0)  # D' and D''/2
    new = (a * r * rho_t / t) * x + a * (1 - r) * D_0
    first, second = (float(n(rho_s) * np.sum(width * f / n(points))) for f in (1.0, points - rho_t))
    if slope is not None:
        new = new + a * (change + first) * slope
    if half is not None:
        new = new + a * (change**2 + 2 * second + (0.0 if published else gap * (change + first))) * half
    return Update(
        new, a * float(np.sqrt(max(0.0, rho_s**2 - (r * rho_t) ** 2))), keep=(D_0, *position.history[:1])[: order - 1]
    )


SOLVER = Solver(
    "er-sde",
    step,
    order=3,
    title="ER-SDE",
    source="ER-SDE-Solver, arXiv 2309.06169, Algorithm 3",
    processes=("ve", "flow"),
    aliases=("er_sde:variant=published",),
    options=(
        Option("order", 3, "values of D that a step uses", (1, 2, 3)),
        Option("variant", "third-order", "how D' is taken", ("third-order", "published")),
    ),
)
