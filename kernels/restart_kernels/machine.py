"""The machine: the static tensors that a table runs on, checked once, and their binding to a backend.

A sampler makes one machine per batch size and binds it to a backend. From then on a call takes the network's output and
nothing else, so there is little that a call can get wrong and little that it costs. All addresses stay the same, so
what a bound machine launches can be captured in a CUDA graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from . import layout
from .errors import KernelError

REGISTERS = (torch.float32, torch.float64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Machine:
    """The registers of a batch, the table that drives them, and the row that each sample is at.

    All tensors are contiguous and on one device; none is copied.

    Attributes:
        x: the state, float32 [B, ...] (float64 on a backend that has it).
        h, h2, h3: the history registers, of the shape and dtype of x. R of them are there, the first ones; the table
            must read and store no others.
        net_in: the next network input [B, ...], or [2B, ...] under guidance: both halves are written. A float dtype.
        coef, code: the table, see `layout`; [rows, 20] in the registers' dtype and int32 [rows, 4].
        cursor: int32 [B], or [1] for the whole batch: the row to run. A negative cursor is idle: its sample is left
            untouched.
        seeds: int64 [B], the noise key of each sample.
        first_bad: int32 [B], min-reduced with the row when a value of the sample's y is not finite.
        c_noise: what `advance` gives the network, as many entries as cursor, or twice as many for both halves of
            net_in, in the dtype of coef; None if unused.
        known, mask: the known image and its mask for rows with PASTE, both of the shape and dtype of x: where the mask
            is 1 the state stays free, where it is 0 it is the known image. None where no row pastes.
        mix: the weights [B, 2] of the two outputs, in the dtype of x, which `weigh` writes and rows with RESCALE,
            ZERO_STAR or APG read; None where no row has these.
        noises: noise terms that rows may have, 1 or 2; with 1, S2 is not looked at.

    Raises:
        KernelError: shapes, dtypes, strides or devices that do not fit.
    """

    x: Tensor
    h: Tensor | None
    net_in: Tensor
    coef: Tensor
    code: Tensor
    cursor: Tensor
    seeds: Tensor
    first_bad: Tensor
    c_noise: Tensor | None = None
    h2: Tensor | None = None
    h3: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    mix: Tensor | None = None
    noises: int = 1

    def __post_init__(self) -> None:
        x, net_in, coef, code, cursor = self.x, self.net_in, self.coef, self.code, self.cursor
        batch = x.shape[0]
        require(x.dtype in REGISTERS, "x", x, "float32, or float64 for the reference backend")
        for name in ("h", "h2", "h3", "known", "mask"):
            tensor = getattr(self, name)
            if tensor is not None:
                require(
                    tensor.shape == x.shape and tensor.dtype == x.dtype, name, tensor, "of the shape and dtype of x"
                )
        there = [register is not None for register in (self.h, self.h2, self.h3)]
        if there != sorted(there, reverse=True):
            raise KernelError("the history registers must be the first ones: h before h2 before h3")
        if (self.known is None) != (self.mask is None):
            raise KernelError("known and mask go together: give both or neither")
        if self.noises not in (1, 2):
            raise KernelError(f"noises must be 1 or 2, not {self.noises}")
        good = net_in.numel() in (x.numel(), 2 * x.numel()) and net_in.dtype in (*FLOATS, x.dtype)
        require(good, "net_in", net_in, "a float with x's number of elements, twice that under guidance")
        good = coef.dim() == 2 and coef.shape[1] == layout.NUM_COEF and coef.dtype in REGISTERS
        require(good, "coef", coef, f"float32 [rows, {layout.NUM_COEF}]")
        good = code.shape == (coef.shape[0], layout.NUM_CODE) and code.dtype == torch.int32
        require(good, "code", code, "int32 [rows, 4], as many rows as coef")
        good = cursor.dtype == torch.int32 and cursor.dim() == 1 and cursor.shape[0] in (1, batch)
        require(good, "cursor", cursor, "int32 [B] or [1]")
        good = self.seeds.dtype == torch.int64 and self.seeds.shape == (batch,)
        require(good, "seeds", self.seeds, "int64 [B]")
        good = self.first_bad.dtype == torch.int32 and self.first_bad.shape == (batch,)
        require(good, "first_bad", self.first_bad, "int32 [B]")
        if self.c_noise is not None:
            good = self.c_noise.dtype == coef.dtype and self.c_noise.dim() == 1
            good = good and len(self.c_noise) in (len(cursor), 2 * len(cursor))
            require(good, "c_noise", self.c_noise, "of the length of cursor, or twice that, and of the dtype of coef")
        if self.mix is not None:
            good = self.mix.dtype == x.dtype and self.mix.shape == (batch, 2)
            require(good, "mix", self.mix, "[B, 2] in the dtype of x")
        for tensor in self.tensors:
            _require_place(tensor, x.device)

    @property
    def guided(self) -> bool:
        """Whether net_in holds two halves, one for the conditional and one for the unconditional evaluation."""
        return self.net_in.numel() != self.x.numel()

    @property
    def history(self) -> tuple[Tensor, ...]:
        """The R history registers."""
        return tuple(register for register in (self.h, self.h2, self.h3) if register is not None)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that are there, in the order of the fields; a captured graph refers to them."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, Tensor))

    def check_output(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        """Raise KernelError unless (F, F_uncond) is a network output that a row of this machine can read."""
        if F is None:
            return
        x = self.x
        good = F.numel() == x.numel() and (F.dtype in FLOATS or F.dtype == x.dtype)
        require(good, "F", F, "a float with x's number of elements")
        _require_place(F, x.device)
        if F_uncond is None:
            return
        good = F_uncond.numel() == F.numel() and F_uncond.dtype == F.dtype
        require(good, "F_uncond", F_uncond, "of the size and dtype of F, the conditional output")
        require(self.guided or not x.numel(), "net_in", self.net_in, "twice the size of x when there is an F_uncond")
        _require_place(F_uncond, x.device)


class Bound(Protocol):
    """What a backend makes of a machine. The arguments were checked: `BoundMachine` does that."""

    def run_row(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        """Run row cursor[b] for every sample b, in place."""
        ...

    def advance(self) -> None:
        """Move every cursor one row on, and write c_noise of the evaluation that is next."""
        ...

    def weigh(self, F: Tensor, F_uncond: Tensor) -> None:
        """Write the weights of the two outputs to mix, for every sample whose row has RESCALE, ZERO_STAR or APG."""
        ...


class BoundMachine:
    """A machine bound to a backend; `restart_kernels.bind` makes it.

    Attributes:
        machine: the tensors.
        backend: the backend's name.
    """

    __slots__ = ("_bound", "backend", "machine")

    def __init__(self, machine: Machine, backend: str, bound: Bound) -> None:
        self.machine, self.backend, self._bound = machine, backend, bound

    def run_row(self, F: Tensor | None = None, F_uncond: Tensor | None = None) -> None:
        """Run row cursor[b] of the table for every sample b, in place; the cursor stays.

        `row/reference.py` states what a row computes. One launch, no host sync; a fused backend allocates nothing.

        Args:
            F: network output [B, ...], float32, bfloat16 or float16; None if no row reads it.
            F_uncond: the unconditional output under guidance, F then being the conditional one. None where no sample is
                at a row with GUIDE; a row with GUIDE without it takes F as it is.

        Raises:
            KernelError: sizes, dtypes or strides that do not fit.
        """
        self.machine.check_output(F, F_uncond)
        self._bound.run_row(F, F_uncond)

    def advance(self) -> None:
        """Move every cursor to its next row, and give the network the c_noise of the evaluation that is next.

        For each entry: c_noise ← coef[cursor, C_NOISE], in both halves if it has two, then cursor ← cursor + 1, or IDLE
        after a row with END. Idle entries stay as they are. One launch, no host sync.
        """
        self._bound.advance()

    def weigh(self, F: Tensor, F_uncond: Tensor) -> None:
        """Write the weights of the two outputs to mix, before `run_row` reads them.

        It is for the samples whose row has RESCALE, ZERO_STAR or APG, and leaves the others' weights as they are.
        `row/weights.py` states how they come from five sums over a sample. One launch, no host sync.

        Raises:
            KernelError: sizes, dtypes or strides that do not fit, or a machine without mix.
        """
        if self.machine.mix is None:
            raise KernelError("this machine has no mix to write the weights to")
        self.machine.check_output(F, F_uncond)
        self._bound.weigh(F, F_uncond)

    def step(self, F: Tensor | None = None, F_uncond: Tensor | None = None) -> None:
        """Run a row; the old name of `run_row`, until release 0.2."""
        warnings.warn("step is run_row since 0.1; the old name is removed in 0.2", DeprecationWarning, stacklevel=2)
        self.run_row(F, F_uncond)


def require(good: bool, name: str, tensor: Tensor, allowed: str) -> None:
    """Raise KernelError unless `good`: the tensor `name` must be `allowed`."""
    if not good:
        raise KernelError(f"{name} must be {allowed}, not {tensor.dtype} {list(tensor.shape)}")


def _require_place(tensor: Tensor, device: torch.device) -> None:
    """Raise KernelError unless the tensor is contiguous and on `device`."""
    if not (tensor.is_contiguous() and tensor.device == device):
        given = f"{list(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
        raise KernelError(f"every tensor must be contiguous and on the device of x, {device}; one is {given}")
