r"""Euler's step with ancestral noise: `euler_ancestral` of k-diffusion and ComfyUI.

The step is Euler's to the level dn of ancestral.py, x' = k·(x + (dn − t)·d(x; t)) + up·ε. In ve this is DDPM's
posterior.

Limiting cases: η = 0 is Euler; s = 0 is D.
"""

from __future__ import annotations

from .ancestral import split
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, and the std of the noise."""
    dn, k, up = split(position.process, t, s, position.eta)
    D_0 = D(x, t)
    return Update(k * (D_0 + (dn / t) * (x - D_0)), up)


SOLVER = Solver(
    "euler-ancestral",
    step,
    order=1,
    title="Euler ancestral",
    source="DDPM, arXiv 2006.11239, eq. 7; in flows the ancestral step of rectified flow",
    processes=("ve", "flow"),
    aliases=("euler_ancestral", "euler_a", "EulerAncestralDiscreteScheduler"),
    rank=10,
)
