r"""The pipeline of a job: sample, collect shards, encode and write beside the sampler.

The sampler's thread draws batches of consecutive seeds, across the borders of shards, and waits for the disk only while
more than `BACKLOG` finished shards wait for the writers: so memory stays bounded. A complete shard goes to a writer
thread, which writes its files, flushes them, and then appends its line to the manifest. A writer's error stops the job
at the next batch; what is finished stays finished.

A shard that is not complete is saved as it grows, by a thread of its own, in a part file (`parts`): at most every
`KEEP_SECONDS`, and whatever ends the run. The next run begins with what is saved and draws the seeds that follow. A
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..common.errors import OutputError
from ..common.marks import mark
from ..sampler.seeds import Seeds
from .collect import Drawn, Facts, OpenShard, batches, sort_in
from .formats.base import ShardData, Written
from .manifest import Line
from .parts import Parts
from .shards import Shard
from .signals import Stop

WRITERS = 2
BACKLOG = 4  # shards that are being written or wait for it
# Between two saves: what a kill may cost, and at 5 to 20 ms for an fsync at most 1 % of another thread's time.
KEEP_SECONDS = 2.0


class Source(Protocol):
    """What draws: returns batches of samples by their seeds.

    Attributes:
        batch: the most seeds of a batch; it may shrink.
        dtype, device: what the manifest records.
    """

    batch: int
    dtype: str
    device: str

    def draw(self, seeds: Seeds) -> Drawn: ...


@dataclass
class Result:
    """What a pipeline did.

    Attributes:
        images: how many it drew and wrote.
        shards: how many it wrote.
        nonfinite: seeds without an image.
        seconds: how long it took.
        stopped: whether it was stopped.
    """

    images: int = 0
    shards: int = 0
    nonfinite: list[int] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False


class Pipeline:
    """Draws and writes shards.

    Args:
        source: draws the samples.
        write: write(data) writes the files of a shard; called in a writer thread.
        done: done(line, data, before) appends the line of a shard whose files are on the disk, `before` of whose images
            earlier runs have drawn; called in a writer thread, one call at a time.
        plan: digest of the plan.
        stop: is asked after every batch.
        progress: called with the number of samples of every batch.
        parts: where shards that are not finished are saved; None saves nothing.
        keep_seconds: least seconds between two saves of a shard.
        follow: called when a shard is begun with what is drawn next: its seeds, and then those of the shard after it.
        facts: returns what formats store of each of some seeds besides; called in a writer thread.
    """

    def __init__(
        self,
        source: Source,
        write: Callable[[ShardData], Written],
        done: Callable[[Line, ShardData, int], None],
        plan: str,
        stop: Stop,
        progress: Callable[[int], None] | None = None,
        parts: Parts | None = None,
        keep_seconds: float = KEEP_SECONDS,
        follow: Callable[[Iterator[int]], None] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.follow, self.facts = follow, facts
        self.ahead: Shard | None = None  # the shard after the last one that was begun
        self.source, self.write, self.done, self.plan, self.stop = source, write, done, plan, stop
        self.progress, self.parts, self.keep_seconds = progress, parts, keep_seconds
        self.result, self.lock = Result(), threading.Lock()
        self.opened: deque[OpenShard] = deque()  # shards that are collected, in order
        self.waiting: deque[Future[None]] = deque()  # shards that are written, in order

    def run(self, todo: Iterable[Shard]) -> Result:
        """Draw and write the shards of `todo`.

        Raises:
            OSError: a write failed. Errors of the source pass through. Either way, what was drawn is saved first.
        """
        started = time.perf_counter()
        self.writers = ThreadPoolExecutor(WRITERS, "restart-writer")
        self.saver = ThreadPoolExecutor(1, "restart-saver")  # one thread: the pieces of a shard are appended in order
        before: Drawn | None = None  # its pixels are copied to the host while the next batch is drawn
        try:
            for seeds in batches(self._looking_ahead(todo), self._open, lambda: self.source.batch):
                drawn = self.source.draw(seeds)
                before, ready = drawn, before
                if ready is not None:
                    self._collect(ready)
                if self.stop:
                    self.result.stopped = True
                    break
            last, before = before, None
            if last is not None:
                self._collect(last)
            self._hand_over()  # a shard of which only the files were missing
        finally:
            self._end(before)
            self.result.seconds = time.perf_counter() - started
        return self.result

    def _looking_ahead(self, todo: Iterable[Shard]) -> Iterator[Shard]:
        """Yield the shards, and know the one after each."""
        shards = iter(todo)
        self.ahead = next(shards, None)
        while (shard := self.ahead) is not None:
            self.ahead = next(shards, None)
            yield shard

    def _open(self, shard: Shard) -> Seeds:
        """Begin to collect a shard, with what is saved of it; return the seeds that are left."""
        self.opened.append(OpenShard(shard, [] if self.parts is None else self.parts.load(shard.index, shard.seeds)))
        left = self.opened[-1].left
        if self.follow is not None:
            self.follow(itertools.chain(left, () if self.ahead is None else self.ahead.seeds))
        return left

    def _collect(self, drawn: Drawn) -> None:
        """Add a batch to its shards, hand over those that are complete, save the one that is not if it is time."""
        sort_in(drawn, self.opened)
        if self.progress is not None:  # before its shards are finished, so that their events count this batch
            self.progress(len(drawn.seeds))
        self._hand_over()
        for shard in itertools.islice(self.opened, 1):  # at most one shard is collected in part
            if (last := shard.saving) is not None and last.done():
                last.result()
            if (last is None or last.done()) and time.perf_counter() - shard.saved_at >= self.keep_seconds:
                self._save_later(shard)

    def _hand_over(self) -> None:
        """Give complete shards to the writers; wait while too many are being written. Raises their errors."""
        while self.opened and not self.opened[0].missing:
            self.waiting.append(self.writers.submit(self._finish, self.opened.popleft()))
        while self.waiting and (self.waiting[0].done() or len(self.waiting) > BACKLOG):
            self.waiting.popleft().result()

    def _save_later(self, shard: OpenShard) -> Future[None]:
        shard.saving = self.saver.submit(self._save, shard, len(shard.pieces))
        return shard.saving

    def _save(self, shard: OpenShard, upto: int) -> None:
        """Append the pieces of a shard that are not saved yet, up to number `upto`, to its part file."""
        if self.parts is not None and shard.saved < upto:
            self.parts.save(shard.shard.index, shard.pieces[shard.saved : upto])
            shard.saved, shard.saved_at = upto, time.perf_counter()

    def _finish(self, shard: OpenShard) -> None:
        """Write a shard; in a writer thread."""
        if shard.saving is not None:
            wait([shard.saving])  # so that no piece is saved after the shard is finished
        try:
            self._publish(shard)
        except OSError:  # the disk may have room for the pieces that are not saved yet, if not for the files
            with contextlib.suppress(OSError):
                self._save(shard, len(shard.pieces))
            raise

    def _publish(self, shard: OpenShard) -> None:
        data = shard.data(self.plan, self.facts)
        with mark("write"):
            written = self.write(data)
        line = Line(
            shard.shard.index,
            str(shard.shard.seeds),
            len(data.seeds),
            written.files,
            written.bytes,
            written.sha256,
            data.nonfinite,
            self.source.batch,
            self.source.dtype,
            self.source.device,
        )
        with self.lock:
            self.done(line, data, shard.images_before)
            self.result.images += line.count - shard.images_before
            self.result.shards += 1
            self.result.nonfinite += line.nonfinite

    def _end(self, before: Drawn | None) -> None:
        """Save and write what was drawn, whatever ended the run; raise the first error of a thread.

        Args:
            before: a batch that is not collected yet, if an error came first.
        """
        if before is not None:
            # Any exception: one that ended the run is on its way, and this one must not replace it.
            with contextlib.suppress(Exception):
                self._collect(before)
        # Shards that are not complete are saved, and then written as far as they went.
        self.waiting += [self._save_later(shard) for shard in self.opened]
        self.waiting += [self.writers.submit(self._finish, shard.cut()) for shard in self.opened if shard.count]
        # `exception` waits; every thread ends before the first error is raised.
        errors = [error for future in self.waiting if (error := future.exception()) is not None]
        self.writers.shutdown()
        self.saver.shutdown()
        if errors:
            raise errors[0]


def explain(error: OSError, folder: Path) -> OutputError:
    """Return a failed write as an OutputError: what could not be written, and what to do."""
    where = getattr(error, "filename", None) or folder
    text = f"cannot write {where}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            text += f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"
        text += "; make room and run the same command again, it goes on where it stopped"
    else:
        text += "; what is finished stays, and the same command goes on from there"
    return OutputError(text)
