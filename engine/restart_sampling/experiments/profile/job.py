"""The job that is profiled: a sampler and the batches it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ...common.marks import mark
from ...sampler.sampler import Sampler
from ..measure.timing import interleaved


class Job:
    """A short run of a sampler.

    Attributes:
        sampler: the sampler.
        batches: how many batches it draws.
        seeds: their seeds.
        disturbed: in how many measurements other processes took over a tenth of the CPU.
    """

    def __init__(self, sampler: Sampler, batches: int = 1) -> None:
        self.sampler, self.batches = sampler, batches
        self.seeds = range(sampler.batch_size * batches)
        self.disturbed = 0

    @property
    def evaluations(self) -> int:
        """Evaluations of all batches."""
        return self.batches * self.sampler.plan.nfe

    def warm_up(self) -> None:
        """Draw one batch, to compile, capture and fill caches."""
        self.sampler.run(range(self.sampler.batch_size))
        self.wait()

    def run(self) -> None:
        """Draw all batches, inside the mark by which profilers find them."""
        with mark("profile"):
            self.sampler.run(self.seeds)
            self.wait()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Call cudaProfilerStart and cudaProfilerStop around the job, for a profiler that listens to them."""
        if self.sampler.device.type != "cuda":
            yield
            return
        with torch.cuda.profiler.profile():
            yield

    def seconds(self, work: Callable[[], object]) -> float:
        """Time `work`, and count it as disturbed if the machine was busy with something else."""
        rounds = interleaved({"job": work}, rounds=1, warm=0)
        self.disturbed += rounds.disturbed
        return rounds["job"][0]

    def wait(self) -> None:
        """Wait for the device."""
        if self.sampler.device.type == "cuda":
            torch.cuda.synchronize(self.sampler.device)

    def images_per_second(self) -> float:
        """Return how many images a second the job draws without a profiler."""

        def run() -> None:
            self.sampler.run(self.seeds)
            self.wait()

        return len(self.seeds) / self.seconds(run)
