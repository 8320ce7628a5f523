r"""Turns: one run at a time uses a set of buffers.

A sampler has one set of buffers. A run that begins inside another one (in its callback, or in a second thread) would
overwrite the samples in the buffers, so it is refused. A generator may be paused between two batches. If its buffers
hold nothing then, other runs may take place in between; if they hold samples that are still being drawn (plans that
share batches), it must not continue after another run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RestartValueError


class Turns:
    """The turns of one set of buffers: `taken` is a turn, `count` how many there have been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()  # a copy has buffers of its own, and a lock cannot be copied

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the buffers while the context lasts.

        Raises:
            RestartValueError: another run holds them.
        """
        if not self._lock.acquire(blocking=False):
            raise RestartValueError(
                "this sampler is in the middle of another run, in its callback or in another thread; make a Sampler "
                "for each"
            )
        try:
            self.count += 1
            yield
        finally:
            self._lock.release()

    def check_alone(self, before: int) -> None:
        """Raise RestartValueError if this turn is not the next one after turn `before`.

        A run in between has overwritten the samples.
        """
        if self.count != before + 1:
            raise RestartValueError(
                "another run of this sampler came between two batches of this one, whose samples were under way; "
                "finish a run before the next, or make a Sampler for each"
            )
