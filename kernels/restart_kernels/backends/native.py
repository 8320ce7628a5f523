"""The native backend: C++ on CPU tensors and CUDA C++ on CUDA tensors, where restart_bindings was built.

It has no pixels kernel of its own and uses the reference's, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

import restart_bindings

from ..machine import Bound, Machine
from ..pixels import reference as pixels
from .base import Backend


class Native:
    """The compiled library; see `Backend`."""

    rank: Mapping[str, int] = {"cpu": 1, "cuda": 2}
    float64 = False
    fused = True

    def why_not(self, device: torch.device) -> str | None:
        return restart_bindings.reason(device.type) or None

    def bind(self, machine: Machine) -> Bound:
        return restart_bindings.BoundMachine(**{field.name: getattr(machine, field.name) for field in fields(machine)})

    def normal(self, seeds: Tensor, draw: int, numel: int, *, stream: int) -> Tensor:
        out = torch.empty(len(seeds), numel, dtype=torch.float32, device=seeds.device)
        restart_bindings.normal(out, seeds.contiguous(), draw, stream)
        return out

    def pixels(self, x: Tensor) -> Tensor:
        return pixels.pixels(x)


BACKEND: Backend = Native()
