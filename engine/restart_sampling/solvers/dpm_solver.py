r"""DPM-Solver, multistep, in the noise prediction (DPM-Solver, arXiv 2206.00927; `dpmsolver` of diffusers).

With e = (x − α·D)/σ, h = λ_s − λ_t, r = h_last/h, and a₀, a₁ the divided differences of e in λ as in dpmpp_3m.py

    order 2:  x' = (α_s/α_t)·x − s(e^h − 1)·[e + (e − e₁)/(2r)]
    order 3:  x' = (α_s/α_t)·x − s(e^h − 1)·e − sψ₂·(a₀ + r₀/(r₀ + r₁)·(a₀ − a₁)) − κsψ₃/(r₀ + r₁)·(a₀ − a₁),

ψ₂ = (e^h − 1)/h − 1, ψ₃ = ψ₂/h − ½. κ = 2 is third order; diffusers has κ = 1, the variant "diffusers". With
`second="heun"` order 2 has sψ₂·(e − e₁)/r for its last term, which is exact for an e that is linear in λ. With `sde`
the change of order 2 is doubled and s·√(e^(2h) − 1)·ε is added (`sde-dpmsolver`), for which η is 0 or 1.

The noise form has no step to 0 but Euler's, which returns D.

Limiting cases: a fresh history is Euler, or the first-order SDE step with `sde`.
"""

from __future__ import annotations

import math
from itertools import pairwise

from ..common.errors import ConfigError
from .integrals import phi2, phi3
from .option import Option
from .process import alpha, lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and e's for the next step."""
    process, options = position.process, position.options
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    lams = [lam(process, at) for at in (s, t, *position.levels)]
    h = lams[0] - lams[1]
    e = (x - alpha(process, t) * D_0) / t
    r = [(a - b) / h for a, b in pairwise(lams[1:])]
    slopes = [(a - b) / r_j for a, b, r_j in zip((e, *position.history), position.history, r, strict=False)]
    order = min(options["order"], 2) if options["sde"] else options["order"]
    now = min(order, max(1, position.remaining - 1)) if options["lower_final"] and not position.restart else order
    change, slopes = math.expm1(h) * e, slopes[: now - 1]
    if len(slopes) == 1:
        change = change + (0.5 * math.expm1(h) if options["second"] == "midpoint" else -phi2(-h)) * slopes[0]
    elif slopes:
        bend = (slopes[0] - slopes[1]) / (r[0] + r[1])
        kappa = 2.0 if options["variant"] == "third-order" else 1.0
        # ψ₂ = −φ₂(−h) and ψ₃ = φ₃(−h) of integrals.py.
        change = change - phi2(-h) * (slopes[0] + r[0] * bend) + kappa * phi3(-h) * bend
    ratio = (s / t) * math.exp(h)  # α_s/α_t
    noisy = options["sde"] and position.eta > 0
    if noisy and position.eta != 1:
        raise ConfigError(
            f"eta of solver 'dpm-solver' with sde must be 0 or 1, got {position.eta:g}; or use dpm++2m-sde"
        )
    noise = s * math.sqrt(math.expm1(2 * h)) if noisy else 0.0
    return Update(ratio * x - (2.0 if noisy else 1.0) * s * change, noise, keep=(e, *position.history[:1])[: order - 1])


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
    rank=33,
)
