"""Timing on a machine that others use too: variants in rotation, paired ratios, medians and quartiles."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Rounds(dict[str, list[float]]):
    """Seconds of each variant, round by round.

    `disturbed` counts the rounds in which other processes took over a tenth of the CPU.
    """

    disturbed = 0


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int, warm: int = 2) -> Rounds:
    """Return the seconds of each variant in each round, after `warm` rounds that are not timed.

    Every round runs every variant once, the next round in reverse order (A B C C B A). The variants of one round see
    the same machine, so a ratio is taken within a round and then summarised over the rounds. That is not enough if
    torch uses every core: its threads then wait for the one that was taken away, in some variants far more than in
    others. So disturbed rounds are counted, and a result that has any should be measured again.
    """
    seconds = Rounds({name: [] for name in variants})
    for round_ in range(warm + rounds):
        before = _cpu_seconds()
        for name in reversed(list(variants)) if round_ % 2 else variants:
            started = time.perf_counter()
            variants[name]()
            if round_ >= warm:
                seconds[name].append(time.perf_counter() - started)
        total, busy, own = (b - a for a, b in zip(before, _cpu_seconds(), strict=True))
        slack = 0.03  # the system counts in ticks of 0.01 s
        seconds.disturbed += round_ >= warm and busy - own > 0.1 * total + slack
    return seconds


def noise_report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on how many rounds of result rows were disturbed."""
    worst = max(rows, key=lambda row: row["disturbed"] / row["rounds"])
    if not worst["disturbed"]:
        return "no round was disturbed by other processes"
    return f"up to {worst['disturbed']} of {worst['rounds']} rounds were disturbed by other processes: measure again"


def _cpu_seconds() -> tuple[float, float, float]:
    """Return seconds of all processors so far: in total, busy, and busy in this process; zeros if they are unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0, 0.0
    ticks = [int(n) for n in stat.read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle and waiting for a disk
    hertz = os.sysconf("SC_CLK_TCK")
    return sum(ticks) / hertz, (sum(ticks) - idle) / hertz, time.process_time()


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (q1, median, q3)."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, median, q3


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles of the ratio, which is taken round by round."""
    return quartiles([a / b for a, b in zip(over, under, strict=True)])


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run torch on n threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> bool:
    """Tell glibc's malloc to keep what is freed. Return False if the C library has no such switch.

    Otherwise a temporary of a megabyte may be new pages at every call, or not, depending on what the process did
    before: the same loop then takes 330 or 2,300 µs. Memory that stays in the process is the better of the two for code
    that makes temporaries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    m_trim_threshold, m_mmap_threshold, gigabyte = -1, -3, 1 << 30
    return bool(mallopt(m_trim_threshold, gigabyte) and mallopt(m_mmap_threshold, gigabyte))
