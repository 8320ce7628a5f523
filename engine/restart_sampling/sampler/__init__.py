"""Run a plan on a network: the table, the executors, the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sampler import Batch as Batch
    from .sampler import Progress as Progress
    from .sampler import Sampler as Sampler
    from .sampler import sample as sample


def __getattr__(name: str) -> Any:
    if name not in ("Batch", "Progress", "Sampler", "sample"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import sampler  # needs torch, which seeds and `--help` do not

    return getattr(sampler, name)
