"""The native CUDA kernels under compute-sanitizer: row, weights, advance and normals at awkward sizes.

    python benchmarks/gpu/sanitize.py                 # memcheck, initcheck, racecheck and synccheck, in turn
    python benchmarks/gpu/sanitize.py --tool memcheck

The exit code is 0 if no tool found anything and every result equals the reference on the CPU. Each tensor is an
allocation of its own (PYTORCH_NO_CUDA_MEMORY_CACHING), so an access one element too far is an error and does not hit a
neighbour.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck")
# Tails, whole counters, one, two and four counters a thread, and a batch beyond an axis of the grid.
SIZES = (
    (1, 1),
    (3, 63),
    (2, 64),
    (3, 257),
    (5, 784),
    (65537, 3),
    (65537, 4),
    (1, 2**19 + 4),
    (1, 2**20 + 4),
    (1, 2**20 + 1),
)
DTYPES = ((torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float16, torch.float32))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.cpu().nan_to_num(7), b.nan_to_num(7))


def machine_of(batch: int, numel: int, net_dtype: torch.dtype, guided: bool, wide: bool) -> dict[str, Any]:
    """Return the fields of a machine with two rows; a wide one has everything that a machine can have."""
    from restart_kernels import layout as L

    row = L.READ_X | L.READ_H | L.READ_F | L.GUIDE | L.STORE_X | L.STORE_H | L.STORE_NET
    if wide:
        row = (row & ~L.STORE_H) | L.READ_H2 | L.READ_H3 | L.STORE_H3 | L.PASTE | L.RESCALE
    coef = torch.zeros(2, L.NUM_COEF)
    coef[:, : L.NUM_COEF - 1] = torch.linspace(-1, 1, 2 * L.NUM_COEF - 2).view(2, -1)
    code = torch.tensor([[row, 1, 11, 21], [row & ~L.READ_H | L.END, 2, 12, 22]], dtype=torch.int32)
    x = torch.randn(batch, numel)
    x[-1, -1] = torch.inf
    fields: dict[str, Any] = {
        "x": x,
        "h": torch.randn(batch, numel),
        "net_in": torch.zeros((1 + guided) * batch, numel, dtype=net_dtype),
        "coef": coef,
        "code": code,
        "cursor": (torch.arange(batch) % 3 - 1).to(torch.int32) if batch > 1 else torch.zeros(1, dtype=torch.int32),
        "seeds": torch.arange(batch) + 2**33,
        "first_bad": torch.full((batch,), L.NEVER, dtype=torch.int32),
        "c_noise": torch.zeros(batch),
    }
    if wide:
        fields |= {name: torch.randn(batch, numel) for name in ("h2", "h3", "known")}
        fields |= {"mask": torch.rand(batch, numel), "mix": torch.zeros(batch, 2), "noises": 2}
    return fields


def check(batch: int, numel: int, dtypes: tuple[torch.dtype, ...], guided: bool, wide: bool) -> None:
    """Run two rows, their weights, two advances and a draw; AssertionError unless the GPU equals the reference."""
    import restart_kernels as rk

    F_dtype, net_dtype = dtypes
    fields = machine_of(batch, numel, net_dtype, guided, wide)
    F, F_uncond = (torch.randn(batch, numel).to(F_dtype) for _ in range(2))
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    on_gpu = rk.Machine(**(fields | {name: t.cuda() for name, t in tensors.items()}))
    on_cpu = rk.Machine(**fields)
    for machine, backend in ((on_gpu, "native"), (on_cpu, "reference")):
        bound = rk.bind(machine, backend)
        outputs = [t.to(machine.x.device) for t in ([F, F_uncond] if guided else [F])]
        for _ in range(2):
            if wide and guided:
                bound.weigh(*outputs)
            bound.run_row(*outputs)
            bound.advance()
    for name in tensors:
        assert same(getattr(on_gpu, name), getattr(on_cpu, name)), name
    z = rk.normal(on_gpu.seeds, 5, numel, backend="native")
    assert same(z, rk.normal(on_cpu.seeds, 5, numel, backend="reference")), "normal"


def payload() -> None:
    """Check every size, dtype and kind of machine."""
    kinds = list(itertools.product(SIZES, DTYPES, (False, True), (False, True)))
    for (batch, numel), dtypes, guided, wide in kinds:
        try:
            check(batch, numel, dtypes, guided, wide)
        except AssertionError as error:
            where = f"batch {batch}, numel {numel}, {dtypes}, guided {guided}, wide {wide}"
            raise SystemExit(f"{error} differs: {where}") from error
    torch.cuda.synchronize()
    print(f"{len(kinds)} machines equal the reference")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tool", choices=TOOLS, action="append", help="default: all; repeatable")
    parser.add_argument("--payload", action="store_true", help="run the kernels without a tool")
    options = parser.parse_args()
    if options.payload:
        payload()
        return 0
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit", file=sys.stderr)
        return 2
    paths = [str(ROOT / folder) for folder in ("engine", "kernels", "bindings")]
    environment = os.environ | {
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
    }
    failed = []
    for tool in options.tool or TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", sys.executable, __file__, "--payload"]
        print(f"+ {tool}", flush=True)
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(tool)
    print("failed: " + ", ".join(failed) if failed else "clean")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
