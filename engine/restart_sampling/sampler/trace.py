r"""The trace: x, D and the noise of chosen rows, under every executor.

The host launches a traced row itself, since a replayed graph gives nothing away, and an observer takes what the network
saw and returned. The rows between traced ones are launched as always. With the coefficients of the row's level,

    D = c_skip·x + c_out·F,        F = F_u + w·(F_c − F_u) under guidance.

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

from ..models.denoiser import Denoiser
from ..plan.segments import Span
from .executors import Evaluation, Executor, Observer, Slices
from .program import Entry
from .results import TracedRow

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
        waiting = 0
        for k in range(rows):
            shown = [group for group in groups if self._wants(group.row + k)]
            ahead = [group for group in groups if self._needs(group, group.row + k + 1)]
            if not shown and not ahead:
                waiting += 1
                continue
            if waiting:
                executor.run(batch, (Span(SPAN, waiting),))
                waiting = 0
            seen = _Seen(bool(ahead))
            with batch.parts[0].observers.attached(seen):
                executor.by_host.run(batch, (Span(SPAN, 1),))
            found = [self._row(group, group.row + k, seen, batch.parts) for group in shown]
            if ahead:
                after = torch.cat([seen.after_row[part] for part in batch.parts])
                for group in ahead:
                    self._next |= {place: after[lane] for place, lane in zip(group.places, group.lanes, strict=True)}
            yield from found
        if waiting:
            executor.run(batch, (Span(SPAN, waiting),))

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
        F, *uncond = torch.cat([seen.F[part] for part in parts], dim=1)[:, lanes].double()
        if uncond:
            F = uncond[0] + float(table.coef[after, layout.W]) * (F - uncond[0])
        c_skip, c_out, *_ = map(float, self.denoiser.parameterization.coefficients(sigma))
        stds = [float(entry.table.coef[after, layout.S]) for entry in group.entries]
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
        )


class _Seen(Observer):
    """What one row computed, by evaluation: register x before it, F [1 or 2, n, *shape], and the state after it."""

    parts = ("network",)

    def __init__(self, ahead: bool) -> None:
        self.ahead = ahead
        self.x: dict[Evaluation, Tensor] = {}
        self.F: dict[Evaluation, Tensor] = {}
        self.after_row: dict[Evaluation, Tensor] = {}

    def after(self, part: str, evaluation: Evaluation | None, F: Tensor | None = None) -> None:
        if evaluation is None or F is None:
            return
        self.x[evaluation] = evaluation.machine.x.clone()
        # A copy: F may be a view of the network's input, which the update overwrites.
        self.F[evaluation] = F.clone().contiguous().view(-1, evaluation.n, *F.shape[1:])
        if self.ahead:
            self.after_row[evaluation] = _state_after(evaluation, self.F[evaluation])


def _state_after(evaluation: Evaluation, F: Tensor) -> Tensor:
    """Return the state that the update of the current row leads to, the machine left alone."""
    m = evaluation.machine
    code = m.code.clone()
    code[:, layout.FLAGS] |= layout.STORE_X
    h = None if m.h is None else m.h.clone()
    x, net_in, cursor, first_bad = (t.clone() for t in (m.x, m.net_in, m.cursor, m.first_bad))
    copy = replace(m, x=x, h=h, net_in=net_in, code=code, cursor=cursor, first_bad=first_bad, c_noise=None)
    restart_kernels.bind(copy, evaluation.backend).run_row(*F)
    return copy.x
