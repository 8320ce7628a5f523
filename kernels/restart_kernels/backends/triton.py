"""The Triton backend: every call is one launch, without a host sync or an allocation.

It runs on CUDA tensors, and on CPU tensors in Triton's interpreter (TRITON_INTERPRET=1 before triton is imported). How
a kernel is launched is a pure function of the sizes (`configure`). Nothing here imports triton or asks a device
anything until a backend is asked whether it runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import KernelError
from ..machine import Machine
from .base import Backend

QUAD = 4  # elements of one Philox counter
ADVANCE_BLOCK = 128  # cursors that one program moves
GRID_Y = 65535  # CUDA's limit on the second grid axis
NUMEL_END = 2**31 - 2**12  # kernels count elements in 32 bits, and a loop over a sample goes up to 2**12 past its end


class Config(NamedTuple):
    """How a kernel over samples is launched.

    Attributes:
        quads: Philox counters (of 4 elements) per program.
        warps: warps per program.
        grid: programs on the two axes of the grid.
        batch_axis: the axis of the grid that is the batch, 0 or 1.
        even: whether the blocks cover a sample exactly.
    """

    quads: int
    warps: int
    grid: tuple[int, int]
    batch_axis: int
    even: bool

    @property
    def constants(self) -> dict[str, Any]:
        """The compile-time arguments that all kernels over samples share."""
        return {"QUADS": self.quads, "BATCH_AXIS": self.batch_axis, "EVEN": self.even}


def configure(numel: int, batch: int) -> Config:
    """Return block and grid for `batch` samples of `numel` elements. Dtypes and architecture do not change them.

    * 16 elements (4 counters) a thread when the batch fills the GPU: 69 instructions per element on sm_90, noise on
      and h stored. With 8 the work done once per thread makes it 81; with 32 it is 66, but 213 registers.
    * Fewer below 2**18 counters, where there would be less than 512 threads for each of 132 SMs: a launch that small
      is bound by latency, that of one thread's chain of operations.
    * Of the blocks of 4, 2 and 1 warps the one that pads the sample least, the largest at equality.

    Raises:
        KernelError: the batch does not fit the launch grid.
    """
    quads = -(-numel // QUAD)
    total = quads * batch
    per_thread = 4 if total >= 1 << 18 else 2 if total >= 1 << 17 else 1
    warps = min((4, 2, 1), key=lambda w: -(-quads // (32 * w * per_thread)) * w)
    block = 32 * warps * per_thread
    blocks = -(-quads // block)
    batch_axis = 1 if batch <= GRID_Y else 0
    grid = (blocks, batch) if batch_axis else (batch, blocks)
    if numel >= NUMEL_END or grid[1] > GRID_Y:
        raise KernelError(f"{batch} samples of {numel} elements are beyond the launch grid; use backend='reference'")
    return Config(block, warps, grid, batch_axis, numel % (QUAD * block) == 0)


def options(warps: int) -> dict[str, Any]:
    """Return the compiler's options for a kernel. Contraction is off: a fused multiply-add would change bits."""
    return {"num_warps": warps, "enable_fp_fusion": False}


def row_options(warps: int, registers: int, noises: int) -> dict[str, Any]:
    """Return the options for the row of a machine with so many history registers and noise terms.

    The compiler aims at 128 hardware registers for a thread. With two history registers and two noise terms it would
    spill one or two values to get there, so it may take 168, with which 12 warps fit on a multiprocessor.
    """
    return options(warps) | ({"maxnreg": 168} if registers >= 2 and noises == 2 else {})


def weigh_options() -> dict[str, Any]:
    """Return the options for weighing, with 8 warps for a sample: four accumulators of each sum in a thread.

    Of itself the compiler would save registers and issue the loads of a turn one pass after the other. With 80 allowed,
    of which it takes 72, they go out together, and 3 samples fit on a multiprocessor.
    """
    return options(8) | {"maxnreg": 80}


@cache
def installed() -> bool:
    """Return whether triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Return whether Triton runs its kernels in the interpreter, on CPU tensors. Imports triton."""
    import triton

    from ..row.triton import row_kernel

    return not isinstance(row_kernel, triton.JITFunction)


class _Bound:
    """A machine bound to the Triton kernels; the arguments of all launches are made once."""

    def __init__(self, machine: Machine) -> None:
        from ..row import triton as kernels
        from ..row import weights_triton

        m = self.machine = machine
        batch, cursors = m.x.shape[0], m.cursor.shape[0]
        self.numel = m.x.numel() // batch
        config = configure(self.numel, batch)
        stride = {"CURSOR_STRIDE": 0 if cursors == 1 else 1}
        self.row = kernels.row_kernel[config.grid]
        self.row_options = {
            **stride,
            "HALVES": m.guided,
            "NOISES": m.noises,
            "INTERPRETED": m.x.device.type == "cpu",
            **config.constants,
            **row_options(config.warps, len(m.history), m.noises),
        }
        self.next = kernels.advance_kernel[(-(-cursors // ADVANCE_BLOCK),)]
        self.next_options = {
            "GIVE": 0 if m.c_noise is None else len(m.c_noise) // cursors,
            "BLOCK": ADVANCE_BLOCK,
            **options(1),
        }
        self.weights = weights_triton.weigh_kernel[(batch,)]
        self.weights_options = {**stride, **weigh_options()}

    def run_row(self, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
        m = self.machine
        if F is None:
            # A row that reads no F needs no F: any pointer of a float type will do. Under guidance for both, so that
            # the kernel of guided rows serves this one too.
            F, F_uncond = m.net_in, m.net_in if m.guided else None
        registers = (m.x, m.h, m.h2, m.h3)
        table = (m.coef, m.code, m.cursor, m.seeds, m.first_bad)
        sizes = (self.numel, m.x.numel())
        with _device_of(m.x):
            self.row(*registers, F, F_uncond, m.net_in, m.known, m.mask, m.mix, *table, *sizes, **self.row_options)

    def advance(self) -> None:
        m = self.machine
        c_noise = m.cursor if m.c_noise is None else m.c_noise
        with _device_of(m.x):
            self.next(m.coef, m.code, m.cursor, c_noise, m.cursor.shape[0], **self.next_options)

    def weigh(self, F: Tensor, F_uncond: Tensor) -> None:
        m = self.machine
        with _device_of(m.x):
            self.weights(F, F_uncond, m.mix, m.coef, m.code, m.cursor, self.numel, **self.weights_options)


class Triton:
    """One kernel source for every NVIDIA GPU; see `Backend`."""

    rank: Mapping[str, int] = {"cuda": 1}
    float64 = False
    fused = True

    def why_not(self, device: torch.device) -> str | None:
        if not installed():
            return "triton is not installed"
        if device.type == "cuda":
            return None
        if device.type != "cpu":
            return f"triton does not run on {device.type} tensors"
        if interpreted():
            return None
        return "triton runs on CPU tensors only in its interpreter, TRITON_INTERPRET=1 before it is imported"

    def bind(self, machine: Machine) -> _Bound:
        return _Bound(machine)

    def normal(self, seeds: Tensor, draw: int, numel: int, *, stream: int) -> Tensor:
        from ..philox.triton import normal_kernel

        out = torch.empty(seeds.shape[0], numel, dtype=torch.float32, device=seeds.device)
        return _over_samples(normal_kernel, out, seeds, draw, stream, numel)

    def pixels(self, x: Tensor) -> Tensor:
        from ..pixels.triton import pixels_kernel

        B, C, H, W = x.shape
        out = torch.empty(B, H, W, C, dtype=torch.uint8, device=x.device)
        return _over_samples(pixels_kernel, out, x.contiguous(), C * H * W, H * W, C=C)


def _over_samples(kernel: Any, out: Tensor, *arguments: Any, **constants: Any) -> Tensor:
    """Launch a kernel that fills `out` [B, ...] sample by sample, and return `out`."""
    if out.numel() == 0:
        return out
    config = configure(out.numel() // out.shape[0], out.shape[0])
    with _device_of(out):
        kernel[config.grid](out, *arguments, **constants, **config.constants, **options(config.warps))
    return out


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


BACKEND: Backend = Triton()
