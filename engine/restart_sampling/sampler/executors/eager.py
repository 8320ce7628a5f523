r"""The eager executor: one evaluation after the other, launched by the host.

Per evaluation it launches the network, one fused step and the tiny kernel that advances the cursor. It allocates
nothing and asks for no value on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...common.marks import mark
from ...plan.segments import Span
from ..program import Entry
from .evaluation import Evaluation


class EagerExecutor:
    """Calls the evaluation as often as the spans say."""

    name = "off"
    pads = False  # a batch smaller than the lanes runs at its own size
    note = ""

    def describe(self) -> str:
        """Return the mode: "off"."""
        return self.name

    def prepare(self, evaluation: Evaluation, entry: Entry, spans: Sequence[Span]) -> None:
        """Nothing to make ready."""

    def run(self, evaluation: Evaluation, spans: Sequence[Span], on_row: Callable[[int], None] | None = None) -> None:
        """Run all spans; `on_row` is called on the host with the number of evaluations issued, 1 … NFE."""
        row = 0
        for span in spans:
            with mark(span.name):
                for _ in range(span.rows):
                    evaluation()
                    row += 1
                    if on_row is not None:
                        on_row(row)
