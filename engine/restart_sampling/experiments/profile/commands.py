"""Command lines that profile a job with Nsight Systems (nsys) and Nsight Compute (ncu)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def job_command(python: str, options: Mapping[str, object]) -> list[str]:
    """Return the command that nsys and ncu run: `restart-sampling profile` with the options that were given."""
    given = {"--" + name.replace("_", "-"): value for name, value in options.items() if value is not None}
    words = [word for name, value in given.items() for word in ([name] if value is True else [name, str(value)])]
    return [python, "-c", "from restart_sampling.cli import main; main()", "profile", *words]


def nsys_command(nsys: str, out: Path, job: Sequence[str], nvtx: bool = True) -> list[str]:
    """Return the command that records `job` from its mark to the end of it, with one row for each kernel of a graph.

    The mark is the NVTX range `profile` of the domain `restart_sampling` if the job has the package `nvtx`. Otherwise
    it is the calls cudaProfilerStart and cudaProfilerStop, which the job always makes: PyTorch's own ranges have no
    domain to filter by.
    """
    window = "--capture-range=cudaProfilerApi --capture-range-end=stop"
    if nvtx:
        window = (
            "--capture-range=nvtx --nvtx-capture=profile@restart_sampling --capture-range-end=stop "
            "-e NSYS_NVTX_PROFILER_REGISTER_ONLY=0"
        )
    options = f"-t cuda,nvtx --cuda-graph-trace=node --sample=none --cpuctxsw=none {window}"
    return [nsys, "profile", *options.split(), "-o", str(out), "-f", "true", *job]


def nsys_stats_command(nsys: str, report: Path) -> list[str]:
    """Return the command that prints the GPU trace of a report as CSV."""
    return [nsys, "stats", "-r", "cuda_gpu_trace", "--format", "csv", "--force-export=true", str(report)]


def ncu_command(ncu: str, out: Path, job: Sequence[str], launches: int = 10, nvtx: bool = True) -> list[str]:
    """Return the command that measures the package's first `launches` kernels after the job's mark, also in graphs.

    The mark is as for `nsys_command`. `run` and `run_block` are the names of the CUDA C++ kernels without namespace
    and template arguments, which is how ncu compares.
    """
    window = "--nvtx --nvtx-include restart_sampling@profile/" if nvtx else "--profile-from-start off"
    kernels = "regex:^(row_kernel|weigh_kernel|advance_kernel|run|run_block)$"
    options = f"{window} -k {kernels} --launch-count {launches} --graph-profiling node"
    return [ncu, *options.split(), "--set", "full", "-o", str(out), "-f", *job]
