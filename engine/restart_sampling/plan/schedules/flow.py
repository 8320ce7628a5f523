"""Times of flow matching with the shift of Stable Diffusion 3 (arXiv 2403.03206, eq. 23)."""

from __future__ import annotations

import numpy as np

from ...common.errors import ConfigError
from .rule import FLOW_ENDS, Rule, checked, positive, with_ends


def flow(n: int, t_min: float, t_max: float, shift: float = 1.0) -> np.ndarray:
    """Flow-matching times t = s·v/(1 + (s−1)v), s = shift, v linear, from t_max ≤ 1 down to t_min.

    t_min and t_max are levels after the shift. shift = 1 is linear in t; shift > 1 spends more steps near t = 1.
    """
    low, high = checked(n, t_min, t_max, ("t_min", "t_max"))
    if high > 1:
        raise ConfigError(f"t_max of a flow schedule must be at most 1, got {high:g}")
    s = positive("shift", shift)
    v = np.linspace(high / (s - (s - 1) * high), low / (s - (s - 1) * low), n)
    return with_ends(s * v / (1 + (s - 1) * v), low, high)


SCHEDULE = Rule(
    "flow",
    flow,
    title="even in t before the shift",
    source="SD3, arXiv 2403.03206, eq. 23",
    process="flow",
    ends=FLOW_ENDS,
    rank=6,
)
