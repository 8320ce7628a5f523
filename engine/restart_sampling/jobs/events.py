r"""log.jsonl, read: the latest events of a job, and how fast it goes.

    {"time": seconds since 1970, "event": "start" | "shard" | "stop" | "end" | …, "rank": of the worker, …}

The file is for people and dashboards: it may be edited, torn or gone, and nothing depends on it. Lines that are no
event are passed over.

The speed of a worker is the slope of `drawn`, the samples that it has drawn since its latest start, over its finished
shards of the last WINDOW seconds. A shard that an earlier run began counts with what this run drew of it, and the time
before the first shard (compiling, capturing, the pause between two runs) not at all, if there are two shards or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.strict_json import loads
from .manifest import is_count

TAIL = 1 << 20  # bytes that are read, from the end
WINDOW = 600.0


@dataclass(frozen=True)
class Event:
    """One line: `time` in seconds since 1970, the `rank` of its worker, and `drawn` samples of this run, if it says so.

    count: images of a finished shard.
    """

    time: float
    event: str
    rank: int = 0
    count: int = 0
    drawn: int | None = None


def tail(path: Path, limit: int = TAIL) -> list[Event]:
    """The events in the last `limit` bytes of a log, in the order of the file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            start = file.seek(max(0, end - limit))
            lines = file.read(limit).split(b"\n")
    except (OSError, ValueError):
        return []
    return list(_events(lines[1:] if start else lines))


def _events(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            fields = loads(line)
        except ValueError:
            continue
        if not isinstance(fields, dict):
            continue
        when: Any
        when, event, drawn = fields.get("time"), fields.get("event"), fields.get("drawn")
        rank, count = fields.get("rank", 0), fields.get("count", 0)
        if (
            type(when) in (int, float)
            and 0 <= when < 1e12
            and isinstance(event, str)
            and is_count(rank)
            and is_count(count)
            and (drawn is None or is_count(drawn))
        ):
            yield Event(float(when), event, rank, count, drawn)


def images_per_second(events: list[Event]) -> float | None:
    """How fast all workers together draw, or drew last; None if the log does not say.

    A worker that has been silent for WINDOW seconds longer than another is taken to be gone.
    """
    # Of each worker: (time, samples drawn since its latest start).
    runs: dict[int, list[tuple[float, int]]] = {}
    # Logs of before `drawn` was written have only the images of shards, which come in bursts: there the start is kept.
    exact = all(event.drawn is not None for event in events if event.event == "shard")
    for event in events:
        points = runs.setdefault(event.rank, [])
        if event.event == "start":
            points[:] = [(event.time, 0)]
        elif event.event == "shard":
            before = points[-1][1] if points else 0
            drawn = before + event.count if event.drawn is None else event.drawn
            if drawn < before:  # the line of a start was lost
                points.clear()
            if not points or drawn > before:  # shards of one batch are one point
                points.append((event.time, drawn))
    latest = max((points[-1][0] for points in runs.values() if len(points) > 1), default=0.0)
    alive = [points for points in runs.values() if points and points[-1][0] >= latest - WINDOW]
    return sum(_slope(points[1:] if exact and len(points) > 2 else points) for points in alive) or None


def _slope(measured: list[tuple[float, int]]) -> float:
    """Samples per second up to the last point, over WINDOW seconds or since the point before, whichever is longer."""
    (t1, n1), before = measured[-1], measured[:-1]
    recent = [point for point in before if point[0] >= t1 - WINDOW] or before[-1:]
    if not recent or t1 <= recent[0][0]:
        return 0.0
    return (n1 - recent[0][1]) / (t1 - recent[0][0])
