r"""The two states that are walked, x_t = α(t)·x₀ + σ(t)·ε.

| process | α(t)  | σ(t) | used by |
|---------|-------|------|---------|
| ve      | 1     | t    | EDM, VP, VE, iDDPM, Stable Diffusion (divided by √ᾱ) |
| flow    | 1 − t | t    | flow matching, rectified flow |

Limiting cases: t_up = t lifts nothing; t = 0 has λ = +∞; t = 1 of a flow is pure noise, λ = −∞.

Solvers that interpolate in λ need a number there: :func:`lam` takes the λ of 1 − 1e-6, at which all but a millionth of
the state is noise. Coefficients of x are exact at t = 1 all the same.
"""

from __future__ import annotations

import math

import numpy as np

from ..common.errors import ConfigError


def alpha(process: str, t: float) -> float:
    """Return the scale of the signal, α(t)."""
    return 1.0 - t if process == "flow" else 1.0


def rise(process: str, t: float, t_up: float, s_noise: float = 1.0) -> tuple[float, float]:
    """Return (a, std) such that x ← a·x + std·ε moves the state from level t up to level t_up ≥ t.

    a = α(t_up)/α(t), std = S_noise·√(σ(t_up)² − a²σ(t)²) (Restart, arXiv 2306.14878, Algorithm 2, for ve).
    Limiting case: t_up = t is the identity, (1, 0).
    """
    if t_up == t:
        return 1.0, 0.0
    a = alpha(process, t_up) / alpha(process, t)
    return a, s_noise * math.sqrt((t_up - a * t) * (t_up + a * t))


def log_snr(process: str, t: float) -> float:
    """Return λ(t) = ln(α/σ): −∞ for pure noise, +∞ for t = 0."""
    a = alpha(process, t)
    if t == 0:
        return math.inf
    return math.log(a / t) if a > 0 else -math.inf


EPSILON, _TOP, _BOTTOM = 1e-3, math.log1p(80.0**2), math.log1p(0.002**2)
BETA_D = 2 * (_TOP - _BOTTOM / EPSILON) / (1 - EPSILON)
BETA_MIN = _TOP - BETA_D / 2


def vp_time(sigma: np.ndarray) -> np.ndarray:
    """Return τ with β_d·τ²/2 + β_min·τ = ln(1 + σ²), EDM's VP process with σ(1e-3) = 0.002 and σ(1) = 80."""
    return (np.sqrt(BETA_MIN**2 + 2 * BETA_D * np.log1p(sigma**2)) - BETA_MIN) / BETA_D


def finite_alpha(process: str, t: float) -> float:
    """Return the α(t) that goes with :func:`lam`, above 0: that of 1 − 1e-6 for the pure noise of a flow."""
    return alpha(process, min(t, 1 - 1e-6) if process == "flow" else t)


def lam(process: str, t: float) -> float:
    """Return λ(t) = ln(α/σ) as a number that can be calculated with: that of 1 − 1e-6 for the pure noise of a flow."""
    return log_snr(process, min(t, 1 - 1e-6) if process == "flow" else t)


def level(process: str, lam: float) -> float:
    """Return the t at which λ(t) is `lam`: e^(−λ) for ve, 1/(1 + e^λ) for a flow."""
    return 1.0 / (1.0 + math.exp(lam)) if process == "flow" else math.exp(-lam)


def length(process: str, t: float, s: float) -> float:
    """Return λ(s) − λ(t) of a step from t to s > 0. Raises ConfigError for two levels of pure noise."""
    h = lam(process, s) - lam(process, t)
    if h <= 0:
        raise ConfigError(
            f"levels {t:.9g} and {s:.9g} of a flow cannot be told apart in λ, so near to 1; leave one out"
        )
    return h
