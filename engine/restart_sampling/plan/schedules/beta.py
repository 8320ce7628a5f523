"""Levels at quantiles of a Beta law (arXiv 2407.12173), of timesteps as in ComfyUI or of σ as in diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...common.checks import choice
from ...common.errors import ConfigError
from . import incomplete_beta
from .rule import Rule, checked, descending, open_segment, with_ends
from .table import ends as model_ends
from .table import table

VARIANTS = ("comfyui", "diffusers")


def beta(
    n: int,
    sigma_min: float,
    sigma_max: float,
    variant: str = "comfyui",
    alpha: float = 0.6,
    beta: float = 0.6,
    process: str = "ve",
    shift: float = 1.0,
) -> np.ndarray:
    """Levels by B⁻¹, the quantiles of Beta(alpha, beta).

    variant "comfyui": at the timesteps a + round((T−1)·B⁻¹(1 − i/n)) of the model of `normal`, T of them from a on. The
    last level is above sigma_min. Its repeats, which ComfyUI drops (from 139 points on), are an error.
    variant "diffusers": σ_min + (σ_max − σ_min)·B⁻¹(1 − i/(n−1)), another grid, which needs no model.
    """
    if choice("variant", variant, VARIANTS) == "diffusers":
        low, high = checked(n, sigma_min, sigma_max)
        return with_ends(low + (high - low) * incomplete_beta.quantiles(np.linspace(1, 0, n), alpha, beta), low, high)
    model = table(n, sigma_min, sigma_max, process, shift)
    t = np.rint((model.T - 1) * incomplete_beta.quantiles(1 - np.arange(n) / n, alpha, beta))
    if not (np.diff(t) < 0).all():
        raise ConfigError(
            f"beta puts two of {n} points on one of the model's {model.T} timesteps; use fewer steps or "
            "variant='diffusers'"
        )
    return descending(model.at(model.first + t))


def ends(variant: str = "comfyui", process: str = "ve", shift: float = 1.0, **_: Any) -> tuple[float, float]:
    """Return the ends of the model."""
    return model_ends(process, shift)


def segment(N: int, t_min: float, t_max: float, variant: str = "comfyui", **options: Any) -> np.ndarray:
    """Levels of an interval."""
    rule = open_segment(beta) if variant == "comfyui" else beta
    return rule(N, t_min, t_max, variant=variant, **options)


SCHEDULE = Rule(
    "beta",
    beta,
    title="quantiles of a Beta law",
    source="arXiv 2407.12173; ComfyUI, beta; diffusers, use_beta_sigmas",
    ends=ends,
    segment=segment,
    flows=True,
    rank=12,
)
