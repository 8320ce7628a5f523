"""How the stages measure: times by CUDA events with the L2 cache flushed, traces, waits and allocations.

On a CPU the same functions return times of the host and empty counts, so a dry run takes every path.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rows import Rows

from restart_sampling.common.devices import select_device
from restart_sampling.common.torch_profiler import torch_profiler

# Many times the L2 of any card. Filling it takes a third of a millisecond at 3 TB/s: the host, which needs up to a
# tenth of one to launch a Triton kernel from Python, is then always ahead, and what is timed is the kernel alone.
FLUSH_BYTES = 1 << 30
SAMPLER_KERNELS = (
    "row_kernel",
    "step_kernel",
    "weigh_kernel",
    "advance_kernel",
    "restart::",
)  # step_kernel: its name before 0.1


def stage_options(description: str) -> tuple[argparse.Namespace, torch.device]:
    """Parse what every stage is called with; return the options and the device."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--results", type=Path, required=True, help="the JSON file")
    parser.add_argument("--logs", type=Path, required=True, help="folder for texts")
    parser.add_argument("--seconds", type=float, default=60, help="time that the stage may take")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the code")
    options = parser.parse_args()
    return options, select_device(options.device)


def seconds_of(run: Callable[[], object], device: torch.device, n: int = 50, flush: bool = True) -> list[float]:
    """Return the seconds of `n` runs. The flush before a run also keeps the GPU busy while the host launches."""
    if device.type != "cuda":
        return [_host_seconds(run) for _ in range(n)]
    scratch = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.int8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(n)]
    for _ in range(5):
        run()
    for start, stop in events:
        scratch.zero_()
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def _host_seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Trace(NamedTuple):
    """What ran on the GPU in one call, and how it was launched.

    Attributes:
        wall_us: from the beginning of the first kernel to the end of the last.
        busy_us: the part of it in which at least one was running.
        kernels: (name, microseconds) of kernels, copies and fills.
        launches: launch calls of the host: kernels, copies, fills, graphs.
        waits: synchronizing calls of the host.
    """

    wall_us: float
    busy_us: float
    kernels: list[tuple[str, float]]
    launches: int
    waits: int

    def share(self, names: tuple[str, ...] = SAMPLER_KERNELS) -> float:
        """Return the share of GPU time in kernels with one of these names."""
        total = sum(us for _, us in self.kernels)
        return sum(us for name, us in self.kernels if any(n in name for n in names)) / total if total else 0.0


def trace(run: Callable[[], object], device: torch.device) -> Trace:
    """Profile one call, which must have been warmed up."""
    activity = torch.profiler.ProfilerActivity
    cuda = device.type == "cuda"
    with torch_profiler(activities=[activity.CUDA if cuda else activity.CPU]) as profile:
        run()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X"]
    return summarize(events)


def summarize(events: list[dict[str, Any]]) -> Trace:
    """Return the Trace of the complete events of a Chrome trace."""
    device = sorted(
        (e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")), key=lambda e: float(e["ts"])
    )
    busy, end = 0.0, float("-inf")
    for event in device:
        start, stop = float(event["ts"]), float(event["ts"]) + float(event["dur"])
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    host = [e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    launches = sum(any(word in name for word in ("Launch", "Memcpy", "Memset")) for name in host)
    # cudaDeviceSynchronize is called by the profiler and by this module.
    waits = sum("Synchronize" in name and "Device" not in name for name in host)
    wall = end - float(device[0]["ts"]) if device else 0.0
    return Trace(wall, busy, [(e["name"], float(e["dur"])) for e in device], launches, waits)


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[str]]:
    """Yield a list that holds, after the block, where the host waited for the GPU, by PyTorch's own check."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def allocations(device: torch.device) -> int:
    """Return how many blocks the caching allocator has handed out so far."""
    return torch.cuda.memory_stats(device)["allocation.all.allocated"] if device.type == "cuda" else 0


def skip(rows: Rows, what: str, why: str, **key: Any) -> None:
    """Write a row that says what was not measured, and why."""
    rows.add(what, f"skipped: {why}", **key)
