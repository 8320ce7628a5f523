"""Where the bundled network's time goes on a CPU: memory format, batch size, threads, torch.compile, operations.

    python benchmarks/network_cpu.py [--compile]          writes benchmarks/results/network_cpu.json

Every round runs all variants of one batch size in turn, so that a change of the machine meets all of them. Rounds in
which other processes took more than a tenth of the processors are marked as disturbed and left out of the medians while
at least three others remain; `disturbed` is their number. `pool` is one thread for each half of the batch, with
single-threaded operations, and `threads=2` shares every operation between two threads.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from where import RESULTS

import restart_sampling as rs

RESULT = RESULTS / "network_cpu.json"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = 8.0  # per batch size


def busy() -> float:
    """Return the seconds that the machine's processors have worked, all processes together."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, 28, 28, generator=generator)
    return x, torch.zeros(1), torch.eye(10)[torch.arange(batch) % 10]


def rounds(variants: dict[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float, int, int]]:
    """Return median seconds, median seconds of processor time, rounds and disturbed rounds of each variant."""
    times: dict[str, list[tuple[bool, float, float]]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in variants.items():
            machine, own, start = busy(), time.process_time(), time.perf_counter()
            run()
            wall, cpu = time.perf_counter() - start, time.process_time() - own
            others = busy() - machine - cpu
            # Ticks are 10 ms: a short round counts as disturbed from two of them on.
            times[name].append((others > max(0.1 * wall * (os.cpu_count() or 1), 0.02), wall, cpu))
    result = {}
    for name, all_rounds in times.items():
        quiet = [t for t in all_rounds if not t[0]]
        used = quiet if len(quiet) >= 3 else all_rounds
        wall, cpu = (statistics.median(t[i] for t in used) for i in (1, 2))
        result[name] = (wall, cpu, len(all_rounds), len(all_rounds) - len(quiet))
    return result


def variants_of(batch: int, networks: dict[str, Callable], threads: int) -> dict[str, Callable[[], object]]:
    args = inputs(batch)

    def run(network: Callable, n: int) -> Callable[[], object]:
        def once() -> None:
            torch.set_num_threads(n)
            with torch.inference_mode():
                network(*args)

        return once

    result = {f"{name}, threads={n}": run(f, n) for name, f in networks.items() for n in sorted({1, threads})}
    if batch >= threads > 1:
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        parts = list(zip(args[0].chunk(threads), args[2].chunk(threads), strict=True))

        def one(part: tuple[Tensor, Tensor]) -> None:
            with torch.inference_mode():
                networks["channels_last"](part[0], args[1], part[1])

        result["channels_last, pool"] = lambda: list(pool.map(one, parts))
    return result


def operations(network: Callable, batch: int) -> dict[str, float]:
    """Return the ms that each operation takes for an evaluation of one image, on one thread."""
    torch.set_num_threads(1)
    args, repeats = inputs(batch), 8
    with torch.inference_mode():
        network(*args)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(repeats):
                network(*args)
    events = sorted(recorded.key_averages(), key=lambda e: -e.self_cpu_time_total)
    return {e.key: round(e.self_cpu_time_total / 1e3 / repeats / batch, 4) for e in events[:14]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, about two minutes per batch size")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    args = parser.parse_args()
    threads = os.cpu_count() or 1
    network = rs.load("fashion-mnist").network
    networks: dict[str, Callable] = {
        "contiguous": copy.deepcopy(network).to(memory_format=torch.contiguous_format),  # type: ignore[attr-defined]
        "channels_last": network,
    }
    rows = []
    for batch in args.batches:
        compile_seconds = None
        if args.compile and batch == 32:
            networks["compiled"] = torch.compile(network, fullgraph=True, dynamic=False)
            start = time.perf_counter()
            with torch.inference_mode():
                networks["compiled"](*inputs(batch))
            compile_seconds = round(time.perf_counter() - start, 1)
        variants = variants_of(batch, networks, threads)
        for name, (wall, cpu, n, disturbed) in rounds(variants, args.seconds).items():
            ms, cpu_ms = (round(t * 1e3 / batch, 3) for t in (wall, cpu))
            row = dict(batch=batch, variant=name, ms_per_image_evaluation=ms, cpu_ms=cpu_ms)
            rows.append(row | dict(rounds=n, disturbed=disturbed))
            if name.startswith("compiled"):
                rows[-1]["compile_seconds"] = compile_seconds
            print(
                f"batch {batch:4}  {name:26} {ms:8.2f} ms ({cpu_ms:.2f} of the processor) per image-evaluation"
                f"   {disturbed}/{n} disturbed",
                flush=True,
            )
        networks.pop("compiled", None)
    parts = {str(batch): operations(network, batch) for batch in (1, 8, 32)}
    machine = dict(processor=platform.processor() or platform.machine(), cpus=threads, torch=torch.__version__)
    RESULT.write_text(json.dumps(dict(machine=machine, rows=rows, operations_ms=parts), indent=1) + "\n")
    for batch, table in parts.items():
        print(f"batch {batch}: " + ", ".join(f"{k.removeprefix('aten::')} {v:.2f}" for k, v in table.items()))


if __name__ == "__main__":
    main()
