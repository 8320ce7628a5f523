r"""The program: the tables of every plan a sampler runs, one after the other in one device table.

Its addresses never change while it has room, so a captured graph serves every plan: a new plan is a copy of a few
kilobytes and another first row for the cursor."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from restart_kernels import layout

from ..models.parameterization import Parameterization
from ..plan.plan import Plan
from ..plan.segments import Span, spans
from .table import Table, bind

KEPT = 256  # bound plans, of some 20 kB each


class Entry(NamedTuple):
    """Where a table stands in the program: its row 0 is row `base` there."""

    table: Table
    base: int
    spans: tuple[Span, ...]

    @property
    def nfe(self) -> int:
        return self.table.nfe


class Tables:
    """The tables of plans bound to one network, each made once; the KEPT that were used last are remembered."""

    def __init__(self, parameterization: Parameterization) -> None:
        self.parameterization = parameterization
        # The plan is held, so its id stays its own.
        self._kept: OrderedDict[int, tuple[Plan, Table]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, plan: Plan) -> Table:
        """Return the table of `plan`."""
        if id(plan) not in self._kept:
            self._kept[id(plan)] = (plan, bind(plan, self.parameterization))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(id(plan))
        return self._kept[id(plan)][1]


class Program:
    """Device tables `coef` [capacity, 12] and `code` int32 [capacity, 4], filled from the front.

    Args:
        device: where the table lives.
        dtype: dtype of the registers.
        capacity: rows; a table that does not fit makes `add` start over with more, and `generation` counts that.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, capacity: int = 1024) -> None:
        self.device, self.dtype = device, dtype
        self.generation = 0
        self._allocate(capacity)

    @torch.inference_mode(False)
    def _allocate(self, capacity: int) -> None:
        self.coef = torch.zeros(capacity, layout.NUM_COEF, dtype=self.dtype, device=self.device)
        self.code = torch.zeros(capacity, layout.NUM_CODE, dtype=torch.int32, device=self.device)
        self.entries: dict[int, Entry] = {}
        self.used = 0

    def add(self, *tables: Table) -> list[Entry]:
        """Entries of `tables`, all of them in the program at once; what is already there stays where it is."""
        missing = [t for t in {id(t): t for t in tables}.values() if id(t) not in self.entries]
        if self.used + sum(len(t.coef) for t in missing) > len(self.coef):
            missing = list({id(t): t for t in tables}.values())
            needed = sum(len(t.coef) for t in missing)
            if needed > len(self.coef):
                self.generation += 1
                self._allocate(2 ** (2 * needed - 1).bit_length())
            else:
                self.entries, self.used = {}, 0
        for table in missing:
            rows = slice(self.used, self.used + len(table.coef))
            self.coef[rows].copy_(torch.from_numpy(table.coef))
            self.code[rows].copy_(torch.from_numpy(table.code))
            self.entries[id(table)] = Entry(table, self.used, spans(table.plan))
            self.used = rows.stop
        return [self.entries[id(table)] for table in tables]


def write_latent_row(entry: Entry, coef: Tensor, code: Tensor) -> None:
    """Row 0 for a given latent into device tables [1, 12] and [1, 4]: x already holds the latent, the row scales it by
    the initial std and draws nothing."""
    row, flags = entry.table.coef[:1].copy(), entry.table.code[:1].copy()
    row[0, layout.Y_X], row[0, layout.S] = entry.table.plan.initial_noise, 0.0
    flags[0, layout.FLAGS] |= layout.READ_X
    coef.copy_(torch.from_numpy(row))
    code.copy_(torch.from_numpy(flags))
