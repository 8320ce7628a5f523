r"""Continuous batching: samples of different plans share a batch, and a lane that finishes takes the next sample.

Every plan's NFE is known before it runs, so the host knows which lane finishes when without asking the device: it runs
the batch until the next lane is done, takes the result, starts the next sample there, and goes on. Long plans go first,
which keeps the batch full to the end; a sample's noise depends on its seed alone, so the order changes no bit of it.
When nothing is left to start, the live samples move together and the batch goes on with as many lanes as they need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from restart_kernels import layout

from ...plan.segments import Span
from ..program import Entry
from .evaluation import Evaluation


class Job(NamedTuple):
    """One sample to draw: its place in the request, seed, class (or None) and plan."""

    place: int
    seed: int
    label: int | None
    entry: Entry


class Finished(NamedTuple):
    """Samples that finished together: their jobs, x [n, *shape] (a copy) and first_bad int32 [n]."""

    jobs: tuple[Job, ...]
    x: Tensor
    first_bad: Tensor


def run(
    jobs: Sequence[Job],
    evaluations: Callable[[int], Evaluation],
    size: int,
    advance: Callable[[Evaluation, Sequence[Span]], None],
    lanes_for: Callable[[int], int],
) -> Iterator[Finished]:
    """Draw all jobs, at most `size` at a time.

    Args:
        evaluations: the evaluation of n lanes, with a cursor per sample. It may overwrite the batch's buffers.
        advance: runs spans of an evaluation.
        lanes_for: the lanes that k live samples run on, k or more: those beyond k are padding. A captured graph has a
            few sizes (`buckets.py`).
    """
    queue = deque(sorted(jobs, key=lambda job: -job.entry.nfe))
    if not queue:
        return
    n = lanes_for(min(size, len(queue)))
    evaluation = evaluations(n)
    evaluation.machine.cursor.fill_(layout.IDLE)
    lanes: list[Job | None] = [None] * n
    left = [0] * n
    while queue or any(lanes):
        free = [i for i, job in enumerate(lanes) if job is None][: len(queue)]
        if free:
            started = [queue.popleft() for _ in free]
            for i, new in zip(free, started, strict=True):
                lanes[i], left[i] = new, new.entry.nfe
            seeds = torch.tensor([job.seed for job in started], dtype=torch.int64)
            labels = torch.tensor([job.label or 0 for job in started], dtype=torch.int64)
            evaluation.start(free, [job.entry for job in started], seeds, None if started[0].label is None else labels)
        live = [i for i, job in enumerate(lanes) if job is not None]
        n = lanes_for(len(live))
        if n < len(lanes):
            idle = [i for i, job in enumerate(lanes) if job is None]
            keep = live + idle[: n - len(live)]
            samples = evaluation.taken(torch.tensor(keep, device=evaluation.machine.x.device))
            evaluation = evaluations(n)
            evaluation.put(samples)
            lanes, left = [lanes[i] for i in keep], [left[i] for i in keep]
            live = list(range(len(live)))
        rows = min(left[i] for i in live)
        advance(evaluation, (Span("mixed", rows),))
        left = [rest - rows for rest in left]
        done = [i for i in live if left[i] == 0]
        if done:
            jobs_done = tuple(job for i in done if (job := lanes[i]) is not None)
            index = torch.tensor(done, device=evaluation.machine.x.device)
            yield Finished(jobs_done, evaluation.machine.x[index], evaluation.machine.first_bad[index])
            for i in done:
                lanes[i] = None
