r"""NVTX ranges of domain `restart_sampling`: what a profiler shows of a run.

Ranges: `batch`, `main`, `restart i iteration k`, `trajectory`, `mixed`, `capture`, `write`, and `profile` around the job of
`restart-sampling profile`. Names are registered and attributes made once, and nothing is formatted in the loop: what a range
costs when nobody listens is in `benchmarks/results/marks.json`. Without the nvtx package there are no ranges and everything else
is the same. A range is host-side: in a captured graph it covers the replay that a span launches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

DOMAIN = "restart_sampling"

try:
    import nvtx
except ImportError:  # declared for Linux only; a machine without it runs unmarked
    nvtx = None


class _Mark:
    """A reusable range: `with mark("batch"): …`."""

    __slots__ = ("_attributes", "_domain")

    def __init__(self, domain: Any, name: str) -> None:
        self._domain, self._attributes = domain, domain.get_event_attributes(message=name)

    def __enter__(self) -> None:
        self._domain.push_range(self._attributes)

    def __exit__(self, *error: object) -> None:
        self._domain.pop_range()


class _NoMark:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


@cache
def mark(name: str) -> _Mark | _NoMark:
    """The range called `name`, to be entered any number of times; the same object for the same name."""
    return _NoMark() if nvtx is None else _Mark(nvtx.get_domain(DOMAIN), name)


@contextmanager
def sent_to(module: Any) -> Iterator[None]:
    """Inside, ranges go to `module`, which has nvtx's `get_domain`, or nowhere if it is None; for profilers and tests."""
    global nvtx
    before, nvtx = nvtx, module
    mark.cache_clear()
    try:
        yield
    finally:
        nvtx = before
        mark.cache_clear()
