r"""Where the time of a run goes: the network, the fused step, the cursor, and the gaps between them.

Everything here is arithmetic on recorded events; `cli/profile.py` records them. An event is a complete event of a
Chrome trace (`cat`, `name`, `ts` and `dur` in µs, `tid`), which is what torch.profiler exports and what rows of nsys
become.

On CUDA the events are GPU kernels and copies: the device is busy while one runs, and the gaps are what launching costs.
On a CPU they are ranges around the network and the step, one set for each thread that runs a slice; the gaps are the
sampler's own Python."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restart_kernels import layout

from .table import Table

PARTS = ("network", "step", "advance", "other")
STEP = re.compile(r"\b(row|step)_kernel|restart::cuda::(Row|Step)(Vectors|Elements)")  # Step, step: before 0.1
ADVANCE = re.compile(r"\badvance_kernel|\bcondition_kernel|restart::cuda::Advance")
GPU = ("kernel", "gpu_memcpy", "gpu_memset")
Event = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of an evaluation: launches (on a CPU: operator calls) and µs."""

    launches: float
    us: float


@dataclass(frozen=True)
class Profile:
    """One profiled job, per evaluation of a batch.

    Attributes:
        device: "cuda" or "cpu".
        evaluations: network calls in all (of all slices, on a CPU).
        lanes: how many run side by side: 1 on CUDA, the slices on a CPU.
        us: wall time of one evaluation; parts: what it is made of, by name of PARTS.
        busy: share of the wall time in which the device (on a CPU: the lanes) computes.
    """

    device: str
    evaluations: int
    lanes: int
    us: float
    parts: dict[str, Part]
    busy: float

    @property
    def gap_us(self) -> float:
        """µs of an evaluation in which nothing runs."""
        return max(0.0, self.us - sum(part.us for part in self.parts.values()))


def kernel_part(event: Event) -> str:
    """Which part a GPU event belongs to; kernels that are not ours are the network's."""
    if event["cat"] != "kernel":
        return "other"
    name = event["name"]
    return "step" if STEP.search(name) else "advance" if ADVANCE.search(name) else "network"


def profile_cuda(events: Iterable[Event], evaluations: int) -> Profile:
    """Of GPU events. `evaluations` network calls were made while they were recorded."""
    gpu = sorted((e for e in events if e.get("cat") in GPU), key=lambda e: float(e["ts"]))
    launches, us = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0.0)
    busy, end = 0.0, float("-inf")
    for event in gpu:
        start, stop = float(event["ts"]), float(event["ts"]) + float(event["dur"])
        alone = max(0.0, stop - max(start, end))  # kernels may overlap: the later one gets what is its own
        end = max(end, stop)
        busy += alone
        part = kernel_part(event)
        launches[part] += 1
        us[part] += alone
    wall = end - float(gpu[0]["ts"]) if gpu else 0.0
    parts = {name: Part(launches[name] / evaluations, us[name] / evaluations) for name in PARTS}
    return Profile("cuda", evaluations, 1, wall / evaluations, parts, busy / wall if wall else 0.0)


def profile_cpu(events: Iterable[Event]) -> Profile:
    """Of ranges called network, step and advance, and of the operators inside the network's."""
    events = list(events)
    ranges = [e for e in events if e.get("cat") == "user_annotation" and e["name"] in PARTS]
    threads = {e["tid"] for e in ranges if e["name"] == "network"}
    ranges = [e for e in ranges if e["tid"] in threads]  # slices are loaded by a thread that runs none
    us, calls = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
    for event in ranges:
        us[event["name"]] += float(event["dur"])
        calls[event["name"]] += 1
    evaluations, lanes = max(1, calls["network"]), max(1, len(threads))
    start = min((float(e["ts"]) for e in ranges), default=0.0)
    end = max((float(e["ts"]) + float(e["dur"]) for e in ranges), default=0.0)
    launches = {name: calls[name] / evaluations for name in PARTS}
    launches["network"] = _operators(events, ranges) / evaluations
    # One evaluation of a lane; lanes run side by side.
    parts = {name: Part(launches[name], us[name] / evaluations) for name in PARTS}
    wall = (end - start) * lanes / evaluations
    return Profile("cpu", evaluations, lanes, wall, parts, sum(us.values()) / evaluations / wall if wall else 0.0)


def _operators(events: Sequence[Event], ranges: Sequence[Event]) -> int:
    """Operators called by the network itself, those that they call not counted."""
    found = 0
    for tid in {e["tid"] for e in ranges}:
        inside = sorted(
            (float(e["ts"]), float(e["ts"]) + float(e["dur"]))
            for e in ranges
            if e["tid"] == tid and e["name"] == "network"
        )
        operators = sorted(
            (e for e in events if e.get("cat") == "cpu_op" and e["tid"] == tid), key=lambda e: float(e["ts"])
        )
        at, end = 0, float("-inf")
        for event in operators:
            ts = float(event["ts"])
            if ts < end:
                continue
            end = ts + float(event["dur"])
            while at < len(inside) and inside[at][1] < ts:
                at += 1
            found += at < len(inside) and inside[at][0] <= ts
    return found


def step_bytes(table: Table, net_itemsize: int, F_itemsize: int) -> list[int]:
    """Bytes that the step of each row reads and writes for one element, by the row's flags; row 0 draws the latent.

    Registers are float32. Under guidance F is read and net_in written twice.
    """
    copies = 2 if table.plan.config.guided else 1
    cost = {
        layout.READ_X: 4,
        layout.READ_H: 4,
        layout.STORE_X: 4,
        layout.STORE_H: 4,
        layout.READ_F: copies * F_itemsize,
        layout.STORE_NET: copies * net_itemsize,
    }
    return [sum(n for bit, n in cost.items() if flags & bit) for flags in table.code[:, layout.FLAGS]]


def bytes_per_evaluation(rows: Sequence[int], steps: float) -> float:
    """Of the bytes of a table's rows.

    `steps` launched per evaluation; those beyond one are row 0, where it was recorded.
    """
    first, *rest = rows
    return sum(rest) / len(rest) + max(0.0, steps - 1) * first


def torch_profiler(**options: Any) -> Any:
    """Return a `torch.profiler.profile`, without the lines that its library prints at start and stop (they begin with
    USDT).

    The library reads its variable at the first profile of a process; a value that the user has set stays.
    """
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return torch.profiler.profile(**options)


def duration(us: float) -> str:
    """Return a time in the unit that leaves one to three digits before the point: "12.3 µs", "4.57 ms", "2.82 s"."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= 0.9995 * size:
            return f"{_three_digits(us / size)} {unit}"
    return f"{_three_digits(us)} µs"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def read_trace(path: Path) -> list[Event]:
    """The complete events of a Chrome trace, .json or .json.gz."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"]


def write_trace(path: Path, events: Sequence[Event]) -> None:
    """A Chrome trace .json.gz of `events`."""
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": list(events)}).encode()))


def read_nsys(text: str) -> list[Event]:
    """Events of `nsys stats -r cuda_gpu_trace --format csv`; lines before the table are skipped."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith("Start (ns)")), None)
    if head is None:
        return []
    events = []
    for row in csv.DictReader(io.StringIO("\n".join(lines[head:]))):
        if not row.get("Start (ns)") or not row.get("Duration (ns)"):
            continue
        name = row.get("Name") or ""
        cat = "gpu_memcpy" if "memcpy" in name else "gpu_memset" if "memset" in name else "kernel"
        start, duration = float(row["Start (ns)"]), float(row["Duration (ns)"])
        stream = int(row.get("Strm") or 0)
        events.append(
            {"ph": "X", "cat": cat, "name": name, "ts": start / 1e3, "dur": duration / 1e3, "pid": 0, "tid": stream}
        )
    return events


def job_command(python: str, options: Mapping[str, object]) -> list[str]:
    """`restart-sampling profile` in a process of its own, with the options that were given: what nsys and ncu run."""
    given = [
        word
        for name, value in options.items()
        if value is not None
        for word in ("--" + name.replace("_", "-"), str(value))
    ]
    return [python, "-c", "from restart_sampling.cli import main; main()", "profile", *given]


def nsys_command(nsys: str, out: Path, job: Sequence[str], nvtx: bool = True) -> list[str]:
    """Return the command that records `job` from its mark to the end of it, with one row for each kernel of a graph.

    The mark is the NVTX range `profile` of our domain where the job has the package `nvtx`, and the calls
    cudaProfilerStart and cudaProfilerStop, which the job makes too, where it does not: ranges of PyTorch's own have no
    domain to filter by."""
    window = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]
    if nvtx:
        window = [
            "--capture-range=nvtx",
            "--nvtx-capture=profile@restart_sampling",
            "--capture-range-end=stop",
            "-e",
            "NSYS_NVTX_PROFILER_REGISTER_ONLY=0",
        ]
    return [
        nsys,
        "profile",
        "-t",
        "cuda,nvtx",
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        *window,
        "-o",
        str(out),
        "-f",
        "true",
        *job,
    ]


def nsys_stats_command(nsys: str, report: Path) -> list[str]:
    """Prints the GPU trace of a report as CSV."""
    return [nsys, "stats", "-r", "cuda_gpu_trace", "--format", "csv", "--force-export=true", str(report)]


def ncu_command(ncu: str, out: Path, job: Sequence[str], launches: int = 10, nvtx: bool = True) -> list[str]:
    """Return the command that measures the first `launches` of our kernels after the job's mark, also those in graphs.

    The mark is as for `nsys_command`. `run` is what the CUDA C++ kernels are called without namespace and template
    arguments, which is how ncu compares."""
    window = ["--nvtx", "--nvtx-include", "restart_sampling@profile/"] if nvtx else ["--profile-from-start", "off"]
    return [
        ncu,
        *window,
        "-k",
        "regex:^(row_kernel|advance_kernel|run)$",
        "--launch-count",
        str(launches),
        "--graph-profiling",
        "node",
        "--set",
        "full",
        "-o",
        str(out),
        "-f",
        *job,
    ]
