r"""Slices of a batch on a CPU: each runs its whole trajectory on threads of its own.

PyTorch's threads wait for one another at the end of every operator, some 200 times in one evaluation of a small U-Net.
Samples are independent, so a batch can be cut into slices whose threads wait for one another once, at the end. Each
slice has buffers of its own and runs the eager loop with its share of the threads. The script
`benchmarks/images_per_second_cpu.py` measures both ways.

A network can be sliced if its forward keeps no state. A module says so by the attribute `concurrent`, as EDMNetwork
does; a plain function is never sliced. Samples change by no more than the network's rounding at another batch size, and
their noise does not change.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

from ...common.marks import mark
from ...plan.segments import Span
from ..program import Entry
from .evaluation import Evaluation

SMALLEST = 8  # samples: below it a call of the network costs more than it computes


def count(n: int, threads: int) -> int:
    """Return the number of slices for a batch of n samples: one for each thread, unless they become too small."""
    return max(1, min(threads, n // SMALLEST))


def sizes(n: int, slices: int) -> list[int]:
    """Return the samples of each slice: n spread evenly, the larger slices first."""
    return [n // slices + (i < n % slices) for i in range(slices)]


class Slices:
    """A batch in parts; `load` and `result` are those of :class:`Evaluation`."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self.parts = tuple(parts)
        bounds = [0]
        for part in self.parts:
            bounds.append(bounds[-1] + part.n)
        self.bounds = tuple(pairwise(bounds))

    def load(
        self, entry: Entry, seeds: Tensor, conditions: Mapping[str, Tensor] | None = None, latents: Tensor | None = None
    ) -> None:
        """Load every part, see `Evaluation.load`."""
        for part, (a, b) in zip(self.parts, self.bounds, strict=True):
            told = None if conditions is None else {name: value[a:b] for name, value in conditions.items()}
            part.load(entry, seeds[a:b], told, None if latents is None else latents[a:b])

    def result(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the samples of all parts, see `Evaluation.result`."""
        x, first_bad = zip(*(part.result(part.n) for part in self.parts), strict=True)
        return torch.cat(x)[:n], torch.cat(first_bad)[:n]


class Stopped(Exception):
    """Ends a slice because another one failed or the run was interrupted."""


class ThreadExecutor:
    """Runs slices side by side. The caller's thread waits, reports progress and takes interrupts.

    A forked child has none of the parent's threads, so it makes a pool of its own.

    Args:
        slices: how many run at once.
        threads: PyTorch's threads, which the slices share.
        share: threads of a slice; default: an equal part of all.
    """

    name = "off"
    pads = False
    note = ""

    def __init__(self, slices: int, threads: int, share: int | None = None) -> None:
        self.slices, self.threads = slices, threads
        self.share = share or max(1, threads // slices)
        self._start()

    def _start(self) -> None:
        self.process = os.getpid()
        self.pool = ThreadPoolExecutor(self.slices, "restart-slice", _use_threads, (self.share,))
        # A number of threads belongs to the thread that sets it, but new threads start with the latest: put that back.
        ready = threading.Barrier(self.slices + 1)
        for _ in range(self.slices):
            self.pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(self.threads)

    @property
    def by_host(self) -> ThreadExecutor:
        """The executor that launches evaluations from Python, one by one: this one."""
        return self

    def describe(self) -> str:
        """Return the mode: "off"."""
        return self.name

    def prepare(self, slices: Slices, entry: Entry, spans: Sequence[Span]) -> None:
        """Do nothing: eager launches need no preparation."""

    def run(self, slices: Slices, spans: Sequence[Span], on_row: Callable[[int], None] | None = None) -> None:
        """Run all spans of all slices; `on_row` is called once every slice has launched the row, counted from 0."""
        if self.process != os.getpid():
            self._start()
        rows: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        stop = threading.Event()
        jobs = [self.pool.submit(_run, part, spans, rows, stop) for part in slices.parts]
        for job in jobs:
            job.add_done_callback(lambda _: rows.put(None))
        try:
            self._follow(jobs, rows, stop, on_row)
        except BaseException:
            stop.set()
            raise
        finally:
            for job in jobs:
                job.exception()  # wait: the buffers are in use until then
        errors = [error for job in jobs if (error := job.exception()) and not isinstance(error, Stopped)]
        if errors:
            raise errors[0]

    def _follow(
        self,
        jobs: Sequence[Future[None]],
        rows: queue.SimpleQueue[int | None],
        stop: threading.Event,
        on_row: Callable[[int], None] | None,
    ) -> None:
        launched: dict[int, int] = {}
        ended = 0
        while ended < len(jobs):
            row = rows.get()
            if row is None:
                ended += 1
                if any(job.done() and job.exception() is not None for job in jobs):
                    stop.set()
                continue
            launched[row] = launched.get(row, 0) + 1
            if on_row is not None and launched[row] == len(jobs):
                on_row(row)


def _use_threads(number: int) -> None:
    torch.set_num_threads(number)
    torch.get_num_threads()  # the first call fixes the number for this thread, whatever is set elsewhere later


def _run(part: Evaluation, spans: Sequence[Span], rows: queue.SimpleQueue[int | None], stop: threading.Event) -> None:
    row = 0
    with torch.no_grad():
        for span in spans:
            with mark(span.name):
                for _ in range(span.rows):
                    if stop.is_set():
                        raise Stopped
                    part()
                    rows.put(row)
                    row += 1
