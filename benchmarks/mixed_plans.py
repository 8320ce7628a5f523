r"""Continuous batching on a mixed workload: (seed, plan) pairs beside running plan by plan.

The workload is a sweep, as `tune` would run it: one plan for each K and each interval, and a few samples of each, so
every plan has another NFE. Plan by plan, each plan fills batches of its own, the last of them partly; mixed, a lane
that finishes takes the next sample. Counted are network calls and samples of a call (the batch is full at `--batch`);
timed are both in turns, with the median of the ratios. The images are the same: noise depends on the seed alone.

    python benchmarks/mixed_plans.py --per-plan 4 --batch 32        # writes results/mixed_plans.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from where import RESULTS

import restart_sampling as rs

INTERVALS = ((3, 0.14, 0.30), (3, 0.30, 1.0), (4, 0.10, 0.60))


def sweep(ks: range) -> list[rs.Plan]:
    """Return one plan for each interval and K: NFE from 21 to 65."""
    return [rs.Plan.build(steps=9, restart=[n, k, low, high]) for n, low, high in INTERVALS for k in ks]


class Counted:
    """A network that counts its calls and the samples in them."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network, self.calls, self.samples = network, 0, 0

    def __call__(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        self.calls += 1
        self.samples += len(net_in)
        return self.network(net_in, c_noise, labels)


def mixed(sampler: rs.Sampler, pairs: list[tuple[int, rs.Plan]]) -> Tensor:
    return sampler.run(pairs)


def plan_by_plan(sampler: rs.Sampler, pairs: list[tuple[int, rs.Plan]]) -> Tensor:
    plans = list({id(plan): plan for _, plan in pairs}.values())
    parts: dict[int, Tensor] = {}
    for plan in plans:
        sampler.set_plan(plan)
        seeds = [seed for seed, other in pairs if other is plan]
        parts |= dict(zip(seeds, sampler.run(seeds), strict=True))
    return torch.stack([parts[seed] for seed, _ in pairs])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--per-plan", type=int, default=4, help="samples of each plan")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ks", type=int, default=4, help="K runs from 1 to this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "mixed_plans.json")
    options = parser.parse_args(arguments)

    denoiser = rs.load("fashion-mnist").to(options.device)
    plans = sweep(range(1, options.ks + 1))
    pairs = [(i, plans[i % len(plans)]) for i in range(options.per_plan * len(plans))]
    sampler = rs.Sampler(denoiser, plans[0], batch_size=options.batch, compile="off")
    counted = Counted(sampler.network)
    sampler.workspace.network = counted
    variants = {"plan by plan": plan_by_plan, "mixed": mixed}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    counts: dict[str, tuple[int, int]] = {}
    images: dict[str, Tensor] = {}
    for round_ in range(options.rounds + 1):  # the first round warms up
        for name in variants if round_ % 2 else reversed(variants):
            counted.calls = counted.samples = 0
            started = time.perf_counter()
            images[name] = variants[name](sampler, pairs).cpu()
            if round_:
                seconds[name].append(time.perf_counter() - started)
            counts[name] = counted.calls, counted.samples
    difference = (images["mixed"] - images["plan by plan"]).abs().max().item()
    ratios = [a / b for a, b in zip(seconds["plan by plan"], seconds["mixed"], strict=True)]
    rows: list[dict[str, Any]] = []
    for name in variants:
        calls, samples = counts[name]
        row = {
            "benchmark": "mixed_plans",
            "way": name,
            "samples": len(pairs),
            "plans": len(plans),
            "batch": options.batch,
            "network_calls": calls,
            "samples_per_call": round(samples / calls, 2),
            "evaluations": samples,
            "median_s": round(statistics.median(seconds[name]), 3),
            "min_s": round(min(seconds[name]), 3),
            "max_s": round(max(seconds[name]), 3),
            "rounds": options.rounds,
            "device": str(sampler.device),
            "torch": torch.__version__,
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
        rows.append(row)
        print(f"{name:13} {calls:5} network calls, {samples / calls:5.1f} samples each, median {row['median_s']} s")
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"speed-up, median of {len(ratios)} rounds: {spread}")
    print(f"largest difference of an image value: {difference:.2g} (the network's rounding at other batch sizes)")
    rows.append(
        {
            "benchmark": "mixed_plans",
            "way": "speed-up",
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
            "largest_difference": difference,
        }
    )
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
