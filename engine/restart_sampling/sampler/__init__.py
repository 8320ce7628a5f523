"""Run a plan on a network: the table, the executors, the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .one_call import sample as sample
    from .sampler import Batch as Batch
    from .sampler import Progress as Progress
    from .sampler import Sampler as Sampler

# They need torch, which seeds and `--help` do not.
__getattr__, __dir__ = lazy(
    __name__, {"sample": "one_call"} | dict.fromkeys(("Batch", "Progress", "Sampler"), "sampler")
)
