"""Traces: the recorded events of a run, as torch.profiler and Nsight Systems write them.

An event is a complete event of a Chrome trace (`cat`, `name`, `ts` and `dur` in µs, `tid`). torch.profiler exports
such events, and rows of nsys become some.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read_trace(path: Path) -> list[Event]:
    """Return the complete events of a Chrome trace, .json or .json.gz."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"]


def write_trace(path: Path, events: Sequence[Event]) -> None:
    """Write `events` as a Chrome trace .json.gz."""
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": list(events)}).encode()))


def read_nsys(text: str) -> list[Event]:
    """Return the events of `nsys stats -r cuda_gpu_trace --format csv`; lines before the table are skipped."""
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
