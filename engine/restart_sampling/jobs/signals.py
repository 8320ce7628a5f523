"""SIGINT and SIGTERM: the first asks to stop after the batch in flight, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .pipeline import Stop


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """A `Stop` that signals set; `say` is told once.

    Exit codes are 130 and 143. To kill at once is safe: see manifest.py.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # handlers belong to the main thread
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
