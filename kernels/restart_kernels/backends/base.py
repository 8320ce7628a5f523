"""What a backend is: the protocol that every file in this folder follows.

The rest of the packages asks these questions and never a backend's name, so a new file is all that a new backend needs.
All backends give the same bits: the operations, their order and their rounding are part of the scheme
(`philox/coefficients.py`, `row/reference.py`), so which backend runs is a question of speed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..machine import Bound, Machine


class Backend(Protocol):
    """An implementation of the kernels. Making one must import no compiler and ask no device anything.

    Attributes:
        rank: preference of "auto" by type of device, e.g. {"cpu": 1, "cuda": 2}: of the backends that run, the one of
            the smallest rank is taken. A type that is not listed comes after all that are.
        float64: whether machines with float64 registers and samples in float64 are taken.
        fused: whether a row is a launch of the backend's own that allocates nothing, runs no PyTorch operator and does
            not wait for the device. On CUDA such a row can be captured in a graph.
    """

    rank: Mapping[str, int]
    float64: bool
    fused: bool

    def why_not(self, device: torch.device) -> str | None:
        """Return None if the backend runs on tensors of this device, else the reason in one line."""
        ...

    def bind(self, machine: Machine) -> Bound:
        """Return the row and the cursor's advance on the tensors of `machine`, which has at least one element."""
        ...

    def normal(self, seeds: Tensor, draw: int, numel: int, *, stream: int) -> Tensor:
        """Return standard normals float32 [B, numel] on the device of `seeds`, int64 [B]. B and numel may be 0."""
        ...

    def pixels(self, x: Tensor) -> Tensor:
        """Return samples float [B, C, H, W] as uint8 [B, H, W, C], contiguous, on the device of `x`. B may be 0."""
        ...
