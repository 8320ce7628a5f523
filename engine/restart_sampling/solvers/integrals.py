r"""Integrals that solvers share: of polynomials through earlier outputs, exactly, in float64.

With λ = ln(α/σ), h = λ_s − λ_t, α = α(s) and D as a polynomial in λ through its values at some levels, the SDE of scale
η

    x_s = (s/t)·e^(−ηh)·x_t + Σ_j w_j·D_j + s·√(1 − e^(−2ηh))·ε,    w_j = αc ∫₀^h e^(−c(h−v)) l_j(v) dv,    c = 1 + η,

is solved exactly; l_j is the Lagrange polynomial of level j in v = λ − λ_t. η = 0 is the probability-flow ODE
(DPM-Solver++, arXiv 2211.01095, eq. 8; SEEDS, arXiv 2305.14267, eq. 10; SA-Solver, arXiv 2309.05019, eq. 14).

Limiting cases: one level is Euler's step in this form; s = t is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np

from ..common.errors import ConfigError
from .process import alpha, lam, length
from .trace import Form


@dataclass(frozen=True)
class Leap:
    """The exact solution between two levels: coefficient of x, c, h, α(s), and std of the noise."""

    process: str
    t: float
    h: float
    c: float
    alpha: float
    x: float
    std: float

    def weights(self, levels: Sequence[float]) -> list[float]:
        """Return w_j for D at these levels, of which at most one may be s or lie beyond it."""
        start = lam(self.process, self.t)
        w = exponential(self.c, self.h, [lam(self.process, level) - start for level in levels])
        return [self.alpha * a for a in w]

    def halved(self, half: float, levels: Sequence[float]) -> list[float]:
        """Return the weights of D at two levels where the difference of both values has a simplified weight.

        Args:
            half: that weight for a difference over one whole step, before it is divided by the distance of the levels.
            levels: t and an earlier level, or s and t: the newer one first.
        """
        if self.process == "flow" and self.t == 1 and half > 1:
            raise ConfigError(
                "a step from t = 1 of a flow is infinitely long in λ, so weights in proportion to its length do not "
                "exist; use bh2 of unipc, simple=false of sa-solver, or begin below, for example with sigma_max=0.999"
            )
        start = lam(self.process, self.t)
        newer, older = (lam(self.process, level) - start for level in levels)
        share = self.alpha * half * self.h / (newer - older)
        return [self.first + share, -share] if newer == 0 else [share, self.first - share]

    @property
    def first(self) -> float:
        """The weight of D for order 1, α(1 − e^(−ch))."""
        return -self.alpha * math.expm1(-self.c * self.h)


def leap(process: str, t: float, s: float, eta: float = 0.0) -> Leap:
    """Return the exact solution from level t to level s > 0 of the SDE of scale η."""
    h = length(process, t, s)
    std = s * math.sqrt(-math.expm1(-2 * eta * h))
    return Leap(process, t, h, 1 + eta, alpha(process, s), (s / t) * math.exp(-eta * h), std)


def exponential(c: float, h: float, v: Sequence[float]) -> list[float]:
    """Return c ∫₀^h e^(−c(h−v)) l_j(v) dv for the Lagrange polynomials l_j of the points v."""
    scaled = np.array(v) / h
    return [float(w) for w in np.linalg.solve(np.vander(scaled, increasing=True).T, moments(c * h, len(v)))]


def moments(z: float, n: int) -> list[float]:
    """Return M_p = z ∫₀¹ e^(−z(1−u)) u^p du for p < n, by the series where the recursion would cancel."""
    if abs(z) < 1:
        return [_series(z, p) for p in range(n)]
    found = [-math.expm1(-z)]
    for p in range(1, n):
        found.append(1 - p / z * found[-1])
    return found


def _series(z: float, p: int) -> float:
    """Return M_p = Σ_k (−1)^k z^(k+1) p!/(p + k + 1)!."""
    term, total = z / (p + 1), 0.0
    for k in range(1, 25):
        total += term
        term *= -z / (p + k + 1)
    return total


def phi2(z: float) -> float:
    """Return φ₂ = 1 + (e^(−z) − 1)/z; z = 0 is 0."""
    return _series(z, 1) if abs(z) < 1 else 1 + math.expm1(-z) / z


def phi3(z: float) -> float:
    """Return φ₃ = φ₂/z − ½, which is negative for z > 0; z = 0 is 0."""
    return -_series(z, 2) / 2 if abs(z) < 1 else phi2(z) / z - 0.5


def polynomial(t: float, s: float, levels: Sequence[float]) -> list[float]:
    """Return ∫_t^s l_j(σ) dσ for the Lagrange polynomials of `levels`: the weights of an Adams step."""
    v = (np.array(levels) - t) / (s - t)
    right = [1 / (p + 1) for p in range(len(v))]
    return [float((s - t) * w) for w in np.linalg.solve(np.vander(v, increasing=True).T, right)]


def polynomial_in(
    clock: Callable[[np.ndarray], np.ndarray], t: float, s: float, levels: Sequence[float]
) -> list[float]:
    """Return ∫_t^s l_j(clock(σ)) dσ, l_j the Lagrange polynomials of the clock's values at `levels`."""
    (sigma, weight), nodes = quadrature(t, s), clock(np.array(levels))
    tau = clock(sigma)
    values = [np.prod([(tau - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes]
    return [float(np.sum(weight * value)) for value in values]


def quadrature(a: float, b: float, n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return points v and weights w with Σ w·f(v) ≈ ∫_a^b f dv, by Gauss–Legendre in ln v."""
    u, weight = np.polynomial.legendre.leggauss(n)
    half = math.log(b / a) / 2
    points = a * np.exp(half * (u + 1))
    return points, half * weight * points


def left_sum(a: float, b: float, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return points v and weights w of the sum of n points from a on, without b: as crude as some authors' code."""
    return a + (b - a) / n * np.arange(n), np.full(n, (b - a) / n)


def differences(forms: Sequence[Form], lams: Sequence[float], h: float) -> tuple[Form | None, Form | None, float]:
    """Return (a₀, bend, r₀) of values at `lams`, the latest first, with steps in units of h; None for too few values.

    a₀ = (y₀ − y₁)/r₀, a₁ = (y₁ − y₂)/r₁ with r the steps, and bend = (a₀ − a₁)/(r₀ + r₁).
    """
    r = [(a - b) / h for a, b in pairwise(lams[: len(forms)])]
    slopes = [(a - b) / r_j for (a, b), r_j in zip(pairwise(forms), r, strict=True)]
    bend = (slopes[0] - slopes[1]) / (r[0] + r[1]) if len(slopes) > 1 else None
    return (slopes[0] if slopes else None), bend, (r[0] if r else 0.0)


def combined(weights: Sequence[float], forms: Sequence[Form]) -> Form:
    """Return Σ w_j·form_j; of nothing the form 0."""
    terms = [w * form for w, form in zip(weights, forms, strict=True)]
    return reduce(add, terms) if terms else Form()
