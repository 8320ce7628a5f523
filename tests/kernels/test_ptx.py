"""What the compiler makes for a GPU computes the bits of the statement: its PTX is run thread by thread on the CPU.

The interpreter proves the source of the Triton kernels and not their layouts, where threads exchange values. This does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ptx
from support.row_batches import (
    BF16,
    F32,
    METHODS,
    REGISTERS,
    STORES,
    WRITTEN,
    Batch,
    assert_equal_bits,
    rows_of_all_kinds,
    stated,
    stated_weights,
    table,
)

import restart_kernels
from restart_kernels import layout as L

ALL = "row-bf16-R3-noises2-guided-weighed-paste"
NAMES = (ALL, "row-fp32-R0-halves", "row-fp32-R2-guided", "row-bf16", "weigh-fp32", "weigh-bf16", "advance", "normal")
COMPILE = """
import json, sys
from restart_kernels import aot
found = {}
for name in sys.argv[1:]:
    v = aot.variant(name)
    arguments = [a for a in v.kernel.arg_names if a not in v.constants]
    found[name] = {"ptx": aot.compile_variant(v, 90).asm["ptx"], "arguments": arguments, "elements": v.elements}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def kernels():
    """Return the PTX, the arguments and the elements of a block of each kernel, from a process that can compile."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(restart_kernels.__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(str(root / folder) for folder in ("kernels", "bindings"))
    command = [sys.executable, "-c", COMPILE, *NAMES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def launch(kernel, grid, sizes=None, **tensors):
    """Run a kernel on these tensors and return the memory after it; one that is None is nowhere."""
    memory = ptx.Memory(**{name: t for name, t in tensors.items() if t is not None})
    numbers = {"net_in": 0} | dict.fromkeys(tensors, 0) | memory.at
    numbers = {f"{name}_ptr": at for name, at in numbers.items()} | {"net_ptr": numbers["net_in"]} | (sizes or {})
    scratch = [0, 0]  # of Triton itself, which these kernels do not use
    ptx.run(kernel["ptx"], [numbers[name] for name in kernel["arguments"]] + scratch, grid, memory)
    return memory


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("row")])
def test_rows_of_all_kinds(kernels, name):
    """What a row neither reads nor stores is not in memory at all, so that an access is an error."""
    kernel, has = kernels[name], name.split("-")
    registers = next((r for r in range(4) if f"R{r}" in has), 1)
    dtype, blocks = (BF16 if "bf16" in has else F32), 2
    rows = rows_of_all_kinds(8, registers, len(name), "cpu")
    for row in (*range(8), L.IDLE):
        case = Batch(
            2,
            blocks * kernel["elements"],
            rows,
            dtype,
            dtype,
            bool({"guided", "halves"} & set(has)),
            [row],
            registers=registers,
            noises=2 if "noises2" in has else 1,
            paste="paste" in has,
            weighed="weighed" in has,
        )
        if "halves" in has:
            case.F_uncond = None
        case.poison()
        flags = rows[1][row, L.FLAGS].item() if row >= 0 else 0
        expected = case.by_name(stated(case))
        stored = dict(zip(("x", "net_in", *REGISTERS), (L.STORE_X, L.STORE_NET, *STORES), strict=True))
        tensors = {n: getattr(case, n) for n in (*WRITTEN, "F", "F_uncond", "known", "mask", "mix", "coef", "code")}
        for n, tensor in tensors.items():
            unread = tensor is not None and (n == "net_in" or tensor.isnan().all())
            if unread and not flags & stored.get(n, 0):
                tensors[n] = None
        sizes = {"E": case.x.shape[1], "half": case.x.numel()}
        memory = launch(kernel, (blocks, 2), sizes, cursor=case.cursor, seeds=case.seeds, **tensors)
        written = [n for n in expected if tensors[n] is not None]
        assert_equal_bits([memory[n] for n in written], [expected[n] for n in written])


def test_a_bad_value_is_found(kernels):
    """By the one thread that sees it, in its own sample."""
    case = Batch(3, kernels["row-bf16"]["elements"], table([L.READ_X | L.STORE_X] * 2), BF16, BF16, cursor=[1])
    case.x[1, 1001] = torch.inf
    tensors = {n: getattr(case, n) for n in ("x", "h", "net_in", "first_bad", "F", "coef", "code", "cursor", "seeds")}
    memory = launch(kernels["row-bf16"], (1, 3), {"E": case.x.shape[1], "half": 0}, **tensors)
    assert memory["first_bad"].tolist() == [L.NEVER, 1, L.NEVER]


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("numel", [16, 1024, 5008])
def test_weights(kernels, dtype, numel):
    """Sums over threads, warps and passes, in the order of the scheme; a sample without a method is left alone."""
    rows = table([*(L.GUIDE | method for method in METHODS), L.GUIDE])
    for row in (*range(4), L.IDLE):
        case = Batch(2, numel, rows, dtype, guided=True, cursor=[row], weighed=True)
        tensors = {n: getattr(case, n) for n in ("F", "F_uncond", "mix", "coef", "code", "cursor")}
        memory = launch(kernels["weigh-fp32" if dtype == F32 else "weigh-bf16"], (2, 1), {"E": numel}, **tensors)
        assert_equal_bits([memory["mix"]], [stated_weights(case)])


def test_normals(kernels):
    seeds = torch.tensor([2**63 - 1, 5])
    out = torch.full((2, kernels["normal"]["elements"]), torch.nan)
    memory = launch(kernels["normal"], (1, 2), {"draw": 7, "stream": 0, "E": out.shape[1]}, out=out, seeds=seeds)
    assert torch.equal(memory["out"], restart_kernels.normal(seeds, 7, out.shape[1], backend="reference"))


def test_advance(kernels):
    coef, code = table([0, L.END, 0, L.END])
    cursor = torch.tensor([0, 1, L.IDLE, 2, 3], dtype=torch.int32)
    c_noise = torch.full((5,), 7.0)
    memory = launch(kernels["advance"], (1, 1), {"n": 5}, coef=coef, code=code, cursor=cursor, c_noise=c_noise)
    assert memory["cursor"].tolist() == [1, L.IDLE, L.IDLE, 3, L.IDLE]
    assert torch.equal(memory["c_noise"], torch.where(cursor >= 0, coef[cursor, L.C_NOISE], c_noise))


def test_the_machine_refuses_what_a_gpu_would_not_do_alike():
    """A branch on which threads part, an access outside the tensors, and an operation that names no rounding."""
    head, memory = ".reqntid 32\n{\n", ptx.Memory(t=torch.zeros(4))
    for body, message in (
        ("setp.lt.u32 %p1, %tid.x, 7;\n@%p1 bra $end;\n$end:\n", "threads part"),
        ("mov.b64 %rd1, 512;\nld.global.b32 %r1, [ %rd1 + 0 ];\n", "outside the tensors"),
        ("mov.b64 %rd1, 258;\nld.global.b32 %r1, [ %rd1 + 0 ];\n", "not aligned"),
        ("mov.b32 %r1, 0f3F800000;\nmul.f32 %r2, %r1, %r1;\n", "mul"),
    ):
        with pytest.raises(AssertionError, match=message):
            ptx.run(head + body + "ret;\n}", [], (1, 1), memory)
