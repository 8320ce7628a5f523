r"""The program: the tables of all plans that a sampler runs, one after the other in one device table.

Its addresses do not change while it has room, so a captured graph serves every plan: a new plan is a copy of a few
kilobytes and another first row for the cursor. However many tables come at once, they come in one copy.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch

from restart_kernels import layout

from ..models.parameterization import Parameterization
from ..plan.plan import Plan
from ..plan.segments import Span, spans
from ..plan.start import beginning
from .packed import Packed
from .table import PLAIN, Table, Variant, bind

CACHED = 256  # bound plans, of some 20 kB each
Begin = tuple[float | None, float | None]
WHOLE: Begin = (None, None)


class Entry(NamedTuple):
    """A table's place in the program: its row 0 is row `base` there. `spans` are the named segments of its plan."""

    table: Table
    base: int
    spans: tuple[Span, ...]

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return self.table.nfe


class Tables:
    """A cache of the tables of plans bound to one network: the CACHED that were used last."""

    def __init__(self, parameterization: Parameterization) -> None:
        self.parameterization = parameterization
        # By the plan's id, which stays its own while the plan is held here.
        self._tables: OrderedDict[tuple[int, Variant, Begin], tuple[Plan, Table]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, plan: Plan, variant: Variant = PLAIN, begin: Begin = WHOLE) -> Table:
        """Return the table of `plan` for a variant of the run, bound on first need.

        Args:
            begin: (strength, sigma), where the plan begins, see plan/start.py; (None, None) for the whole plan.
        """
        key = (id(plan), variant, begin)
        if key not in self._tables:
            part = plan
            if begin != WHOLE:
                part = beginning(self.get(plan).plan, *begin)
            self._tables[key] = (plan, bind(part, self.parameterization, variant))
            while len(self._tables) > CACHED:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key][1]


class Program:
    """Device tables `coef` [capacity, 20] and `code` int32 [capacity, 4], filled from the front.

    Both are views of one buffer, `code` first: the new rows of both are sent in one copy, which takes what is between
    them along, never more than the buffer.

    Args:
        device: where the table is.
        dtype: dtype of the registers.
        capacity: rows; for a table that does not fit, `add` allocates more, and `generation` counts that.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, capacity: int = 1024) -> None:
        self.device, self.dtype = device, dtype
        self.generation = 0
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        code, coef = ((capacity, layout.NUM_CODE), torch.int32), ((capacity, layout.NUM_COEF), self.dtype)
        self._packed = Packed(self.device, [code, coef])
        self.code, self.coef = self._packed.tensors
        self.entries: dict[int, Entry] = {}
        self.used = 0

    def add(self, *tables: Table) -> list[Entry]:
        """Return the entries of `tables`, all of them in the program at once; those already there stay in place."""
        missing = [t for t in {id(t): t for t in tables}.values() if id(t) not in self.entries]
        if self.used + sum(len(t.coef) for t in missing) > len(self.coef):
            missing = list({id(t): t for t in tables}.values())
            needed = sum(len(t.coef) for t in missing)
            if needed > len(self.coef):
                self.generation += 1
                self._allocate(2 ** (2 * needed - 1).bit_length())
            else:
                self.entries, self.used = {}, 0
        first = self.used
        code, coef = self._packed.host
        for table in missing:
            rows = slice(self.used, self.used + len(table.coef))
            coef[rows].copy_(torch.from_numpy(table.coef))
            code[rows].copy_(torch.from_numpy(table.code))
            self.entries[id(table)] = Entry(table, self.used, spans(table.plan))
            self.used = rows.stop
        if missing:
            start, end = self._packed.starts
            row_of_code, row_of_coef = code.stride(0) * code.itemsize, coef.stride(0) * coef.itemsize
            self._packed.send(start + first * row_of_code, end + self.used * row_of_coef)
        return [self.entries[id(table)] for table in tables]
