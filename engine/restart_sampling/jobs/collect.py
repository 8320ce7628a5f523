r"""From batches to shards: which seeds the next batch has, and the samples of a shard as they are collected.

Batches hold consecutive seeds and run across the borders of shards, so at any time at most one shard is collected in
part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..sampler.seeds import Seeds
from .formats.base import ShardData
from .parts import Piece
from .shards import Shard

Facts = Callable[[np.ndarray], tuple[Mapping[str, Any], ...]]


@dataclass(frozen=True)
class Drawn:
    """A batch of samples.

    Attributes:
        seeds: int64 [n].
        labels: class labels int64 [n], or None for an unconditional network.
        fetch: returns the pixels of all seeds, once they are on the host.
        nonfinite: seeds whose samples became NaN or infinite.
    """

    seeds: np.ndarray
    labels: np.ndarray | None
    fetch: Callable[[], np.ndarray]
    nonfinite: frozenset[int]


@dataclass
class OpenShard:
    """A shard that is being collected.

    Attributes:
        shard: its number and seeds.
        pieces: what is collected.
        before: how many of its first pieces earlier runs have drawn.
        saved: how many of its first pieces are in part files.
        saved_at: when it was begun, or saved last.
        saving: the save that is under way or was the last.
    """

    shard: Shard
    pieces: list[Piece] = field(default_factory=list)
    before: int = 0
    saved: int = 0
    saved_at: float = field(default_factory=time.perf_counter)
    saving: Future[None] | None = None

    def __post_init__(self) -> None:
        self.count = sum(piece.count for piece in self.pieces)
        self.saved = self.before = len(self.pieces)

    def add(self, piece: Piece) -> None:
        """Collect a piece."""
        self.pieces.append(piece)
        self.count += piece.count

    @property
    def missing(self) -> int:
        """How many seeds are still to be drawn."""
        return len(self.shard.seeds) - self.count

    @property
    def left(self) -> Seeds:
        """The seeds that are still to be drawn."""
        if not self.count:
            return self.shard.seeds
        return Seeds.ascending(np.setdiff1d(self.shard.seeds.numpy(), self.seeds(), assume_unique=True))

    @property
    def images_before(self) -> int:
        """How many images earlier runs have drawn."""
        return sum(len(piece.seeds) for piece in self.pieces[: self.before])

    def seeds(self) -> np.ndarray:
        """Return the seeds that are collected, ascending."""
        parts = [np.array([*piece.nonfinite], np.int64) for piece in self.pieces]
        return np.sort(np.concatenate([*(piece.seeds for piece in self.pieces), *parts]))

    def cut(self) -> OpenShard:
        """Restrict the shard to what is collected. Its line then names fewer seeds, so a later run goes on with it."""
        self.shard = Shard(self.shard.index, Seeds.ascending(self.seeds()))
        return self

    def data(self, plan: str, facts: Facts | None = None) -> ShardData:
        """Return what is collected as a format writes it.

        Args:
            plan: the digest of the plan. facts: returns what is known of each of some seeds besides, None for nothing.
        """
        seeds = np.concatenate([piece.seeds for piece in self.pieces])
        found = [piece.labels for piece in self.pieces if piece.labels is not None]
        labels = np.concatenate(found) if found else None
        images = np.concatenate([piece.images for piece in self.pieces])
        bad = sorted(seed for piece in self.pieces for seed in piece.nonfinite)
        data = ShardData(self.shard, seeds, labels, images, plan, tuple(bad))
        if not (np.diff(seeds) > 0).all():
            order = np.argsort(seeds)  # pieces of several workers
            labels = None if labels is None else labels[order]
            data = replace(data, seeds=seeds[order], labels=labels, images=images[order])
        return data if facts is None else replace(data, rows=facts(data.seeds))


def batches(shards: Iterator[Shard], begin: Callable[[Shard], Seeds], size: Callable[[], int]) -> Iterator[Seeds]:
    """Yield the seeds of batch after batch, across the borders of shards.

    Args:
        shards: the shards to draw.
        begin: returns the seeds of a shard that are to be drawn; called when its first seed is needed.
        size: returns the batch size, which may shrink on the way.
    """
    left = Seeds()
    while True:
        pieces: list[range] = []
        wanted = size()
        while wanted:
            if not left:
                shard = next(shards, None)
                if shard is None:
                    break
                left = begin(shard)
            piece = left[:wanted]
            left = left[len(piece) :]
            pieces += piece.parts
            wanted -= len(piece)
        if not pieces:
            return
        yield Seeds(pieces)


def sort_in(drawn: Drawn, opened: Sequence[OpenShard]) -> None:
    """Add the samples of a batch to the shards they belong to; batches run through the shards in order."""
    images, at = drawn.fetch(), 0
    good = np.array([int(seed) not in drawn.nonfinite for seed in drawn.seeds], dtype=bool)
    for shard in opened:
        n = min(shard.missing, len(drawn.seeds) - at)
        part = slice(at, at + n)
        chosen = good[part]
        labels = None if drawn.labels is None else drawn.labels[part][chosen]
        bad = tuple(int(seed) for seed in drawn.seeds[part][~chosen])
        if n:
            shard.add(Piece(drawn.seeds[part][chosen], labels, images[part][chosen], bad))
        at += n
        if at == len(drawn.seeds):
            break
