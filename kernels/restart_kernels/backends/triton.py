"""Launching the Triton kernels: configuration as a pure function, and the calls.

Nothing here imports triton or asks a device anything until a kernel is called.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import KernelError
from .machine import Machine

QUAD = 4  # elements of one Philox counter
ADVANCE_BLOCK = 128  # cursors that one program moves
GRID_Y = 65535  # CUDA's limit on the second grid axis


class Config(NamedTuple):
    """How one kernel is launched."""

    quads: int  # counters per program
    warps: int
    grid: tuple[int, int]
    batch_axis: int  # which grid axis is the batch
    even: bool  # the blocks cover the sample exactly


def configure(numel: int, batch: int) -> Config:
    """Block and grid for `batch` samples of `numel` elements. The dtypes and the architecture do not change it.

    * 16 elements (4 counters) a thread when the batch fills the GPU: 69 instructions per element on sm_90, noise on
      and h stored. With 8 the work done once per thread makes it 81; with 32 it is 66, but 213 registers.
    * Fewer below 2**18 counters, where there would be less than 512 threads for each of 132 SMs: a launch that
      small is latency, and the chain of one thread is what it waits for.
    * Of the blocks of 4, 2 and 1 warps the one that pads the sample least, the largest at equality.
    """
    quads = -(-numel // QUAD)
    total = quads * batch
    per_thread = 4 if total >= 1 << 18 else 2 if total >= 1 << 17 else 1
    warps = min((4, 2, 1), key=lambda w: -(-quads // (32 * w * per_thread)) * w)
    block = 32 * warps * per_thread
    blocks = -(-quads // block)
    batch_axis = 1 if batch <= GRID_Y else 0
    grid = (blocks, batch) if batch_axis else (batch, blocks)
    if numel >= 2**31 or grid[1] > GRID_Y:
        raise KernelError(f"{batch} samples of {numel} elements are beyond the launch grid; use backend='reference'")
    return Config(block, warps, grid, batch_axis, numel % (QUAD * block) == 0)


def interpreted() -> bool:
    """Whether Triton runs its kernels in the interpreter, on CPU tensors."""
    import triton

    from .step.triton import step_kernel

    return not isinstance(step_kernel, triton.JITFunction)


class Step:
    """A machine bound to the Triton kernels: every call is one launch; no sync, no allocation."""

    def __init__(self, machine: Machine) -> None:
        batch = machine.x.shape[0]
        self.machine, self.numel = machine, machine.x.numel() // batch
        self.config = configure(self.numel, batch)

    def step(self, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
        from .step.triton import step_kernel

        m, config = self.machine, self.config
        # A row that reads no F needs no F: any pointer of a float type will do.
        F = m.net_in if F is None else F
        with _device_of(m.x):
            step_kernel[config.grid](
                m.x,
                m.h,
                F,
                F if F_uncond is None else F_uncond,
                m.net_in,
                m.coef,
                m.code,
                m.cursor,
                m.seeds,
                m.first_bad,
                self.numel,
                m.x.numel(),
                CURSOR_STRIDE=0 if m.cursor.shape[0] == 1 else 1,
                GUIDED=m.guided,
                QUADS=config.quads,
                BATCH_AXIS=config.batch_axis,
                EVEN=config.even,
                INTERPRETED=m.x.device.type == "cpu",
                num_warps=config.warps,
                enable_fp_fusion=False,
            )

    def advance(self) -> None:
        from .step.triton import advance_kernel

        m, n = self.machine, self.machine.cursor.shape[0]
        with _device_of(m.x):
            advance_kernel[(-(-n // ADVANCE_BLOCK),)](
                m.coef,
                m.code,
                m.cursor,
                m.cursor if m.c_noise is None else m.c_noise,
                n,
                GIVE=m.c_noise is not None,
                BLOCK=ADVANCE_BLOCK,
                num_warps=1,
                enable_fp_fusion=False,
            )


def normal(seeds: Tensor, draw: int, numel: int, *, stream: int = 0) -> Tensor:
    """Standard normals [B, numel], one launch. Same arguments as `philox/reference.py`."""
    from .philox.triton import normal_kernel

    batch = seeds.shape[0]
    out = torch.empty(batch, numel, dtype=torch.float32, device=seeds.device)
    if out.numel() == 0:
        return out
    config = configure(numel, batch)
    with _device_of(seeds):
        normal_kernel[config.grid](
            out,
            seeds,
            draw,
            stream,
            numel,
            QUADS=config.quads,
            BATCH_AXIS=config.batch_axis,
            EVEN=config.even,
            num_warps=config.warps,
            enable_fp_fusion=False,
        )
    return out


def pixels(x: Tensor) -> Tensor:
    """uint8 [B, H, W, C] of samples [B, C, H, W], one launch. Same argument as `pixels/reference.py`."""
    from .pixels.triton import pixels_kernel

    B, C, H, W = x.shape
    out = torch.empty(B, H, W, C, dtype=torch.uint8, device=x.device)
    if out.numel() == 0:
        return out
    config = configure(C * H * W, B)
    with _device_of(x):
        pixels_kernel[config.grid](
            out,
            x.contiguous(),
            C * H * W,
            H * W,
            C=C,
            QUADS=config.quads,
            BATCH_AXIS=config.batch_axis,
            EVEN=config.even,
            num_warps=config.warps,
            enable_fp_fusion=False,
        )
    return out


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, not on the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
