r"""DPM-Solver, multistep, in the noise prediction (DPM-Solver, arXiv 2206.00927; `dpmsolver` of diffusers).

With e = (x − α·D)/σ, h = λ_s − λ_t, and a₀, b = bend, r₀ the divided differences of e as in integrals.py
    order 2:  x' = (α_s/α_t)·x − s(e^h − 1)·(e + a₀/2), or with `second` "heun" − s·[(e^h − 1)·e + ψ₂·a₀]
    order 3:  x' = (α_s/α_t)·x − s·[(e^h − 1)·e + ψ₂·(a₀ + r₀·b) + κψ₃·b],  ψ₂ = (e^h − 1)/h − 1, ψ₃ = ψ₂/h − ½.

κ = 2 is third order; diffusers has κ = 1, the variant "diffusers". `sde` doubles the bracket of order 2 and adds
s·√(e^(2h) − 1)·ε, for η = 0 or 1. Limiting cases: a fresh history is of order 1; s = 0 is D, the order there being 1.
"""

from __future__ import annotations

import math

from ..common.errors import ConfigError
from .integrals import differences, phi2, phi3
from .option import Option
from .process import alpha, finite_alpha, lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and e's for the next step."""
    process, o, D_0 = position.process, position.options, D(x, t)
    if s == 0:
        return Update(D_0)
    if o["sde"] and position.eta not in (0, 1):
        raise ConfigError(f"eta of 'dpm-solver' with sde must be 0 or 1, got {position.eta:g}; or use dpm++2m-sde")
    if o["sde"] and position.eta and alpha(process, t) < finite_alpha(process, t):
        raise ConfigError("'dpm-solver' with sde has no step from pure noise, t = 1; use dpm++2m-sde")
    order = min(o["order"], 2) if o["sde"] else o["order"]
    now = position.lowered(order, 1) if o["lower_final"] else order
    end, *lams = (lam(process, at) for at in (s, t, *position.levels))
    h, e = end - lams[0], (x - finite_alpha(process, t) * D_0) / t
    change, (slope, bend, r) = math.expm1(h) * e, differences((e, *position.history)[:now], lams, h)
    if slope is not None and bend is not None:  # ψ₂ = −φ₂(−h) and ψ₃ = φ₃(−h) of integrals.py
        change = change - phi2(-h) * (slope + r * bend) + (1 + (o["variant"] == "third-order")) * phi3(-h) * bend
    elif slope is not None:
        change = change + (0.5 * math.expm1(h) if o["second"] == "midpoint" else -phi2(-h)) * slope
    eta = position.eta if o["sde"] else 0.0
    new = (s / t) * math.exp(h) * x - (1 + eta) * s * change  # (s/t)·e^h = α_s/α_t
    return Update(new, eta * s * math.sqrt(math.expm1(2 * h)), keep=(e, *position.history[:1])[: order - 1])


SOLVER = Solver(
    "dpm-solver",
    step,
    order=2,
    title="DPM-Solver (multistep)",
    source="DPM-Solver, arXiv 2206.00927, and its multistep form in diffusers",
    processes=("ve", "flow"),
    aliases=("dpmsolver", "sde-dpmsolver:sde=true"),
    options=(
        Option("order", 2, "values that a step uses", (1, 2, 3)),
        Option("variant", "third-order", "weight of the last term of order 3", ("third-order", "diffusers")),
        Option("second", "midpoint", "how the second order is reached", ("midpoint", "heun")),
        Option("lower_final", False, "lower the order on the last steps above 0"),
        Option("sde", False, "add noise, for eta = 1"),
    ),
)
