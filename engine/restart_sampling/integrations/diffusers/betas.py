r"""Noise levels of DDPM-style models from their betas, in float64.

σ_t = √((1 − ᾱ_t)/ᾱ_t), ᾱ_t = ∏_{s≤t}(1 − β_s), t = 0 .. T − 1.

| beta_schedule     | β_t                                                        | source |
|-------------------|------------------------------------------------------------|--------|
| linear            | linear from beta_start to beta_end                         | DDPM, arXiv 2006.11239 |
| scaled_linear     | √β linear                                                  | Latent Diffusion |
| squaredcos_cap_v2 | 1 − f(t+1)/f(t), f(t) = cos²(π/2·(t/T + 0.008)/1.008), ≤ 0.999 | improved DDPM, arXiv 2102.09672 |

Zero terminal SNR (arXiv 2305.08891, Algorithm 1): √ᾱ is shifted and scaled so that its last value is 0. σ would be infinite
there; it is 2¹² (ᾱ = 2⁻²⁴) instead, as in diffusers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError
from ...parameterization import Parameterization
from ...schedule import SPACINGS

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
LAST_ALPHA_BAR = 2.0**-24


def model_sigmas(config: Any) -> np.ndarray:
    """σ_t float64 [T], ascending, of a scheduler's configuration; ConfigError for betas that give none."""
    T, name = config["num_train_timesteps"], config["beta_schedule"]
    if config["trained_betas"] is not None:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
    elif name == "linear":
        betas = np.linspace(config["beta_start"], config["beta_end"], T)
    elif name == "scaled_linear":
        betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, T) ** 2
    elif name == "squaredcos_cap_v2":
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        raise ConfigError(f"beta_schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise ConfigError("betas must be at least 2 numbers between 0 and 1")
    alpha_bar = np.cumprod(1 - betas)
    if config["rescale_betas_zero_snr"]:
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar[-1] = LAST_ALPHA_BAR
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def spaced(n: int, T: int, spacing: str, steps_offset: int) -> np.ndarray:
    """n descending timesteps of T, by diffusers' `timestep_spacing` (arXiv 2305.08891, Table 2); not rounded for "linspace"."""
    if n > T:
        raise ConfigError(f"the model has {T} timesteps, fewer than the {n} asked for; use fewer steps")
    if spacing == "linspace":
        return np.linspace(T - 1, 0, n)
    if spacing == "leading":
        t = np.arange(n)[::-1] * (T // n) + steps_offset
        if t[0] > T - 1:
            raise ConfigError(
                f"leading spacing of {n} steps with steps_offset {steps_offset} needs timestep {t[0]}, but the last is {T - 1}; "
                "use fewer steps or steps_offset 0"
            )
        return t.astype(np.float64)
    if spacing == "trailing":
        return np.round(T - np.arange(n) * (T / n)) - 1
    raise ConfigError(f"timestep_spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")


def sigma_of(sigmas: np.ndarray, timestep: Any) -> np.ndarray:
    """σ at (fractional) timesteps: linear in ln σ between the model's levels, as `parameterization.discrete` goes back."""
    t = np.asarray(timestep, dtype=np.float64)
    if not (np.isfinite(t).all() and (t >= 0).all() and (t <= len(sigmas) - 1).all()):
        raise ConfigError(
            f"timesteps must lie between 0 and {len(sigmas) - 1}, got {t.min():g} .. {t.max():g}"
        )
    return np.clip(np.exp(np.interp(t, np.arange(len(sigmas)), np.log(sigmas))), sigmas[0], sigmas[-1])


def model_range(parameterization: Parameterization, low: Any, high: Any) -> tuple[float, float]:
    """(sigma_min, sigma_max): what was given, else the model's ends."""
    return (
        parameterization.sigma_min if low is None else float(low),
        parameterization.sigma_max if high is None else float(high),
    )
