r"""DEIS, an exponential multistep integrator (arXiv 2204.13902).

The noise prediction is a polynomial through its last `order` values, integrated exactly:

    x'/α_s = x/α_t + Σ_j e_j ∫ l_j dρ,   ρ = σ/α,   e = (x − α·D)/σ.

The polynomial is in the time of a VP process for the variant "tab" (the paper's tAB-DEIS, eq. 15, on σ and with d = (x
− D)/t for flows as well, as in diff-sampler and ComfyUI; β is chosen as EDM does for levels 0.002 .. 80), and in ln ρ
for "log-rho" (as in diffusers). "rhoab" of other libraries is `lms`. The step to 0 returns D.

Limiting cases: a fresh history is Euler.
"""

from __future__ import annotations

import math

import numpy as np

from .integrals import combined, exponential
from .option import Option
from .process import alpha, lam
from .trace import Form, Position, Solver, Tracer, Update

EPSILON, TOP, BOTTOM = 1e-3, math.log1p(80.0**2), math.log1p(0.002**2)
BETA_D = 2 * (TOP - BOTTOM / EPSILON) / (1 - EPSILON)
BETA_MIN = TOP - BETA_D / 2


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and slopes for the next step."""
    D_0, order, tab = D(x, t), position.options["order"], position.options["variant"] == "tab"
    if s == 0:
        return Update(D_0)
    lowered = position.options["lower_final"] and not position.restart
    n = min(order, max(1, position.remaining - 1)) if lowered else order
    e = (x - (1.0 if tab else alpha(position.process, t)) * D_0) / t
    used, levels = (e, *position.history)[:n], (t, *position.levels)[:n]
    v = [lam(position.process, level) - lam(position.process, t) for level in (s, *levels[: len(used)])]
    # ∫ l_j dρ is σ_s times the integral of integrals.py with c = −1.
    w = _tab(t, s, levels[: len(used)]) if tab else [s * b for b in exponential(-1.0, v[0], v[1:])]
    ratio = 1.0 if tab else (s / t) * math.exp(v[0])  # α_s/α_t
    return Update(ratio * x + combined(w, used), keep=(e, *position.history)[: order - 1])


def _tab(t: float, s: float, levels: tuple[float, ...]) -> list[float]:
    """Return ∫_t^s l_j(τ(σ)) dσ, l_j the Lagrange polynomials of the levels in VP time, by Gauss–Legendre in ln σ."""
    u, weight = np.polynomial.legendre.leggauss(48)
    width = math.log(s / t)
    sigma = t * np.exp(width * (u + 1) / 2)
    tau, nodes = _time(sigma), _time(np.array(levels))
    values = [np.prod([(tau - b) / (a - b) for b in nodes if b != a], axis=0) * np.ones_like(tau) for a in nodes]
    return [float((weight * width / 2 * sigma * value).sum()) for value in values]


def _time(sigma: np.ndarray) -> np.ndarray:
    """Return τ with β_d·τ²/2 + β_min·τ = ln(1 + σ²)."""
    return (np.sqrt(BETA_MIN**2 + 2 * BETA_D * np.log1p(sigma**2)) - BETA_MIN) / BETA_D


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
