r"""What the sampler itself costs on a CPU: µs per network evaluation with a network that costs nothing.

A free network returns a tensor that exists already, so all the time is the sampler's: noise, update, preconditioning,
Python. The plans are CIFAR-10's, 43 evaluations with Restart and 35 with Heun alone, on [64, 3, 32, 32]. The engine is
used through its public names and does everything it always does: noise of philox-v1, preconditioning, the check for
NaN. The baselines (`experiments/measure/loops.py`) run

    D free        the denoiser D costs nothing: the loop pays no preconditioning, the engine does
    F free        the raw network F costs nothing and D is EDM's preconditioning in plain torch, what users run
    …, lean       the same without the draws that are multiplied by zero or thrown away

All variants run in one process in rotation. Times are the median of whole runs divided by their NFE, and ratios are
taken round by round. malloc keeps freed memory, which favours the loops: they make some ten temporaries for each
evaluation, and the engine none.

    python benchmarks/overhead_cpu.py              # writes results/overhead_cpu.json
    python benchmarks/overhead_cpu.py --quick      # a few rounds on a small shape, writes nothing
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure import loops
from restart_sampling.experiments.measure.timing import (
    interleaved,
    keep_memory,
    noise_report,
    quartiles,
    ratios,
    threads,
)
from restart_sampling.models import parameterization

TARGETS = {"restart": 5.0, "heun": 2.0}  # how many times cheaper than the loop of that name the engine is meant to be
Variant = Callable[[], Tensor]


def variants_of(name: str, batch: int, shape: tuple[int, ...], backend: str) -> tuple[dict[str, Variant], int, str]:
    """Return the variants on the plan "restart" or "heun", the engine first; the NFE of a run; the engine's backend."""
    plan = rs.preset("cifar10-edm-43" if name == "restart" else "cifar10-edm-heun-35")
    seeds = range(batch)
    free = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    denoiser = rs.Denoiser(lambda net_in, c_noise, labels: free, parameterization.edm(), shape)
    sampler = rs.Sampler(denoiser, plan, batch_size=batch, backend=backend)
    intervals = loops.intervals_of(plan)
    t_steps = torch.tensor(plan.grid, dtype=torch.float64)
    sigmas = t_steps.float()
    networks = {"D free": lambda x, sigma: free, "F free": loops.edm_denoiser_of(denoiser)}

    def fp64(D: loops.D, unused: bool) -> Variant:
        def run() -> Tensor:
            noise = loops.SampleGenerators(seeds)
            return loops.restart_loop_fp64(D, noise.latents(shape), t_steps, intervals, noise, unused_draws=unused)

        return run

    def fp32(D: loops.D, unused: bool) -> Variant:
        def run() -> Tensor:
            x = torch.randn(batch, *shape) * sigmas[0]
            return loops.heun_loop_fp32(D, x, sigmas, intervals, unused_draws=unused)

        return run

    variants: dict[str, Variant] = {"engine": lambda: sampler.run(seeds)}
    loop, style = (fp64, "fp64 loop") if name == "restart" else (fp32, "fp32 loop")
    for network, D in networks.items():
        variants[f"{style}, {network}"] = loop(D, True)
        variants[f"{style}, {network}, lean"] = loop(D, False)
    if name == "restart":
        variants["fp32 loop, F free"] = fp32(networks["F free"], True)
    return variants, plan.nfe, sampler.backend


def measure(name: str, batch: int, shape: tuple[int, ...], rounds: int, backend: str) -> list[dict[str, Any]]:
    """Return one row for the engine and one for each baseline, with the ratio of its time to the engine's."""
    variants, nfe, used = variants_of(name, batch, shape, backend)
    seconds = interleaved(variants, rounds)
    rows = []
    for variant in variants:
        q1, median, q3 = (1e6 * s / nfe for s in quartiles(seconds[variant]))
        r1, ratio, r3 = ratios(seconds[variant], seconds["engine"])
        rows.append(
            {
                "benchmark": f"overhead_cpu/{name}",
                "sampler": variant,
                "backend": used if variant == "engine" else "torch",
                "shape": [batch, *shape],
                "nfe": nfe,
                "median_us": round(median, 2),
                "q1": round(q1, 2),
                "q3": round(q3, 2),
                "ratio": round(ratio, 3),
                "ratio_q1": round(r1, 3),
                "ratio_q3": round(r3, 3),
                "rounds": rounds,
                "disturbed": seconds.disturbed,
                **environment(),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], with_targets: bool) -> None:
    """Print a table; targets are stated for one shape only."""
    table = Table(title=f"µs per evaluation, free network, {rows[0]['shape']}, {rows[0]['threads']} thread(s)")
    for column in ("plan", "sampler", "NFE", "median", "quartiles", "time / engine's", "target"):
        table.add_column(column, justify="left" if column in ("plan", "sampler") else "right")
    for row in rows:
        name = row["benchmark"].split("/")[1]
        engine = row["sampler"] == "engine"
        style = "fp64" if name == "restart" else "fp32"
        target = TARGETS[name] if with_targets and row["sampler"].startswith(style) else None
        table.add_row(
            name,
            f"engine ({row['backend']})" if engine else row["sampler"],
            str(row["nfe"]),
            f"{row['median_us']:.1f}",
            f"{row['q1']:.1f} – {row['q3']:.1f}",
            "" if engine else f"{row['ratio']:.2f}  ({row['ratio_q1']:.2f} – {row['ratio_q3']:.2f})",
            "" if target is None else f"≥ {target:g}: {'met' if row['ratio'] >= target else 'not met'}",
        )
    console = Console(width=130)
    console.print(table)
    console.print(noise_report(rows))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}), help="torch threads"
    )
    parser.add_argument("--backend", default="auto", help="backend of the engine's step")
    parser.add_argument("--system-malloc", action="store_true", help="leave malloc as it is")
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead_cpu.json")
    parser.add_argument("--quick", action="store_true", help="batch 2, 3 rounds, nothing written")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batch, options.rounds, options.threads = 2, 3, [1]
    kept = not options.quick and not options.system_malloc and keep_memory()
    rows: list[dict[str, Any]] = []
    for n in options.threads:
        part: list[dict[str, Any]] = []
        with threads(n):
            for name in TARGETS:
                part += measure(name, options.batch, (3, 32, 32), options.rounds, options.backend)
        show(part, with_targets=options.batch == 64)
        rows += [{**row, "malloc": "keeps" if kept else "system"} for row in part]
    if not options.quick:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
