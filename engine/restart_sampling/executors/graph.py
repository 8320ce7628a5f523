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
the bit (for a network that does not repeat itself: to the scatter of two eager runs). That costs about two trajectories, once
per batch shape. A capture that fails, or a replay that differs, ends in the eager executor with the reason in `note`; it is
never a wrong image. Addresses of buffers, labels and parameters are compared at every batch, since a graph holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from restart_kernels import layout

from ..checks import choice
from ..errors import BackendError
from ..marks import mark
from ..program import Entry
from ..spans import Span
from .eager import EagerExecutor
from .evaluation import Evaluation

MODES = ("step", "loop", "trajectory", "while")
UNTIL_IDLE = 0  # as many evaluations as the cursors ask for, at least one: what only a WHILE node can
REGISTERS = ("x", "h", "net_in")
WATCHED = (*REGISTERS, "cursor", "first_bad", "c_noise")
Replay = Callable[[], None]
State = dict[str, Tensor]


class Capture(Protocol):
    """What captures: CUDA's, or a test's."""

    def warm_up(self, body: Evaluation) -> None: ...

    def capture(self, body: Evaluation, repeats: int) -> Replay: ...


class GraphExecutor:
    """Replays captured evaluations.

    Args:
        mode: one of MODES.
        capture: a :class:`Capture`; for "while" one that knows UNTIL_IDLE.
    """

    pads = True  # a graph has one batch size: smaller batches run with idle company

    def __init__(self, mode: str, capture: Capture) -> None:
        if mode not in MODES:
            raise BackendError(f"graph must be one of {', '.join(MODES)}, got {mode!r}")
        self.name, self.capture = mode, capture
        self.note = ""
        self.launches = 0  # graphs launched since the executor was made
        self._graphs: WeakKeyDictionary[Evaluation, _Graphs] = WeakKeyDictionary()
        self._eager = EagerExecutor()

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Capture what `spans` need and is not captured yet. Overwrites the batch's buffers: call it before loading."""
        if self.note:
            return
        graphs = self._graphs.get(evaluation)
        if graphs is not None and graphs.addresses != _addresses(evaluation):
            graphs = None  # a parameter or buffer was replaced: its graph reads freed memory
        missing = [n for n in self._lengths(spans) if graphs is None or n not in graphs.replays]
        if not missing:
            return
        try:
            with mark("capture"):
                # First, so that its memory is free again when the capture takes its own.
                expected = _eager_states(evaluation, entry, missing)
                if graphs is None:
                    evaluation.machine.cursor.fill_(layout.IDLE)  # warming up changes nothing
                    self.capture.warm_up(evaluation)
                    graphs = _Graphs(evaluation)
                for n in missing:
                    graphs.replays[n] = self.capture.capture(evaluation, n)
                    _check(evaluation, entry, graphs.replays[n], n, expected[n])
            self._graphs[evaluation] = graphs
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            mode = f"graph={self.name}" + (" (experimental)" if self.name == "while" else "")
            self.note = f"{mode} fell back to eager launches: {reason[:300]}"
            self._graphs.clear()

    def run(
        self, evaluation: Evaluation, spans: Sequence[Span], on_row: Callable[[int], None] | None = None
    ) -> None:
        """Replay all spans; `on_row` is called after each replay with the number of evaluations launched."""
        if self.note:
            self._eager.run(evaluation, spans, on_row)
            return
        replays, row = self._graphs[evaluation].replays, 0
        for span, length in self._launches(spans):
            replay, rows = replays[length], length or span.rows
            with mark(span.name):
                for _ in range(span.rows // rows):
                    replay()
                    self.launches += 1
                    row += rows
                    if on_row is not None:
                        on_row(row)

    def _launches(self, spans: Sequence[Span]) -> list[tuple[Span, int]]:
        """The spans as they are launched, each with the number of evaluations that is captured for it."""
        if self.name == "step" or any(span.name == "mixed" for span in spans):
            return [(span, 1) for span in spans]  # mixed lengths come from the company, not from a plan
        if self.name == "loop":
            return [(span, span.rows) for span in spans]
        whole = Span("trajectory", sum(span.rows for span in spans))
        return [(whole, UNTIL_IDLE if self.name == "while" else whole.rows)]

    def _lengths(self, spans: Sequence[Span]) -> list[int]:
        """Numbers of evaluations to capture, the longest first: its pool serves the shorter ones."""
        return sorted({length for _, length in self._launches(spans)}, reverse=True)


class _Graphs:
    """The captures of one evaluation, and the addresses they hold."""

    def __init__(self, evaluation: Evaluation) -> None:
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


def _load(evaluation: Evaluation, entry: Entry) -> None:
    """The samples of a check: seeds 0 … n−1 of class 0 at the start of the plan, every register known."""
    m = evaluation.machine
    seeds = torch.arange(evaluation.n, device=m.x.device)
    for name in REGISTERS:
        getattr(m, name).zero_()
    evaluation.load(entry, seeds, None if evaluation.labels is None else torch.zeros_like(seeds))


def _state(evaluation: Evaluation) -> State:
    m = evaluation.machine
    return {name: getattr(m, name).clone() for name in WATCHED if getattr(m, name) is not None}


def _eager_states(evaluation: Evaluation, entry: Entry, lengths: Iterable[int]) -> dict[int, State]:
    """Where the samples of a check are after each number of evaluations; UNTIL_IDLE: at the end of the plan."""
    states: dict[int, State] = {}
    _load(evaluation, entry)
    done = 0
    for rows, length in sorted((n or entry.nfe, n) for n in lengths):
        for _ in range(rows - done):
            evaluation()
        done, states[length] = rows, _state(evaluation)
    return states


def _check(evaluation: Evaluation, entry: Entry, replay: Replay, length: int, expected: State) -> None:
    """Raises RuntimeError if a replay does not do what eager launches did."""
    _load(evaluation, entry)
    replay()
    found = _state(evaluation)
    different = [name for name, eager in expected.items() if not _equal(found[name], eager)]
    if not different:
        return
    again = _eager_states(evaluation, entry, [length])[length]
    for name in different:
        difference = _distance(found[name], expected[name])
        scatter = _distance(again[name], expected[name])  # not 0 for a network that does not repeat itself
        if not difference <= 4 * scatter:
            raise RuntimeError(
                f"a replay of {length or entry.nfe} evaluations gives another {name} than eager launches "
                f"(largest difference {difference:.3g})"
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference; NaN if only one of two values is finite."""
    return torch.where(a == b, 0.0, (a.double() - b.double()).abs()).max().item()


def make_executor(graph: str, device: torch.device, backend: str) -> EagerExecutor | GraphExecutor:
    """The executor that `graph` asks for on this device.

    Raises:
        BackendError: unknown mode, or graphs asked for where there are none.
    """
    allowed = ("auto", "off", *MODES)
    choice("graph", graph, allowed, error=BackendError)
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
        from .while_graph import WhileCapture

        return GraphExecutor("while", WhileCapture(device))
    from .capture import CudaCapture

    return GraphExecutor("loop" if graph == "auto" else graph, CudaCapture(device))
