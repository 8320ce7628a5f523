r"""NVTX ranges of domain `restart_sampling`: what a profiler shows of a run.

Ranges: `batch`, `main`, `restart i iteration k`, `trajectory`, `mixed`, `capture`, `write`, and `profile` around the
    job of
`restart-sampling profile`. Names are registered and attributes made once, and nothing is formatted in the loop: what a range
costs when nobody listens is in `benchmarks/results/marks.json`. A range is host-side: in a captured graph it covers the
replay that a span launches.

Without the nvtx package they are PyTorch's own NVTX ranges, where it was built with CUDA; those know no domains, so the
domain is in their names, "restart_sampling: batch". Without both there are no ranges, and everything else is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

DOMAIN = "restart_sampling"


class TorchNvtx:
    """PyTorch's NVTX calls with the face of the nvtx package and of its domain."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def get_domain(self, name: str) -> TorchNvtx:
        return self

    def get_event_attributes(self, message: str) -> str:
        return f"{DOMAIN}: {message}"

    def push_range(self, name: str) -> None:
        self._calls.range_push(name)

    def pop_range(self) -> None:
        self._calls.range_pop()


def _torch_nvtx() -> TorchNvtx | None:
    """PyTorch's ranges, or None for a PyTorch that was built without CUDA."""
    import torch

    # Without CUDA torch.cuda.nvtx is there too, and raises at the first range.
    return TorchNvtx(torch.cuda.nvtx) if hasattr(torch._C, "_nvtx") else None


try:
    import nvtx
except ImportError:  # declared for Linux only, and images with a GPU often lack it
    nvtx = _torch_nvtx()


def provider() -> str:
    """Return who makes the ranges: "nvtx" for the package, "torch" for PyTorch's own, "none" if there are none."""
    return "none" if nvtx is None else "torch" if isinstance(nvtx, TorchNvtx) else "nvtx"


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
