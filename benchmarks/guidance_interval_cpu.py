r"""Guidance in an interval of levels beside guidance everywhere and none, on the bundled class-conditional model.

An evaluation where guidance acts is two network calls, any other one. So before anything is timed the plans say how the
times must compare: as their network calls do. Then an observer counts the calls that are made, and the three take turns
in one process; ratios are taken within a round, and their median and quartiles are over the rounds. Seconds are not
comparable between machines, nor between minutes of a machine that others use; ratios are. Ratios of CPU time, on one
thread, leave out the time in which others had the core.

    python benchmarks/guidance_interval_cpu.py             # writes results/guidance_interval_cpu.json
    python benchmarks/guidance_interval_cpu.py --quick     # two rounds of two samples, writes nothing
"""

from __future__ import annotations

import argparse
import json
import time

from rich.console import Console
from rich.table import Table
from torch import Tensor
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure.timing import interleaved, noise_report, quartiles, ratios, threads
from restart_sampling.sampler.executors import Evaluation, Observer

PLAN = {"steps": 18, "solver": "dpm++2m"}
SCALE, INTERVAL = 2.0, (0.2, 6.0)  # six of the 18 levels
WAYS = {
    "everywhere": {"guidance_scale": SCALE},
    "in the interval": {"guidance_scale": SCALE, "guidance_interval": INTERVAL},
    "none": {},
}
BASE = "everywhere"


class Calls(Observer):
    """Counts the samples that the network is given: each is one network call of a sample."""

    parts = ("network",)

    def __init__(self) -> None:
        self.samples = 0

    def after(self, part: str, evaluation: Evaluation | None, F: Tensor | None = None) -> None:
        self.samples += 0 if F is None else len(F)


class Timed:
    """Draws a batch, and keeps the CPU seconds of each run."""

    def __init__(self, sampler: rs.Sampler, n: int) -> None:
        self.sampler, self.n = sampler, n
        self.cpu: list[float] = []

    def __call__(self) -> None:
        started = time.process_time()
        self.sampler.run(range(self.n))
        self.cpu.append(time.process_time() - started)


def counted(sampler: rs.Sampler, n: int) -> float:
    """Return the network calls of a sample that a run of n samples makes."""
    with sampler.observed(calls := Calls()):
        sampler.run(range(n))
    return calls.samples / n


def measure(batch: int, rounds: int) -> list[dict[str, object]]:
    denoiser = rs.load("fashion-mnist")
    samplers = {
        way: rs.Sampler(denoiser, rs.Plan.build(**PLAN, **options), batch_size=batch, compile="off")
        for way, options in WAYS.items()
    }
    calls = {way: sampler.plan.network_calls for way, sampler in samplers.items()}
    predicted = {way: calls[BASE] / calls[way] for way in samplers}
    for way in samplers:
        print(f"{way}: {calls[way]} network calls, so {predicted[way]:.2f} times as fast as guidance {BASE}")
    made = {way: counted(sampler, batch) for way, sampler in samplers.items()}
    timed = {way: Timed(sampler, batch) for way, sampler in samplers.items()}
    seconds = interleaved(timed, rounds, warm=1)
    rows = []
    for way, sampler in samplers.items():
        q1, ratio, q3 = ratios(seconds[BASE], seconds[way])
        cpu_q1, cpu, cpu_q3 = ratios(timed[BASE].cpu[1:], timed[way].cpu[1:])
        rows.append(
            {
                "benchmark": "guidance_interval_cpu",
                "guidance": way,
                "scale": sampler.plan.config.guidance_scale,
                "interval": list(INTERVAL) if way == "in the interval" else None,
                **PLAN,
                "nfe": sampler.plan.nfe,
                "network_calls": calls[way],
                "calls_counted": made[way],
                "predicted": round(predicted[way], 4),
                "ratio": round(ratio, 4),
                "ratio_q1": round(q1, 4),
                "ratio_q3": round(q3, 4),
                "cpu_ratio": round(cpu, 4),
                "cpu_ratio_q1": round(cpu_q1, 4),
                "cpu_ratio_q3": round(cpu_q3, 4),
                "seconds": round(quartiles(seconds[way])[1], 4),
                "batch": batch,
                "rounds": rounds,
                "disturbed": seconds.disturbed,
                **environment(),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args()
    batch, rounds = (2, 2) if options.quick else (options.batch, options.rounds)
    with threads(1):  # threads that wait for a core which others took would be timed too
        rows = measure(batch, rounds)
    table = Table(title=f"guidance {SCALE:g}, dpm++2m, batch {batch}, {rounds} rounds")
    for column in ("guidance", "NFE", "network calls", "counted", "predicted", "measured", "CPU time"):
        table.add_column(column, justify="left" if column == "guidance" else "right")
    for row in rows:
        spreads = (f"{row[n]:.3f} ({row[f'{n}_q1']:.3f} – {row[f'{n}_q3']:.3f})" for n in ("ratio", "cpu_ratio"))
        counts = (f"{row[name]:g}" for name in ("nfe", "network_calls", "calls_counted"))
        table.add_row(str(row["guidance"]), *counts, f"{row['predicted']:.3f}", *spreads)
    Console().print(table)
    print(noise_report(rows))
    if not options.quick:
        (RESULTS / "guidance_interval_cpu.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
