r"""NVTX ranges of domain `restart_sampling`: what a profiler shows of a run.

Ranges: `batch`, `main`, `restart i iteration k`, `trajectory`, `mixed`, `traced`, `capture`, `write`, and `profile`
around the job of `restart-sampling profile`. A range is registered once, and nothing is formatted in the loop; what a
range costs with no profiler attached is in `benchmarks/results/marks.json`. A range is host-side: in a captured graph
it covers the replay that a segment launches.

Without the nvtx package the ranges are PyTorch's own, where it was built with CUDA; those know no domains, so the
domain is in their names, "restart_sampling: batch". Without both there are no ranges, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

DOMAIN = "restart_sampling"


class TorchNvtx:
    """PyTorch's NVTX calls with the interface of the nvtx package and of its domains."""

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
    """Return PyTorch's ranges, or None for a PyTorch that was built without CUDA."""
    import torch

    # A PyTorch without CUDA has torch.cuda.nvtx too, and raises at the first range.
    return TorchNvtx(torch.cuda.nvtx) if hasattr(torch._C, "_nvtx") else None


@cache
def _default() -> Any:
    """Return what makes the ranges unless `sent_to` says otherwise, or None."""
    try:
        import nvtx
    except ImportError:  # it is declared for Linux only, and images with a GPU often lack it
        return _torch_nvtx()
    return nvtx


_sent: list[Any] = []  # what `sent_to` has put in the place of the default, innermost last


def _library() -> Any:
    return _sent[-1] if _sent else _default()


def provider() -> str:
    """Return what makes the ranges: "nvtx" for the package, "torch" for PyTorch's own, "none" if there are none."""
    library = _library()
    return "none" if library is None else "torch" if isinstance(library, TorchNvtx) else "nvtx"


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
    """A range that no profiler sees."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


@cache
def mark(name: str) -> _Mark | _NoMark:
    """Return the range called `name`, to be entered any number of times; the same object for the same name."""
    library = _library()
    return _NoMark() if library is None else _Mark(library.get_domain(DOMAIN), name)


@contextmanager
def sent_to(library: Any) -> Iterator[None]:
    """Send the ranges to `library`, which has nvtx's `get_domain`, or nowhere for None; for profilers and tests."""
    _sent.append(library)
    mark.cache_clear()
    try:
        yield
    finally:
        _sent.pop()
        mark.cache_clear()
