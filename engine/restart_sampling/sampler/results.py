r"""What a run gives: batches of samples, where it stands, what a row computed, and which samples failed.

Rows are counted from 0 wherever a user sees them (progress, failures, traces, messages): row i is `plan.rows[i]`, the
i-th evaluation of the network and the update after it. A table on the device has one row more, since its row 0 makes
the initial latent: its row i + 1 is row i of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from restart_kernels.layout import NEVER

from ..plan.plan import Plan
from .program import Entry

CALLBACK_FIELDS = ("x", "D", "seeds")


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after an evaluation or after the replay of a few.

    Attributes:
        done: samples finished.
        total: samples asked for.
        batch: samples in the running batch; 0 in runs of (seed, plan) pairs, whose samples finish at different times.
        row: the row that was launched last, from 0. In runs of pairs, rows are counted anew when a sample finishes.
        nfe: rows of the running batch; in runs of pairs, until the next sample finishes.
        x, D, seeds: what `callback_fields` asked for, as in :class:`TracedRow`; else None.
    """

    done: int
    total: int
    batch: int
    row: int
    nfe: int
    x: Tensor | None = field(default=None, repr=False)
    D: Tensor | None = field(default=None, repr=False)
    seeds: Tensor | None = field(default=None, repr=False)

    @property
    def evaluations(self) -> int:
        """Rows launched so far, row + 1."""
        return self.row + 1


@dataclass(frozen=True, repr=False)
class Batch:
    """Samples that finished together.

    Attributes:
        seeds: int64 [n].
        labels: the classes, int64 [n]; None for an unconditional network, and where class_labels were rows of another
            kind than one-hot.
        x: the samples, float32 [n, *shape].
        failures: samples that became NaN or infinite, see :func:`failures_of`.
        index: int64 [n], where each sample stands in the request.
        conditions: what the samples were told besides the class, [n, …] by name.
    """

    seeds: Tensor
    labels: Tensor | None
    x: Tensor
    failures: tuple[dict[str, Any], ...]
    index: Tensor
    conditions: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        bad = f", {len(self.failures)} not finite" if self.failures else ""
        return f"Batch(x={list(self.x.shape)} on {self.x.device}{bad})"


@dataclass(frozen=True, repr=False)
class TracedRow:
    """What one row computed for the samples of one plan; unpacks into (row, sigma, x, D, noise).

    Attributes:
        row: the row, from 0 as in `plan.rows`.
        sigma: the level of its evaluation.
        x: the state that was evaluated, float32 [n, *shape]; what the network got is c_in·x in its own precision.
        D: the denoised state D(x; sigma), float32 [n, *shape], guidance included.
        noise: std of the noise that the row injects on arrival, 0 for none; for PFGM++, whose noise has a size for
            each sample, float64 [n].
        draw: the number of that noise, 0 for none: it is `rs.noise.normal(seeds, draw, shape)`.
        seeds: int64 [n]. index: int64 [n], where each sample stands in the request.
        plan: the plan of these samples, as it runs on this network.

    With float64 registers x and D are float64.
    """

    row: int
    sigma: float
    x: Tensor
    D: Tensor
    noise: float | Tensor
    draw: int
    seeds: Tensor
    index: Tensor
    plan: Plan

    def __iter__(self) -> Iterator[Any]:
        return iter((self.row, self.sigma, self.x, self.D, self.noise))

    def __repr__(self) -> str:
        return f"TracedRow(row={self.row}, sigma={self.sigma:.6g}, x={list(self.x.shape)} on {self.x.device})"


def joined(batches: Sequence[Batch], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the samples of a whole run, in the order of the request."""
    if not batches:
        return torch.empty(0, *shape, device=device)
    x, place = torch.cat([batch.x for batch in batches]), torch.cat([batch.index for batch in batches]).argsort()
    if torch.equal(place, torch.arange(len(place))):
        return x
    return x[place.to(x.device)]


def failures_of(seeds: Tensor, entries: Sequence[Entry], first_bad: Tensor) -> tuple[dict[str, Any], ...]:
    """Return the samples that are not finite: {"seed": …, "row": …, "sigma": …} each.

    `row` is the first row whose update was not finite, from 0, and None where the initial latent already was not.
    `sigma` is the level of its evaluation.

    Args:
        seeds: int64 [n]. entries: the table of each sample. first_bad: the machine's register, int32 [n].
    """
    rows = first_bad.tolist()  # the one read of a batch, with its result
    found = []
    for seed, entry, at in zip(seeds, entries, rows, strict=True):
        if at != NEVER:
            row = at - entry.base
            found.append({"seed": int(seed), "row": row - 1 if row else None, "sigma": float(entry.table.sigma[row])})
    return tuple(found)


def describe_failures(failures: Sequence[dict[str, Any]]) -> str:
    """Return one sentence that names the first few failed samples, as :func:`failures_of` gives them."""
    shown = ", ".join(f"seed {f['seed']} {_where(f['row'])} (sigma {f['sigma']:.4g})" for f in failures[:5])
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    return (
        f"{len(failures)} samples became NaN or infinite: {shown}{more}; check the network's weights, or use dtype fp32"
    )


def _where(row: int | None) -> str:
    return "in its initial latent" if row is None else f"at row {row}"
