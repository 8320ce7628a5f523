r"""Shards: a job's seeds in fixed pieces that depend on nothing but the seeds and the shard size.

Shard k holds the job's seeds in [k·size, (k + 1)·size) in ascending order, whatever the order in which they were asked
for, the batch size, the workers or what an interrupted run had done. Seeds stay a few ranges, so a billion of them
start as fast as 64."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np

from ..common.checks import is_integer, scalar
from ..common.errors import RestartValueError
from ..sampler.seeds import Seeds

DEFAULT_SIZE = 1000
LARGEST = 2**31
MAX_SHARDS = 10_000_000  # of a job; verify and the start of a job look at each
MAX_SEEDS = 10**11


@dataclass(frozen=True)
class Shard:
    """One shard: its number, and its seeds, which ascend."""

    index: int
    seeds: Seeds

    @property
    def name(self) -> str:
        """Its number with leading zeros, as file names have it."""
        return f"{self.index:06d}"


class Shards:
    """The shards of a job, made as they are asked for.

    Args:
        seeds: all seeds of the job.
        size: how many seeds a shard may hold.
    """

    def __init__(self, seeds: Seeds, size: int = DEFAULT_SIZE) -> None:
        if not (is_integer(size) and 1 <= scalar(size) <= LARGEST):
            raise RestartValueError(f"the shard size must be an integer from 1 to {LARGEST:,}, got {size!r}")
        self.seeds, self.size = seeds, int(size)
        self.parts = sorted(seeds.parts, key=lambda part: part.start)
        self._tops = list(accumulate((part[-1] for part in self.parts), max))  # the largest seed so far

    def __iter__(self) -> Iterator[Shard]:
        last = -1
        for index in heapq.merge(*(self._indices(part) for part in self.parts)):
            if index != last:
                yield self[index]
            last = index

    def count(self) -> int:
        """Return how many there are, by one pass over their numbers; a single range needs none."""
        if len(self.parts) == 1 and self.parts[0].step <= self.size:
            (part,) = self.parts
            return part[-1] // self.size - part[0] // self.size + 1
        return sum(1 for _ in self)

    def _indices(self, part: range) -> Iterator[int]:
        """Return the ascending shard numbers of one part, each once if its step is no larger than a shard."""
        if part.step <= self.size:
            return iter(range(part[0] // self.size, part[-1] // self.size + 1))
        return (seed // self.size for seed in part)

    def __getitem__(self, index: int) -> Shard:
        """Return shard `index`, without seeds if the job has none there."""
        low, high = index * self.size, (index + 1) * self.size
        pieces = []
        for part in islice(self.parts, bisect.bisect_left(self._tops, low), None):
            if part.start >= high:
                break
            if part[-1] >= low:
                first = max(0, -(-(low - part.start) // part.step))
                piece = range(part.start + first * part.step, min(part[-1] + 1, high), part.step)
                if piece:
                    pieces.append(piece)
        if len(pieces) > 1 and any(piece.step > 1 for piece in pieces):  # they may interleave
            return Shard(index, Seeds.ascending(np.sort(np.concatenate([np.asarray(p) for p in pieces]))))
        return Shard(index, Seeds(pieces))


def check_number(seeds: Seeds, size: int) -> None:
    """Raise RestartValueError if a job has more seeds or shards than are supported; no shard is made to find out."""
    if len(seeds) > MAX_SEEDS:
        raise RestartValueError(f"a job has at most {MAX_SEEDS:,} seeds, and these are {len(seeds):,}")
    parts = seeds.parts
    span = max(part[-1] // size for part in parts) - min(part[0] // size for part in parts) + 1
    most = min(span, sum(min(len(part), part[-1] // size - part[0] // size + 1) for part in parts))
    if most > MAX_SHARDS:
        raise RestartValueError(
            f"a job has at most {MAX_SHARDS:,} shards, and {len(seeds):,} seeds in shards of {size:,} may be {most:,}; "
            f"choose a larger shard size, or several jobs"
        )
