"""The native CUDA kernels under compute-sanitizer: step, advance and normals at awkward sizes.

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


def check(batch: int, numel: int, dtypes: tuple[torch.dtype, ...], guided: bool) -> None:
    """Run two steps, two advances and a draw; AssertionError unless the GPU equals the reference on the CPU."""
    import restart_kernels as rk
    from restart_kernels import layout as L

    F_dtype, net_dtype = dtypes
    coef = torch.zeros(2, L.NUM_COEF)
    coef[:, :10] = torch.linspace(-1, 1, 20).view(2, 10)
    code = torch.tensor([[63, 1, 0, 0], [63 & ~L.READ_H | L.END, 2, 0, 0]], dtype=torch.int32)
    x, h, F, F_uncond = (torch.randn(batch, numel) for _ in range(4))
    x[-1, -1] = torch.inf
    F, F_uncond = F.to(F_dtype), F_uncond.to(F_dtype)
    tensors = {
        "x": x,
        "h": h,
        "net_in": torch.zeros((1 + guided) * batch, numel, dtype=net_dtype),
        "coef": coef,
        "code": code,
        "cursor": (torch.arange(batch) % 3 - 1).to(torch.int32) if batch > 1 else torch.zeros(1, dtype=torch.int32),
        "seeds": torch.arange(batch) + 2**33,
        "first_bad": torch.full((batch,), L.NEVER, dtype=torch.int32),
        "c_noise": torch.zeros(batch),
    }
    on_gpu = rk.Machine(**{name: t.cuda() for name, t in tensors.items()})
    on_cpu = rk.Machine(**tensors)
    for machine, backend in ((on_gpu, "native"), (on_cpu, "reference")):
        stepper = rk.bind(machine, backend)
        outputs = [F, F_uncond] if guided else [F]
        outputs = [t.to(machine.x.device) for t in outputs]
        for _ in range(2):
            stepper.run_row(*outputs)
            stepper.advance()
    for name in tensors:
        assert same(getattr(on_gpu, name), getattr(on_cpu, name)), name
    z = rk.normal(on_gpu.seeds, 5, numel, backend="native")
    assert same(z, rk.normal(on_cpu.seeds, 5, numel, backend="reference")), "normal"


def payload() -> None:
    """Check every size, dtype and kind of guidance."""
    for (batch, numel), dtypes, guided in itertools.product(SIZES, DTYPES, (False, True)):
        try:
            check(batch, numel, dtypes, guided)
        except AssertionError as error:
            raise SystemExit(f"{error} differs: batch {batch}, numel {numel}, {dtypes}, guided {guided}") from error
    torch.cuda.synchronize()
    print(f"{len(SIZES) * len(DTYPES) * 2} machines equal the reference")


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
