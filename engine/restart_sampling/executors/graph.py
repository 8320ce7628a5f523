r"""The graph executor: evaluations captured once, replayed as often as a plan needs them.

    step         one evaluation per launch: NFE launches a batch
    loop         chunks of at most 8 evaluations within each span: a Restart iteration is the same few chunks K times
    trajectory   chunks across spans: the fewest launches that chunks allow, NFE/8 and at most 3 more
    while        one launch per batch, as a WHILE node around one evaluation (experimental, `while_graph.py`)

What is captured is `Evaluation`, called 8, 4, 2 or 1 times (`chunks.py`). Which rows run is in the device cursor, so a
capture belongs to (network, batch size, dtype), never to a plan: all plans and spans replay the same chunks, and any
number of plans needs at most four captures for a batch size. The batch sizes are few as well (`buckets.py`); the graphs
of the `limit` that were used last are kept.

Before its first use a capture is checked against eager launches (`selfcheck.py`). A capture that fails, or a replay
that differs, ends in the eager executor with the reason in `note`; it is never a wrong image. Running out of memory is
an error like any other out of memory: a caller may want a smaller batch rather than a slower one. Addresses of buffers,
labels, parameters and buffers of the network are compared at every batch, since a graph holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import torch

from restart_kernels import get_backend, layout

from ..checks import choice
from ..errors import BackendError
from ..marks import mark
from ..program import Entry
from ..spans import Span
from .chunks import CHUNKS, cut
from .eager import EagerExecutor
from .evaluation import Evaluation
from .selfcheck import UNTIL_IDLE, SelfCheck, addresses

MODES = ("step", "loop", "trajectory", "while")
LIMIT = 16  # batch sizes whose graphs are kept: those up to 64, for one plan and for mixed plans, and 2
Replay = Callable[[], None]


@dataclass(frozen=True)
class Captured:
    """A captured graph; calling it replays it.

    Attributes:
        nodes: of the graph; bytes: of device memory that capturing took. None where that is not known.
    """

    replay: Replay
    nodes: int | None = None
    bytes: int | None = None

    def __call__(self) -> None:
        self.replay()


class Capture(Protocol):
    """What captures: CUDA's, or a test's."""

    def warm_up(self, body: Evaluation) -> None: ...

    def capture(self, body: Evaluation, repeats: int) -> Captured: ...


@dataclass
class _Graphs:
    """The captures of one evaluation, by number of evaluations, and the addresses that they were made with."""

    addresses: tuple[int, ...]
    replays: dict[int, Captured] = field(default_factory=dict)


class GraphExecutor:
    """Replays captured evaluations.

    Args:
        mode: one of MODES.
        capture: a :class:`Capture`; for "while" one that knows UNTIL_IDLE.
        limit: batch sizes whose graphs are kept; those that were not used for longest go first.
    """

    pads = True  # a graph has one batch size: batches run on the next larger bucket

    def __init__(self, mode: str, capture: Capture, limit: int = LIMIT) -> None:
        if mode not in MODES:
            raise BackendError(f"graph must be one of {', '.join(MODES)}, got {mode!r}")
        self.name, self.capture, self.limit = mode, capture, limit
        self.note = ""
        self.launches = 0  # graphs launched since the executor was made
        self.captures = 0  # graphs captured since then, those that were let go included
        self._graphs: WeakKeyDictionary[Evaluation, _Graphs] = WeakKeyDictionary()  # the last used is the last
        self._eager = EagerExecutor()

    def describe(self) -> str:
        """Return the mode and what is captured: "loop (4 graphs for 1 batch size, 15 evaluations, 6,150 nodes, 310
        MiB)".
        """
        if self.note:
            return f"{self.name} (fell back to eager launches)"
        kept = [graphs.replays for graphs in self._graphs.values()]
        captured = [graph for replays in kept for graph in replays.values()]
        if not captured:
            return self.name
        rows = sum(length or 1 for replays in kept for length in replays)
        nodes, size = _total(g.nodes for g in captured), _total(g.bytes for g in captured)
        parts = (
            f"{_count(len(captured), 'graph')} for {_count(len(kept), 'batch size')}",
            _count(rows, "evaluation"),
            "unknown number of nodes" if nodes is None else _count(nodes, "node"),
            "unknown memory" if size is None else f"{size / 2**20:,.0f} MiB",
        )
        return f"{self.name} ({', '.join(parts)})"

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Capture what `spans` need and is not captured yet. Overwrites the batch's buffers: call it before loading.

        A span called "mixed" stands for all shorter ones too.

        Raises:
            torch.OutOfMemoryError: the device has no room for the captures.
        """
        if self.note:
            return
        graphs = self._graphs.pop(evaluation, None)
        if graphs is not None and graphs.addresses != addresses(evaluation):
            graphs = None  # a parameter or buffer was replaced: its graph reads freed memory
        if graphs is not None:
            self._graphs[evaluation] = graphs
        missing = self._lengths(spans) - (set() if graphs is None else set(graphs.replays))
        if not missing:
            return
        with mark("capture"):
            # First, so that its memory is free again when the captures take theirs.
            check = SelfCheck(evaluation, entry, missing)
            try:
                made = self._capture(evaluation, missing, warm=graphs is not None)
                check.compare(made)
            except Exception as error:  # whatever the network's own code makes of a call that a capture forbids
                if is_out_of_memory(error):
                    raise torch.OutOfMemoryError(f"while capturing a graph: {error}") from None
                reason = " ".join(str(error).split()) or type(error).__name__
                mode = f"graph={self.name}" + (" (experimental)" if self.name == "while" else "")
                self.note = f"{mode} fell back to eager launches: {reason[:300]}"
                self._graphs.clear()
                return
        if graphs is None:
            graphs = _Graphs(addresses(evaluation))
            self._make_room()
        graphs.replays |= made
        self._graphs[evaluation] = graphs

    def run(self, evaluation: Evaluation, spans: Sequence[Span], on_row: Callable[[int], None] | None = None) -> None:
        """Replay all spans; `on_row` is called after each replay with the number of evaluations launched."""
        if self.note:
            self._eager.run(evaluation, spans, on_row)
            return
        replays, row = self._graphs[evaluation].replays, 0
        for span, lengths in self._launches(spans):
            with mark(span.name):
                for length in lengths:
                    replays[length]()
                    self.launches += 1
                    row += length or span.rows
                    if on_row is not None:
                        on_row(row)

    def _capture(self, evaluation: Evaluation, lengths: set[int], warm: bool) -> dict[int, Captured]:
        evaluation.machine.cursor.fill_(layout.IDLE)  # warming up changes nothing
        if not warm:
            self.capture.warm_up(evaluation)
        made: dict[int, Captured] = {}
        for length in sorted(lengths, reverse=True):  # the longest first: its pool serves the shorter ones
            made[length] = self.capture.capture(evaluation, length)
            self.captures += 1
        return made

    def _make_room(self) -> None:
        """Let go of the graphs that were not used for longest, so that one more batch size may be kept."""
        while len(self._graphs) >= self.limit:
            del self._graphs[next(iter(self._graphs.keys()))]

    def _launches(self, spans: Sequence[Span]) -> list[tuple[Span, list[int]]]:
        """Return the spans as they are launched, each with the captured lengths that make it up."""
        mixed = any(span.name == "mixed" for span in spans)  # its length depends on the other samples
        if self.name == "step":
            return [(span, [1] * span.rows) for span in spans]
        if self.name == "loop" or mixed:
            return [(span, cut(span.rows)) for span in spans]
        whole = Span("trajectory", sum(span.rows for span in spans))
        return [(whole, [UNTIL_IDLE] if self.name == "while" else cut(whole.rows))]

    def _lengths(self, spans: Sequence[Span]) -> set[int]:
        """Return the lengths to capture."""
        lengths = {length for _, launched in self._launches(spans) for length in launched}
        if self.name != "step":
            lengths |= {c for span in spans if span.name == "mixed" for c in CHUNKS if c <= span.rows}
        return lengths


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's lack of memory: PyTorch's own, or what the CUDA runtime says when it makes a
    graph.
    """
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def _total(values: Iterable[int | None]) -> int | None:
    """Return the sum, or None if a value is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def make_executor(graph: str, device: torch.device, backend: str) -> EagerExecutor | GraphExecutor:
    """The executor that `graph` asks for on this device.

    Raises:
        BackendError: unknown mode, or graphs asked for where there are none.
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
        from .while_graph import WhileCapture

        return GraphExecutor("while", WhileCapture(device))
    from .capture import CudaCapture

    return GraphExecutor("loop" if graph == "auto" else graph, CudaCapture(device))
