"""A tiny problem on which the samplers of other libraries were run in float64 (support/golden.py).

Data 0.3·N(−1, ¼²) + 0.7·N(0.6, ¼²) with its exact denoiser, levels 10, 4, 1.6, 0.7, 0.3, 0.1, 0, a start at x = 9, and
given draws.
"""

from __future__ import annotations

import math

LEVELS = (10.0, 4.0, 1.6, 0.7, 0.3, 0.1, 0.0)
START = 9.0
DRAWS = (0.4, -1.1, 0.7, 1.3, -0.6, 0.2, -0.9, 1.6, -0.3, 0.8, -1.4, 0.5, 1.0, -0.2, -0.7)


def denoiser(x, t):
    """E[x₀ | x] of the problem's data."""
    weights, means, var = (0.3, 0.7), (-1.0, 0.6), 0.25**2
    logs = [math.log(w) - (x - m) ** 2 / (2 * (var + t * t)) for w, m in zip(weights, means, strict=True)]
    top = max(logs)
    shares = [math.exp(v - top) for v in logs]
    posterior = [m + var / (var + t * t) * (x - m) for m in means]
    return sum(s * p for s, p in zip(shares, posterior, strict=True)) / sum(shares)


def denoiser_of(process):
    """D(x, t) of the problem: in a flow the state is α·x₀ + t·ε with α = 1 − t."""
    if process == "ve":
        return denoiser
    return lambda x, t: denoiser(x / (1 - t), t / (1 - t))
