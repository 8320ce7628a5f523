r"""TCD, trajectory consistency distillation with strategic stochastic sampling (arXiv 2402.19159, Algorithm 4).

For a step from t to s the network's jump goes to s' = σ((1 − η)·timestep of s), below s, and noise lifts it back:

    x' = D + (s'/t)·(x − D) + √(s² − s'²)·ε.

Timesteps are those of Stable Diffusion, whole numbers as the authors have them. The step to 0 has no noise.

Limiting cases: η = 0 is Euler (DDIM); s = 0 is D.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from .trace import Form, Position, Solver, Tracer, Update


@cache
def _levels() -> np.ndarray:
    """Return ln σ of Stable Diffusion's 1000 timesteps (Latent Diffusion, arXiv 2112.10752: √β linear)."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.log((1 - alpha_bar) / alpha_bar) / 2


def timestep(sigma: float) -> int:
    """Return the timestep of Stable Diffusion whose σ is nearest in ln σ."""
    return int(np.abs(_levels() - math.log(sigma)).argmin())


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, and the std of the noise."""
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    lower = s if position.eta == 0 else min(s, math.exp(_levels()[math.floor((1 - position.eta) * timestep(s))]))
    return Update(D_0 + (lower / t) * (x - D_0), math.sqrt((s - lower) * (s + lower)))


SOLVER = Solver(
    "tcd",
    step,
    order=1,
    title="TCD",
    source="Trajectory consistency distillation, arXiv 2402.19159, Algorithm 4",
    aliases=("TCDScheduler",),
    rank=32,
)
