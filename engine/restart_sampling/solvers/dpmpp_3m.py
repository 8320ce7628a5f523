r"""DPM-Solver++(3M), a multistep solver of third order (DPM-Solver++, arXiv 2211.01095, appendix; k-diffusion's 3M).

D is taken as a parabola in λ through its last three values, with h, h₁, h₂ the last steps in λ, r₀ = h₁/h, r₁ = h₂/h,

    a₀ = (D − D₁)/r₀,  a₁ = (D₁ − D₂)/r₁,  c = 1 + η,  φ₂, φ₃ of ch as in integrals.py
    x' = (s/t)·e^(−ηh)·x + α(1 − e^(−ch))·D + αφ₂·(a₀ + r₀/(r₀ + r₁)·(a₀ − a₁)) − καφ₃/(r₀ + r₁)·(a₀ − a₁) + noise

κ = 2 is the parabola and has order 3. k-diffusion, ComfyUI and diffusers have κ = 1, which has order 2: that is the
variant "k-diffusion". "diffusers" has, besides, the midpoint form of 2M where there is one earlier value. `lower_final`
leaves out the last term on the step before the last of the main grid, as diffusers does below 15 steps. This solver is
the ODE, η = 0; `dpm++3m-sde` is the SDE.

Limiting cases: with one earlier value it is 2M, with none Euler; s = 0 is D.
"""

from __future__ import annotations

import math
from itertools import pairwise

from .integrals import leap, phi2, phi3
from .option import Option
from .process import lam
from .trace import Form, Position, Solver, Tracer, Update

OPTIONS = (
    Option("variant", "third-order", "weight of the last term", ("third-order", "k-diffusion", "diffusers")),
    Option("lower_final", False, "leave out the last term on the step before the last"),
)


def stochastic(x: Form, t: float, s: float, D: Tracer, position: Position, eta: float) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and two D's for the next step."""
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    to_s = leap(position.process, t, s, eta)
    z, new = to_s.c * to_s.h, to_s.x * x + to_s.first * D_0
    lams = [lam(position.process, at) for at in (t, *position.levels)]
    r = [(a - b) / to_s.h for a, b in pairwise(lams)]
    slopes = [(a - b) / r_j for a, b, r_j in zip((D_0, *position.history), position.history, r, strict=False)]
    if position.options["lower_final"] and not position.restart and position.remaining == 2:
        slopes = slopes[:1]
    if len(slopes) == 1:
        midpoint = position.options["variant"] == "diffusers"
        new = new + to_s.alpha * (-0.5 * math.expm1(-z) if midpoint else phi2(z)) * slopes[0]
    elif slopes:
        bend = (slopes[0] - slopes[1]) / (r[0] + r[1])
        kappa = 2.0 if position.options["variant"] == "third-order" else 1.0
        new = new + to_s.alpha * (phi2(z) * (slopes[0] + r[0] * bend) - kappa * phi3(z) * bend)
    return Update(new, to_s.std, keep=(D_0, *position.history[:1]))


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and two D's for the next step."""
    return stochastic(x, t, s, D, position, 0.0)


SOLVER = Solver(
    "dpm++3m",
    step,
    order=3,
    title="DPM-Solver++(3M)",
    source="DPM-Solver++, arXiv 2211.01095",
    processes=("ve", "flow"),
    aliases=("dpmpp_3m",),
    options=OPTIONS,
    rank=7.5,
)
