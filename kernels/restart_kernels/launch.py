"""Launching the Triton kernels: configuration as a pure function, and the calls.

Nothing here imports triton or asks a device anything until a kernel is called.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import KernelError

QUAD = 4  # elements of one Philox counter
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
        raise KernelError(
            f"{batch} samples of {numel} elements are beyond the launch grid; use backend='reference'"
        )
    return Config(block, warps, grid, batch_axis, numel % (QUAD * block) == 0)


def interpreted() -> bool:
    """Whether Triton runs its kernels in the interpreter, on CPU tensors."""
    import triton

    from .step.triton import step_kernel

    return not isinstance(step_kernel, triton.JITFunction)


def step(
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    *,
    coef: Tensor,
    code: Tensor,
    cursor: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None = None,
) -> None:
    """The fused step, one launch. Same arguments as `step/reference.py`; no sync, no allocation."""
    from .step.triton import step_kernel

    if coef.dtype != torch.float32:
        raise KernelError(f"the triton backend needs coef in float32, not {coef.dtype}")
    batch = x.shape[0]
    numel = x.numel() // batch
    config = configure(numel, batch)
    # A row that reads no F needs no F: any pointer of a float type will do.
    F = net_in if F is None else F
    with _device_of(x):
        step_kernel[config.grid](
            x,
            h,
            F,
            F if F_uncond is None else F_uncond,
            net_in,
            coef,
            code,
            cursor,
            seeds,
            first_bad,
            numel,
            x.numel(),
            CURSOR_STRIDE=0 if cursor.shape[0] == 1 else 1,
            GUIDED=F_uncond is not None,
            QUADS=config.quads,
            BATCH_AXIS=config.batch_axis,
            EVEN=config.even,
            INTERPRETED=x.device.type == "cpu",
            num_warps=config.warps,
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


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, not on the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
