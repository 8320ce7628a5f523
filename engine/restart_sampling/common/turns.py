r"""Turns: one run at a time has a sampler's buffers.

A sampler has one set of buffers. A run that begins inside another one (in its callback, or in a second thread) would
overwrite the samples under way, so it is refused. A generator may be left between two batches. Where nothing of it is
in the buffers then, other runs may come between; where samples are under way (plans that share batches), it must not go
on after another run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RestartValueError


class Turns:
    """Who has the buffers: `taken` is a turn, `count` how many there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()  # a copy has buffers of its own, and a lock cannot be copied

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the buffers while the context lasts.

        Raises:
            RestartValueError: another run has them.
        """
        if not self._lock.acquire(blocking=False):
            raise RestartValueError(
                "this sampler is in the middle of another run, in its callback or in another thread; make a Sampler for each"
            )
        try:
            self.count += 1
            yield
        finally:
            self._lock.release()

    def check_alone(self, before: int) -> None:
        """Raise if this turn is not the one that followed turn `before`: the samples under way were overwritten in
        between.
        """
        if self.count != before + 1:
            raise RestartValueError(
                "another run of this sampler came between two batches of this one, whose samples were under way; finish a run "
                "before the next, or make a Sampler for each"
            )
