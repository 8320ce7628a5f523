"""Align Your Steps (arXiv 2404.14507): published curves for three models, and any number of points along them."""

from __future__ import annotations

import numpy as np

from ...common.checks import choice
from ..levels import sd_sigmas
from .rule import Rule, checked, descending, open_segment
from .table import along, positions

TIMESTEPS = {  # of Stable Diffusion's 1000
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
MODELS = (*TIMESTEPS, "svd")


def curve(model: str) -> np.ndarray:
    """Return the eleven levels of a model, descending. The run of ten steps has 0 in place of the last."""
    return np.array(SVD) if choice("model", model, MODELS) == "svd" else sd_sigmas()[list(TIMESTEPS[model])]


def ays(n: int, sigma_min: float, sigma_max: float, model: str = "sd15") -> np.ndarray:
    """The first n of n + 1 levels, evenly along the published curve between sigma_max and sigma_min, linear in ln σ.

    n = 10 with the curve's own ends is the published list. Levels beyond the curve's ends count as its ends.
    """
    low, high = checked(n, sigma_min, sigma_max)
    knots = curve(model)
    return descending(along(knots, np.linspace(*positions(knots, low, high), n + 1)[:-1]))


def ends(model: str = "sd15") -> tuple[float, float]:
    """Return the ends of the curve."""
    knots = curve(model)
    return float(knots[-1]), float(knots[0])


SCHEDULE = Rule(
    "ays",
    ays,
    title="Align Your Steps",
    source="Align Your Steps, arXiv 2404.14507",
    aliases=("align_your_steps", "align-your-steps", "AysSchedules"),
    ends=ends,
    segment=open_segment(ays),
    rank=17,
)
