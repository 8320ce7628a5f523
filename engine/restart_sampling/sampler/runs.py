r"""A run: the batches of one request, one after the other.

Samples of one plan run in whole batches. Samples of different plans, and those of PFGM++, whose noise has a size for
each sample, share batches (`executors/continuous.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restart_kernels.layout import IDLE

from ..common import forked, progress_bar
from ..common.checks import integer
from ..common.devices import made_current, on_own_device, while_it_runs
from ..common.marks import mark
from ..models.conditions import CLASS
from ..plan.segments import spans_of
from . import inputs, pfgmpp
from .conditions import Conditions, collect
from .edits import Asked
from .executors import Evaluation, continuous
from .executors.buckets import batches
from .executors.selfcheck import begin
from .labels import Labels
from .packed import sent
from .results import Batch, Progress, TracedRow, failures_of
from .table import Table
from .trace import SPAN, Group, Trace
from .workspace import NO_EDITS, Workspace, open_ended


class Run:
    """One request for samples; iterating over it runs it. Nothing is checked before.

    Args:
        workspace: where it runs.
        table: the plan, unless seeds are (seed, plan) pairs.
        request: seeds, class_labels and conditions, as of `Sampler.run`, and its edits; callback and fields are, too.
        traced: yield a TracedRow for each row of `rows` (default: all), among the batches.
    """

    def __init__(
        self,
        workspace: Workspace,
        table: Table,
        request: tuple[inputs.Seeds, Labels, Conditions, Asked],
        callback: Callable[[Progress], None] | None = None,
        fields: Sequence[str] = (),
        traced: bool = False,
        rows: inputs.Rows = None,
    ) -> None:
        self.workspace, self.device, self.table = workspace, workspace.device, table
        self.request = request
        self.callback, self.fields, self.traced, self.rows = callback, fields, traced, rows

    @torch.inference_mode(False)  # buffers are ordinary tensors: a function may take gradients from its input
    @torch.no_grad()
    @while_it_runs(lambda run: run.workspace.turns.taken())
    @on_own_device
    def __iter__(self) -> Iterator[Batch | TracedRow]:
        forked.settle()
        workspace, denoiser = self.workspace, self.workspace.denoiser
        seeds, class_labels, conditions, asked = self.request
        progress_bar.check_callback(self.callback)
        self.fields = inputs.fields(self.fields, self.callback)
        self.seeds, plans, own = inputs.split(seeds)
        self.total = len(self.seeds)
        self.given = collect(denoiser, self.seeds, class_labels, conditions, own, self.device)
        self.edits = asked.read(self.total, denoiser.shape, self.device)
        if self.edits != NO_EDITS:
            self.table = workspace.bind(self.table.plan, self.edits)
        # Each plan is bound once, so that it has one table however many other plans are between its samples.
        bound = {id(plan): workspace.bind(plan, self.edits) for plan in {id(p): p for p in plans or ()}.values()}
        longest = max(table.nfe for table in bound.values() or (self.table,))
        rows = inputs.rows(self.rows, longest)
        self.trace = Trace(denoiser, rows) if self.traced or self.fields else None
        if plans is None and denoiser.augmented_dim is None:
            yield from self._one_plan()
            return
        if denoiser.augmented_dim is not None:
            pfgmpp.check(self.edits.variant)
        yield from self._mixed([self.table] * self.total if plans is None else [bound[id(p)] for p in plans])

    def _one_plan(self) -> Iterator[Batch | TracedRow]:
        """Draw all samples by one plan."""
        workspace, device = self.workspace, self.device
        for start in range(0, self.total, workspace.batch_size):
            part = slice(start, min(start + workspace.batch_size, self.total))
            seeds, n = self.seeds[part], part.stop - part.start
            told = self.given.take(part)
            (entry,) = workspace.entries(self.table)
            with mark("batch"):
                batch, executor = workspace.batch(n)
                workspace.conditions.share(self.given.shared, self.given.mark)
                executor.prepare(batch, entry, entry.spans if self.trace is None else open_ended(SPAN, [entry]))
                own, *values = sent(device, seeds, *told.values())
                batch.load(entry, own, dict(zip(told, values, strict=True)), self.edits.take(part))
                if self.trace is None:
                    executor.run(batch, entry.spans, self._on_row(start, n, entry.table.kinds))
                else:
                    group = Group(range(n), [entry] * n, seeds.tolist(), range(part.start, part.stop), 0)
                    yield from self._shown(self.trace.advance(executor, batch, [group], entry.nfe), start)
                x, first_bad = batch.result(n)
            failures = failures_of(seeds, [entry] * n, first_bad)
            yield self._batch(torch.arange(part.start, part.stop), x, failures, told)

    def _mixed(self, tables: Sequence[Table]) -> Iterator[Batch | TracedRow]:
        """Draw samples with a table each, and yield them as they finish."""
        D = self.workspace.denoiser.augmented_dim
        # With PFGM++ every sample has a table of its own, so only those of one batch are held at a time.
        chunk = self.total if D is None else self.workspace.batch_size
        for start in range(0, self.total, max(chunk, 1)):
            part = slice(start, min(start + chunk, self.total))
            own = tables[part] if D is None else pfgmpp.tables(tables[part], self.seeds[part], D)
            yield from self._together(start, own)

    def _together(self, start: int, tables: Sequence[Table]) -> Iterator[Batch | TracedRow]:
        """Draw the samples from `start` on, one for each table, in shared batches."""
        workspace, end = self.workspace, start + len(tables)
        entries = workspace.entries(*tables)
        workspace.conditions.share(self.given.shared, self.given.mark)
        seeds = self.seeds[start:end].tolist()
        samples = [
            continuous.Sample(start + i, seed, entry)
            for i, (seed, entry) in enumerate(zip(seeds, entries, strict=True))
        ]
        done = start

        def advance(evaluation: Evaluation, live: Sequence[continuous.Live], rows: int) -> Iterator[TracedRow]:
            if self.trace is None:
                each = [one.sample.entry.table.kinds[one.row : one.row + rows] for one in live]
                kinds = np.max(each, axis=0)  # both outputs as soon as one lane needs both
                workspace.executor.run(evaluation, spans_of("mixed", kinds), self._on_row(done, 0, kinds))
                return
            shown = self.trace.advance(workspace.executor, evaluation, _groups(live), rows)
            yield from self._shown(shown, done)

        def evaluation(n: int) -> Evaluation:
            return workspace.prepare_mixed(n, entries, "mixed" if self.trace is None else SPAN)

        def lanes_for(live: int) -> int:
            # Another compilation takes longer than the rest of a run whose batch is no longer full.
            compiled = getattr(workspace.network, "compiled", False)
            return workspace.lanes_for(min(len(samples), workspace.batch_size) if compiled else live)

        takes = self.given.take, self.edits.take
        for found in continuous.run(samples, *takes, evaluation, workspace.batch_size, advance, lanes_for):
            if isinstance(found, TracedRow):
                yield found
                continue
            done += len(found.samples)
            index = torch.tensor([sample.place for sample in found.samples])
            failures = failures_of(self.seeds[index], [sample.entry for sample in found.samples], found.first_bad)
            turn = self.workspace.turns.count
            yield self._batch(index, found.x, failures, self.given.take(index))
            if done < end:  # samples are under way in the buffers
                self.workspace.turns.check_alone(turn)

    def _batch(
        self, index: Tensor, x: Tensor, failures: tuple[dict[str, Any], ...], told: Mapping[str, Tensor]
    ) -> Batch:
        """Return the samples at places `index` of the request, with what they were told."""
        labels = None if self.given.labels is None else self.given.labels[index]
        others = {name: value for name, value in told.items() if name != CLASS}
        return Batch(self.seeds[index], labels, x, failures, index, others)

    def _on_row(self, done: int, n: int, kinds: np.ndarray) -> Callable[[int], None] | None:
        """Return what an executor calls with the row that it launched last, of a batch of n samples.

        `kinds` are those of the batch's rows.
        """
        callback, total, nfe, calls = self.callback, self.total, len(kinds), np.cumsum(kinds).tolist()
        if callback is None:
            return None

        def on_row(row: int) -> None:
            callback(Progress(done + (n if row + 1 == nfe else 0), total, n, row, nfe, network_calls=calls[row]))

        return on_row

    def _shown(self, rows: Iterator[TracedRow], done: int) -> Iterator[TracedRow]:
        """Give traced rows to the callback, if it asked for them, else to the caller of the run."""
        for found in rows:
            if self.callback is not None:
                n, nfe = len(found.seeds), found.plan.nfe
                calls = int(found.kinds[: found.row + 1].sum())
                asked: dict[str, Any] = {name: getattr(found, name) for name in self.fields}
                done_now = done + (n if found.row + 1 == nfe else 0)
                self.callback(Progress(done_now, self.total, n, found.row, nfe, network_calls=calls, **asked))
                continue
            turn = self.workspace.turns.count
            yield found
            self.workspace.turns.check_alone(turn)  # the samples are under way in the buffers


@torch.inference_mode(False)  # as a run: a network compiled in one mode is compiled again in the other
@torch.no_grad()
def warm_up(workspace: Workspace, table: Table, n: int | None) -> None:
    """Compile and capture what a run of n samples (default: a whole batch) of one plan needs; draws nothing."""
    forked.settle()
    n = workspace.batch_size if n is None else integer("n", n, 1)
    with workspace.turns.taken(), made_current(workspace.device):
        _warm_up(workspace, table, n)


def _warm_up(workspace: Workspace, table: Table, n: int) -> None:
    D, tables = workspace.denoiser.augmented_dim, [table]
    if D is not None:  # as many tables as a run needs: a program that grows is captured again
        seeds = torch.arange(min(n, workspace.batch_size))
        tables = pfgmpp.tables(tables * len(seeds), seeds, D)
    entries = workspace.entries(*tables)
    for samples in batches(n, workspace.batch_size):
        if D is None:
            batch, executor = workspace.batch(samples)
            executor.prepare(batch, entries[0], entries[0].spans)
        else:
            batch = workspace.prepare_mixed(workspace.lanes_for(samples), entries[:1])
        for part in batch.parts:
            begin(part, entries[0])
            part.machine.cursor.fill_(IDLE)
            for kind in {span.kind for span in entries[0].spans}:
                part(kind)


def _groups(live: Sequence[continuous.Live]) -> list[Group]:
    """Return the live samples by plan and row."""
    found: dict[tuple[int, int], list[continuous.Live]] = {}
    for one in live:
        found.setdefault((id(one.sample.entry.table.plan), one.row), []).append(one)
    groups = []
    for (_, row), some in found.items():
        samples = [one.sample for one in some]
        groups.append(
            Group(
                [one.lane for one in some],
                [sample.entry for sample in samples],
                [sample.seed for sample in samples],
                [sample.place for sample in samples],
                row,
            )
        )
    return groups
