"""ComfyUI's `normal`: even in the model's timestep, from the first to the last."""

from __future__ import annotations

import numpy as np

from .rule import Rule, descending
from .table import ends, table


def normal(n: int, sigma_min: float, sigma_max: float, process: str = "ve", shift: float = 1.0) -> np.ndarray:
    """Levels at n even timesteps, whole or not, from the one nearest to sigma_max to the one nearest to sigma_min.

    The model is Stable Diffusion, or with process="flow" a flow model with this shift, which ComfyUI applies to the
    lowest time twice, and this once.
    """
    model = table(n, sigma_min, sigma_max, process, shift)
    return descending(model.at(np.linspace(model.last, model.first, n)))


SCHEDULE = Rule("normal", normal, title="even in the timestep", source="ComfyUI, normal", ends=ends, flows=True, rank=8)
