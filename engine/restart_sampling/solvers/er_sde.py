r"""ER-SDE-Solver, for the reverse SDE with noise of any scale n(ρ) (arXiv 2309.06169, Algorithm 3 and eq. 25).

With ρ = σ/α, n(v) = v·(e^(v^0.3) + 10), r = n(ρ_s)/n(ρ_t), Δ = ρ_s − ρ_t and divided differences D', D'' of D in ρ

    x' = α_s·[r·x/α_t + (1 − r)·D + (Δ + n(ρ_s)·I₀)·D' + (Δ²/2 + n(ρ_s)·I₁)·D'' + √(ρ_s² − r²ρ_t²)·ε],
    I₀ = ∫ dv/n(v),  I₁ = ∫ (v − ρ_t)/n(v) dv  from ρ_s to ρ_t, as sums over 200 points as in the authors' code.

η is the power of e^(…) + 10 in n, so that η = 1 is the paper's choice. The step to 0 returns D.

Limiting cases: η = 0 is a multistep solver of the ODE; a fresh history, or order 1, uses no D'.
"""

from __future__ import annotations

import math

import numpy as np

from .option import Option
from .process import alpha, lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and two D's for the next step."""
    process, order = position.process, position.options["order"]
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)

    def n(v: np.ndarray | float) -> np.ndarray:
        return v * (np.exp(np.power(v, 0.3)) + 10) ** position.eta

    rho_t, rho_s, *older = (math.exp(-lam(process, at)) for at in (t, s, *position.levels[: order - 1]))
    r, change, a = float(n(rho_s) / n(rho_t)), rho_s - rho_t, alpha(process, s)
    points, width = rho_s - change / 200 * np.arange(200), -change / 200
    new = (a * r * rho_t / t) * x + a * (1 - r) * D_0
    if older:
        slope = (D_0 - position.history[0]) / (rho_t - older[0])
        new = new + a * (change + float(n(rho_s) * np.sum(width / n(points)))) * slope
    if len(older) == 2:
        earlier = (position.history[0] - position.history[1]) / (older[0] - older[1])
        bend = 2 * (slope - earlier) / (rho_t - older[1])
        new = new + a * (change**2 / 2 + float(n(rho_s) * np.sum(width * (points - rho_t) / n(points)))) * bend
    noise = a * math.sqrt(max(0.0, rho_s**2 - (r * rho_t) ** 2))
    return Update(new, noise, keep=(D_0, *position.history[:1])[: order - 1])


SOLVER = Solver(
    "er-sde",
    step,
    order=3,
    title="ER-SDE",
    source="ER-SDE-Solver, arXiv 2309.06169, Algorithm 3",
    processes=("ve", "flow"),
    aliases=("er_sde",),
    options=(Option("order", 3, "values of D that a step uses", (1, 2, 3)),),
    rank=30,
)
