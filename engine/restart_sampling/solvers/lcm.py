r"""LCM sampling: jump to D and add the noise of the next level (consistency models, arXiv 2303.01469, Algorithm 1; LCM,
2310.04378).

    x' = α_s·D(x; t) + σ_s·ε.

With `boundary` D is first mixed with the state as diffusers' LCMScheduler does, c_out·D + c_skip·x/√(1 + t²), where
k = 10·timestep, c_skip = ¼/(k² + ¼) and c_out = k/√(k² + ¼); timesteps are Stable Diffusion's.

Limiting cases: s = 0 is D; with one step this is a consistency model's answer.
"""

from __future__ import annotations

import math

from .option import Option
from .process import alpha
from .tcd import timestep
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, and the std of the noise."""
    D_0 = D(x, t)
    if position.options["boundary"]:
        k = 10 * timestep(t)
        D_0 = (k / math.sqrt(k * k + 0.25)) * D_0 + (0.25 / (k * k + 0.25) / math.sqrt(1 + t * t)) * x
    return Update(alpha(position.process, s) * D_0, s)


SOLVER = Solver(
    "lcm",
    step,
    order=1,
    title="LCM",
    source="Latent consistency models, arXiv 2310.04378; consistency models, arXiv 2303.01469, Algorithm 1",
    processes=("ve", "flow"),
    aliases=("LCMScheduler:boundary=true",),
    options=(Option("boundary", False, "mix D with the state as diffusers does"),),
    rank=31,
)
