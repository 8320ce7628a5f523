r"""The graph executor: evaluations captured once, replayed as often as a plan needs them.

    step         one evaluation per launch: NFE launches a batch
    loop         one span per launch: a whole Restart iteration is captured once and replayed K times, and so is each
                 stretch of the main grid
    trajectory   one launch per batch
    while        one launch per batch, as a WHILE node around one evaluation (experimental, `while_graph.py`)

What is captured is `Evaluation`, called 1, m or NFE times. Which rows run is in the device cursor, so a capture belongs to
(network, batch shape, dtype) and a number of evaluations, never to a plan: another plan with spans of the same lengths replays
the same graphs. A number of evaluations that was never captured runs as that many replays of one.

Before its first use a capture is checked: the same samples are run eagerly and by replay, and every register must agree to
the bit. A capture that fails, or a replay that differs, ends in the eager executor with the reason in `note`; it is never a
wrong image. Addresses of buffers, labels and parameters are compared at every batch, since a graph holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from restart_kernels import layout

from ..errors import BackendError
from ..marks import mark
from ..program import Entry
from ..spans import Span
from .eager import EagerExecutor
from .evaluation import Evaluation

MODES = ("step", "loop", "trajectory")
Replay = Callable[[], None]


class Capture(Protocol):
    """What captures: CUDA's, or a test's."""

    def warm_up(self, body: Callable[[], None]) -> None: ...

    def capture(self, body: Callable[[], None], repeats: int) -> Replay: ...


class GraphExecutor:
    """Replays captured evaluations.

    Args:
        mode: one of MODES.
        capture: a :class:`Capture`.
    """

    pads = True  # a graph has one batch size: smaller batches run with idle company

    def __init__(self, mode: str, capture: Capture) -> None:
        if mode not in MODES:
            raise BackendError(f"graph must be one of {', '.join(MODES)}, got {mode!r}")
        self.name, self.capture = mode, capture
        self.note = ""
        self.launches = 0  # graphs launched since the executor was made
        self._graphs: dict[int, _Graphs] = {}
        self._eager = EagerExecutor()

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Capture what `spans` need and is not captured yet. Overwrites the batch's buffers: call it before loading."""
        if self.note:
            return
        graphs = self._graphs.get(id(evaluation))
        if graphs is not None and graphs.addresses != _addresses(evaluation):
            graphs = None  # a parameter or buffer was replaced: its graph reads freed memory
        missing = [n for n in self._lengths(spans) if graphs is None or n not in graphs.replays]
        if not missing:
            return
        try:
            with mark("capture"):
                if graphs is None:
                    evaluation.machine.cursor.fill_(
                        layout.IDLE
                    )  # idle samples: warm-up and capture change nothing
                    self.capture.warm_up(evaluation)
                    graphs = _Graphs(evaluation)
                for n in missing:
                    replay = self.capture.capture(evaluation, n)
                    difference = _self_check(evaluation, entry, replay, n)
                    if difference:
                        raise RuntimeError(difference)
                    graphs.replays[n] = replay
            self._graphs[id(evaluation)] = graphs
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.note = f"graph={self.name} fell back to eager launches: {reason[:300]}"
            self._graphs.clear()

    def run(
        self, evaluation: Evaluation, spans: Sequence[Span], on_row: Callable[[int], None] | None = None
    ) -> None:
        """Replay all spans; `on_row` is called after each replay with the number of evaluations launched."""
        if self.note:
            self._eager.run(evaluation, spans, on_row)
            return
        replays, row = self._graphs[id(evaluation)].replays, 0
        if self.name == "trajectory" and (whole := sum(span.rows for span in spans)) in replays:
            spans = (Span("trajectory", whole),)
        for span in spans:
            length, times = (span.rows, 1) if span.rows in replays else (1, span.rows)
            replay = replays[length]
            with mark(span.name):
                for _ in range(times):
                    replay()
                    self.launches += 1
                    row += length
                    if on_row is not None:
                        on_row(row)

    def _lengths(self, spans: Sequence[Span]) -> list[int]:
        """Numbers of evaluations to capture, the longest first: its pool serves the shorter ones."""
        mixed = any(
            span.name == "mixed" for span in spans
        )  # lengths that come from the company, not from a plan
        if self.name == "step" or mixed:
            return [1]
        if self.name == "trajectory":
            return [sum(span.rows for span in spans)]
        return sorted({span.rows for span in spans}, reverse=True)


class _Graphs:
    """The captures of one evaluation, and the addresses they hold."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation  # kept alive: the graphs refer to its buffers
        self.addresses = _addresses(evaluation)
        self.replays: dict[int, Replay] = {}


def _addresses(evaluation: Evaluation) -> tuple[int, ...]:
    tensors: list[Tensor] = list(evaluation.machine.tensors)
    if evaluation.labels is not None:
        tensors.append(evaluation.labels)
    network: Any = evaluation.network
    parameters = getattr(network, "parameters", None)
    if callable(parameters):
        tensors += list(parameters())
    return tuple(t.data_ptr() for t in tensors)


def _self_check(evaluation: Evaluation, entry: Entry, replay: Replay, n: int) -> str:
    """Empty, or how `n` replayed evaluations differ from `n` eager ones on the plan's first rows."""
    m = evaluation.machine
    seeds = torch.arange(evaluation.n, device=m.x.device)
    labels = None if evaluation.labels is None else torch.zeros_like(seeds)
    watched = ("x", "h", "net_in", "cursor", "first_bad", "c_noise")
    results: list[list[Tensor]] = []

    def eagerly() -> None:
        for _ in range(n):
            evaluation()

    for run in (eagerly, replay):
        for name in ("x", "h", "net_in"):
            getattr(m, name).zero_()
        evaluation.load(entry, seeds, labels)
        run()
        results.append([getattr(m, name).clone() for name in watched if getattr(m, name) is not None])
    for name, eager, replayed in zip(watched, *results, strict=False):
        same = (eager == replayed) | (eager.isnan() & replayed.isnan())
        if not bool(same.all()):
            worst = (eager.double() - replayed.double()).abs().nan_to_num().max().item()
            return f"a replay of {n} evaluations gives another {name} than eager launches (largest difference {worst:.3g})"
    return ""


def make_executor(graph: str, device: torch.device, backend: str) -> EagerExecutor | GraphExecutor:
    """The executor that `graph` asks for on this device.

    Raises:
        BackendError: unknown mode, or graphs asked for where there are none.
    """
    allowed = ("auto", "off", *MODES, "while")
    if graph not in allowed:
        raise BackendError(f"graph must be one of {', '.join(allowed)}, got {graph!r}")
    capturable = device.type == "cuda" and backend != "reference"
    if graph == "off" or (graph == "auto" and not capturable):
        return EagerExecutor()
    if device.type != "cuda":
        raise BackendError(f"graph={graph!r} needs a CUDA device, not {device}; use graph='auto' or 'off'")
    if backend == "reference":
        raise BackendError(
            f"graph={graph!r} needs the triton or native backend; the reference is for checking results"
        )
    if graph == "while":
        from .while_graph import WhileExecutor

        return WhileExecutor(device)
    from .capture import CudaCapture

    return GraphExecutor("loop" if graph == "auto" else graph, CudaCapture(device))
