r"""Noise levels of trained models, float64: those of VP, of iDDPM, and of DDPM-style models from their betas.

DDPM-style models know σ_t = √((1 − ᾱ_t)/ᾱ_t), ᾱ_t = ∏_{s≤t}(1 − β_s), t = 0 .. T − 1, with

| beta_schedule     | β_t                                                        | source |
|-------------------|------------------------------------------------------------|--------|
| linear            | linear from beta_start to beta_end                         | DDPM, arXiv 2006.11239 |
| scaled_linear     | √β linear                                                  | Latent Diffusion |
| sigmoid           | 1/(1 + e^−v) of v linear from −6 to 6, from beta_start to beta_end | GeoDiff, arXiv 2203.02923 |
| squaredcos_cap_v2 | 1 − f(t+1)/f(t), f(t) = cos²(π/2·(t/T + 0.008)/1.008), ≤ 0.999 | improved DDPM, arXiv 2102.09672 |
| laplace           | the same of f = √(r/(1 + r)), ln r = −½ sgn(½ − u) ln(1 − 2|½ − u| + 1e-6) | arXiv 2407.03297 |
| exp               | the same of f = e^(−12 t/T)                                | diffusers' HeunDiscreteScheduler |
"""

from __future__ import annotations

import numpy as np

from ..common.errors import ConfigError

Array = np.ndarray
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")
SD_TIMESTEPS = 1000


def vp_sigma(t: float | Array, beta_d: float = 19.9, beta_min: float = 0.1) -> Array:
    """Return σ(t) = √(exp(β_d t²/2 + β_min t) − 1), the VP schedule of EDM Table 1."""
    t = np.asarray(t, dtype=np.float64)
    return np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t))


def iddpm_levels(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> Array:
    """Return the M+1 noise levels u_0 > … > u_M = 0 of iDDPM, float64 (EDM Table 1).

    u_{j−1} = √((u_j² + 1)/max(ᾱ_{j−1}/ᾱ_j, C_1) − 1), ᾱ_j = sin²(π/2 · j/(M(C_2+1))).
    """

    def alpha_bar(j: int) -> float:
        return float(np.sin(0.5 * np.pi * j / M / (C_2 + 1)) ** 2)

    u = np.zeros(M + 1)
    for j in range(M, 0, -1):
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), C_1) - 1)
    return u


def betas(name: str, T: int, first: float, last: float) -> Array:
    """Return β_t float64 [T] of the schedule `name` of the table above; `first` is beta_start and `last` beta_end.

    Raises:
        ConfigError: no such schedule.
    """
    if name == "linear":
        return np.linspace(first, last, T)
    if name == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, T) ** 2
    if name == "sigmoid":
        return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, T)))
    u = np.arange(T + 1) / T
    if name == "squaredcos_cap_v2":
        f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    elif name == "laplace":
        r = np.exp(-0.5 * np.copysign(1, 0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6))
        f = np.sqrt(r / (1 + r))
    elif name == "exp":
        f = np.exp(-12 * u)
    else:
        raise ConfigError(f"beta_schedule must be one of {', '.join(BETA_SCHEDULES)}, got {name!r}")
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


def sd_sigmas() -> Array:
    """Return Stable Diffusion's levels σ_t, t = 0 .. 999, ascending, float64 [1000]: 0.0292 .. 14.6146."""
    alpha_bar = np.cumprod(1.0 - betas("scaled_linear", SD_TIMESTEPS, 0.00085, 0.012))
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)
