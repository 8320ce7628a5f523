"""Compile every kernel ahead of time, without a GPU, and report what came out.

    python -m restart_kernels.aot --arch 80 --arch 90 [--variant row-bf16] [--json]

For each variant: registers, spills, shared memory, barriers, SASS instructions per element, widths of the memory
accesses, and whether any product was contracted into an fma it must not be in. Besides the whole code two paths are
counted: the longest that a row can take (noise, h stored) and the shortest (neither). Both leave out the blocks that
finite numbers never enter (the slow path of the square root, the atomic of first_bad).

The budget of a row: at 14 bytes per element an H200 moves 343e9 elements a second and issues 86 instructions for each,
an H100 124. Needs triton with its bundled nvdisasm and cuobjdump, and TRITON_INTERPRET unset.
"""

from __future__ import annotations

import argparse
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
from .philox import coefficients as c

# A large batch of latents, so that the configuration is the one that fills a GPU; E is a multiple of the block.
NUMEL, BATCH = 4 * 64 * 64, 256
POINTERS = {"coef_ptr": "fp32", "code_ptr": "i32", "cursor_ptr": "i32", "seeds_ptr": "i64", "first_bad_ptr": "i32"}
NAMES = ("row-fp32", "row-bf16", "row-fp32-guided", "row-bf16-guided", "normal")
TAIL = "row-fp16-tail"  # only on request: sizes that no vector divides; it need only compile
PIXELS = "pixels"  # only on request: 3 channels
ADVANCE = "advance"  # only on request: a few instructions per sample
COLD = ("CALL", "RED", "ATOM")  # opcodes of blocks that finite numbers never enter


def variant(name: str) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """Return kernel, argument types and constants of one of NAMES, or of TAIL, PIXELS or ADVANCE."""
    from .philox.triton import normal_kernel
    from .pixels.triton import pixels_kernel
    from .row.triton import advance_kernel, row_kernel

    config = launch.configure(NUMEL, BATCH)
    block = config.constants
    if name == ADVANCE:
        types = {"coef_ptr": "*fp32", "code_ptr": "*i32", "cursor_ptr": "*i32", "c_noise_ptr": "*fp32", "n": "i32"}
        return advance_kernel, types, {"GIVE": True, "BLOCK": launch.ADVANCE_BLOCK}
    if name == "normal":
        types = {"out_ptr": "*fp32", "seeds_ptr": "*i64", "draw": "i32", "stream": "i32", "E": "i32"}
        return normal_kernel, types, block
    if name == PIXELS:
        types = {"out_ptr": "*u8", "x_ptr": "*fp32", "E": "i32", "AREA": "i32"}
        return pixels_kernel, types, {"C": 3, **block}
    _, dtype, *form = name.split("-")
    types = {"x_ptr": "*fp32", "h_ptr": "*fp32", "E": "i32", "half": "i32"}
    types |= dict.fromkeys(("F_ptr", "F_uncond_ptr", "net_ptr"), f"*{dtype}")
    types |= {pointer: f"*{t}" for pointer, t in POINTERS.items()}
    if name == TAIL:
        block |= {"EVEN": False, "BATCH_AXIS": 0, "E": 1}
    constants = {"CURSOR_STRIDE": int(name == TAIL), "GUIDED": form == ["guided"], "INTERPRETED": False}
    return row_kernel, types, {**block, **constants}


def compile_variant(kernel: Any, types: dict[str, str], constants: dict[str, Any], arch: int) -> Any:
    """Return the compiled kernel, with the options and the alignment that a launch on a GPU would have."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [name for name in types if types[name].startswith("*") or (name in ("E", "half") and constants["EVEN"])]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attrs)
    options = launch.options(launch.configure(NUMEL, BATCH).warps)
    return compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def report(name: str, kernel: Any, constants: dict[str, Any], arch: int) -> dict[str, Any]:
    """Return what the machine code of one variant is made of."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        sass = _tool("nvdisasm", "-c", str(cubin))
        usage = _tool("cuobjdump", "-res-usage", str(cubin))
    ptx: str = kernel.asm["ptx"]
    blocks = basic_blocks(sass)
    opcodes = Counter(_opcode(line).split(".")[0] for _, lines in blocks for line in lines)
    longest, shortest = path_lengths(blocks)
    elements = constants["BLOCK"] if name == ADVANCE else 4 * constants["QUADS"]
    per_thread = elements / (32 * kernel.metadata.num_warps)
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
        "opcodes": dict(opcodes.most_common()),
        "accesses": dict(Counter(re.findall(r"\b((?:ld|st|red|atom)\.[\w.]*global[\w.]*)", ptx))),
        "contracted": contracted(ptx),
    }


def contracted(ptx: str) -> list[str]:
    """Return the float32 operations in which a rounding may be missing or approximate; must be empty.

    PTX never fuses operations that name their rounding (`mul.rn`), so only operations that do not, and explicit fmas,
    can be at fault. The scheme has two fmas, whose products are exact: fp32(w)·2⁻³² and e·LN2_HI.
    """
    exact = {_hex(c.U_SCALE), _hex(c.LN2_HI * 2.0**-23)}
    lines = re.findall(r"^\s*((?:@\S+\s+)?(?:mul|add|sub|fma|sqrt)\.\S*f32\b[^;]*);", ptx, flags=re.MULTILINE)
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
    """Return the instructions on the longest and on the shortest path from the entry to an EXIT past cold blocks."""
    index = {label: i for i, (label, _) in enumerate(blocks) if label}
    longest: dict[int, int] = {}
    shortest: dict[int, int] = {}
    for i in range(len(blocks) - 1, -1, -1):  # the kernels have no loop: every branch goes forward
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
        "--variant", choices=(*NAMES, TAIL, PIXELS, ADVANCE), action="append", help="default: all; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="full reports as JSON instead of the table")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("unset TRITON_INTERPRET: Triton's interpreter and its compiler cannot share a process")
    reports = []
    for arch in options.arch or [80, 90]:
        for name in options.variant or NAMES:
            kernel, types, constants = variant(name)
            compiled = compile_variant(kernel, types, constants, arch)
            reports.append(report(name, compiled, constants, arch))
    if options.json:
        print(json.dumps(reports, indent=1))
        return 0
    columns = ["variant", "arch", "registers", "spills", "shared", "barriers", "branches"]
    columns += ["elements_per_thread", "per_element", "longest_path", "shortest_path"]
    print(" | ".join(columns))
    for row in reports:
        print(" | ".join(str(row[column]) for column in columns), "|", row["accesses"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
