r"""The most memory that a piece of work takes.

On CUDA it is what PyTorch reserved. On a CPU it is the most bytes that tensors made meanwhile held at once, on one
thread; what an operator needs inside itself is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .timing import threads


def peak_bytes(work: Callable[[], object], device: torch.device) -> float:
    """Return the most bytes that `work` takes on `device`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_reserved(device))
    held = Held()
    with threads(1), held:
        work()
    return float(held.most)


class Held(TorchDispatchMode):
    """Adds up the bytes of the storages of tensors that were made inside; `most` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor, given)
        return result

    def _add(self, tensor: Tensor, given: set[int]) -> None:
        storage = _storage(tensor)
        known = storage in self.users
        if not storage or (storage in given and not known):
            return  # nothing, or a view of what was there before
        if not known:
            self.held += tensor.untyped_storage().nbytes()
            self.most = max(self.most, self.held)
        self.users[storage] = self.users.get(storage, 0) + 1
        weakref.finalize(tensor, self._drop, storage, tensor.untyped_storage().nbytes())

    def _drop(self, storage: int, size: int) -> None:
        self.users[storage] -= 1
        if not self.users[storage]:
            del self.users[storage]
            self.held -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
