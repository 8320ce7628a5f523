r"""DPM-Solver++ SDE, single-step: `dpmpp_sde` of k-diffusion, DPMSolverSDEScheduler of diffusers (arXiv 2211.01095).

With ρ = σ/α, the level m at λ_t + r·(λ_s − λ_t), and (dn, up) of an ancestral step in ρ, from t to m and then to s,

    u  = α_m·[(dn/ρ_t)·x/α_t + (1 − dn/ρ_t)·D(x; t) + up·ε₁]
    x' = α_s·[(dn/ρ_t)·x/α_t + (1 − dn/ρ_t)·((1 − f)·D(x; t) + f·D(u; m)) + up·(κ·ε₁ + √(1 − κ²)·ε₂)],  f = 1/(2r).

ε₁ is the noise of a Brownian path up to m, which is linear in σ as in the libraries: κ² = (ρ_t − ρ_m)/(ρ_t − ρ_s).

Limiting cases: η = 0 is an ODE step of second order; s = 0 is D.
"""

from __future__ import annotations

import math

from .ancestral import in_ratio
from .option import Option
from .process import alpha, finite_alpha, lam, length, level
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after two evaluations, at t and m, and the std of the fresh part of the noise."""
    process, r = position.process, position.options["r"]
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    first = D.draw()
    m = level(process, lam(process, t) + r * length(process, t, s))
    rho_t, rho_m, rho_s = (math.exp(-lam(process, at)) for at in (t, m, s))
    dn, up = in_ratio(rho_t, rho_m, position.eta)
    scale = dn * math.exp(lam(process, t)) / finite_alpha(process, t)
    u = alpha(process, m) * (scale * x + (1 - dn / rho_t) * D_0 + up * first)
    D_m = D(u, m)
    dn, up = in_ratio(rho_t, rho_s, position.eta)
    scale = dn * math.exp(lam(process, t)) / finite_alpha(process, t)
    f, kappa = 1 / (2 * r), math.sqrt((t - m) / (t - s))
    mean = scale * x + (1 - dn / rho_t) * ((1 - f) * D_0 + f * D_m) + up * kappa * first
    a = alpha(process, s)
    return Update(a * mean, a * up * math.sqrt(1 - kappa * kappa))


SOLVER = Solver(
    "dpm++sde",
    step,
    order=2,
    title="DPM-Solver++ SDE",
    source="DPM-Solver++, arXiv 2211.01095, section 4.2, as k-diffusion has it",
    processes=("ve", "flow"),
    aliases=("dpmpp_sde", "DPMSolverSDEScheduler"),
    options=(Option("r", 0.5, "place of the second evaluation, as a share of the step in λ", low=0.05, high=1.0),),
    rank=13,
)
