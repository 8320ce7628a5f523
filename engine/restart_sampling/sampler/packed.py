r"""Tensors of several shapes and dtypes in one buffer of bytes, which one copy moves from the host to a device.

A copy of pageable memory makes the host wait until the device has done everything before it. These copies are from
pinned memory where the device is CUDA: they take their turn in the stream, and the host goes on. PyTorch keeps pinned
memory until the copies that read it are done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

ALIGNMENT = 256  # bytes; what an allocation of its own has on CUDA at least, so that wide loads stay possible

Part = tuple[Sequence[int], torch.dtype]


class Packed:
    """Tensors on a device that are views of one buffer, and their twins on the host, which are filled and sent.

    Args:
        device: where the tensors are. On a CPU a tensor and its twin are one, and nothing is ever copied.
        parts: shape and dtype of each tensor.

    Attributes:
        tensors: on the device, zeros until they are sent.
        host: the twins, zeros at first.
        starts: the byte at which each begins, a multiple of ALIGNMENT.
    """

    @torch.inference_mode(False)
    def __init__(self, device: torch.device, parts: Iterable[Part]) -> None:
        self.device, parts = device, list(parts)
        self.starts: list[int] = []
        size = 0
        for shape, dtype in parts:
            self.starts.append(size)
            size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._there = torch.zeros(size, dtype=torch.uint8, device=device)
        self._here = self._there if one_memory(device) else torch.zeros(size, dtype=torch.uint8)
        self.tensors = self._views(self._there, parts)
        self.host = self.tensors if self._here is self._there else self._views(self._here, parts)

    def send(self, start: int = 0, stop: int | None = None) -> None:
        """Copy the bytes from `start` to `stop` (default: all) to the device, in one copy."""
        if self._here is self._there:
            return
        part = self._here[start:stop]
        if self.device.type == "cuda" and torch.cuda.is_available():
            part = torch.empty(len(part), dtype=torch.uint8, pin_memory=True).copy_(part)
        self._there[start:stop].copy_(part, non_blocking=True)

    def _views(self, buffer: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        views = []
        for start, (shape, dtype) in zip(self.starts, parts, strict=True):
            stop = start + math.prod(shape) * dtype.itemsize
            views.append(buffer[start:stop].view(dtype).view(tuple(shape)))
        return views


def sent(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Return tensors of the host on a device, all of them in one copy; those that are on a device already stay."""
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if not here or one_memory(device):
        return [tensor.to(device) for tensor in tensors]
    packed = Packed(device, [(tensor.shape, tensor.dtype) for tensor in here])
    for twin, tensor in zip(packed.host, here, strict=True):
        twin.copy_(tensor)
    packed.send()
    there = iter(packed.tensors)
    return [next(there) if tensor.device.type == "cpu" else tensor.to(device) for tensor in tensors]


def one_memory(device: torch.device) -> bool:
    """Whether a device reads the host's memory, so that nothing has to be sent to it."""
    return device.type == "cpu"
