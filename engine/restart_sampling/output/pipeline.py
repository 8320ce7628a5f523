r"""The pipeline of a job: sample, collect shards, encode and write beside the sampler.

The sampler's thread draws batches of consecutive seeds, across the borders of shards, and never waits for a disk unless
`BACKLOG` finished shards are waiting for the writers (back-pressure: memory stays bounded). A shard that is complete goes to a
writer thread, which writes its files, flushes them and then its line of the manifest. A writer's error stops the job at the
next batch; what is finished stays finished. A job that is stopped writes its last shard as far as it went.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import OutputError
from ..marks import mark
from ..seeds import Seeds
from .manifest import Line
from .shards import Shard
from .writers import ShardData

WRITERS = 2
BACKLOG = 4  # shards that are being written or wait for it


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
    """A shard that is being collected."""

    shard: Shard
    seeds: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    nonfinite: list[int] = field(default_factory=list)
    count: int = 0

    @property
    def missing(self) -> int:
        return len(self.shard.seeds) - self.count

    def cut(self) -> _Open:
        """The shard as far as it is collected; its line then names fewer seeds, so a later run draws it anew."""
        self.shard = Shard(self.shard.index, self.shard.seeds[: self.count])
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
    done: Callable[[Line, ShardData], None],
    plan: str,
    stop: Stop,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Draw and write the shards of `todo`.

    Args:
        write: writes the files of a shard → `writers.Written`; called in a writer thread.
        done: called in a writer thread with the line of a shard whose files are on the disk; appends it to the manifest.
        plan: digest of the plan. stop: polled after every batch. progress: called with the samples of every batch.
    """
    result, lock = Result(), threading.Lock()
    started = time.perf_counter()

    def finish(shard: _Open) -> None:
        data = _data(shard, plan)
        with mark("write"):
            written = write(data)
        line = Line(
            shard.shard.index, str(shard.shard.seeds), len(data.seeds), written.files, written.bytes, written.sha256,
            data.nonfinite, source.batch, source.dtype, source.device,
        )  # fmt: skip
        with lock:
            done(line, data)
            result.images += line.count
            result.shards += 1
            result.nonfinite += line.nonfinite

    pool, waiting = ThreadPoolExecutor(WRITERS, "restart-writer"), deque[Future[None]]()
    opened: deque[_Open] = deque()

    def collect(drawn: Drawn) -> None:
        _sort_in(drawn, opened)
        if progress is not None:  # before its shards are finished, so that their events count this batch
            progress(len(drawn.seeds))
        while opened and not opened[0].missing:
            waiting.append(pool.submit(finish, opened.popleft()))
        while waiting and (waiting[0].done() or len(waiting) > BACKLOG):
            waiting.popleft().result()

    before: Drawn | None = None  # its pixels are on their way to the host while the next batch is drawn
    try:
        for seeds in _batches(iter(todo), opened, lambda: source.batch):
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
    finally:
        errors = []
        if before is not None:
            with contextlib.suppress(Exception):  # another error is on its way
                collect(before)
        # Whatever else went wrong, what was drawn is written; of the last shard as far as it went.
        waiting += [pool.submit(finish, shard.cut()) for shard in opened if shard.count]
        for future in waiting:
            try:
                future.result()
            except Exception as error:
                errors.append(error)
        pool.shutdown()
        result.seconds = time.perf_counter() - started
        if errors:
            raise errors[0]
    return result


def _batches(shards: Iterator[Shard], opened: deque[_Open], size: Callable[[], int]) -> Iterator[Seeds]:
    """Batches of seeds, shard after shard; a shard is opened when its first seed is asked for. `size` may shrink."""
    left = Seeds()
    while True:
        pieces: list[range] = []
        wanted = size()
        while wanted:
            if not left:
                shard = next(shards, None)
                if shard is None:
                    break
                opened.append(_Open(shard))
                left = shard.seeds
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
        shard.seeds.append(drawn.seeds[part][kept])
        shard.images.append(images[part][kept])
        if drawn.labels is not None:
            shard.labels.append(drawn.labels[part][kept])
        shard.nonfinite += [int(seed) for seed in drawn.seeds[part][~kept]]
        shard.count += n
        at += n
        if at == len(drawn.seeds):
            break


def _data(shard: _Open, plan: str) -> ShardData:
    labels = np.concatenate(shard.labels) if shard.labels else None
    return ShardData(
        shard.shard, np.concatenate(shard.seeds), labels, np.concatenate(shard.images), plan, tuple(shard.nonfinite)
    )  # fmt: skip


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
