r"""Quantiles of the Beta(a, b) law: the inverse of the regularized incomplete beta function, float64.

With B the beta function (DLMF 8.17.7, the hypergeometric form after Euler's transformation),

    I_x(a, b) = x^a (1 − x)^b / (a B(a, b)) · Σ_{k ≥ 0} x^k ∏_{j < k} (a + b + j)/(a + 1 + j),

a sum of positive terms, which converges fast for x ≤ ½. Larger x are reached by I_x(a, b) = 1 − I_{1−x}(b, a), so both
tails are accurate to a relative 1e-13. ln I is concave in ln x, and Newton's method on it converges from x = 0 up.
"""

from __future__ import annotations

import math

import numpy as np

from ...common.checks import real

MOST = 50.0  # of a and b: the gamma function of their sum is finite, and the series is short
ITERATIONS, TERMS = 100, 2000


def quantiles(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return x with I_x(a, b) = p, for every p in [0, 1]; a and b are in (0, 50].

    Limiting cases: a = b = 1 is x = p; p = 0 is 0 and p = 1 is 1.

    Raises:
        ConfigError: a or b is outside (0, 50].
    """
    a, b = (real(name, value, 0.0, MOST, open_low=True) for name, value in (("alpha", a), ("beta", b)))
    p = np.asarray(p, dtype=np.float64)
    x = np.empty_like(p)
    half = _lower(np.array([0.5]), a, b)[0]
    below = p <= half
    x[below] = _inverted(p[below], a, b)
    x[~below] = 1.0 - _inverted(1.0 - p[~below], b, a)
    return x


def _lower(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return I_x(a, b) for 0 < x ≤ ½."""
    term, total = np.ones_like(x), np.ones_like(x)
    for j in range(TERMS):
        term = term * x * ((a + b + j) / (a + 1 + j))
        total = total + term
        if (term < 1e-17 * total).all():
            break
    return x**a * (1.0 - x) ** b / (a * _beta(a, b)) * total


def _inverted(p: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return x ≤ ½ with I_x(a, b) = p; p is at most I_½(a, b)."""
    found = np.zeros_like(p)
    positive = p > 0
    p = p[positive]
    x = np.minimum((p * a * _beta(a, b)) ** (1.0 / a), 0.5)  # where I_x = x^a/(aB), its leading term
    for _ in range(ITERATIONS):
        below = _lower(x, a, b)
        slope = x**a * (1.0 - x) ** (b - 1.0) / (_beta(a, b) * below)  # of ln I in ln x
        new = np.minimum(x * np.exp((np.log(p) - np.log(below)) / slope), 0.5)
        done = bool((np.abs(new - x) <= 1e-15 * x).all())
        x = new
        if done:
            break
    found[positive] = x
    return found


def _beta(a: float, b: float) -> float:
    """Return B(a, b)."""
    return math.gamma(a) * math.gamma(b) / math.gamma(a + b)
