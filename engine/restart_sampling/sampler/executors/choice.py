r"""The choice of an executor: what `Sampler(graph=…)` means on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from restart_kernels import get_backend

from ...common.checks import choice
from ...common.errors import BackendError
from ...plan.segments import Span
from ..program import Entry
from .capture import CudaCapture
from .eager import EagerExecutor
from .graph import MODES, GraphExecutor


class Executor(Protocol):
    """What launches the evaluations of a batch: an `Evaluation`, or `Slices` for the executor of threads."""

    @property
    def name(self) -> str:
        """The mode: "off", or one of graph.MODES."""
        ...

    @property
    def pads(self) -> bool:
        """Whether smaller batches are padded with idle lanes to the next larger bucket."""
        ...

    @property
    def note(self) -> str:
        """Why it runs otherwise than asked; empty if it does not."""
        ...

    @property
    def by_host(self) -> Any:
        """The executor that launches evaluations of the same batches from Python, one by one."""
        ...

    def describe(self) -> str:
        """Return the mode and what is captured."""
        ...

    def prepare(self, batch: Any, entry: Entry, spans: Sequence[Span], /) -> None:
        """Make ready for `spans` of the plan `entry`; may overwrite the batch's buffers."""

    def run(self, batch: Any, spans: Sequence[Span], on_row: Callable[[int], None] | None = None, /) -> None:
        """Launch all spans; `on_row` is called with the last row launched, counted from 0, as often as it is known."""


def make_executor(graph: str, device: torch.device, backend: str) -> EagerExecutor | GraphExecutor:
    """Return the executor that `graph` asks for on this device; "auto" is "loop" on CUDA and "off" elsewhere.

    Raises:
        BackendError: an unknown mode, or graphs on a device or backend that has none.
    """
    allowed = ("auto", "off", *MODES)
    choice("graph", graph, allowed, error=BackendError)
    capturable = device.type == "cuda" and get_backend(backend).fused
    if graph == "off" or (graph == "auto" and not capturable):
        return EagerExecutor()
    if device.type != "cuda":
        raise BackendError(f"graph={graph!r} needs a CUDA device, not {device}; use graph='auto' or 'off'")
    if not capturable:
        raise BackendError(
            f"graph={graph!r} needs a backend that graphs can capture, not {backend}; use backend='auto'"
        )
    if graph == "while":
        from .while_graph import WhileCapture  # needs cuda.bindings, which is optional

        return GraphExecutor("while", WhileCapture(device))
    return GraphExecutor("loop" if graph == "auto" else graph, CudaCapture(device))
