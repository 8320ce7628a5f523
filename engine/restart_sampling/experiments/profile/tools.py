"""The profilers: PyTorch's own in this process, Nsight Systems and Nsight Compute in one that they start."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from ...common import marks
from ...common.errors import BackendError
from ...common.torch_profiler import torch_profiler
from .commands import ncu_command, nsys_command, nsys_stats_command
from .job import Job
from .parts import Profile, profile_cpu, profile_cuda
from .table import show
from .traces import read_nsys, read_trace, write_trace


def by_torch(out: Path, job: Job) -> None:
    """Profile a job with torch.profiler, write its trace to the folder `out` and print the table."""
    job.warm_up()
    rate = job.images_per_second()
    activity = torch.profiler.ProfilerActivity
    cuda = job.sampler.device.type == "cuda"
    trace = out / "trace.json.gz"
    everywhere = torch.profiler._ExperimentalConfig(profile_all_threads=True)  # slices have threads of their own
    activities = [activity.CPU, activity.CUDA] if cuda else [activity.CPU]
    profiler = torch_profiler(activities=activities, experimental_config=everywhere)
    ranges = _TorchRanges()
    with _ranges(job.sampler, ranges), marks.sent_to(ranges), profiler as recorded:
        job.seconds(job.run)
    recorded.export_chrome_trace(str(trace))
    events = read_trace(trace)
    found: Profile = profile_cuda(events, job.evaluations) if cuda else profile_cpu(events)
    show(found, job, rate, f"trace: {trace} (open it at ui.perfetto.dev or chrome://tracing)")


def by_nsys(out: Path, job: Job, command: list[str]) -> None:
    """Record `command` with Nsight Systems, write report and trace to the folder `out` and print the table."""
    nsys = str(shutil.which("nsys"))
    report, trace = out / "restart.nsys-rep", out / "trace.json.gz"
    nvtx = marks.provider() == "nvtx"
    print(_window(nvtx))
    _call(nsys_command(nsys, report.with_suffix(""), command, nvtx))
    events = read_nsys(_call(nsys_stats_command(nsys, report)))
    write_trace(trace, events)
    job.warm_up()
    rate = job.images_per_second()
    where = f"report: {report} (open it with nsys-ui)\ntrace: {trace} (open it at ui.perfetto.dev)"
    show(profile_cuda(events, job.evaluations), job, rate, where)


def by_ncu(out: Path, command: list[str]) -> None:
    """Measure the kernels of `command` with Nsight Compute and write the report to the folder `out`."""
    report = out / "step"
    nvtx = marks.provider() == "nvtx"
    print(_window(nvtx))
    _call(ncu_command(str(shutil.which("ncu")), report, command, nvtx=nvtx))
    print(f"report: {report}.ncu-rep (open it with ncu-ui, or: ncu --import {report}.ncu-rep)")


def show_commands(tool: str, out: Path, command: list[str]) -> None:
    """Print what nsys or ncu would run on a machine with a GPU."""
    report = out / "restart.nsys-rep"

    def whole(nvtx: bool) -> list[str]:
        if tool == "ncu":
            return ncu_command("ncu", out / "step", command, nvtx=nvtx)
        return nsys_command("nsys", report.with_suffix(""), command, nvtx)

    print(f"No CUDA device is visible here, so nothing was profiled. --tool {tool} runs this where there is one:\n")
    print(f"mkdir -p {shlex.quote(str(out))}")
    print(shlex.join(whole(nvtx=True)))
    if tool == "nsys":
        print(shlex.join(nsys_stats_command("nsys", report)))
    print(f"\nand, where the package nvtx is not installed, this:\n\n{shlex.join(whole(nvtx=False))}")


def _window(nvtx: bool) -> str:
    """Return the sentence that says what tells the tool where the job begins and ends."""
    if nvtx:
        return "the job is marked by its NVTX range, restart_sampling: profile"
    return "the job is marked by cudaProfilerStart and cudaProfilerStop, since the package nvtx is not installed"


def _call(command: list[str]) -> str:
    """Run a tool and return what it printed. Raises BackendError with its last line if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise BackendError(f"{Path(command[0]).name} ended with status {done.returncode}: {last}; use --tool torch")
    return done.stdout


class _TorchRanges:
    """The engine's NVTX ranges as ranges of torch.profiler, with the interface of the nvtx package and its domains."""

    def __init__(self) -> None:
        self.open = threading.local()

    def get_domain(self, name: str) -> _TorchRanges:
        return self

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, name: str) -> None:
        vars(self.open).setdefault("stack", []).append(record_function(name).__enter__())

    def pop_range(self) -> None:
        self.open.stack.pop().__exit__(None, None, None)


def _ranges(sampler: Any, ranges: _TorchRanges) -> AbstractContextManager[None]:
    """Return a context in which a CPU's evaluations have ranges around network, step and advance.

    On CUDA kernels have names of their own, and a range would only cover their launch.
    """
    from ...sampler.executors import Observer

    class Parts(Observer):
        def before(self, part: str, evaluation: Any) -> None:
            ranges.push_range("step" if part == "update" else part)

        def after(self, part: str, evaluation: Any, F: Any = None) -> None:
            ranges.pop_range()

    return sampler.observed(Parts()) if sampler.device.type == "cpu" else nullcontext()
