r"""The stage kernels: copies, the fused step by kind of row, normals and pixels; bytes moved over time, L2 flushed.

A row of a Heun step reads and writes 2 registers and 2 tensors of the network's dtype: 12 bytes for each element with a
bf16 network, 16 with fp32. Shares are of the best copy measured on the same card.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from measure import seconds_of, stage_options
from rows import Rows
from torch import Tensor

import restart_kernels as rk
from restart_kernels import layout as L

KINDS = {
    "heun first": (L.READ_X | L.READ_F | L.STORE_H | L.STORE_NET, False),
    "heun last": (L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET, False),
    "heun last, noise": (L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET, True),
    "everything, noise": (L.READ_X | L.READ_H | L.READ_F | L.STORE_X | L.STORE_H | L.STORE_NET, True),
    "initial latent": (L.STORE_X | L.STORE_NET, True),
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPES = ((64, 3, 32, 32), (256, 4, 64, 64), (1024, 4, 64, 64))
COPIES_MB = (64, 256, 1024)


def one_row(flags: int, noise: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (coef, code), a table of one row whose result stays bounded however often it is repeated."""
    coef, code = torch.zeros(1, L.NUM_COEF), torch.zeros(1, L.NUM_CODE, dtype=torch.int32)
    for column in (L.Y_X, L.Y_H, L.Y_F, L.G_X, L.G_H, L.G_F):
        coef[0, column] = 0.25
    coef[0, L.S], coef[0, L.C_IN], coef[0, L.W], code[0, L.FLAGS] = float(noise), 0.5, 2.0, flags
    return coef.to(device), code.to(device)


def traffic(flags: int, numel: int, F_bytes: int, guided: bool) -> int:
    """Return the bytes that the row must move."""
    network = F_bytes * (2 if guided else 1)
    weights = {L.READ_X: 4, L.READ_H: 4, L.READ_F: network, L.STORE_X: 4, L.STORE_H: 4, L.STORE_NET: network}
    return numel * sum(size for flag, size in weights.items() if flags & flag)


def step_of(
    shape: Sequence[int], flags: int, noise: bool, dtype: torch.dtype, guided: bool, backend: str, device: torch.device
):
    """Return a function that runs the row once on every sample."""
    B, *rest = shape
    coef, code = one_row(flags | (L.GUIDE if guided else 0), noise, device)
    x, h = (torch.randn(shape, device=device) for _ in range(2))
    F = torch.randn((2 * B if guided else B, *rest), device=device).to(dtype)
    machine = rk.Machine(
        x,
        h,
        torch.empty_like(F),
        coef,
        code,
        torch.zeros(1, dtype=torch.int32, device=device),
        torch.arange(B, device=device),
        torch.full((B,), L.NEVER, dtype=torch.int32, device=device),
    )
    stepper = rk.bind(machine, backend)
    return (lambda: stepper.run_row(F[:B], F[B:])) if guided else (lambda: stepper.run_row(F))


def main() -> None:
    options, device = stage_options(__doc__ or "")
    rows = Rows(options.results, "kernels", options.seconds, options.device)
    n = 3 if options.quick else 60
    best = 0.0
    for mb in (1,) if options.quick else COPIES_MB:
        a = torch.randn(mb << 18, device=device)
        b = torch.empty_like(a)
        rates = [2 * a.nbytes / s / 1e9 for s in seconds_of(lambda a=a, b=b: b.copy_(a), device, n)]
        rows.add("bandwidth", rates, "GB/s", case=f"{mb} MB", variant="copy")
        best = max(best, sorted(rates)[len(rates) // 2])

    backends = [name for name in rk.available_backends(device) if name != "reference"]
    shapes = ((2, 3, 8, 8),) if options.quick else SHAPES
    if options.quick and "triton" in backends:
        backends.remove("triton")  # it would run in the interpreter
    for shape in reversed(shapes):
        for backend in backends or ["reference"]:
            for dtype, guided in (("bf16", False), ("fp32", False), ("bf16", True)):
                for kind, (flags, noise) in KINDS.items():
                    if rows.left() < 5:
                        rows.add("bandwidth", "skipped: no time left", case=str(list(shape)), variant=backend)
                        continue
                    numel = torch.Size(shape).numel()
                    moved = traffic(flags, numel, DTYPES[dtype].itemsize, guided)
                    run = step_of(shape, flags, noise, DTYPES[dtype], guided, backend, device)
                    times = seconds_of(run, device, n)
                    rates = [moved / s / 1e9 for s in times]
                    share = sorted(rates)[len(rates) // 2] / best
                    case = f"{'x'.join(map(str, shape))} {dtype}{' guided' if guided else ''}"
                    rows.add(
                        f"bandwidth, {kind}",
                        rates,
                        "GB/s",
                        case=case,
                        variant=backend,
                        share_of_copy=round(share, 3),
                        us=round(1e6 * sorted(times)[len(times) // 2], 2),
                        bytes_per_element=moved // numel,
                    )

    B, numel = (4, 1 << 10) if options.quick else (1024, 1 << 16)
    seeds, out = torch.arange(B, device=device), torch.empty(B, numel, device=device)
    variants = {
        name: (lambda name=name: rk.normal(seeds, 0, numel, backend=name)) for name in backends or ["reference"]
    }
    variants["torch.randn"] = out.normal_
    for name, run in variants.items():
        rates = [B * numel / s / 1e9 for s in seconds_of(run, device, n)]
        rows.add("normals", rates, "1e9/s", case=f"{B}x{numel}", variant=name)

    shape = (4, 3, 16, 16) if options.quick else (512, 3, 256, 256)
    x = torch.rand(shape, device=device) * 2 - 1
    for name in ("reference", *(("triton",) if "triton" in backends else ())):
        times = seconds_of(lambda name=name: rk.pixels(x, backend=name), device, n)
        rates = [5 * x.numel() / s / 1e9 for s in times]  # 4 bytes read, 1 written, whatever else is moved
        rows.add(
            "pixels",
            rates,
            "GB/s",
            case="x".join(map(str, shape)),
            variant=name,
            share_of_copy=round(sorted(rates)[len(rates) // 2] / best, 3),
        )


if __name__ == "__main__":
    main()
