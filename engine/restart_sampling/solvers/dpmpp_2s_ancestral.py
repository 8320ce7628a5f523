r"""DPM-Solver++(2S) with ancestral noise (DPM-Solver++, arXiv 2211.01095, Algorithm 1).

With dn, k and up of ancestral.py and the level m midway in λ between t and dn

    u = (m/t)·x + (1 − m/t)·D(x; t),   x' = k·((dn/t)·x + (1 − dn/t)·D(u; m)) + up·ε.

Limiting cases: η = 0 is DPM-Solver++(2S); dn = 0, as for s = 0, is D.
"""

from __future__ import annotations

from .ancestral import split
from .process import lam, level
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after two evaluations, at t and midway to dn, and the std of the noise."""
    process = position.process
    dn, k, up = split(process, t, s, position.eta)
    D_0 = D(x, t)
    if dn == 0:
        return Update(k * D_0, up)
    m = level(process, (lam(process, t) + lam(process, dn)) / 2)
    D_m = D((m / t) * x + (1 - m / t) * D_0, m)
    return Update(k * ((dn / t) * x + (1 - dn / t) * D_m), up)


SOLVER = Solver(
    "dpm++2s-ancestral",
    step,
    order=2,
    title="DPM-Solver++(2S) ancestral",
    source="DPM-Solver++, arXiv 2211.01095, Algorithm 1, with ancestral noise as in k-diffusion",
    processes=("ve", "flow"),
    aliases=("dpmpp_2s_ancestral", "dpm++2s"),
    rank=12,
)
