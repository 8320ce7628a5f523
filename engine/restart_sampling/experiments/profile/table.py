"""A profile on the terminal: launches, time and share of each part, and the bandwidth of the fused step."""

from __future__ import annotations

import statistics
import time

import torch
from rich.table import Table

from ...common.errors import BackendError
from ...common.terminal import plain_console
from ..measure.traffic import bytes_per_evaluation, step_bytes
from .job import Job
from .parts import PARTS, Profile, duration


def show(found: Profile, job: Job, rate: float, where: str) -> None:
    """Print a profile.

    Args:
        found: the profile.
        job: the job that was profiled.
        rate: images per second without the profiler.
        where: what is said of the files.

    Raises:
        BackendError: the profiler recorded nothing on the device.
    """
    if not found.us:
        raise BackendError("the profiler recorded nothing on the device; try another --tool")
    sampler = job.sampler
    cuda = found.device == "cuda"
    title = f"one evaluation of {sampler.batch_size // found.lanes} samples: {duration(found.us)}"
    table = Table(title=title)
    for name in ("part", "launches" if cuda else "operators", "time", "share"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name in PARTS:
        part = found.parts[name]
        if part.launches or part.us:
            table.add_row(name, f"{part.launches:.1f}", duration(part.us), f"{100 * part.us / found.us:.1f} %")
    table.add_row("gaps", "", duration(found.gap_us), f"{100 * found.gap_us / found.us:.1f} %")
    size = sampler.net_dtype.itemsize
    step = found.parts["step"]
    elements = sampler.denoiser.numel * sampler.batch_size / found.lanes
    moved = elements * bytes_per_evaluation(step_bytes(sampler.table, size, size), step.launches)
    speed = moved / max(step.us, 1e-9) * 1e6
    threads = _threads(found.lanes)
    copy = _copy_bandwidth(sampler.device, found.lanes)
    console = plain_console()
    console.print(f"{sampler.plan.nfe} NFE, {sampler.describe()}")
    console.print(table)
    busy = "GPU busy" if cuda else f"{found.lanes} slices busy" if found.lanes > 1 else "busy"
    console.print(f"{busy} {100 * found.busy:.1f} % of the time; {rate:.3g} images/s without the profiler")
    alone = "" if cuda else f" on {threads} thread{'s' if threads != 1 else ''}"
    console.print(
        f"step: {moved / 1e6:.3g} MB per evaluation, {speed / 1e9:.3g} GB/s with its noise{alone}; "
        f"a copy of 128 MiB there: {copy / 1e9:.3g} GB/s",
        soft_wrap=True,
    )
    for note in sampler.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if job.disturbed:
        console.print(
            "note: other processes took over a tenth of the CPU meanwhile, so these times are too long; measure again "
            "on a quiet machine",
            soft_wrap=True,
        )
    console.print(where, soft_wrap=True)


def _threads(lanes: int) -> int:
    """Return the number of PyTorch's threads of one slice."""
    return max(1, torch.get_num_threads() // lanes)


def _copy_bandwidth(device: torch.device, lanes: int) -> float:
    """Return bytes per second, read and written, of a plain copy of 128 MiB: the median of 9.

    On a CPU it has the threads of one slice.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(_threads(lanes))
    source = torch.ones(32 * 2**20, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(11):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return 2 * source.nbytes / statistics.median(seconds[2:])
