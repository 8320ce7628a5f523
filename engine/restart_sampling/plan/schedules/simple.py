"""ComfyUI's `simple`: every k-th level of the model, from the top."""

from __future__ import annotations

import numpy as np

from .rule import Rule, descending, open_segment
from .table import ends, table, too_many


def simple(n: int, sigma_min: float, sigma_max: float, process: str = "ve", shift: float = 1.0) -> np.ndarray:
    """Levels at the timesteps b − ⌊i·T/n⌋ of the T from the one nearest to sigma_min up to b, nearest to sigma_max.

    The last level is above sigma_min. The model is that of `normal`.
    """
    model = table(n, sigma_min, sigma_max, process, shift)
    if n > model.T:
        raise too_many("simple", n, model)
    return descending(model.at(model.last - np.arange(n) * model.T // n))


SCHEDULE = Rule(
    "simple",
    simple,
    title="every k-th timestep from the top",
    source="ComfyUI, simple",
    ends=ends,
    segment=open_segment(simple),
    flows=True,
    rank=9,
)
