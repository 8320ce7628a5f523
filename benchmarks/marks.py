r"""What an NVTX range costs when no profiler listens, in ns per range.

    python benchmarks/marks.py        # writes results/marks.json

A run enters one range for each stretch of the plan, not one for each evaluation. The rows are the engine's own range
as executors enter it (looked up by name), the same without the nvtx package, and for comparison what other code would
use. The loop around a range is timed too and subtracted, round by round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version

import nvtx
from torch.profiler import record_function
from where import RESULTS, environment

from restart_sampling.common import marks
from restart_sampling.experiments.measure import timing

NAME = "restart 0 iteration 1"


def entered(range_: Callable[[], AbstractContextManager[object]], n: int) -> Callable[[], None]:
    """Return a loop that enters what `range_` returns n times."""

    def loop() -> None:
        for _ in range(n):
            with range_():
                pass

    return loop


def engine(n: int) -> Callable[[], None]:
    """Return a loop that enters a range n times as the executors do."""

    def loop() -> None:
        for _ in range(n):
            with marks.mark(NAME):
                pass

    return loop


def without_nvtx(n: int) -> Callable[[], None]:
    """Return the same loop, run as if the package nvtx were not installed."""
    loop = engine(n)

    def run() -> None:
        with marks.sent_to(None):
            loop()

    return run


def empty(n: int) -> Callable[[], None]:
    """Return a loop that enters nothing."""

    def loop() -> None:
        for _ in range(n):
            pass

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranges", type=int, default=20_000, help="ranges in a round")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    n = options.ranges
    with timing.threads(1):
        seconds = timing.interleaved(
            {
                "loop": empty(n),
                "mark(name)": engine(n),
                "mark(name), no nvtx package": without_nvtx(n),
                "nvtx.annotate, made each time": entered(lambda: nvtx.annotate(NAME, domain=marks.DOMAIN), n),
                "torch.profiler.record_function": entered(lambda: record_function(NAME), n),
            },
            options.rounds,
        )
        here = environment()
    rows = []
    for provider, of_ranges in seconds.items():
        if provider == "loop":
            continue
        q1, median, q3 = timing.quartiles([(a - b) / n * 1e9 for a, b in zip(of_ranges, seconds["loop"], strict=True)])
        rows.append(
            {
                "provider": provider,
                "ns": round(median, 1),
                "q1": round(q1, 1),
                "q3": round(q3, 1),
                "rounds": options.rounds,
                "disturbed": seconds.disturbed,
                "nvtx": version("nvtx"),
                **here,
            }
        )
        print(f"{provider:34} {median:8.0f} ns  ({q1:.0f} to {q3:.0f})")
    print(timing.noise_report(rows))
    (RESULTS / "marks.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
