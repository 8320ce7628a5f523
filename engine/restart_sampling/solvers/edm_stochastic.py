r"""EDM's stochastic sampler (EDM, arXiv 2206.00364, Algorithm 2): churn, then a Heun step.

Churn lifts the state from t to t̂ = t(1 + γ) with γ = min(S_churn/N, √2 − 1) while S_min ≤ t ≤ S_max, adding noise of
std S_noise·√(t̂² − t²). The lift is part of the row that arrives at t (see :func:`gamma` and the plan), so what is left
of the solver is Heun from t̂.

A study gives it the churn of the Restart paper's "Improved SDE" on CIFAR-10, at every number of steps.

Limiting cases: S_churn = 0 is Heun; γ is never above √2 − 1, which doubles the variance.
"""

from __future__ import annotations

import math

from . import heun
from .trace import Solver

GAMMA_MAX = math.sqrt(2.0) - 1.0


def gamma(t: float, s_churn: float, s_min: float, s_max: float, steps: int) -> float:
    """Return γ_i of Algorithm 2, line 4, at level t of a main grid of `steps` points."""
    return min(s_churn / steps, GAMMA_MAX) if s_min <= t <= s_max else 0.0


SOLVER = Solver(
    "edm-stochastic",
    heun.step,
    order=2,
    title="EDM stochastic (churn + Heun)",
    label="EDM stochastic",
    source="EDM, arXiv 2206.00364, Algorithm 2",
    aliases=("edm-sde",),
    # The churn of the Restart paper's "Improved SDE" on CIFAR-10, as in the presets cifar10-edm-sde-*.
    study=(("s_churn", 30.0), ("s_min", 0.01), ("s_max", 1.0), ("s_noise", 1.007)),
    rank=3,
)
