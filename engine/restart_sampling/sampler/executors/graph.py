r"""The graph executor: evaluations captured once, replayed as often as a plan needs them.

    step         one evaluation per launch: NFE launches a batch
    loop         chunks of at most 8 evaluations within each span: a Restart iteration is the same few chunks K times
    trajectory   chunks across spans: the fewest launches that chunks allow, at most NFE/8 + 3
    while        one launch per batch, as a WHILE node around one evaluation (experimental, `while_graph.py`)

What is captured is `Evaluation`, called 8, 4, 2 or 1 times (`chunks.py`), for each kind of rows that the plans have:
those that ask the network once, twice under guidance, or not at all. Which rows run is in the device cursor, so a
capture belongs to (network, batch size, dtype) and to no plan: all plans and spans replay the same chunks, and any
number of plans needs at most four captures for a batch size. The batch sizes are few as well (`buckets.py`); the graphs
of the `limit` sizes that were used last stay.

Before its first use a capture is checked against eager launches (`selfcheck.py`). When a capture fails or a replay
differs, the executor launches eagerly from then on and says why in `note`; it never gives a wrong image. Running out of
memory is an error like any other out of memory: a caller may prefer a smaller batch to a slower one. A graph holds the
addresses of buffers, labels, parameters and buffers of the network, so these are compared before every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from weakref import WeakKeyDictionary

import torch

from restart_kernels import layout

from ...common.errors import BackendError
from ...common.marks import mark
from ...plan.segments import Span
from ..program import Entry
from .captured import UNTIL_IDLE, Capture, Captured, is_out_of_memory
from .chunks import CHUNKS, cut
from .eager import EagerExecutor
from .evaluation import Evaluation
from .selfcheck import SelfCheck, addresses

MODES = ("step", "loop", "trajectory", "while")
LIMIT = 16  # batch sizes whose graphs stay: those up to 64, for one plan and for mixed plans, and 2 more
# Spans whose number of rows is known only when they are launched: other samples or a trace decide where they end.
OPEN_ENDED = ("mixed", "traced")

Length = tuple[int, int]  # number of evaluations, and their kind


@dataclass
class _Graphs:
    """The captures of one evaluation, by number of evaluations and kind, and the addresses that they were made with."""

    addresses: tuple[int, ...]
    replays: dict[Length, Captured] = field(default_factory=dict)


class GraphExecutor:
    """Replays captured evaluations.

    Args:
        mode: one of MODES.
        capture: makes the captures; for "while" one that knows UNTIL_IDLE.
        limit: batch sizes whose graphs stay; those that were used least recently go first.

    Attributes:
        note: why it launches eagerly instead; empty while it replays.
        launches: graphs launched so far.
        captures: graphs captured so far, those that were let go included.
    """

    pads = True  # a graph has one batch size: smaller batches are padded with idle lanes

    def __init__(self, mode: str, capture: Capture, limit: int = LIMIT) -> None:
        if mode not in MODES:
            raise BackendError(f"graph must be one of {', '.join(MODES)}, got {mode!r}")
        self.name, self.capture, self.limit = mode, capture, limit
        self.note = ""
        self.launches = self.captures = 0
        self._graphs: WeakKeyDictionary[Evaluation, _Graphs] = WeakKeyDictionary()  # most recently used last
        self.by_host = EagerExecutor()  # launches single evaluations from Python, for traces and after a failure

    def describe(self) -> str:
        """Return the mode and what is captured, e.g. "loop (4 graphs for 1 batch size, 15 evaluations, 310 MiB)"."""
        if self.note:
            return f"{self.name} (fell back to eager launches)"
        sizes = [graphs.replays for graphs in self._graphs.values()]
        captured = [graph for replays in sizes for graph in replays.values()]
        if not captured:
            return self.name
        rows = sum(length or 1 for replays in sizes for length, _ in replays)
        nodes, size = _total(g.nodes for g in captured), _total(g.bytes for g in captured)
        parts = (
            f"{_count(len(captured), 'graph')} for {_count(len(sizes), 'batch size')}",
            _count(rows, "evaluation"),
            "unknown number of nodes" if nodes is None else _count(nodes, "node"),
            "unknown memory" if size is None else f"{size / 2**20:,.0f} MiB",
        )
        return f"{self.name} ({', '.join(parts)})"

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Capture what `spans` need and is not captured yet. Overwrites the batch's buffers: call it before loading.

        Args:
            evaluation: what is captured.
            entry: a plan to check the captures with.
            spans: what will run. An open-ended span stands for all shorter ones too.

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
            # The check comes first, so that its memory is free again when the captures take theirs.
            check = SelfCheck(evaluation, entry, missing)
            try:
                warm = set() if graphs is None else {kind for _, kind in graphs.replays}
                made = self._capture(evaluation, missing, warm)
                check.compare(made)
            except Exception as error:  # all: user code runs here, and may turn a refused call into any exception
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
        """Replay all spans; `on_row` is called after each replay with the last row it launched, counted from 0."""
        if self.note:
            self.by_host.run(evaluation, spans, on_row)
            return
        replays, row = self._graphs[evaluation].replays, -1
        for span, lengths in self._launches(spans):
            with mark(span.name):
                for length in lengths:
                    replays[length, span.kind]()
                    self.launches += 1
                    row += length or span.rows
                    if on_row is not None:
                        on_row(row)

    def _capture(self, evaluation: Evaluation, lengths: set[Length], warm: set[int]) -> dict[Length, Captured]:
        evaluation.machine.cursor.fill_(layout.IDLE)  # warming up changes nothing
        made: dict[Length, Captured] = {}
        kind = evaluation.kind
        try:
            # The longest first, of the kind with most calls: its pool serves the others.
            for length, evaluation.kind in sorted(lengths, key=lambda length: (-length[1], -length[0])):
                if evaluation.kind not in warm:
                    self.capture.warm_up(evaluation)
                    warm.add(evaluation.kind)
                made[length, evaluation.kind] = self.capture.capture(evaluation, length)
                self.captures += 1
        finally:
            evaluation.kind = kind
        return made

    def _make_room(self) -> None:
        """Let go of the graphs that were used least recently, so that there is room for one more batch size."""
        while len(self._graphs) >= self.limit:
            del self._graphs[next(iter(self._graphs.keys()))]

    def _launches(self, spans: Sequence[Span]) -> list[tuple[Span, list[int]]]:
        """Return the spans as they are launched, each with the captured lengths that make it up."""
        if self.name == "step":
            return [(span, [1] * span.rows) for span in spans]
        if self.name == "loop" or any(span.name in OPEN_ENDED for span in spans):
            return [(span, cut(span.rows)) for span in spans]
        runs = [(kind, sum(span.rows for span in group)) for kind, group in groupby(spans, lambda span: span.kind)]
        if self.name == "while" and len(runs) == 1:
            return [(Span("trajectory", runs[0][1], runs[0][0]), [UNTIL_IDLE])]
        return [(Span("trajectory", rows, kind), cut(rows)) for kind, rows in runs]

    def _lengths(self, spans: Sequence[Span]) -> set[Length]:
        """Return the lengths to capture, with their kinds."""
        lengths = {(length, span.kind) for span, launched in self._launches(spans) for length in launched}
        if self.name != "step":
            lengths |= {(c, span.kind) for span in spans if span.name in OPEN_ENDED for c in CHUNKS if c <= span.rows}
        return lengths


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
