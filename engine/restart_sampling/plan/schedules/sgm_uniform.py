"""ComfyUI's `sgm_uniform`: even in the model's timestep as `normal`, with the last step left to the way to 0."""

from __future__ import annotations

import numpy as np

from .rule import Rule, descending, open_segment
from .table import ends, table


def sgm_uniform(n: int, sigma_min: float, sigma_max: float, process: str = "ve", shift: float = 1.0) -> np.ndarray:
    """Levels at the first n of n + 1 even timesteps from the one nearest to sigma_max to the one nearest to sigma_min.

    The last level is above sigma_min. The model is that of `normal`.
    """
    model = table(n, sigma_min, sigma_max, process, shift)
    return descending(model.at(np.linspace(model.last, model.first, n + 1)[:-1]))


SCHEDULE = Rule(
    "sgm_uniform",
    sgm_uniform,
    title="even in the timestep, without the last",
    source="ComfyUI, sgm_uniform",
    aliases=("sgm-uniform",),
    ends=ends,
    segment=open_segment(sgm_uniform),
    flows=True,
    rank=10,
)
