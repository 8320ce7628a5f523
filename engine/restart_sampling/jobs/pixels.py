r"""From samples on a device to arrays on the host, without making the sampler wait.

Pixels are made on the device in one pass (`restart_kernels.pixels`), then copied into a ring of pinned buffers while
the next batch is drawn. On a CPU there is nothing to copy.

A buffer that is used again is emptied first: if the batch in it was not fetched yet, `take` waits for its copy and
stores the array. So a batch is never overwritten, whatever the order in which batches are fetched, and nothing waits
while fewer batches are in flight than there are buffers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

import restart_kernels as kernels

from ..common.devices import made_current


class Event(Protocol):
    """The end of a copy: `synchronize` waits for it."""

    def synchronize(self) -> None: ...


class PinnedCopies:
    """Pinned buffers, and copies into them that a GPU makes while it computes."""

    def buffer(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return a buffer that a GPU can write to while it computes."""
        return torch.empty(numel, dtype=dtype, pin_memory=True)

    def start(self, made: Tensor, buffer: Tensor) -> Event:
        """Copy `made` into `buffer` on the stream that made it, and return the event of the end."""
        with made_current(made.device):
            buffer.copy_(made, non_blocking=True)
            copied = torch.cuda.Event()
            # Without a stream it would be recorded on that of the current device, which may be another one.
            copied.record(torch.cuda.current_stream(made.device))
        return copied


class Copy:
    """A batch on its way to the host. Calling it waits for the copy and returns the array."""

    def __init__(self, view: Tensor, copied: Event) -> None:
        self._view, self._copied = view, copied
        self._array: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._array is None:
            self._copied.synchronize()
            self._array = self._view.numpy().copy()
        return self._array


class HostRing:
    """Buffers on the host in turn: `take` starts the copy of a batch and returns a function that waits for it.

    Args:
        pixels: "uint8" for [n, H, W, C], "float32" for [n, C, H, W].
        slots: how many buffers; a further batch first moves the oldest one out of its buffer.
        copies: makes buffers and copies; by default pinned ones, for CUDA tensors only.
    """

    def __init__(self, pixels: str, slots: int = 3, copies: PinnedCopies | None = None) -> None:
        self.pixels, self.slots = pixels, slots
        self.copies = copies
        self.buffers: list[Tensor] = []
        # The batch in each buffer. Weak: its caller owns the array, and a batch without a caller needs no array.
        self.held: list[Callable[[], Copy | None]] = [lambda: None] * slots
        self.next = 0

    def take(self, x: Tensor) -> Callable[[], np.ndarray]:
        """Start copying samples float32 [n, C, H, W]; return a function that returns their pixels at any later time."""
        made = x.float() if self.pixels == "float32" else kernels.pixels(x)
        copies = PinnedCopies() if self.copies is None and x.device.type == "cuda" else self.copies
        if copies is None:
            array = made.numpy()
            return lambda: array
        i, self.next = self.next, (self.next + 1) % self.slots
        before = self.held[i]()
        if before is not None:
            before()
        view = self._buffer(i, made, copies)
        copy = Copy(view, copies.start(made, view))
        self.held[i] = weakref.ref(copy)
        return copy

    def _buffer(self, i: int, like: Tensor, copies: PinnedCopies) -> Tensor:
        """Return buffer i in the shape of `like`; it is made anew if it is too small."""
        if i == len(self.buffers):
            self.buffers.append(copies.buffer(like.numel(), like.dtype))
        if self.buffers[i].numel() < like.numel():
            self.buffers[i] = copies.buffer(like.numel(), like.dtype)
        return self.buffers[i][: like.numel()].view(like.shape)
