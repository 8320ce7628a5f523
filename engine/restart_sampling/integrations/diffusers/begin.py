"""Runs that begin inside, as image-to-image pipelines ask: a plan without its first points, and timesteps that know it.

Image-to-image pipelines take `timesteps[i:]` and begin there. On a tape entry i may lie between a predictor and its
corrector, or inside an interval, so what runs then is a plan of its own.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...plan.plan import Plan
from .errors import no_hand_over


def first_point(plan: Plan, skipped: int, asked: int, level: float | None) -> int:
    """Return the point of the main grid where a run begins that skips some of the steps asked for.

    Args:
        skipped: how many of the `asked` steps.
        level: where the run begins if a point is there, else at the nearest one (in ln σ, or in t for flow models).
            None: the same share of the points is skipped as of the steps.
    """
    points = plan.grid[:-1] if plan.steps[-1].s == 0 else plan.grid[:-2]
    if level is None:
        return skipped * len(points) // asked
    scale = np.asarray if plan.process == "flow" else np.log
    return int(np.abs(scale(np.array(points)) - scale(level)).argmin())


class Timesteps(Tensor):
    """The timesteps of a tape, float32 [n], of which `timesteps[i:]` is what the scheduler `owner` makes of it.

    Pipelines that hand over half-way (`denoising_end`, `denoising_start`) cut elsewhere and compare values; they get an
    error instead of a wrong image. Everything else, and every result, is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    owner: Any

    @classmethod
    def make(cls, values: Tensor, owner: Any) -> Timesteps:
        """Return `values` as the timesteps of the scheduler `owner`, which has a method cut(i)."""
        result = values.as_subclass(cls)
        result.owner = owner
        return result

    def __getitem__(self, key: Any) -> Tensor:
        plain = self.as_subclass(Tensor)
        if isinstance(key, slice) and key.step is None:
            start = 0 if key.start is None else operator.index(key.start)
            if start > 0 and key.stop is None:
                return self.owner.cut(start)
            if start == 0 and key.stop is not None and 1 < operator.index(key.stop) < len(plain):
                raise no_hand_over()
        return plain[key]

    def __lt__(self, other: Any) -> Tensor:
        raise no_hand_over()

    def __deepcopy__(self, memo: dict[int, Any]) -> Timesteps:
        return Timesteps.make(self.as_subclass(Tensor).clone(), copy.deepcopy(self.owner, memo))
