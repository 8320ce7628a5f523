r"""The eager executor: the host launches one evaluation after the other.

For each it launches the network, the fused update and the tiny kernel that moves the cursors on. It allocates nothing
and reads no value from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...common.marks import mark
from ...plan.segments import Span
from ..program import Entry
from .evaluation import Evaluation


class EagerExecutor:
    """Calls the evaluation as often as the spans say."""

    name = "off"
    pads = False  # a batch smaller than batch_size runs at its own size
    note = ""

    @property
    def by_host(self) -> EagerExecutor:
        """The executor that launches evaluations from Python, one by one: this one."""
        return self

    def describe(self) -> str:
        """Return the mode: "off"."""
        return self.name

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Do nothing: eager launches need no preparation."""

    def run(self, evaluation: Evaluation, spans: Sequence[Span], on_row: Callable[[int], None] | None = None) -> None:
        """Run all spans; `on_row` is called on the host after each launch, with its row counted from 0."""
        row = 0
        for span in spans:
            with mark(span.name):
                for _ in range(span.rows):
                    evaluation(span.kind)
                    if on_row is not None:
                        on_row(row)
                    row += 1
