"""Counts the operations that a run is made of."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the operations that write `size` elements or more; views are free. PyTorch's own have no namespace."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.size, self.count = size, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, torch.Tensor) and first.numel() >= self.size and not func.is_view:
            self.count[func.name().removeprefix("aten::").split(".")[0]] += 1
        return out
