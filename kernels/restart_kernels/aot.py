"""Compile every kernel ahead of time, without a GPU, and report what came out.

    python -m restart_kernels.aot --arch 80 --arch 90 [--variant row-bf16] [--variant all] [--json]

A variant of the row is named by its network's dtype and by what its machine has beyond one history register and one
noise term: `row-bf16-R3-noises2-guided-paste`. With `guided` net_in has two halves and the call an F_uncond, with
`halves` it has none; `weighed` has mix. `all` is every combination, `norms` every norm (`norm/variants.py`).

For each variant: registers, spills, shared memory, barriers, SASS instructions per element, widths of the memory
accesses, and whether any product was contracted into an fma it must not be in. Besides the whole code two paths are
counted: the longest that a row can take (noise, h stored) and the shortest (neither). Both leave out the blocks that
finite numbers never enter (the slow paths of roots and divisions, the atomic of first_bad). Where there is a loop they
make one turn of it, and the turn is counted alone too.

The budget of a row: at 14 bytes per element an H200 moves 343e9 elements a second and issues 86 instructions for each,
an H100 124. What a row reads or stores beyond that adds 25 instructions to it for each 4 bytes, and a second draw takes
45. Needs triton with its bundled nvdisasm and cuobjdump, and TRITON_INTERPRET unset.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from .backends import triton as launch
from .errors import KernelError
from .norm import variants as norms
from .philox import coefficients as c
from .variant import Variant

# A large batch of latents, so that the configuration is the one that fills a GPU; E is a multiple of the block.
NUMEL, BATCH = 4 * 64 * 64, 256
POINTERS = {"coef_ptr": "fp32", "code_ptr": "i32", "cursor_ptr": "i32", "seeds_ptr": "i64", "first_bad_ptr": "i32"}
NAMES = ("row-fp32", "row-bf16", "row-fp32-guided", "row-bf16-guided", "normal")
TAIL = "row-fp16-tail"  # only on request: sizes that no vector divides; it need only compile
PIXELS = "pixels"  # only on request: 3 channels
ADVANCE = "advance"  # only on request: a few instructions per sample
WEIGH = ("weigh-fp32", "weigh-bf16")  # only on request: the weights of two outputs
ROW = "row-DTYPE[-R0|-R2|-R3][-noises2][-halves|-guided|-guided-weighed][-paste] with DTYPE fp32 or bf16"
ALLOWED = f"{', '.join(('all', 'norms', 'normal', *WEIGH, PIXELS, ADVANCE, TAIL))}, and {ROW}"
COLD = ("CALL", "RED", "ATOM")  # opcodes of blocks that finite numbers never enter


def machines() -> list[str]:
    """Return the names of the rows of every machine, and of `weigh`: what `--variant all` compiles."""
    own = ((f"R{r}" for r in range(4)), ("", "noises2"), ("", "halves", "guided", "guided-weighed"), ("", "paste"))
    names = []
    for dtype, *parts in itertools.product(("fp32", "bf16"), *own):
        names.append("-".join(part for part in ("row", dtype, *parts) if part not in ("", "R1")))
    return [*names, *WEIGH]


def variant(name: str) -> Variant:
    """Return one of NAMES, of `machines()`, of `norm.variants.NAMES`, or TAIL, PIXELS or ADVANCE."""
    from .philox.triton import normal_kernel
    from .pixels.triton import pixels_kernel
    from .row.triton import advance_kernel
    from .row.weights_triton import ACCUMULATORS, PASSES, weigh_kernel

    if name in norms.NAMES:
        return norms.variant(name)
    config = launch.configure(NUMEL, BATCH)
    block, elements = config.constants, 4 * config.quads
    kind, *rest = name.split("-")
    if name == ADVANCE:
        types = {"coef_ptr": "*fp32", "code_ptr": "*i32", "cursor_ptr": "*i32", "c_noise_ptr": "*fp32", "n": "i32"}
        constants = {"GIVE": 1, "BLOCK": launch.ADVANCE_BLOCK}
        return Variant(advance_kernel, types, constants, launch.options(1), launch.ADVANCE_BLOCK)
    if kind == "weigh":
        types = {"mix_ptr": "*fp32", "E": "i32"} | dict.fromkeys(("F_ptr", "F_uncond_ptr"), f"*{rest[0]}")
        types |= {pointer: f"*{POINTERS[pointer]}" for pointer in ("coef_ptr", "code_ptr", "cursor_ptr")}
        elements = PASSES.value * ACCUMULATORS.value
        return Variant(weigh_kernel, types, {"CURSOR_STRIDE": 0}, launch.weigh_options(), elements)
    if name == "normal":
        types = {"out_ptr": "*fp32", "seeds_ptr": "*i64", "draw": "i32", "stream": "i32", "E": "i32"}
        return Variant(normal_kernel, types, block, launch.options(config.warps), elements)
    if name == PIXELS:
        types = {"out_ptr": "*u8", "x_ptr": "*fp32", "E": "i32", "AREA": "i32"}
        return Variant(pixels_kernel, types, {"C": 3, **block}, launch.options(config.warps), elements)
    return _row_variant(rest[0], set(rest[1:]), config)


def _row_variant(dtype: str, has: set[str], config: launch.Config) -> Variant:
    """Return the row of the machine that `has` these."""
    from .row.triton import row_kernel

    registers = next((r for r in range(4) if f"R{r}" in has), 1)
    absent = ["h_ptr", "h2_ptr", "h3_ptr"][registers:]
    absent += [] if "guided" in has else ["F_uncond_ptr"]
    absent += [] if "paste" in has else ["known_ptr", "mask_ptr"]
    absent += [] if "weighed" in has else ["mix_ptr"]
    types = dict.fromkeys(("x_ptr", "h_ptr", "h2_ptr", "h3_ptr", "known_ptr", "mask_ptr", "mix_ptr"), "*fp32")
    types |= dict.fromkeys(("F_ptr", "F_uncond_ptr", "net_ptr"), f"*{dtype}")
    types |= {pointer: f"*{t}" for pointer, t in POINTERS.items()} | {"E": "i32", "half": "i32"}
    constants = {
        **config.constants,
        **dict.fromkeys(absent),
        "CURSOR_STRIDE": int("tail" in has),
        "HALVES": bool({"guided", "halves"} & has),
        "NOISES": 2 if "noises2" in has else 1,
        "INTERPRETED": False,
    }
    if "tail" in has:
        constants |= {"EVEN": False, "BATCH_AXIS": 0, "E": 1}
    types = {name: t for name, t in types.items() if name not in constants}
    options = launch.row_options(config.warps, registers, constants["NOISES"])
    return Variant(row_kernel, types, constants, options, 4 * config.quads, aligned="tail" not in has)


def compile_variant(v: Variant, arch: int) -> Any:
    """Return the compiled kernel, with the options and the alignment that a launch on a GPU would have."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = v.kernel.arg_names
    signature = {name: "constexpr" if name in v.constants else v.types[name] for name in names}
    aligned = [name for name, t in v.types.items() if t.startswith("*") or (name in v.multiples and v.aligned)]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(v.kernel, signature=signature, constexprs=v.constants, attrs=attrs)
    return compile(source, target=GPUTarget("cuda", arch, 32), options=v.options)


def report(name: str, arch: int) -> dict[str, Any]:
    """Return what the machine code of one variant is made of."""
    v = variant(name)
    kernel = compile_variant(v, arch)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        sass = _tool("nvdisasm", "-c", str(cubin))
        usage = _tool("cuobjdump", "-res-usage", str(cubin))
    ptx: str = kernel.asm["ptx"]
    blocks = basic_blocks(sass)
    opcodes = Counter(_opcode(line).split(".")[0] for _, lines in blocks for line in lines)
    longest, shortest = path_lengths(blocks)
    per_thread = v.elements / (32 * v.options["num_warps"])
    return {
        "variant": name,
        "arch": arch,
        "registers": int(_find(r"REG:(\d+)", usage)),
        "spills": opcodes["LDL"] + opcodes["STL"],
        "stack": int(_find(r"STACK:(\d+)", usage)),
        "shared": kernel.metadata.shared,
        "barriers": opcodes["BAR"],
        "branches": opcodes["BRA"],
        "elements_per_thread": per_thread,
        "instructions": sum(opcodes.values()) - opcodes["NOP"],
        "per_element": round((sum(opcodes.values()) - opcodes["NOP"]) / per_thread, 1),
        "longest_path": round(longest / per_thread, 1),
        "shortest_path": round(shortest / per_thread, 1),
        "loop": round(longest_loop(blocks) / per_thread, 1),
        "opcodes": dict(opcodes.most_common()),
        "accesses": dict(Counter(re.findall(r"\b((?:ld|st|red|atom)\.[\w.]*global[\w.]*)", ptx))),
        "contracted": None if v.options["enable_fp_fusion"] else contracted(ptx),
        **(v.facts or {}),
    }


def contracted(ptx: str) -> list[str]:
    """Return the float32 operations in which a rounding may be missing or approximate; must be empty.

    PTX never fuses operations that name their rounding (`mul.rn`), so only operations that do not, and explicit fmas,
    can be at fault. The scheme has two fmas, whose products are exact: fp32(w)·2⁻³² and e·LN2_HI. Divisions and roots
    are correctly rounded where they name it (`div.rn`, `sqrt.rn`); their approximations do not.
    """
    exact = {_hex(c.U_SCALE), _hex(c.LN2_HI * 2.0**-23)}
    lines = re.findall(r"^\s*((?:@\S+\s+)?(?:mul|add|sub|fma|div|rcp|r?sqrt)\.\S*f32\b[^;]*);", ptx, flags=re.MULTILINE)
    constants = dict(re.findall(r"mov\.(?:b32|f32)\s+(%\w+), (0f[0-9A-F]{8});", ptx))
    found = []
    for line in lines:
        operands = [constants.get(word, word) for word in re.findall(r"%\w+|0f[0-9A-F]{8}", line)]
        if ".rn" not in line or ".ftz" in line or ("fma." in line and not exact & set(operands)):
            found.append(line)
    return found


def basic_blocks(sass: str) -> list[tuple[str, list[str]]]:
    """Return the basic blocks of a disassembly as (label or "", instructions)."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\d+|\$\S+):", line):
            blocks.append((label[1], []))
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            blocks[-1][1].append(instruction[1])
            if re.match(r"BRA|EXIT|RET|CALL", _opcode(instruction[1])):
                blocks.append(("", []))
    return blocks


def path_lengths(blocks: list[tuple[str, list[str]]]) -> tuple[int, int]:
    """Return the instructions on the longest and on the shortest path from the entry to an EXIT past cold blocks.

    A branch backwards is not taken: a loop is one turn.
    """
    index = {label: i for i, (label, _) in enumerate(blocks) if label}
    longest: dict[int, int] = {}
    shortest: dict[int, int] = {}
    for i in range(len(blocks) - 1, -1, -1):
        lines = blocks[i][1]
        last = lines[-1] if lines else ""
        opcode, conditional = _opcode(last), last.startswith("@")
        ends = opcode.startswith("EXIT")
        following = [] if (ends or opcode.startswith(("BRA", "RET"))) and not conditional else [i + 1]
        if opcode.startswith("BRA"):
            target = _find(r"\((\.\w+)\)", last)
            following += [index[target]] if index[target] > i else []
        if any(_opcode(line).startswith(COLD) for line in lines):
            continue
        size = sum(_opcode(line) != "NOP" for line in lines)
        ways = [j for j in following if j in longest]
        if ends or ways:
            longest[i] = size + max([longest[j] for j in ways], default=0)
            shortest[i] = size + (0 if ends else min(shortest[j] for j in ways))
    return longest[0], shortest[0]


def longest_loop(blocks: list[tuple[str, list[str]]]) -> int:
    """Return the instructions in one turn of the longest loop, 0 without one; a block that only repeats is padding."""
    index = {label: i for i, (label, _) in enumerate(blocks) if label}
    turns = [0]
    for i, (_, lines) in enumerate(blocks):
        if lines and lines[-1].startswith("@") and _opcode(lines[-1]).startswith("BRA"):
            start = index[_find(r"\((\.\w+)\)", lines[-1])]
            turns.append(sum(_opcode(line) != "NOP" for _, body in blocks[start : i + 1] for line in body))
    return max(turns)


def _opcode(line: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] if line else ""


def _hex(value: float) -> str:
    return "0f" + struct.pack(">f", value).hex().upper()


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise KernelError(f"no {pattern!r} in the output of the disassembler")
    return found[1]


def _tool(name: str, *arguments: str) -> str:
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    path = str(bundled) if bundled.exists() else shutil.which(name)
    if path is None:
        raise KernelError(f"{name} is neither in this triton ({bundled}) nor on the PATH")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def main(arguments: list[str] | None = None) -> int:
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m restart_kernels.aot", description=summary)
    parser.add_argument("--arch", type=int, action="append", help="compute capability, e.g. 90; repeatable")
    parser.add_argument(
        "--variant", action="append", metavar="NAME", help=f"{ALLOWED}; repeatable; default: {', '.join(NAMES)}"
    )
    parser.add_argument("--json", action="store_true", help="full reports as JSON instead of the table")
    options = parser.parse_args(arguments)
    names = list(options.variant or NAMES)
    if "all" in names:
        names = machines()
    if "norms" in names:
        names = [name for name in names if name != "norms"] + list(norms.NAMES)
    if unknown := set(names) - {*NAMES, *machines(), *norms.NAMES, TAIL, PIXELS, ADVANCE}:
        parser.error(f"no variant is named {', '.join(sorted(unknown))}; they are {ALLOWED}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("unset TRITON_INTERPRET: Triton's interpreter and its compiler cannot share a process")
    reports = [report(name, arch) for arch in options.arch or [80, 90] for name in names]
    if options.json:
        print("[\n" + ",\n".join(json.dumps(row) for row in reports) + "\n]")
        return 0
    columns = ["variant", "arch", "registers", "spills", "shared", "barriers", "branches"]
    columns += ["elements_per_thread", "per_element", "longest_path", "shortest_path"]
    print(" | ".join(columns))
    for row in reports:
        print(" | ".join(str(row[column]) for column in columns), "|", row["accesses"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
