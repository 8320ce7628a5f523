r"""What a capture is: a graph that was captured once and is replayed by a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from .evaluation import Evaluation

UNTIL_IDLE = 0  # as a number of evaluations: as many as the cursors ask for, at least one (`while_graph.py`)


@dataclass(frozen=True)
class Captured:
    """A captured graph; calling it replays it.

    Attributes:
        replay: replays it on the stream that is current then.
        nodes: nodes of the graph, or None if unknown.
        bytes: device memory that capturing took, or None if unknown.
    """

    replay: Callable[[], None]
    nodes: int | None = None
    bytes: int | None = None

    def __call__(self) -> None:
        self.replay()


class Capture(Protocol):
    """What makes captures: CUDA's graphs, or a stand-in for them in tests."""

    def warm_up(self, body: Evaluation) -> None:
        """Call `body` until nothing in it is done for the first time."""

    def capture(self, body: Evaluation, repeats: int) -> Captured:
        """Capture `repeats` calls of `body`, or UNTIL_IDLE where that is known."""
        ...


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's lack of memory: PyTorch's own, or the CUDA runtime's when it makes a graph."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )
