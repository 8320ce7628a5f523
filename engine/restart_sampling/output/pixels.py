r"""From samples on a device to arrays on the host, without making the sampler wait.

Pixels are made on the device in one pass (`restart_kernels.pixels`); then one copy into a ring of pinned buffers, beside the next
batch. On a CPU there is nothing to copy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import restart_kernels as kernels


class HostRing:
    """Takes batches and gives functions that wait for the copy and return the array.

    Args:
        slots: batches that may be under way; a further one waits for the oldest to be fetched by its function.
        pixels: "uint8" for [n, H, W, C], "float32" for [n, C, H, W].
    """

    def __init__(self, pixels: str, slots: int = 3) -> None:
        self.pixels, self.slots = pixels, slots
        self.buffers: list[Tensor] = []
        self.next = 0

    def take(self, x: Tensor) -> Callable[[], np.ndarray]:
        """Start copying samples float32 [n, C, H, W]. The function may be called once, before `slots` further takes."""
        made = x.float() if self.pixels == "float32" else kernels.pixels(x)
        if x.device.type != "cuda":
            array = made.numpy()
            return lambda: array
        buffer = self._buffer(made)
        buffer.copy_(made, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def fetch() -> np.ndarray:
            copied.synchronize()
            return buffer.numpy().copy()

        return fetch

    def _buffer(self, like: Tensor) -> Tensor:
        """The next slot, made larger where it must be."""
        if len(self.buffers) < self.slots:
            self.buffers.append(torch.empty(0, dtype=like.dtype).pin_memory())
        i, self.next = self.next, (self.next + 1) % self.slots
        if self.buffers[i].numel() < like.numel():
            self.buffers[i] = torch.empty(like.numel(), dtype=like.dtype, pin_memory=True)
        return self.buffers[i][: like.numel()].view(like.shape)
