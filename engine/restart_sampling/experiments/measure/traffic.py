"""Bytes that the rows of a table move: what the fused update reads and writes, without any cache."""

from __future__ import annotations

from collections.abc import Sequence

from restart_kernels import layout
from restart_kernels.registers import HISTORY

from ...sampler.table import Table


def step_bytes(table: Table, net_itemsize: int, F_itemsize: int) -> list[int]:
    """Return the bytes that each row reads and writes for one element, by the row's flags; row 0 draws the latent.

    Registers, a known image and its mask are float32. Under guidance net_in is written twice, and rows where it acts
    read two outputs.
    """
    cost = {
        layout.READ_X: 4,
        layout.STORE_X: 4,
        **{bit: 4 for _, _, read, store in HISTORY for bit in (read, store)},
        layout.PASTE: 8,
        layout.READ_F: F_itemsize,
        layout.GUIDE: F_itemsize,
        layout.STORE_NET: (2 if table.plan.config.guided else 1) * net_itemsize,
    }
    return [sum(n for bit, n in cost.items() if flags & bit) for flags in table.code[:, layout.FLAGS]]


def bytes_per_evaluation(rows: Sequence[int], steps: float) -> float:
    """Return the mean bytes of an evaluation from those of a table's rows.

    `steps` updates are launched per evaluation; those beyond one are row 0, if it was recorded.
    """
    first, *rest = rows
    return sum(rest) / len(rest) + max(0.0, steps - 1) * first
