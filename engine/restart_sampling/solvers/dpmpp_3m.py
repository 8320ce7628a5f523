r"""DPM-Solver++(3M), a multistep solver of third order (DPM-Solver++, arXiv 2211.01095, appendix; k-diffusion's 3M).

D is taken as a parabola in λ through its last three values, with h, h₁, h₂ the last steps in λ, r₀ = h₁/h, r₁ = h₂/h,
    a₀ = (D − D₁)/r₀,  a₁ = (D₁ − D₂)/r₁,  c = 1 + η,  φ₂, φ₃ of ch as in integrals.py
    x' = (s/t)·e^(−ηh)·x + α(1 − e^(−ch))·D + αφ₂·(a₀ + r₀/(r₀ + r₁)·(a₀ − a₁)) − καφ₃/(r₀ + r₁)·(a₀ − a₁) + noise

κ = 2 is the parabola, of order 3. k-diffusion, ComfyUI and diffusers have κ = 1, of order 2: the variant "k-diffusion",
and "diffusers", where one earlier value makes 2M in its midpoint form. `lower_final` has order 2 on the step before the
last of a main grid below 15 steps, as in diffusers. This is the ODE, η = 0; `dpm++3m-sde` is the SDE.
Limiting cases: with one earlier value it is 2M, with none Euler; s = 0 is D.
"""

from __future__ import annotations

from .integrals import differences, leap, phi2, phi3
from .option import Option
from .process import lam
from .trace import Form, Position, Solver, Tracer, Update

OPTIONS = (
    Option("variant", "third-order", "weight of the last term", ("third-order", "k-diffusion", "diffusers")),
    Option("lower_final", False, "order 2 on the step before the last, below 15 steps"),
)


def stochastic(x: Form, t: float, s: float, D: Tracer, position: Position, eta: float) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and two D's for the next step."""
    D_0, o = D(x, t), position.options
    if s == 0:
        return Update(D_0)
    to_s = leap(position.process, t, s, eta)
    z, new = to_s.c * to_s.h, to_s.x * x + to_s.first * D_0
    lams = [lam(position.process, at) for at in (t, *position.levels)]
    order = position.lowered(3) if o["lower_final"] and position.index + position.remaining < 15 else 3
    slope, bend, r = differences((D_0, *position.history)[:order], lams, to_s.h)
    if slope is not None:
        midpoint = bend is None and o["variant"] == "diffusers"
        new = new + (to_s.first / 2 if midpoint else to_s.alpha * phi2(z)) * slope
    if bend is not None:
        kappa = 2.0 if o["variant"] == "third-order" else 1.0
        new = new + to_s.alpha * (phi2(z) * r - kappa * phi3(z)) * bend
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
