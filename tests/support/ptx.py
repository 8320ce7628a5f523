"""A machine for the PTX of the kernels: it runs what the compiler made for a GPU, without one.

All threads of a block go through the code in step, and a register is an array with one value for each of them. That is
enough for kernels whose branches are uniform within a block; one that is not is an error, and so is an access that is
not aligned or falls outside the tensors. Rounding is numpy's, that of IEEE 754, which the operations with `.rn` have on
a GPU too. Operations without it are not known here.
"""

from __future__ import annotations

import re

import numpy as np
import torch

WARP = 32
GAP = 256  # bytes between two tensors
TYPES = {"b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "u16": np.uint16, "u32": np.uint32}
TYPES |= {"u64": np.uint64, "s16": np.int16, "s32": np.int32, "s64": np.int64, "f32": np.float32}
WIDTHS = {"%p": np.bool_, "%rs": np.uint16, "%r": np.uint32, "%rd": np.uint64}
WIDER = {"u16": np.uint32, "s16": np.int32, "u32": np.uint64, "s32": np.int64}
BINARY = {"add": np.add, "sub": np.subtract, "div": np.divide, "and": np.bitwise_and, "or": np.bitwise_or}
BINARY |= {"xor": np.bitwise_xor, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARISONS |= {"ge": np.greater_equal, "equ": lambda a, b: ~((a < b) | (a > b))}  # equ: or one of them is NaN


class Memory:
    """Tensors at addresses of their own.

    Attributes:
        at: the address of each tensor by name, a multiple of 256.
    """

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors, self.at, end = tensors, {}, GAP
        for name, tensor in tensors.items():
            self.at[name] = end
            end += (tensor.numel() * tensor.element_size() // GAP + 2) * GAP
        self.bytes, self.inside = np.zeros(end, np.uint8), np.zeros(end, bool)
        for name, tensor in tensors.items():
            raw = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            self.bytes[self.at[name] :][: len(raw)] = raw
            self.inside[self.at[name] :][: len(raw)] = True

    def __getitem__(self, name: str) -> torch.Tensor:
        like = self.tensors[name]
        raw = self.bytes[self.at[name] :][: like.numel() * like.element_size()].copy()
        return torch.from_numpy(raw).view(like.dtype).view(like.shape)


def run(ptx: str, arguments: list[int], grid: tuple[int, int], memory: Memory) -> None:
    """Run every block of the grid, one after the other; a pointer is an address in `memory`."""
    code = [line.strip() for line in re.sub(r"//[^\n]*", "", ptx[ptx.index("\n{") :]).splitlines()]
    code = [line for line in code if line and not line.startswith((".", "{", "}"))]
    (threads,) = map(int, re.findall(r"\.reqntid (\d+)", ptx))
    with np.errstate(all="ignore"):
        for y in range(grid[1]):
            for x in range(grid[0]):
                Block(code, arguments, (x, y), threads, memory).run()


class Block:
    """One block of threads, its registers and its shared memory."""

    def __init__(self, code, arguments, block, threads, memory):
        self.code, self.arguments, self.threads, self.memory = code, arguments, threads, memory
        self.registers = {"%tid.x": np.arange(threads, dtype=np.uint32)}
        self.registers |= {
            f"%ctaid.{axis}": np.full(threads, k, np.uint32) for axis, k in zip("xy", block, strict=True)
        }
        self.shared = np.zeros(1 << 16, np.uint8)
        self.labels = {line[:-1]: k for k, line in enumerate(code) if line.endswith(":")}

    def run(self):
        at = 0
        while at < len(self.code):
            line = self.code[at]
            at += 1
            if line.endswith(":"):
                continue
            guard, opcode, rest = re.fullmatch(r"(?:@(!?%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?);", line).groups()
            active = np.ones(self.threads, bool)
            if guard:
                active = ~self.registers[guard[1:]] if guard[0] == "!" else self.registers[guard]
            if opcode == "ret":
                return
            if opcode.split(".")[0] == "bra":
                assert active.all() or not active.any(), f"threads part at {line}"
                at = self.labels[rest.strip()] if active.all() else at
            elif opcode.split(".")[0] != "bar":
                self.execute(opcode.split("."), operands(rest), active)

    def execute(self, opcode, args, active):
        name, *types = opcode
        if name in ("ld", "st", "red", "atom"):
            self.access(name, types, args, active)
            return
        kind = types[-1]
        if name == "mov" and (args[0].startswith("{") or args[1].startswith("{")):
            self.pack(args, active)
            return
        if name == "cvt" and types[-2] == "bf16x2":
            high, low = (torch.from_numpy(self.value(a, "f32").copy()).bfloat16() for a in args[1:])
            pair = torch.stack((low, high), 1).view(torch.int32).view(-1).numpy()
            self.write(args[0], pair, active)
            return
        if name == "cvt" and kind == "bf16":
            self.write(args[0], self.value(args[1], "u16").astype(np.uint32) << 16, active)
            return
        if name == "shfl":
            source = np.arange(self.threads) ^ self.value(args[1 + 1], "u32")
            self.write(args[0].split("|")[0], self.value(args[1], "u32")[source], active)
            return
        kinds = [kind] * 3
        if name == "selp":
            kinds[2] = "pred"
        if types[0] == "wide":
            kinds[2] = kind.replace("32", "64")
        values = [self.value(a, k) for a, k in zip(args[1:], kinds, strict=False)]
        self.write(args[0], result(name, types, values), active)

    def access(self, name, types, args, active):
        space = self.shared if "shared" in types else self.memory.bytes
        size = np.dtype(TYPES[types[-1]]).itemsize
        target, address = (args[0], args[1]) if name == "ld" else (args[1], args[0])
        if "param" in types:
            number = self.arguments[int(re.search(r"_param_(\d+)", address)[1])]
            self.write(target, np.full(self.threads, number, np.int64), active)
            return
        names = operands(target.strip("{} "))
        base, offset = re.fullmatch(r"\[\s*(%?\w+)\s*(?:\+\s*(-?\d+))?\s*\]", address).groups()
        start = self.value(base, "u64" if base.startswith("%rd") else "u32").astype(np.int64) + int(offset or 0)
        start = start[active]
        assert (start % (size * len(names)) == 0).all(), f"not aligned: {args}"
        for k, register in enumerate(names):
            where = (start + k * size)[:, None] + np.arange(size)
            if "global" in types:
                assert self.memory.inside[where].all(), f"outside the tensors: {args}"
            if name == "ld":
                loaded = np.zeros(self.threads, TYPES[types[-1]])
                loaded[active] = space[where].view(TYPES[types[-1]])[:, 0]
                self.write(register, loaded, active)
                continue
            stored = self.value(register, types[-1])[active]
            if name == "st":
                space[where] = stored[:, None].view(np.uint8)
                continue
            for at, value in zip(where, stored, strict=True):  # red.min.s32
                space[at] = np.minimum(space[at].view(np.int32), value).view(np.uint8)

    def pack(self, args, active):
        if args[0].startswith("{"):
            parts = operands(args[0].strip("{} "))
            wide = self.value(args[1], "b64" if args[1].startswith("%rd") else "b32")
            for k, part in enumerate(parts):
                self.write(part, wide >> np.uint64(8 * wide.itemsize // len(parts) * k).astype(wide.dtype), active)
            return
        parts = [
            self.value(part, "u16" if part.startswith("%rs") else "u32") for part in operands(args[1].strip("{} "))
        ]
        wide = np.stack(parts, 1).view(np.uint32 if parts[0].itemsize == 2 else np.uint64)[:, 0]
        self.write(args[0], wide, active)

    def value(self, text, kind):
        """Return an operand as an array of this type; the bits of a register are taken as they are."""
        dtype = TYPES.get(kind, np.bool_)
        if text.startswith("%"):
            bits = self.registers[text]
            return bits if dtype is np.bool_ else bits.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
        if text == "global_smem":
            return np.zeros(self.threads, dtype)
        if text.startswith("0f"):
            return np.full(self.threads, int(text[2:], 16), np.uint32).view(dtype)
        number = int(text, 0) % (1 << 8 * np.dtype(dtype).itemsize)
        return np.full(self.threads, number, f"u{np.dtype(dtype).itemsize}").view(dtype)

    def write(self, register, values, active):
        if register == "_":
            return
        width = WIDTHS[re.match(r"%[a-z]+", register)[0]]
        if width is not np.bool_ and values.dtype != np.bool_:
            unsigned = f"u{values.dtype.itemsize}"
            values = values.view(unsigned) if values.dtype.kind in "uf" else values.astype(np.int64).view("u8")
            values = values.astype(width)
        old = self.registers.get(register, np.zeros(self.threads, width))
        self.registers[register] = np.where(active, values, old).astype(width)


def result(name, types, values):
    """Return what an operation on registers makes of its operands."""
    kind = types[-1]
    if kind == "f32" and name in ("add", "sub", "mul", "div", "fma", "sqrt"):
        assert "rn" in types, (name, types)
    if name == "setp":
        return COMPARISONS[types[0]](*values)
    if name == "selp":
        return np.where(values[2], values[0], values[1])
    if name == "cvt":
        to = TYPES[types[-2]]
        return values[0].astype(to)
    if name in ("mul", "mad") and types[0] in ("wide", "hi"):
        wide = values[0].astype(WIDER[kind]) * values[1].astype(WIDER[kind])
        if types[0] == "hi":
            return (wide >> WIDER[kind](32)).astype(TYPES[kind])
        return wide + values[2] if name == "mad" else wide
    if name == "mad":
        return values[0] * values[1] + values[2]
    if name == "fma":  # the products of the scheme are exact, and their sum in float64 rounds as one operation would
        return (values[0].astype(np.float64) * values[1] + values[2]).astype(np.float32)
    if name in ("shl", "shr"):
        return (np.left_shift if name == "shl" else np.right_shift)(values[0], values[1].astype(values[0].dtype))
    unary = {"mov": lambda a: a, "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "not": np.invert}
    return (unary | BINARY)[name](*values)


def operands(text):
    """Split operands at the commas outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text)]
