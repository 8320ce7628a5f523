"""The uniform timesteps of DDIM (arXiv 2010.02502) as ComfyUI draws them: every k-th from the bottom."""

from __future__ import annotations

import numpy as np

from .rule import Rule, descending, open_segment
from .table import ends, table, too_many


def ddim_uniform(n: int, sigma_min: float, sigma_max: float, process: str = "ve", shift: float = 1.0) -> np.ndarray:
    """Levels at the timesteps a + 1 + i·k, i = n−1 … 0, of the T from a, nearest to sigma_min, up.

    k = ⌊T/n⌋ where no further timestep would follow. Where one would, ComfyUI's grid has one level more than it was
    asked for; n counts the levels here, so that list is the one of a step more, k = ⌊(T−2)/(n−1)⌋: with T = 1000,
    ComfyUI's 30 steps have 31 levels, and are n = 31. The model is that of `normal`.
    """
    model = table(n, sigma_min, sigma_max, process, shift)
    if n > model.T - 1:
        raise too_many("ddim_uniform", n, model)
    k = model.T // n
    if 1 + n * k <= model.T - 1:
        k = (model.T - 2) // (n - 1)
    return descending(model.at(model.first + 1 + np.arange(n)[::-1] * k))


SCHEDULE = Rule(
    "ddim_uniform",
    ddim_uniform,
    title="every k-th timestep from the bottom",
    source="DDIM, arXiv 2010.02502; ComfyUI, ddim_uniform",
    aliases=("ddim-uniform",),
    ends=ends,
    segment=open_segment(ddim_uniform),
    flows=True,
    rank=11,
)
