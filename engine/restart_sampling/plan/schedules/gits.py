"""GITS (arXiv 2405.11326): lists that its search found, each for one number of points."""

from __future__ import annotations

import numpy as np

from ...common.checks import choice, real
from ...common.errors import ConfigError
from .rule import Rule, checked, descending
from .table import along, positions

LISTS = {
    "sd": (
        *(14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338),
        *(0.74807048, 0.50118381, 0.32104823, 0.19894916, 0.09824532),
    ),
    "cifar10": (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002),
}
COEFFICIENT = 1.2  # of the list for Stable Diffusion


def gits(n: int, sigma_min: float, sigma_max: float, model: str = "sd", coeff: float = COEFFICIENT) -> np.ndarray:
    """The list of a model: ten levels for "sd" with the coefficient 1.2, or seven for "cifar10".

    The search finds another list for each number of points, so other numbers are an error. With other ends the points
    lie evenly, in ln σ, on the part of the list between them.

    Raises:
        ConfigError: no list is known for this model, n and coeff.
    """
    low, high = checked(n, sigma_min, sigma_max)
    knots = np.array(LISTS[choice("model", model, tuple(LISTS))])
    coeff = real("coeff", coeff)
    if n != len(knots) or coeff != COEFFICIENT:
        raise ConfigError(
            f"gits has a list of {len(knots)} points with coeff {COEFFICIENT:g} for {model!r}, got {n} points with "
            f"coeff {coeff:g}; use schedule 'ays' for other numbers, or a dp_record.txt of the search as a plan file"
        )
    return descending(along(knots, np.linspace(*positions(knots, low, high), n)))


def ends(model: str = "sd", coeff: float = COEFFICIENT) -> tuple[float, float]:
    """Return the ends of the list."""
    knots = LISTS[choice("model", model, tuple(LISTS))]
    return knots[-1], knots[0]


SCHEDULE = Rule(
    "gits",
    gits,
    title="lists of GITS",
    source="GITS, arXiv 2405.11326, and its ComfyUI node",
    aliases=("GITS",),
    ends=ends,
    rank=18,
)
