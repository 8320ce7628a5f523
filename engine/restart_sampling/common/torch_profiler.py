"""PyTorch's profiler without the output of the library behind it."""

from __future__ import annotations

import os
from typing import Any


def torch_profiler(**options: Any) -> Any:
    """Return a `torch.profiler.profile` that prints nothing of its own.

    Kineto, the library behind it, otherwise prints lines that begin with USDT at start and stop. It reads its variable
    at the first profile of a process; a value that the user has set stays.
    """
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return torch.profiler.profile(**options)
