r"""The native CPU step: bandwidth of Heun's rows beside the memory's, speed of the normals, cost of a call.

A row's bytes are those it reads and writes by its flags: Heun's first stage reads x and F and stores h and net_in, its
last stage reads x, h and F and stores x and net_in. Beside each row run two triads a = b + s·c of the same library on
the same threads, 12 bytes for each element: one on as many bytes as the row, which may lie in the caches as the row's
do, and one on three arrays of 144 MB ("memory triad"), more than four times the last cache of the machine that made the
rows, as STREAM asks. Neither counts the lines that a plain store first fetches. Targets: 80 % of the triad for rows
without noise, normals as fast as torch.randn(out=). All variants of one table run in rotation; ratios are taken round
by round.

    python benchmarks/step_cpu.py              # writes results/step_cpu.json
    python benchmarks/step_cpu.py --quick      # a few rounds, writes nothing
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from where import RESULTS, environment

import restart_bindings as rb
from restart_bindings import _native_cpu
from restart_kernels import layout as L
from restart_sampling.experiments.measure.timing import interleaved, quartiles, ratios

SHAPES = ((64, 3, 32, 32), (256, 4, 64, 64))
STREAM = 3 * 144_000_000  # bytes
STAGES = {
    "first": L.READ_X | L.READ_F | L.STORE_H | L.STORE_NET,
    "last": L.READ_X | L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Variant = Callable[[], object]


def random(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def row_bytes(flags: int, dtype: torch.dtype) -> int:
    """Return the bytes for each element of a row with these flags."""
    float32 = (L.READ_X, L.READ_H, L.STORE_X, L.STORE_H)
    network = (L.READ_F, L.STORE_NET)
    return 4 * sum(flags & bit != 0 for bit in float32) + dtype.itemsize * sum(flags & b != 0 for b in network)


def step_of(shape: tuple[int, ...], flags: int, dtype: torch.dtype, s: float) -> Variant:
    batch = shape[0]
    coef, code = torch.zeros(1, L.NUM_COEF), torch.zeros(1, L.NUM_CODE, dtype=torch.int32)
    coef[0, [L.Y_X, L.Y_H, L.Y_F, L.G_X, L.G_F, L.C_IN]] = torch.tensor([0.5, 0.25, 0.25, 0.5, 0.5, 0.9])
    coef[0, L.S], code[0, L.FLAGS], code[0, L.DRAW] = s, flags, 1
    x, h, F, net_in = random(shape), random(shape), random(shape).to(dtype), random(shape).to(dtype)
    cursor, seeds = torch.zeros(1, dtype=torch.int32), torch.arange(batch)
    first_bad = torch.full((batch,), L.NEVER, dtype=torch.int32)
    step = rb.BoundMachine(x, h, net_in, coef, code, cursor, seeds, first_bad).run_row
    return lambda: step(F)


def triad_of(total: int) -> Variant:
    a, b, c = (random((total // 12,)) for _ in range(3))
    threads = torch.get_num_threads()
    return lambda: _native_cpu.triad(a, b, c, 0.5, threads)


def repeated(variant: Variant, seconds: float = 5e-4) -> tuple[Variant, int]:
    """Return the variant repeated n times, and n.

    It then fills `seconds`, so that the clock and a sleeping worker do not count.
    """
    variant()
    started = time.perf_counter()
    variant()
    n = max(1, round(seconds / (time.perf_counter() - started)))

    def run() -> None:
        for _ in range(n):
            variant()

    return run, n


def measured(variants: dict[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of one call of each variant, in each round."""
    many = {name: repeated(variant) for name, variant in variants.items()}
    seconds = interleaved({name: run for name, (run, _) in many.items()}, rounds)
    return {name: [s / many[name][1] for s in seconds[name]] for name in variants}


def three(values: tuple[float, float, float], scale: float = 1.0) -> dict[str, float]:
    return dict(zip(("q1", "median", "q3"), (round(v * scale, 4) for v in values), strict=True))


def bandwidths(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Return every row of Heun on a shape, each beside a triad of as many bytes."""
    rows = []
    numel = torch.Size(shape).numel()
    stream = measured({"triad": triad_of(STREAM)}, min(rounds, 9))["triad"]
    memory = [STREAM / s * 1e-9 for s in stream]
    for stage, flags in STAGES.items():
        for name, dtype in DTYPES.items():
            total = numel * row_bytes(flags, dtype)
            variants = {"triad": triad_of(total)}
            variants |= {f"s={s}": step_of(shape, flags, dtype, s) for s in (0.0, 0.5)}
            seconds = measured(variants, rounds)
            triad = [total / s * 1e-9 for s in seconds["triad"]]
            for s in (0.0, 0.5):
                step = seconds[f"s={s}"]
                rows.append(
                    {
                        "what": "step",
                        "threads": torch.get_num_threads(),
                        "shape": list(shape),
                        "stage": stage,
                        "network": name,
                        "noise": s != 0,
                        "bytes_per_element": total // numel,
                        "megabytes": round(total / 1e6, 1),
                        "us": three(quartiles(step), 1e6),
                        "GB_per_s": three(quartiles([total / t * 1e-9 for t in step])),
                        "triad_GB_per_s": three(quartiles(triad)),
                        "of_triad": three(ratios(seconds["triad"], step)),
                        "memory_triad_GB_per_s": three(quartiles(memory)),
                        "of_memory_triad": round(
                            statistics.median(total / t * 1e-9 for t in step) / statistics.median(memory), 4
                        ),
                    }
                )
    return rows


def normals(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Return the speed of the normals by each instruction set, beside torch.randn(out=)."""
    out, seeds, default = torch.empty(shape), torch.arange(shape[0]), rb.simd()

    def of(name: str) -> Variant:
        def run() -> None:
            rb.set_simd(name)
            rb.normal(out, seeds, 0, 0)

        return run

    try:
        seconds = measured({"torch": lambda: torch.randn(shape, out=out)} | {n: of(n) for n in rb.simds()}, rounds)
    finally:
        rb.set_simd(default)
    return [
        {
            "what": "normals",
            "threads": torch.get_num_threads(),
            "shape": list(shape),
            "simd": name,
            "ns_per_normal": three(quartiles(seconds[name]), 1e9 / out.numel()),
            "torch_ns_per_normal": three(quartiles(seconds["torch"]), 1e9 / out.numel()),
            "times_torch": three(ratios(seconds["torch"], seconds[name])),
        }
        for name in rb.simds()
    ]


def overhead(rounds: int) -> list[dict[str, Any]]:
    """Return what one call from Python costs at a size that costs nothing, beside an empty call."""
    coef, code = torch.zeros(1, L.NUM_COEF), torch.zeros(1, L.NUM_CODE, dtype=torch.int32)
    code[0, L.FLAGS] = STAGES["last"]
    x, h, F, net_in = (torch.ones(1, 4) for _ in range(4))
    seeds, first_bad = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)

    def bound() -> tuple[rb.BoundMachine, torch.Tensor]:
        cursor = torch.zeros(1, dtype=torch.int32)
        return rb.BoundMachine(x, h, net_in, coef, code, cursor, seeds, first_bad), cursor

    step = bound()[0].run_row
    advance, cursor = bound()
    advance, back = advance.advance, cursor.zero_

    def back_and_advance() -> None:
        back()
        advance()

    variants: dict[str, Variant] = {
        "nothing": lambda: None,
        "step": lambda: step(F),
        "zero_": lambda: back(),
        "zero_, advance": back_and_advance,
    }
    seconds = measured(variants, rounds)
    return [{"what": "call", "name": name, "us": three(quartiles(seconds[name]), 1e6)} for name in variants]


def spread(values: dict[str, float], digits: int = 2) -> str:
    q1, median, q3 = (f"{values[name]:.{digits}f}" for name in ("q1", "median", "q3"))
    return f"{median} [{q1}, {q3}]"


def line(row: dict[str, Any]) -> str:
    if row["what"] == "call":
        return f"one call: {row['name']:18} {spread(row['us'])} µs"
    where = f"{row['threads']} threads {row['shape']!s:18}"
    if row["what"] == "normals":
        ns = f"{spread(row['ns_per_normal'])} ns"
        return f"{where} normals {row['simd']:8} {ns:20} = {spread(row['times_torch'])} × torch.randn"
    noise = "noise" if row["noise"] else "     "
    name = f"{where} {row['stage']:5} {row['network']:8} {noise} {row['megabytes']:5.1f} MB"
    speed = f"{row['us']['median']:8.0f} µs {spread(row['GB_per_s'], 1):18} GB/s"
    return f"{name} {speed} = {spread(row['of_triad'])} of triad, {row['of_memory_triad']:.2f} of memory triad"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    rounds = 9 if arguments.quick else 101
    results = {**environment(), "simd": rb.simd(), "simds": rb.simds(), "rounds": rounds}
    rows: list[dict[str, Any]] = []

    def add(part: list[dict[str, Any]]) -> None:
        rows.extend(part)
        print(*map(line, part), sep="\n", flush=True)

    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for shape in SHAPES:
            add(bandwidths(shape, rounds))
        add(normals(SHAPES[0], rounds))
    add(overhead(rounds))
    if not arguments.quick:
        (RESULTS / "step_cpu.json").write_text(json.dumps({**results, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
