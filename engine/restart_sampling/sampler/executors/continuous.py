r"""Continuous batching: samples of different plans share a batch, and a lane that finishes takes the next sample.

Every plan's NFE is known before it runs, so the host knows which lane finishes when, without asking the device. It runs
the batch until the next lane is done, takes the result, starts the next sample there, and goes on. Long plans go first,
which keeps the batch full to the end; a sample's noise depends on its seed alone, so the order changes no bit of it.
When no sample is left to start, the live ones move together and the batch goes on with as many lanes as they need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..packed import sent
from ..program import Entry
from .evaluation import Evaluation

T = TypeVar("T")


class Sample(NamedTuple):
    """One sample to draw: its place in the request, seed and table."""

    place: int
    seed: int
    entry: Entry


class Live(NamedTuple):
    """A sample under way: its lane, and the row that is evaluated next, from 0."""

    sample: Sample
    lane: int
    row: int


class Finished(NamedTuple):
    """Samples that finished together, with copies of x [n, *shape] and first_bad int32 [n]."""

    samples: tuple[Sample, ...]
    x: Tensor
    first_bad: Tensor


def run(
    samples: Sequence[Sample],
    conditions: Callable[[Tensor], Mapping[str, Tensor]],
    given: Callable[[Tensor], Mapping[str, Tensor]],
    evaluations: Callable[[int], Evaluation],
    size: int,
    advance: Callable[[Evaluation, Sequence[Live], int], Iterator[T]],
    lanes_for: Callable[[int], int],
) -> Iterator[Finished | T]:
    """Draw all samples, at most `size` at a time, and yield them as they finish.

    Args:
        samples: what to draw.
        conditions: int64 [k] places in the request → what the samples there are told, [k, …] by name.
        given: likewise the registers that they begin with.
        evaluations: n → the evaluation of n lanes with a cursor for each sample. It may overwrite the batch's buffers.
        size: the most lanes of a batch.
        advance: launches a number of rows of an evaluation; what it yields is yielded here.
        lanes_for: k → the lanes that k live samples run on, k or more. Lanes ≥ k are padding; a captured graph has a
            few sizes (`buckets.py`).
    """
    queue = deque(sorted(samples, key=lambda sample: -sample.entry.nfe))
    if not queue:
        return
    n = lanes_for(min(size, len(queue)))
    evaluation = evaluations(n)
    evaluation.clear()
    lanes: list[Sample | None] = [None] * n
    left = [0] * n
    while queue or any(lanes):
        free = [i for i, sample in enumerate(lanes) if sample is None][: len(queue)]
        if free:
            started = [queue.popleft() for _ in free]
            for i, new in zip(free, started, strict=True):
                lanes[i], left[i] = new, new.entry.nfe
            seeds = torch.tensor([sample.seed for sample in started], dtype=torch.int64)
            places = torch.tensor([sample.place for sample in started], dtype=torch.int64)
            evaluation.start(free, [sample.entry for sample in started], seeds, conditions(places), given(places))
        live = [i for i, sample in enumerate(lanes) if sample is not None]
        n = lanes_for(len(live))
        if n < len(lanes):
            idle = [i for i, sample in enumerate(lanes) if sample is None]
            keep = live + idle[: n - len(live)]
            moved = evaluation.taken(*sent(evaluation.machine.x.device, torch.tensor(keep)))
            evaluation = evaluations(n)
            evaluation.put(moved)
            lanes, left = [lanes[i] for i in keep], [left[i] for i in keep]
        under_way = [Live(s, i, s.entry.nfe - left[i]) for i, s in enumerate(lanes) if s is not None]
        rows = min(left[i] for _, i, _ in under_way)
        yield from advance(evaluation, under_way, rows)
        left = [rest - rows for rest in left]
        done = [(sample, i) for sample, i, _ in under_way if left[i] == 0]
        if done:
            (index,) = sent(evaluation.machine.x.device, torch.tensor([i for _, i in done]))
            finished = tuple(sample for sample, _ in done)
            yield Finished(finished, evaluation.machine.x[index], evaluation.machine.first_bad[index])
            for _, i in done:
                lanes[i] = None
