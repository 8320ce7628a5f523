"""The reference backend: plain PyTorch on any device, in float32 or float64.

It is the readable statement that the other backends are compared with: `row/reference.py`, `philox/reference.py` and
`pixels/reference.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..machine import Machine
from ..philox import reference as philox
from ..pixels import reference as pixels
from ..row import reference as row
from ..row import weights
from .base import Backend


class _Bound:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run_row(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        row.run_row(self.machine, F, F_uncond)

    def advance(self) -> None:
        row.advance(self.machine)

    def weigh(self, F: Tensor, F_uncond: Tensor) -> None:
        weights.weigh(self.machine, F, F_uncond)


class Reference:
    """Plain PyTorch; see `Backend`."""

    rank: Mapping[str, int] = {"cpu": 2, "cuda": 3}
    float64 = True
    fused = False

    def why_not(self, device: torch.device) -> str | None:
        return None

    def bind(self, machine: Machine) -> _Bound:
        return _Bound(machine)

    def normal(self, seeds: Tensor, draw: int, numel: int, *, stream: int) -> Tensor:
        return philox.normal(seeds, draw, numel, stream=stream)

    def pixels(self, x: Tensor) -> Tensor:
        return pixels.pixels(x)


BACKEND: Backend = Reference()
