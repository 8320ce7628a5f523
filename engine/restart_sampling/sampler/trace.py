r"""The trace: x, D and the noise of chosen rows, under every executor.

The host launches a traced row itself, since a replayed graph gives nothing away, and an observer takes what the network
saw and returned. The rows between traced ones are launched as always. With the coefficients of the row's level,

    D = c_skip·x + c_out·F,        F the guided output where guidance acts.

x is register x at the beginning of a solver step. Inside a step the machine does not store that state, it writes c_in·x
to the network's input at once; then the update before the traced row is also run on copies, told to store its result.
So a trace has the states of the run to the last bit, and the run does not notice it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout
from restart_kernels.registers import METHODS
from restart_kernels.row import weights

from ..models.denoiser import Denoiser
from ..plan.segments import Span, spans_of
from .executors import Evaluation, Executor, Observer, Slices
from .program import Entry
from .results import TracedRow
from .table import Table

SPAN = "traced"  # the name of the spans of a traced run


class Group(NamedTuple):
    """Samples of one plan at one row: their lanes, tables, seeds, places in the request, and the row that is next."""

    lanes: Sequence[int]
    entries: Sequence[Entry]
    seeds: Sequence[int]
    places: Sequence[int]
    row: int

    def stored(self, row: int) -> bool:
        """Whether register x holds the state that row `row` evaluates."""
        return bool(self.entries[0].table.code[row, layout.FLAGS] & layout.STORE_X)


class Trace:
    """The rows of a run that are shown.

    Args:
        denoiser: the network's parameterization gives c_skip and c_out.
        rows: the rows, from 0; None for all.
    """

    def __init__(self, denoiser: Denoiser, rows: Iterable[int] | None) -> None:
        self.denoiser = denoiser
        self.rows = None if rows is None else frozenset(rows)
        self._next: dict[int, Tensor] = {}  # place in the request → the state that its next row evaluates

    def advance(
        self, executor: Executor, batch: Evaluation | Slices, groups: Sequence[Group], rows: int
    ) -> Iterator[TracedRow]:
        """Launch `rows` rows of a batch and yield those that are traced, as they are computed.

        Args:
            executor: launches the batch.
            batch: loaded, and prepared for spans called SPAN.
            groups: the samples in it.
            rows: how many, at most up to the end of the shortest plan.
        """
        waiting: list[int] = []  # kinds of the rows that nobody looks at
        for k in range(rows):
            kind = max(int(group.entries[0].table.kinds[group.row + k]) for group in groups)
            shown = [group for group in groups if self._wants(group.row + k)]
            ahead = [group for group in groups if self._needs(group, group.row + k + 1)]
            if not shown and not ahead:
                waiting.append(kind)
                continue
            if waiting:
                executor.run(batch, spans_of(SPAN, waiting))
                waiting = []
            seen = _Seen(bool(ahead))
            with batch.parts[0].observers.attached(seen):
                executor.by_host.run(batch, (Span(SPAN, 1, kind),))
            found = [self._row(group, group.row + k, seen, batch.parts) for group in shown]
            if ahead:
                after = torch.cat([seen.after_row[part] for part in batch.parts])
                for group in ahead:
                    self._next |= {place: after[lane] for place, lane in zip(group.places, group.lanes, strict=True)}
            yield from found
        if waiting:
            executor.run(batch, spans_of(SPAN, waiting))

    def _wants(self, row: int) -> bool:
        return self.rows is None or row in self.rows

    def _needs(self, group: Group, row: int) -> bool:
        """Whether the state that `row` evaluates must be taken from the row before it."""
        return row < group.entries[0].nfe and self._wants(row) and not group.stored(row)

    def _row(self, group: Group, row: int, seen: _Seen, parts: Sequence[Evaluation]) -> TracedRow:
        table, after = group.entries[0].table, row + 1  # the row of the table that follows the evaluation
        lanes = torch.tensor(group.lanes, device=seen.x[parts[0]].device)
        if group.stored(row):
            x = torch.cat([seen.x[part] for part in parts])[lanes]
        else:
            x = torch.stack([self._next.pop(place) for place in group.places])
        sigma = float(table.sigma[after])
        F, *second = torch.cat([seen.F[part] for part in parts], dim=1)[:, lanes].double()
        if second and table.code[after, layout.FLAGS] & layout.GUIDE:
            F = _guided(F, second[0], table, after)
        elif not table.kinds[row]:
            F = torch.zeros_like(F)
        c_skip, c_out, *_ = map(float, self.denoiser.parameterization.coefficients(sigma))
        fresh = bool(table.plan.rows[row].noise)  # not the noise of a stage, which later rows share
        stds = [float(entry.table.coef[after, layout.S]) * fresh for entry in group.entries]
        each = self.denoiser.augmented_dim is not None  # PFGM++
        return TracedRow(
            row,
            sigma,
            x,
            (c_skip * x.double() + c_out * F).to(x.dtype),
            torch.tensor(stds, dtype=torch.float64) if each else stds[0],
            int(table.code[after, layout.DRAW]) if any(stds) else 0,
            torch.tensor(group.seeds, dtype=torch.int64),
            torch.tensor(group.places, dtype=torch.int64),
            table.plan,
            table.kinds,
        )


COPIED = ("x", "h", "h2", "h3", "net_in", "cursor", "first_bad", "mix")  # what a row writes


class _Seen(Observer):
    """What one row computed, by evaluation: register x before it, F [1 or 2, n, *shape], and the state after it."""

    parts = ("network", "update")

    def __init__(self, ahead: bool) -> None:
        self.ahead = ahead
        self.x: dict[Evaluation, Tensor] = {}
        self.F: dict[Evaluation, Tensor] = {}
        self.after_row: dict[Evaluation, Tensor] = {}

    def after(self, part: str, evaluation: Evaluation | None, F: Tensor | None = None) -> None:
        if part != "network" or evaluation is None or F is None:
            return
        self.x[evaluation] = evaluation.machine.x.clone()
        # A copy: F may be a view of the network's input, which the update overwrites.
        self.F[evaluation] = F.clone().contiguous().view(-1, evaluation.n, *F.shape[1:])
        if self.ahead:
            self.after_row[evaluation] = _state_after(evaluation, self.F[evaluation])

    def before(self, part: str, evaluation: Evaluation | None) -> None:
        if part != "update" or evaluation is None or evaluation in self.x:
            return
        x = evaluation.machine.x.clone()  # the row leaves out the network
        self.x[evaluation], self.F[evaluation] = x, torch.zeros_like(x)[None]
        if self.ahead:
            self.after_row[evaluation] = _state_after(evaluation, ())


def _state_after(evaluation: Evaluation, F: Sequence[Tensor] | Tensor) -> Tensor:
    """Return the state that the update of the current row leads to, the machine left alone."""
    m = evaluation.machine
    code = m.code.clone()
    code[:, layout.FLAGS] |= layout.STORE_X
    own = {name: t.clone() for name in COPIED if (t := getattr(m, name)) is not None}
    copy = replace(m, code=code, c_noise=None, **own)
    bound = restart_kernels.bind(copy, evaluation.backend)
    if len(F) == 2 and copy.mix is not None:
        bound.weigh(*F)
    bound.run_row(*F)
    return copy.x


def _guided(F: Tensor, second: Tensor, table: Table, row: int) -> Tensor:
    """Return the guided output of a row of the table, in float64."""
    flags = int(table.code[row, layout.FLAGS])
    w, p, q = (torch.full((len(F),), float(table.coef[row, i])).to(F) for i in (layout.W, layout.P, layout.Q))
    if not flags & METHODS:
        return second + float(table.coef[row, layout.W]) * (F - second)
    sums = weights.sums(F.flatten(1), second.flatten(1))
    mix = weights.mixed(sums, w, p, q, torch.full_like(w, flags, dtype=torch.int32), F[0].numel())
    first, other = (a.view(-1, *[1] * (F.ndim - 1)) for a in mix.unbind(1))
    return first * F + other * second
