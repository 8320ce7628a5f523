r"""Reading log.jsonl: the latest events of a job, and how many images a second it draws.

    {"time": seconds since 1970, "event": "start" | "shard" | "stop" | "end" | …, "rank": number of the worker, …}

The file is for people and dashboards: it may be edited, torn or gone, and nothing depends on it. Lines that are no
event are skipped.

The speed of a worker is the slope of `drawn`, the samples that it has drawn since its latest start, over its finished
shards of the last WINDOW seconds. Of a shard that an earlier run began, only what this run drew counts. If there are
two shards or more, the time before the first one (compiling, capturing, the pause between two runs) does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import json_lines
from ..common.checks import is_count, is_number

TAIL = 1 << 20  # bytes that are read, at the end of the file
WINDOW = 600.0
SHOWN = 10  # events of a kind that people are told of


@dataclass(frozen=True)
class Event:
    """One line of the log.

    Attributes:
        time: seconds since 1970.
        event: its name.
        rank: number of the worker.
        count: images of a finished shard.
        drawn: samples that the worker has drawn since its latest start, if the line says so.
    """

    time: float
    event: str
    rank: int = 0
    count: int = 0
    drawn: int | None = None


def sentence(event: str, details: Mapping[str, Any]) -> str:
    """Return what people are told of an event, in a sentence without its full stop; "" for what is only logged."""
    if event == "out of memory":
        return f"out of memory with batches of {details['batch']}; going on with {details['next']}"
    if event == "encoder stays":
        return f"the text encoders do not fit into the memory of {details['device']} and work where they were loaded"
    if event == "prompt truncated":
        where = f"line {details['line']}" if "line" in details else f"row {details['row']}"
        return f"{details['file']}, {where} {details['why']}; the rest is left out"
    return ""


class Notes:
    """What people are told of events: the first SHOWN of a kind.

    Args:
        rest: where the others are, in words.
    """

    def __init__(self, rest: str) -> None:
        self.rest = rest
        self.told: Counter[str] = Counter()

    def of(self, event: str, details: Mapping[str, Any]) -> str:
        """Return what people are told of this event now, "" for nothing."""
        text = sentence(event, details)
        self.told[event] += 1
        if self.told[event] > SHOWN:
            return ""
        return text and text + f"; further ones are {self.rest}" * (self.told[event] == SHOWN)


def tail(path: Path, limit: int = TAIL) -> list[Event]:
    """Return the events in the last `limit` bytes of a log, in the order of the file; none if it cannot be read."""
    return list(_events(json_lines.tail(path, limit)))


def _events(lines: list[str]) -> Iterator[Event]:
    for line in lines:
        try:
            fields = json_lines.parse(line)
        except ValueError:
            continue
        when, event, drawn = fields.get("time"), fields.get("event"), fields.get("drawn")
        rank, count = fields.get("rank", 0), fields.get("count", 0)
        if (
            is_number(when)
            and 0 <= when < 1e12
            and isinstance(event, str)
            and is_count(rank)
            and is_count(count)
            and (drawn is None or is_count(drawn))
        ):
            yield Event(float(when), event, rank, count, drawn)


def images_per_second(events: list[Event]) -> float | None:
    """Return the speed of all workers together, now or when they last drew; None if the log does not say.

    A worker that has been silent for WINDOW seconds longer than another is taken to have ended.
    """
    # By worker: (time, samples drawn since its latest start).
    runs: dict[int, list[tuple[float, int]]] = {}
    # Logs of versions that did not write `drawn` have only the images of shards, which come in bursts; there the start
    # counts as a point.
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
    """Return samples per second up to the last point, over WINDOW seconds, or since the point before it if longer."""
    (t1, n1), before = measured[-1], measured[:-1]
    recent = [point for point in before if point[0] >= t1 - WINDOW] or before[-1:]
    if not recent or t1 <= recent[0][0]:
        return 0.0
    return (n1 - recent[0][1]) / (t1 - recent[0][0])
