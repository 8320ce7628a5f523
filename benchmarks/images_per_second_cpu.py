r"""Images per second of the bundled model on a CPU, and where the time goes.

All run the preset `fashion-mnist-43`: the engine, and the plain float64 Restart loop and the float32 loop of
`experiments/measure/loops.py`, with the same network, batch and number of evaluations, in rotation in one process.
"compiled" is the engine's compile="on" beside the float64 loop with torch.compile around the network. Every network
call is timed, so a row also says what the rest of an evaluation costs: the sampler, in a program whose caches the
network has just filled.

The engine cuts a batch into slices, one for each thread, where the network allows it; "one slice" is the engine without
that, with each operator on all threads as in the loops. The first shows what a user gains, the second what the sampler
alone contributes.

The breakdown is of the eager network, by torch function, and counts time inside these functions only: convolution (with
resampling and 1×1 projections), group norm, attention (scaled dot product and the products of its q, k, v), embedding
(noise level, class and the layers that they feed), SiLU, and the rest (sums, concatenations, copies).

    python benchmarks/images_per_second_cpu.py             # writes results/images_per_second_cpu.json
    python benchmarks/images_per_second_cpu.py --quick     # one small batch, writes nothing
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure import loops
from restart_sampling.experiments.measure.timing import interleaved, noise_report, quartiles, ratios, threads
from restart_sampling.sampler.executors import threads as slices

PRESET = "fashion-mnist-43"
PARTS = {
    "conv2d": "convolution",
    "conv_transpose2d": "convolution",
    "avg_pool2d": "convolution",
    "interpolate": "convolution",
    "group_norm": "group norm",
    "scaled_dot_product_attention": "attention",
    "silu": "SiLU",
    "sin": "embedding",
    "cos": "embedding",
}


class Timed:
    """A network that adds up the seconds spent in it, by thread."""

    def __init__(self, network: loops.Network, concurrent: bool = True) -> None:
        self.network, self.by_thread = network, defaultdict[int, float](float)
        self.concurrent = concurrent and getattr(network, "concurrent", False)

    def __call__(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        started = time.perf_counter()
        F = self.network(net_in, c_noise, labels)
        self.by_thread[threading.get_ident()] += time.perf_counter() - started
        return F


class Variant:
    """One variant of drawing the batch; it records the network's seconds of each run, those of the slowest slice."""

    def __init__(self, run: Callable[[], Tensor], network: Timed) -> None:
        self.run, self.network, self.network_seconds = run, network, list[float]()

    def __call__(self) -> None:
        self.network.by_thread.clear()
        self.run()
        self.network_seconds.append(max(self.network.by_thread.values()))


def variants_of(plan: rs.Plan, batch: int, compiled: bool) -> dict[str, Variant]:
    """Return the engine and its baselines on the bundled network, eager or compiled."""
    denoiser = rs.load("fashion-mnist")
    seeds = range(batch)
    labels = torch.arange(batch) % denoiser.label_dim

    def engine(concurrent: bool) -> Variant:
        sampler = rs.Sampler(denoiser, plan, batch_size=batch, compile="on" if compiled else "off")
        network = Timed(sampler.network, concurrent)
        sampler.workspace.network = network  # before its first batch
        return Variant(lambda: sampler.run(seeds, labels), network)

    plain = Timed(torch.compile(denoiser.network, dynamic=False) if compiled else denoiser.network)
    D = loops.edm_denoiser_of(denoiser, labels, plain)
    intervals = loops.intervals_of(plan)
    t_steps = torch.tensor(plan.grid, dtype=torch.float64)
    sigmas = t_steps.float()

    def fp64() -> Tensor:
        noise = loops.SampleGenerators(seeds)
        return loops.restart_loop_fp64(D, noise.latents(denoiser.shape), t_steps, intervals, noise)

    def fp32() -> Tensor:
        x = torch.randn(batch, *denoiser.shape) * sigmas[0]
        return loops.heun_loop_fp32(D, x, sigmas, intervals)

    variants = {"engine": engine(concurrent=True), "fp64 loop": Variant(fp64, plain), "fp32 loop": Variant(fp32, plain)}
    if slices.count(batch, torch.get_num_threads()) > 1:
        variants["engine, one slice"] = engine(concurrent=False)
    if compiled:  # compiled networks are not sliced, and σ as [B] would be another compilation
        return {f"{name}, compiled": variants[name] for name in ("engine", "fp64 loop")}
    return variants


def measure(plan: rs.Plan, batch: int, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    """Return one row for each variant.

    `ratio` is the engine's images per second over this variant's, both eager or both compiled.
    """
    variants = variants_of(plan, batch, False)
    if compiled:
        variants |= variants_of(plan, batch, True)
    warm = 1
    seconds = interleaved(variants, rounds, warm)
    rows = []
    for name, variant in variants.items():
        q1, median, q3 = quartiles(seconds[name])
        engine = "engine, compiled" if name.endswith("compiled") else "engine"
        r1, ratio, r3 = ratios(seconds[name], seconds[engine])
        rest = [s - n for s, n in zip(seconds[name], variant.network_seconds[warm:], strict=True)]
        sampler_us = 1e6 * quartiles(rest)[1] / plan.nfe
        share = quartiles([r / s for r, s in zip(rest, seconds[name], strict=True)])[1]
        rows.append(
            {
                "benchmark": "images_per_second_cpu",
                "sampler": name,
                "batch": batch,
                "nfe": plan.nfe,
                "images_per_s": round(batch / median, 4),
                "q1": round(batch / q3, 4),
                "q3": round(batch / q1, 4),
                "ratio": round(ratio, 4),
                "ratio_q1": round(r1, 4),
                "ratio_q3": round(r3, 4),
                "sampler_us": round(sampler_us, 1),
                "sampler_percent": round(100 * share, 3),
                "rounds": rounds,
                "disturbed": seconds.disturbed,
                **environment(),
            }
        )
    return rows


class Parts(TorchFunctionMode):
    """Adds up the seconds inside torch functions by what they are for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        passed = time.perf_counter() - started
        name = getattr(func, "__name__", "")
        if name == "linear":  # on [B, pixels, C] for q, k, v; on [1 or B, C] for the embedding
            self.seconds["attention" if args[0].ndim == 3 else "embedding"] += passed
        else:
            self.seconds[PARTS.get(name, "rest")] += passed
        return result


def breakdown(batch: int, calls: int, sampler_percent: float) -> list[dict[str, Any]]:
    """Return percents of an evaluation of the engine: the sampler as measured in the runs, the network by part."""
    denoiser = rs.load("fashion-mnist")
    net_in = torch.randn(batch, *denoiser.shape)
    labels = torch.nn.functional.one_hot(torch.arange(batch) % denoiser.label_dim, denoiser.label_dim).float()
    parts = Parts()
    with torch.inference_mode():
        denoiser.network(net_in, torch.zeros(1), labels)
        with parts:
            for _ in range(calls):
                denoiser.network(net_in, torch.zeros(1), labels)
    network = (100 - sampler_percent) / sum(parts.seconds.values())
    percents = {"sampler": sampler_percent} | {name: s * network for name, s in parts.seconds.items()}
    return [
        {"benchmark": "breakdown_cpu", "part": part, "batch": batch, "percent": round(percent, 2), **environment()}
        for part, percent in sorted(percents.items(), key=lambda item: -item[1])
    ]


def show(rows: list[dict[str, Any]], parts: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=f"{PRESET}, {rows[0]['threads']} thread(s)")
    for column in (
        "batch",
        "sampler",
        "images/s",
        "quartiles",
        "engine's speed / this",
        "sampler µs per NFE",
        "sampler",
    ):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for row in rows:
        table.add_row(
            str(row["batch"]),
            row["sampler"],
            f"{row['images_per_s']:.2f}",
            f"{row['q1']:.2f} – {row['q3']:.2f}",
            f"{row['ratio']:.3f}  ({row['ratio_q1']:.3f} – {row['ratio_q3']:.3f})",
            f"{row['sampler_us']:.0f}",
            f"{row['sampler_percent']:.2f} %",
        )
    console.print(table)
    console.print(noise_report(rows))
    console.print(
        f"an evaluation at batch {parts[0]['batch']}: "
        + ", ".join(f"{row['part']} {row['percent']:.1f} %" for row in parts)
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--compile", type=int, nargs="*", default=[1, 16, 64], help="batches that are also compiled")
    parser.add_argument(
        "--rounds", type=int, default=5, help="at the largest batches; smaller ones get up to 4 times as many"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "images_per_second_cpu.json")
    parser.add_argument("--quick", action="store_true", help="a few evaluations at batch 2, 1 thread, nothing written")
    options = parser.parse_args(arguments)
    plan = rs.preset(PRESET)
    if options.quick:
        options.batches, options.compile, options.rounds, options.threads = [2], [], 2, 1
        plan = rs.Plan.build(steps=2, restart=[2, 1, 0.3, 1.0], sigma_min=0.3)
    rows: list[dict[str, Any]] = []
    with threads(options.threads):
        for batch in options.batches:
            rounds = options.rounds if options.quick else max(options.rounds, min(4, 16 // batch) * options.rounds)
            rows += measure(plan, batch, rounds, batch in options.compile)
            print(f"batch {batch}: done", flush=True)
        last = options.batches[-1]
        engine = next(row for row in rows if row["batch"] == last and row["sampler"] == "engine")
        parts = breakdown(last, 1 if options.quick else 10, engine["sampler_percent"])
    show(rows, parts, Console(width=130))
    if not options.quick:
        options.out.write_text(json.dumps(rows + parts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
