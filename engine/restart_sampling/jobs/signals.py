"""Stopping a job: SIGINT or SIGTERM asks it to stop after the batch in flight, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Asks a pipeline to stop after the batch in flight: call it to ask; it is true from then on.

    Attributes:
        signal: why, as an exit code says it; 0 for no signal.
    """

    def __init__(self) -> None:
        self.event, self.signal = threading.Event(), 0

    def __call__(self, signal: int = 0) -> None:
        self.signal = self.signal or signal
        self.event.set()

    def __bool__(self) -> bool:
        return self.event.is_set()


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """Yield a `Stop` that SIGINT and SIGTERM set, with the exit codes 130 and 143; `say` is called at the first one.

    To end the process at once, as the second one does, is safe: see manifest.py.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread can have handlers
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        stop(128 + number)
        say("stopping after this batch; once more stops at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
