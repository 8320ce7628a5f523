r"""Where the time of a run goes: the network, the fused step, the cursor, and the gaps between them.

Everything here is arithmetic on recorded events. On CUDA the events are GPU kernels and copies: the device is busy
while one runs, and the gaps are the cost of launching. On a CPU they are ranges around the network and the step, one
set for each thread that runs a slice; the gaps are the sampler's own Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .traces import Event

PARTS = ("network", "step", "advance", "other")
STEP = re.compile(r"\b(row|step|weigh)_kernel|restart::cuda::(Row|Step|Wide|Weigh)")  # step, Step: before 0.2
ADVANCE = re.compile(r"\badvance_kernel|\bcondition_kernel|restart::cuda::Advance")
GPU = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Part:
    """One part of an evaluation: launches (on a CPU operator calls) and time in µs."""

    launches: float
    us: float


@dataclass(frozen=True)
class Profile:
    """The profile of a job, per evaluation of a batch.

    Attributes:
        device: "cuda" or "cpu".
        evaluations: network calls in all, on a CPU those of all slices.
        lanes: how many evaluations run side by side: 1 on CUDA, the slices on a CPU.
        us: wall time of one evaluation in µs. parts: what it is made of, by name of PARTS.
        busy: share of the wall time in which the device, on a CPU the lanes, computes.
    """

    device: str
    evaluations: int
    lanes: int
    us: float
    parts: dict[str, Part]
    busy: float

    @property
    def gap_us(self) -> float:
        """Time of an evaluation in which nothing runs, in µs."""
        return max(0.0, self.us - sum(part.us for part in self.parts.values()))


def kernel_part(event: Event) -> str:
    """Return the part that a GPU event belongs to; kernels that are not of this package are the network's."""
    if event["cat"] != "kernel":
        return "other"
    name = event["name"]
    return "step" if STEP.search(name) else "advance" if ADVANCE.search(name) else "network"


def profile_cuda(events: Iterable[Event], evaluations: int) -> Profile:
    """Return the profile of GPU events that were recorded over `evaluations` network calls."""
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
    """Return the profile of ranges called network, step and advance, and of the operators inside the network's."""
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
    """Return how many operators the network calls itself, without those that they call."""
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


def duration(us: float) -> str:
    """Return a time in the unit that leaves one to three digits before the point: "12.3 µs", "4.57 ms", "2.82 s"."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= 0.9995 * size:
            return f"{_three_digits(us / size)} {unit}"
    return f"{_three_digits(us)} µs"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
