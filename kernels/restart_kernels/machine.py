"""The machine: the static tensors that a table runs on, checked once, and the step that is bound to them.

A sampler makes one machine per batch and binds it to a backend. From then on a call takes the network's output and
nothing else, so what a call can get wrong, and what it costs, is small; and since every address stays as it is, what a
bound step launches can be captured in a graph.
"""

from __future__ import annotations

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
    """Registers of a batch, the table that drives them and where every sample stands in it.

    All tensors are contiguous and on one device; none is copied.

    Attributes:
        x, h: registers, float32 [B, ...] (float64 on the reference backend).
        net_in: next network input [B, ...], or [2B, ...] under guidance: both halves are written. A float dtype.
        coef, code: the table, see `layout`; [R, 12] in the registers' dtype and int32 [R, 4].
        cursor: int32 [B], or [1] for the whole batch: the row to execute; negative = idle, left untouched.
        seeds: int64 [B], the noise key of each sample.
        first_bad: int32 [B], min-reduced with the row when a value of the sample's y is not finite.
        c_noise: what `advance` gives the network, as many entries as cursor, in the dtype of coef; None if unused.

    Raises:
        KernelError: shapes, dtypes, strides or devices that do not fit.
    """

    x: Tensor
    h: Tensor
    net_in: Tensor
    coef: Tensor
    code: Tensor
    cursor: Tensor
    seeds: Tensor
    first_bad: Tensor
    c_noise: Tensor | None = None

    def __post_init__(self) -> None:
        x, net_in, coef, code, cursor = self.x, self.net_in, self.coef, self.code, self.cursor
        batch = x.shape[0]
        require(x.dtype in REGISTERS, "x", x, "float32, or float64 on the reference backend")
        require(self.h.shape == x.shape and self.h.dtype == x.dtype, "h", self.h, "of the shape and dtype of x")
        good = net_in.numel() in (x.numel(), 2 * x.numel()) and net_in.dtype in (*FLOATS, x.dtype)
        require(good, "net_in", net_in, "a float with x's number of elements, twice that under guidance")
        good = coef.dim() == 2 and coef.shape[1] == layout.NUM_COEF and coef.dtype in REGISTERS
        require(good, "coef", coef, "float32 [rows, 12]")
        good = code.shape == (coef.shape[0], layout.NUM_CODE) and code.dtype == torch.int32
        require(good, "code", code, "int32 [rows, 4], as many rows as coef")
        good = cursor.dtype == torch.int32 and cursor.dim() == 1 and cursor.shape[0] in (1, batch)
        require(good, "cursor", cursor, "int32 [B] or [1]")
        good = self.seeds.dtype == torch.int64 and self.seeds.shape == (batch,)
        require(good, "seeds", self.seeds, "int64 [B]")
        good = self.first_bad.dtype == torch.int32 and self.first_bad.shape == (batch,)
        require(good, "first_bad", self.first_bad, "int32 [B]")
        if self.c_noise is not None:
            good = self.c_noise.dtype == coef.dtype and self.c_noise.shape == cursor.shape
            require(good, "c_noise", self.c_noise, "of the shape of cursor and the dtype of coef")
        for tensor in self.tensors:
            _require_place(tensor, x.device)

    @property
    def guided(self) -> bool:
        """Whether net_in holds two halves, a conditional and an unconditional one."""
        return self.net_in.numel() != self.x.numel()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the machine; with fixed addresses these are what a captured graph refers to."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if value is not None)

    def check_output(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        """KernelError unless (F, F_uncond) is a network output that a step of this machine can read."""
        if F is None:
            return
        x = self.x
        good = F.numel() == x.numel() and (F.dtype in FLOATS or F.dtype == x.dtype)
        require(good, "F", F, "a float with x's number of elements")
        _require_place(F, x.device)
        if F_uncond is None:
            require(not self.guided, "net_in", self.net_in, "of the size of x when there is no F_uncond")
            return
        good = F_uncond.numel() == F.numel() and F_uncond.dtype == F.dtype
        require(good, "F_uncond", F_uncond, "of the size and dtype of F, the conditional output")
        require(self.guided, "net_in", self.net_in, "twice the size of x when there is an F_uncond")
        _require_place(F_uncond, x.device)


class Backend(Protocol):
    """What a backend makes of a machine."""

    def step(self, F: Tensor | None, F_uncond: Tensor | None) -> None: ...

    def advance(self) -> None: ...


class Stepper:
    """A machine bound to a backend: `restart_kernels.bind` makes it."""

    __slots__ = ("_run", "backend", "machine")

    def __init__(self, machine: Machine, backend: str, run: Backend) -> None:
        self.machine, self.backend, self._run = machine, backend, run

    def step(self, F: Tensor | None = None, F_uncond: Tensor | None = None) -> None:
        """Execute row cursor[b] of the table for every sample b, in place; the cursor stays.

        One launch, no host sync; on native and triton no allocation.

        Args:
            F: network output [B, ...], float32, bfloat16 or float16; None if no row reads it.
            F_uncond: the unconditional output, F then being the conditional one.

        Raises:
            KernelError: sizes, dtypes or strides that do not fit.
        """
        self.machine.check_output(F, F_uncond)
        self._run.step(F, F_uncond)

    def advance(self) -> None:
        """Move every cursor to its next row and give the network the c_noise of the evaluation that is next.

        For each entry: c_noise ← coef[cursor, C_NOISE], then cursor ← cursor + 1, or IDLE after a row with END. Idle
        entries stay as they are. One launch, no host sync.
        """
        self._run.advance()


def require(good: bool, name: str, tensor: Tensor, allowed: str) -> None:
    if not good:
        raise KernelError(f"{name} must be {allowed}, not {tensor.dtype} {list(tensor.shape)}")


def _require_place(tensor: Tensor, device: torch.device) -> None:
    if not (tensor.is_contiguous() and tensor.device == device):
        given = f"{list(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
        raise KernelError(f"every tensor must be contiguous and on the device of x, {device}; one is {given}")
