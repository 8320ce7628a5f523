"""`restart-sampling profile`: where the time of a run goes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import BackendError, RestartValueError
from . import options as o

TOOLS = ("auto", "torch", "nsys", "ncu")
JOB = "job"  # what nsys and ncu run: the marked job alone


def profile(
    model: Annotated[str | None, typer.Option(help="A bundled name or a .safetensors file.")] = None,
    preset: o.Preset = None,
    steps: o.Steps = None,
    solver: o.Solver = None,
    restart: o.Restart = None,
    restart_solver: o.RestartSolver = None,
    guidance_scale: o.Guidance = None,
    batch: o.Batch = None,
    batches: Annotated[int, typer.Option(help="Batches that are profiled.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")] = None,
    dtype: o.Dtype = None,
    backend: o.Backend = None,
    graph: o.Graph = None,
    compile: o.Compile = None,
    out: Annotated[Path, typer.Option(help="Folder for the trace.")] = Path("profile"),
    tool: Annotated[
        str, typer.Option(help="auto (nsys where it is installed and the device is CUDA), torch, nsys or ncu.")
    ] = "auto",
) -> None:
    """Run a short job under a profiler: a table of launches, time and bandwidth, and a trace for a browser.

    Where no CUDA device is visible, --tool nsys and --tool ncu print the command that they would run.
    """
    from ..common.devices import select_device, visible_gpus
    from ..experiments.profile import job_command

    if tool not in (*TOOLS, JOB):
        raise RestartValueError(f"--tool must be one of {', '.join(TOOLS)}, got {tool!r}")
    if batches < 1:
        raise RestartValueError(f"--batches must be ≥ 1, got {batches}")
    external = tool in ("nsys", "ncu")
    if external and device is not None and not device.startswith("cuda"):
        raise BackendError(f"--tool {tool} cannot run: {tool} profiles CUDA devices, not {device}; use --tool torch")
    only_shown = external and not visible_gpus()
    if external and not only_shown and shutil.which(tool) is None:
        raise BackendError(f"--tool {tool} cannot run: {tool} was not found on the PATH; use --tool torch")
    given = dict(
        steps=steps, solver=solver, restart_solver=restart_solver, restart=restart, guidance_scale=guidance_scale
    )
    plan = o.build_plan(preset, fallback="fashion-mnist-22", **given)
    options = dict(
        model=model,
        preset=preset,
        **given,
        batch=batch,
        batches=batches,
        device=device,
        dtype=dtype,
        backend=backend,
        graph=graph,
        compile=compile,
        tool=JOB,
    )
    if only_shown:
        _show_command(tool, out, job_command("python", options))
        return
    device = str(select_device(device))
    if tool == "auto":
        tool = "nsys" if device.startswith("cuda") and shutil.which("nsys") else "torch"
    job = _Job(
        model or "fashion-mnist",
        plan,
        batch or "auto",
        batches,
        device,
        dtype or "fp32",
        backend or "auto",
        graph or "auto",
        compile or "auto",
    )
    if tool == JOB:
        job.warm_up()
        with job.announced():
            job.run()
        return
    command = job_command(sys.executable, {**options, "batch": job.sampler.batch_size, "device": device})
    out.mkdir(parents=True, exist_ok=True)
    if tool == "ncu":
        _ncu(out, command)
    elif tool == "nsys":
        _nsys(out, job, command)
    else:
        _torch(out, job)


class _Job:
    """The sampler of a profile and what it draws."""

    def __init__(
        self,
        model: str,
        plan: Any,
        batch: str,
        batches: int,
        device: str,
        dtype: str,
        backend: str,
        graph: str,
        compile: str,
    ) -> None:
        from ..models.registry import load_model as load
        from ..sampler.sampler import Sampler

        denoiser = load(model)
        size = o.batch_size(batch, denoiser, plan, 64 if device == "cpu" else 4096, device, dtype)
        self.sampler = Sampler(denoiser, plan, size, backend, graph, compile, device=device, dtype=dtype)
        self.seeds, self.batches = range(size * batches), batches
        self.disturbed = 0  # measurements in which other processes took over a tenth of the CPU

    @property
    def evaluations(self) -> int:
        return self.batches * self.sampler.plan.nfe

    def warm_up(self) -> None:
        """Compile, capture, fill caches."""
        self.sampler.run(range(self.sampler.batch_size))
        self.wait()

    def run(self) -> None:
        """The marked job."""
        from ..common.marks import mark

        with mark("profile"):
            self.sampler.run(self.seeds)
            self.wait()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Tell a profiler that listens to CUDA's calls for it where the job begins and ends; others ignore that."""
        import torch

        if self.sampler.device.type != "cuda":
            yield
            return
        with torch.cuda.profiler.profile():
            yield

    def seconds(self, work: Callable[[], object]) -> float:
        """Time `work`, and notice whether the machine was busy with something else."""
        from ..experiments.measure.timing import interleaved

        rounds = interleaved({"job": work}, rounds=1, warm=0)
        self.disturbed += rounds.disturbed
        return rounds["job"][0]

    def wait(self) -> None:
        import torch

        if self.sampler.device.type == "cuda":
            torch.cuda.synchronize(self.sampler.device)

    def images_per_second(self) -> float:
        def run() -> None:
            self.sampler.run(self.seeds)
            self.wait()

        return len(self.seeds) / self.seconds(run)


def _torch(out: Path, job: _Job) -> None:
    import torch

    from ..common.marks import sent_to
    from ..experiments.profile import profile_cpu, profile_cuda, read_trace, torch_profiler

    job.warm_up()
    rate = job.images_per_second()
    activity = torch.profiler.ProfilerActivity
    cuda = job.sampler.device.type == "cuda"
    trace = out / "trace.json.gz"
    # Slices have threads of their own.
    everywhere = torch.profiler._ExperimentalConfig(profile_all_threads=True)
    activities = [activity.CPU, activity.CUDA] if cuda else [activity.CPU]
    profiler = torch_profiler(activities=activities, experimental_config=everywhere)
    ranges = _TorchRanges()
    with _ranges(job.sampler, ranges), sent_to(ranges), profiler as recorded:
        job.seconds(job.run)
    recorded.export_chrome_trace(str(trace))
    events = read_trace(trace)
    found = profile_cuda(events, job.evaluations) if cuda else profile_cpu(events)
    _show(found, job, rate, f"trace: {trace} (open it at ui.perfetto.dev or chrome://tracing)")


def _nsys(out: Path, job: _Job, command: list[str]) -> None:
    from ..common.marks import provider
    from ..experiments.profile import nsys_command, nsys_stats_command, profile_cuda, read_nsys, write_trace

    nsys = str(shutil.which("nsys"))
    report, trace = out / "restart.nsys-rep", out / "trace.json.gz"
    nvtx = provider() == "nvtx"
    print(_window(nvtx))
    _call(nsys_command(nsys, report.with_suffix(""), command, nvtx))
    events = read_nsys(_call(nsys_stats_command(nsys, report)))
    write_trace(trace, events)
    job.warm_up()
    rate = job.images_per_second()
    where = f"report: {report} (open it with nsys-ui)\ntrace: {trace} (open it at ui.perfetto.dev)"
    _show(profile_cuda(events, job.evaluations), job, rate, where)


def _ncu(out: Path, command: list[str]) -> None:
    from ..common.marks import provider
    from ..experiments.profile import ncu_command

    report = out / "step"
    nvtx = provider() == "nvtx"
    print(_window(nvtx))
    _call(ncu_command(str(shutil.which("ncu")), report, command, nvtx=nvtx))
    print(f"report: {report}.ncu-rep (open it with ncu-ui, or: ncu --import {report}.ncu-rep)")


def _window(nvtx: bool) -> str:
    """What tells the tool where the job begins and ends."""
    if nvtx:
        return "the job is marked by its NVTX range, restart_sampling: profile"
    return "the job is marked by cudaProfilerStart and cudaProfilerStop, since the package nvtx is not installed"


def _show_command(tool: str, out: Path, command: list[str]) -> None:
    """What a machine with a GPU would run."""
    from ..experiments.profile import ncu_command, nsys_command, nsys_stats_command

    report = out / "restart.nsys-rep"

    def of(nvtx: bool) -> list[str]:
        if tool == "ncu":
            return ncu_command("ncu", out / "step", command, nvtx=nvtx)
        return nsys_command("nsys", report.with_suffix(""), command, nvtx)

    print(f"No CUDA device is visible here, so nothing was profiled. --tool {tool} runs this where there is one:\n")
    print(f"mkdir -p {shlex.quote(str(out))}")
    print(shlex.join(of(nvtx=True)))
    if tool == "nsys":
        print(shlex.join(nsys_stats_command("nsys", report)))
    print(f"\nand, where the package nvtx is not installed, this:\n\n{shlex.join(of(nvtx=False))}")


def _call(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise BackendError(f"{Path(command[0]).name} ended with status {done.returncode}: {last}; use --tool torch")
    return done.stdout


class _TorchRanges:
    """The engine's NVTX ranges as ranges of torch.profiler, with the face of the nvtx module and of its domain."""

    def __init__(self) -> None:
        self.open = threading.local()

    def get_domain(self, name: str) -> _TorchRanges:
        return self

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, name: str) -> None:
        from torch.profiler import record_function

        vars(self.open).setdefault("stack", []).append(record_function(name).__enter__())

    def pop_range(self) -> None:
        self.open.stack.pop().__exit__(None, None, None)


def _ranges(sampler: Any, ranges: _TorchRanges) -> AbstractContextManager[None]:
    """Return a context in which a CPU's evaluations have ranges around network, step and advance.

    On CUDA kernels have names of their own, and a range would only cover their launch.
    """
    from ..sampler.executors import Observer

    class Parts(Observer):
        def before(self, part: str, evaluation: Any) -> None:
            ranges.push_range("step" if part == "update" else part)

        def after(self, part: str, evaluation: Any, F: Any = None) -> None:
            ranges.pop_range()

    return sampler.observed(Parts()) if sampler.device.type == "cpu" else nullcontext()


def _show(found: Any, job: _Job, rate: float, where: str) -> None:
    from rich.table import Table

    from ..common.terminal import plain_console
    from ..experiments.profile import PARTS, bytes_per_evaluation, duration, step_bytes

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
    copy = _copy_bandwidth(sampler.device, found.lanes)
    console = plain_console()
    console.print(f"{sampler.plan.nfe} NFE, {sampler.describe()}")
    console.print(table)
    who = "GPU busy" if cuda else f"{found.lanes} slices busy" if found.lanes > 1 else "busy"
    console.print(f"{who} {100 * found.busy:.1f} % of the time; {rate:.3g} images/s without the profiler")
    alone = "" if cuda else f" on {_threads(found.lanes)} thread{'s'[: _threads(found.lanes) != 1]}"
    console.print(
        f"step: {moved / 1e6:.3g} MB per evaluation, {speed / 1e9:.3g} GB/s with its noise{alone}; "
        f"a copy of 128 MiB there: {copy / 1e9:.3g} GB/s",
        soft_wrap=True,
    )
    for note in sampler.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if job.disturbed:
        console.print(
            "note: other processes took over a tenth of the CPU meanwhile, so these times are too long; measure again on a "
            "quiet machine",
            soft_wrap=True,
        )
    console.print(where, soft_wrap=True)


def _threads(lanes: int) -> int:
    """PyTorch threads of one slice."""
    import torch

    return max(1, torch.get_num_threads() // lanes)


def _copy_bandwidth(device: Any, lanes: int) -> float:
    """Bytes per second, read and written, of a plain copy of 128 MiB: the median of 9. On a CPU with the threads of a
    slice.
    """
    import statistics

    import torch

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
