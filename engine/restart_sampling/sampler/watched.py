r"""What a sampler shows of its runs: row by row, as a rollout for training, and the parts of every evaluation."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .conditions import Conditions
from .edits import asked
from .executors import Observer
from .inputs import Rows, Seeds
from .labels import Labels
from .results import TracedRow, joined
from .rollout import Rollout, rollout
from .runs import Run
from .table import Table
from .workspace import Workspace


class Watched:
    """The methods of a sampler that show what it computes on the way."""

    denoiser: Denoiser
    plan: Plan
    table: Table
    workspace: Workspace
    device: torch.device

    def trace(
        self,
        seeds: Seeds,
        class_labels: Labels = None,
        *,
        rows: Rows = None,
        conditions: Conditions = None,
        **edits: Any,
    ) -> Generator[TracedRow, None, Tensor]:
        """Draw samples and yield, row by row, what was computed: (row, sigma, x, D, noise), see :class:`TracedRow`.

        It runs as `run` does, on the same executor, and gives the same samples to the last bit: they are the value of
        the generator, `x = yield from sampler.trace(…)`. NaN and infinite values raise nothing. The trace must end
        before another run of this sampler begins.

        Args:
            rows: the rows to show, from 0 as in `plan.rows`; default: all. Rows that are not shown run as always.
            others: as of `run`, edits too; traced rows of different plans, or batches, come one by one.
        """
        batches, request = [], (seeds, class_labels, conditions, asked(edits, "Sampler.trace"))
        for found in Run(self.workspace, self.table, request, traced=True, rows=rows):
            if isinstance(found, TracedRow):
                yield found
            else:
                batches.append(found)
        return joined(batches, self.denoiser.shape, self.device)

    def rollout(self, seeds: Seeds, class_labels: Labels = None, *, window: Rows = None, **run: Any) -> Rollout:
        """Draw samples and return states, means and log-probabilities of their steps, see :class:`Rollout`.

        `window` (first, end) are the rows to return, default all; `run` goes to `trace`.
        """
        return rollout(self, seeds, window, {"class_labels": class_labels, **run})

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Return a context in which `observer` is told of every evaluation; BackendError where graphs are replayed."""
        return self.workspace.observed(observer)
