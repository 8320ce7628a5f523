r"""The pipeline of a job: sample, collect shards, encode and write beside the sampler.

The sampler's thread draws batches of consecutive seeds, across the borders of shards, and never waits for a disk unless
`BACKLOG` finished shards are waiting for the writers (back-pressure: memory stays bounded). A shard that is complete goes to a
writer thread, which writes its files, flushes them and then its line of the manifest. A writer's error stops the job at
the next batch; what is finished stays finished.

A shard that is not complete is kept as it grows, by a thread of its own, in a part file (`parts`): at most every
KEEP_SECONDS, and whatever ends the run. The next run begins with what is kept and draws the seeds that follow. A
stopped run also writes the files of its last shard as far as it went, for people to see; its line then names fewer
seeds."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..common.errors import OutputError
from ..common.marks import mark
from ..sampler.seeds import Seeds
from .formats.base import ShardData
from .manifest import Line
from .parts import Parts, Piece
from .shards import Shard

WRITERS = 2
BACKLOG = 4  # shards that are being written or wait for it
# between pieces: what a kill may cost, and at 5 to 20 ms for an fsync at most 1 % of another thread's time
KEEP_SECONDS = 2.0


@dataclass(frozen=True)
class Drawn:
    """A batch of samples: seeds int64 [n], labels int64 [n] or None, `fetch` for the pixels, seeds that are not finite."""

    seeds: np.ndarray
    labels: np.ndarray | None
    fetch: Callable[[], np.ndarray]
    nonfinite: frozenset[int]


class Source(Protocol):
    """Who draws: the batches of some seeds, in order."""

    batch: int
    dtype: str
    device: str

    def draw(self, seeds: Seeds) -> Drawn: ...


@dataclass
class _Open:
    """A shard that is being collected: the first `kept` of its pieces are in part files, the first `before` from
    earlier runs.
    """

    shard: Shard
    pieces: list[Piece] = field(default_factory=list)
    kept: int = 0
    before: int = 0
    kept_at: float = field(default_factory=time.perf_counter)  # when it was begun, or kept last
    keeping: Future[None] | None = None

    def __post_init__(self) -> None:
        self.count = sum(piece.count for piece in self.pieces)
        self.kept = self.before = len(self.pieces)

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.count += piece.count

    @property
    def missing(self) -> int:
        return len(self.shard.seeds) - self.count

    @property
    def left(self) -> Seeds:
        """The seeds that are to be drawn."""
        if not self.count:
            return self.shard.seeds
        return Seeds.ascending(np.setdiff1d(self.shard.seeds.numpy(), self.seeds(), assume_unique=True))

    @property
    def images_before(self) -> int:
        """Images that earlier runs have drawn."""
        return sum(len(piece.seeds) for piece in self.pieces[: self.before])

    def seeds(self) -> np.ndarray:
        """The seeds that are collected, ascending."""
        parts = [np.array([*piece.nonfinite], np.int64) for piece in self.pieces]
        return np.sort(np.concatenate([*(piece.seeds for piece in self.pieces), *parts]))

    def cut(self) -> _Open:
        """The shard as far as it is collected; its line then names fewer seeds, so a later run goes on with it."""
        self.shard = Shard(self.shard.index, Seeds.ascending(self.seeds()))
        return self


class Stop:
    """Asks a pipeline to stop after the batch in flight; `signal` is why, as an exit code says it."""

    def __init__(self) -> None:
        self.event, self.signal = threading.Event(), 0

    def __call__(self, signal: int = 0) -> None:
        self.signal = self.signal or signal
        self.event.set()

    def __bool__(self) -> bool:
        return self.event.is_set()


@dataclass
class Result:
    """What a pipeline did: images written, shards, seeds without an image, seconds, and whether it was stopped."""

    images: int = 0
    shards: int = 0
    nonfinite: list[int] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False


def run(
    todo: Iterable[Shard],
    source: Source,
    write: Callable[[ShardData], Any],
    done: Callable[[Line, ShardData, int], None],
    plan: str,
    stop: Stop,
    progress: Callable[[int], None] | None = None,
    parts: Parts | None = None,
    keep_seconds: float = KEEP_SECONDS,
) -> Result:
    """Draw and write the shards of `todo`.

    Args:
        write: writes the files of a shard → `writers.Written`; called in a writer thread.
        done: called in a writer thread with the line of a shard whose files are on the disk, and how many of its images
            earlier runs have drawn; appends the line to the manifest.
        plan: digest of the plan. stop: polled after every batch. progress: called with the samples of every batch.
        parts: where shards that are not finished are kept, every `keep_seconds` at most; None keeps nothing.
    """
    result, lock = Result(), threading.Lock()
    started = time.perf_counter()

    def finish(shard: _Open) -> None:
        if shard.keeping is not None:
            wait([shard.keeping])  # so that nothing is kept after the shard is finished
        try:
            publish(shard)
        except OSError:  # the files of a shard may need more room than what of it is not kept yet
            with contextlib.suppress(OSError):
                keep(shard, len(shard.pieces))
            raise

    def publish(shard: _Open) -> None:
        data = _data(shard, plan)
        with mark("write"):
            written = write(data)
        line = Line(
            shard.shard.index,
            str(shard.shard.seeds),
            len(data.seeds),
            written.files,
            written.bytes,
            written.sha256,
            data.nonfinite,
            source.batch,
            source.dtype,
            source.device,
        )
        with lock:
            done(line, data, shard.images_before)
            result.images += line.count - shard.images_before
            result.shards += 1
            result.nonfinite += line.nonfinite

    def keep(shard: _Open, upto: int) -> None:
        if parts is not None and shard.kept < upto:
            parts.keep(shard.shard.index, shard.pieces[shard.kept : upto])
            shard.kept, shard.kept_at = upto, time.perf_counter()

    pool, waiting = ThreadPoolExecutor(WRITERS, "restart-writer"), deque[Future[None]]()
    keeper = ThreadPoolExecutor(1, "restart-keeper")  # one: pieces of a shard are appended in order
    opened: deque[_Open] = deque()

    def open_shard(shard: Shard) -> Seeds:
        opened.append(_Open(shard, [] if parts is None else parts.load(shard.index, shard.seeds)))
        return opened[-1].left

    def hand_over() -> None:
        while opened and not opened[0].missing:
            waiting.append(pool.submit(finish, opened.popleft()))
        while waiting and (waiting[0].done() or len(waiting) > BACKLOG):
            waiting.popleft().result()

    def keep_open(shard: _Open) -> Future[None]:
        shard.keeping = keeper.submit(keep, shard, len(shard.pieces))
        return shard.keeping

    def collect(drawn: Drawn) -> None:
        _sort_in(drawn, opened)
        if progress is not None:  # before its shards are finished, so that their events count this batch
            progress(len(drawn.seeds))
        hand_over()
        # At most one shard is collected in part: batches run through the shards in order.
        for shard in itertools.islice(opened, 1):
            if (last := shard.keeping) is not None and last.done():
                last.result()
            if (last is None or last.done()) and time.perf_counter() - shard.kept_at >= keep_seconds:
                keep_open(shard)

    before: Drawn | None = None  # its pixels are on their way to the host while the next batch is drawn
    try:
        for seeds in _batches(iter(todo), open_shard, lambda: source.batch):
            drawn = source.draw(seeds)
            before, ready = drawn, before
            if ready is not None:
                collect(ready)
            if stop:
                result.stopped = True
                break
        last, before = before, None
        if last is not None:
            collect(last)
        hand_over()  # a shard of which nothing was missing but its files
    finally:
        errors = []
        if before is not None:
            with contextlib.suppress(Exception):  # another error is on its way
                collect(before)
        # Whatever else went wrong, what was drawn is kept, and then written as far as it went.
        waiting += [keep_open(shard) for shard in opened]
        waiting += [pool.submit(finish, shard.cut()) for shard in opened if shard.count]
        for future in waiting:
            try:
                future.result()
            except Exception as error:
                errors.append(error)
        pool.shutdown()
        keeper.shutdown()
        result.seconds = time.perf_counter() - started
        if errors:
            raise errors[0]
    return result


def _batches(shards: Iterator[Shard], begin: Callable[[Shard], Seeds], size: Callable[[], int]) -> Iterator[Seeds]:
    """Batches of seeds, shard after shard; `begin` gives the seeds of a shard when the first is asked for.

    `size` may shrink.
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


def _sort_in(drawn: Drawn, opened: Sequence[_Open]) -> None:
    """Give the samples of a batch to the shards they belong to; batches run through the shards in order."""
    images, at = drawn.fetch(), 0
    keep = np.array([int(seed) not in drawn.nonfinite for seed in drawn.seeds], dtype=bool)
    for shard in opened:
        n = min(shard.missing, len(drawn.seeds) - at)
        part = slice(at, at + n)
        kept = keep[part]
        labels = None if drawn.labels is None else drawn.labels[part][kept]
        bad = tuple(int(seed) for seed in drawn.seeds[part][~kept])
        if n:
            shard.add(Piece(drawn.seeds[part][kept], labels, images[part][kept], bad))
        at += n
        if at == len(drawn.seeds):
            break


def _data(shard: _Open, plan: str) -> ShardData:
    pieces = shard.pieces
    seeds = np.concatenate([piece.seeds for piece in pieces])
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    images = np.concatenate([piece.images for piece in pieces])
    bad = sorted(seed for piece in pieces for seed in piece.nonfinite)
    data = ShardData(shard.shard, seeds, np.concatenate(labels) if labels else None, images, plan, tuple(bad))
    if (np.diff(seeds) > 0).all():
        return data
    order = np.argsort(seeds)  # pieces of several workers
    labels_ = None if data.labels is None else data.labels[order]
    return replace(data, seeds=seeds[order], labels=labels_, images=images[order])


def explain(error: OSError, folder: Any) -> OutputError:
    """A failed write in one sentence, with what is free on the disk."""
    where = getattr(error, "filename", None) or folder
    text = f"cannot write {where}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            text += f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"
        text += "; make room and run the same command again, it goes on where it stopped"
    else:
        text += "; what is finished stays, and the same command goes on from there"
    return OutputError(text)
