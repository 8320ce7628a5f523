"""Run a plan on a network: the table, the executors, the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .sampler import Batch as Batch
    from .sampler import Progress as Progress
    from .sampler import Sampler as Sampler
    from .sampler import sample as sample

# They need torch, which seeds and `--help` do not.
__getattr__, __dir__ = lazy(__name__, dict.fromkeys(("Batch", "Progress", "Sampler", "sample"), "sampler"))
