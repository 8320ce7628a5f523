r"""DPM-Solver-2 with ancestral noise: `dpm_2_ancestral` of k-diffusion and ComfyUI.

A midpoint step to the level dn of ancestral.py, with m = √(t·dn) and d(x; t) = (x − D(x; t))/t

    u = x + (m − t)·d(x; t),   x' = k·(x + (dn − t)·d(u; m)) + up·ε.

Limiting cases: η = 0 is DPM-Solver-2; dn = 0, as for s = 0, is one Euler step.
"""

from __future__ import annotations

from . import dpm2
from .ancestral import split
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after two evaluations, at t and at √(t·dn), and the std of the noise."""
    dn, k, up = split(position.process, t, s, position.eta)
    return Update(k * dpm2.step(x, t, dn, D, position).x, up)


SOLVER = Solver(
    "dpm2-ancestral",
    step,
    order=2,
    title="DPM-Solver-2 ancestral",
    source="DPM-Solver, arXiv 2206.00927, Algorithm 1, with ancestral noise as in k-diffusion",
    processes=("ve", "flow"),
    aliases=("dpm_2_ancestral", "k_dpm_2_a", "KDPM2AncestralDiscreteScheduler"),
    rank=11,
)
