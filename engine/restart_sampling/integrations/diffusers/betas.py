r"""Noise levels of DDPM-style models from their betas, in float64, and the grids that diffusers draws on them.

Betas and levels are those of plan/levels.py.

Zero terminal SNR (arXiv 2305.08891, Algorithm 1): √ᾱ is shifted and scaled so that its last value is 0. σ would be
infinite there; it is 2¹² (ᾱ = 2⁻²⁴) instead, as in diffusers, or twice the level below if that is not below 2¹² (DDPM's
own betas reach 15,400 there, and diffusers' levels would fall at their end). snr_shift_scale s (CogVideoX):
ᾱ/(s + (1 − s)ᾱ), which is √s·σ; s = 1 is none. It comes before zero terminal SNR.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...common.checks import real
from ...common.errors import ConfigError
from ...plan.levels import betas
from ...plan.schedule import SPACINGS

LAST_ALPHA_BAR = 2.0**-24


def model_sigmas(config: Any) -> np.ndarray:
    """Return σ_t float64 [T], ascending, of a scheduler's config. Raises ConfigError for betas that give none."""
    beta = _betas(config)
    if beta.ndim != 1 or len(beta) < 2 or not ((beta > 0) & (beta < 1)).all():
        raise ConfigError("betas must be at least 2 numbers between 0 and 1")
    if len(beta) != config["num_train_timesteps"]:
        raise ConfigError(
            f"trained_betas has {len(beta)} numbers but num_train_timesteps is {config['num_train_timesteps']}; "
            "they must agree"
        )
    s = real("snr_shift_scale", config["snr_shift_scale"], 0.0, open_low=True)
    alpha_bar = np.cumprod(1 - beta)
    if s != 1:
        alpha_bar = alpha_bar / (s + (1 - s) * alpha_bar)
    if config["rescale_betas_zero_snr"]:
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar[-1] = LAST_ALPHA_BAR if alpha_bar[-2] > LAST_ALPHA_BAR else alpha_bar[-2] / 4
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def _betas(config: Any) -> np.ndarray:
    if config["trained_betas"] is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    T, name, first, last = (config[k] for k in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end"))
    return betas(name, T, first, last)


def spaced(n: int, T: int, spacing: str, steps_offset: int) -> np.ndarray:
    """Return n descending timesteps of T, whole numbers as in DDIM, by diffusers' `timestep_spacing`.

    Source: arXiv 2305.08891, Table 2.
    """
    if n > T:
        raise ConfigError(f"the model has {T} timesteps, fewer than the {n} asked for; use fewer steps")
    if spacing == "linspace":
        return np.round(np.linspace(T - 1, 0, n))
    if spacing == "leading":
        if n == 1:
            raise ConfigError(
                "one step with timestep_spacing='leading' would ask the network at its lowest timestep alone; "
                "two steps are the least there, or use timestep_spacing='trailing'"
            )
        t = np.arange(n)[::-1] * (T // n) + steps_offset
        if t[0] > T - 1:
            raise ConfigError(
                f"leading spacing of {n} steps with steps_offset {steps_offset} needs timestep {t[0]}, but the last is "
                f"{T - 1}; use fewer steps or steps_offset 0"
            )
        return t.astype(np.float64)
    if spacing == "trailing":
        return np.round(T - np.arange(n) * (T / n)) - 1
    raise ConfigError(f"timestep_spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")


def log_linear_grid(n: int, low: float, high: float) -> np.ndarray:
    """Return the first n of n + 1 levels from high to low, even in ln σ: interpolation_type='log_linear'."""
    return np.exp(np.linspace(np.log(high), np.log(low), n + 1)[:-1])


def timesteps_above(sigmas: np.ndarray, lambda_min: float | None) -> int:
    """Return how many of the model's timesteps, from the lowest on, have ln(1/σ) ≥ `lambda_min`."""
    if lambda_min is None or lambda_min == -np.inf:
        return len(sigmas)
    count = int((-np.log(sigmas) >= lambda_min).sum())
    if count < 2:
        raise ConfigError(f"lambda_min_clipped = {lambda_min!r} leaves {count} of the model's levels; lower it")
    return count


def sigma_of(sigmas: np.ndarray, timestep: Any) -> np.ndarray:
    """Return σ at (fractional) timesteps, linear in ln σ between levels: the inverse of `parameterization.discrete`."""
    t = np.asarray(timestep, dtype=np.float64)
    if not (np.isfinite(t).all() and (t >= 0).all() and (t <= len(sigmas) - 1).all()):
        raise ConfigError(f"timesteps must lie between 0 and {len(sigmas) - 1}, got {t.min():g} .. {t.max():g}")
    return np.clip(np.exp(np.interp(t, np.arange(len(sigmas)), np.log(sigmas))), sigmas[0], sigmas[-1])
