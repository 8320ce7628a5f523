r"""The norms of `reference.py` as Triton kernels: one launch each, x read once or twice, y written once.

A program of `group_norm_kernel` has K neighbouring groups of one sample. A group that fits into its registers (LOOP is
False) is read once. A larger one is read twice: first in chunks of P pixels, whose means and sums of squared deviations
are combined one after the other (Chan, Golub and LeVeque, 1983), then to be written. Either way the order of all sums
follows from the shape [C, H, W] alone, so the bits of a sample do not depend on its batch.

In channels_last neighbouring channels are neighbours in memory; there K groups make a run of 64 bytes, or of fewer
where they would not fit into registers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..row.triton import to_bfloat16
from .reference import memory_format

LARGEST = 8192  # elements of a program: 32 in a thread of 8 warps
RUN = 64  # bytes of neighbouring channels that a program of channels_last reads


class Config(NamedTuple):
    """How a group norm is launched: groups and padded pixels of a program, and whether it loops."""

    K: int
    P: int
    loop: bool


def configure(channels: int, pixels: int, itemsize: int, channels_last: bool) -> Config:
    """Return how groups of so many channels and pixels are launched; it follows from the shape alone."""
    wide = triton.next_power_of_2(channels)
    whole = triton.next_power_of_2(pixels)
    K = RUN // (wide * itemsize) if channels_last else 1
    if wide * whole <= LARGEST:
        K = min(K, LARGEST // (wide * whole))  # to read a group once is worth more than a longer run
    K = max(1, K)
    loop = K * wide * whole > LARGEST
    P = max(1, LARGEST // (K * wide)) if loop else whole
    return Config(K, P, loop)


def warps_of(elements: int) -> int:
    """Return the warps of a program of so many elements."""
    return max(1, min(8, elements // 512), min(16, elements // 1024))


def options(elements: int) -> dict[str, int | bool]:
    """Return the compiler's options for a program of so many elements: 16 in a thread, and 32 from LARGEST on.

    Bits need not equal another backend's here, so products and sums may be fused.
    """
    return {"num_warps": warps_of(elements), "enable_fp_fusion": True}


@triton.jit
def rounded(y, like, INTERPRETED: tl.constexpr):
    """Return y in the dtype that the pointer `like` points to, rounded to nearest; the interpreter truncates."""
    if INTERPRETED and like.dtype.element_ty == tl.bfloat16:
        return to_bfloat16(y)
    return y.to(like.dtype.element_ty)


@triton.jit
def silu(y):
    """Return y·sigmoid(y)."""
    return y / (1 + tl.exp(-y))


@triton.jit
def group_norm_kernel(
    y_ptr, x_ptr, weight_ptr, bias_ptr, add_ptr, scale_ptr, shift_ptr,
    C, HW, groups, stride_c, stride_p, stride_add, stride_scale, stride_shift, eps,
    CG: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, P: tl.constexpr, LOOP: tl.constexpr, ACT: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Set y of K groups of a sample; strides of channels and pixels are those of x and y, others those of vectors."""
    sample = tl.program_id(0)
    g = tl.program_id(1) * K + tl.arange(0, K)
    c = g[:, None] * CG + tl.arange(0, WIDE)[None, :]
    there = (tl.arange(0, WIDE) < CG)[None, :] & (g < groups)[:, None]
    gain = tl.load(weight_ptr + c, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(bias_ptr + c, mask=there, other=0.0).to(tl.float32)
    add = tl.zeros([K, WIDE], tl.float32)
    if add_ptr is not None:
        add = tl.load(add_ptr + sample * stride_add + c, mask=there, other=0.0).to(tl.float32)
    if scale_ptr is not None:
        scale = 1 + tl.load(scale_ptr + sample * stride_scale + c, mask=there, other=0.0).to(tl.float32)
        gain = gain * scale
        offset = offset * scale
    if shift_ptr is not None:
        offset = offset + tl.load(shift_ptr + sample * stride_shift + c, mask=there, other=0.0).to(tl.float32)
    p = tl.arange(0, P)
    own = sample.to(tl.int64) * C * HW + (c * stride_c)[:, :, None] + (p * stride_p)[None, None, :]
    inside = there[:, :, None]
    if LOOP:
        mean = tl.zeros([K], tl.float32)
        squares = tl.zeros([K], tl.float32)
        for start in range(0, HW, P):
            mask = inside & (start + p < HW)[None, None, :]
            u = tl.load(x_ptr + own + start * stride_p, mask=mask, other=0.0).to(tl.float32) + add[:, :, None]
            n = (CG * tl.minimum(P, HW - start)).to(tl.float32)
            chunk = tl.sum(tl.sum(tl.where(mask, u, 0.0), 2), 1) / n
            d = tl.where(mask, u - chunk[:, None, None], 0.0)
            away = chunk - mean
            share = n / (CG * start + n)
            squares = squares + tl.sum(tl.sum(d * d, 2), 1) + away * away * (CG * start * share)
            mean = mean + away * share
        rstd = 1 / tl.sqrt(squares / (CG * HW) + eps)
        for start in range(0, HW, P):
            mask = inside & (start + p < HW)[None, None, :]
            u = tl.load(x_ptr + own + start * stride_p, mask=mask, other=0.0).to(tl.float32) + add[:, :, None]
            y = (u - mean[:, None, None]) * rstd[:, None, None] * gain[:, :, None] + offset[:, :, None]
            if ACT:
                y = silu(y)
            tl.store(y_ptr + own + start * stride_p, rounded(y, y_ptr, INTERPRETED), mask=mask)
    else:
        mask = inside & (p < HW)[None, None, :]
        u = tl.load(x_ptr + own, mask=mask, other=0.0).to(tl.float32) + add[:, :, None]
        n = CG * HW
        mean = tl.sum(tl.sum(tl.where(mask, u, 0.0), 2), 1) / n
        d = tl.where(mask, u - mean[:, None, None], 0.0)
        rstd = 1 / tl.sqrt(tl.sum(tl.sum(d * d, 2), 1) / n + eps)
        y = d * rstd[:, None, None] * gain[:, :, None] + offset[:, :, None]
        if ACT:
            y = silu(y)
        tl.store(y_ptr + own, rounded(y, y_ptr, INTERPRETED), mask=mask)


@triton.jit
def pixel_norm_kernel(
    y_ptr, h_ptr, x_ptr, C, HW, stride_c, stride_p, eps,
    WIDE: tl.constexpr, P: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Set y and h = silu(y) of P pixels of a sample, all of their channels."""
    blocks = tl.cdiv(HW, P)
    sample = tl.program_id(0) // blocks
    c = tl.arange(0, WIDE)
    p = (tl.program_id(0) - sample * blocks) * P + tl.arange(0, P)
    mask = (c < C)[:, None] & (p < HW)[None, :]
    own = sample.to(tl.int64) * C * HW + (c * stride_c)[:, None] + (p * stride_p)[None, :]
    u = tl.load(x_ptr + own, mask=mask, other=0.0).to(tl.float32)
    y = u / (tl.sqrt(tl.sum(u * u, 0) / C) + eps)[None, :]
    tl.store(y_ptr + own, rounded(y, y_ptr, INTERPRETED), mask=mask)
    tl.store(h_ptr + own, rounded(silu(y), h_ptr, INTERPRETED), mask=mask)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """As `reference.group_norm`."""
    B, C, H, W = x.shape
    last = memory_format(x) == torch.channels_last
    x = x.contiguous(memory_format=memory_format(x))
    y, CG = torch.empty_like(x), C // groups
    config = configure(CG, H * W, x.element_size(), last)
    vectors = [None if v is None else v if v.stride(1) == 1 else v.contiguous() for v in (add, scale, shift)]
    strides = [0 if v is None or len(v) == 1 else v.stride(0) for v in vectors]
    group_norm_kernel[(B, triton.cdiv(groups, config.K))](
        y, x, weight.contiguous(), bias.contiguous(), *vectors,
        C, H * W, groups, *((1, C) if last else (H * W, 1)), *strides, eps,
        CG=CG, WIDE=triton.next_power_of_2(CG), K=config.K, P=config.P, LOOP=config.loop, ACT=silu,
        INTERPRETED=not x.is_cuda, **options(config.K * triton.next_power_of_2(CG) * config.P),
    )  # fmt: skip
    return y


def pixels_of(channels: int, channels_last: bool) -> int:
    """Return how many pixels a program of the pixel norm has: 32 elements in each of its threads at most.

    In NCHW neighbouring pixels are neighbours in memory, so there it has as many as its 16 warps hold, up to 64.
    """
    wide = triton.next_power_of_2(channels)
    return max(1, min(4, LARGEST // wide)) if channels_last else max(1, min(64, 2 * LARGEST // wide))


def pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `reference.pixel_norm`."""
    B, C, H, W = x.shape
    last = memory_format(x) == torch.channels_last
    x = x.contiguous(memory_format=memory_format(x))
    y, h, P = torch.empty_like(x), torch.empty_like(x), pixels_of(C, last)
    strides = (1, C) if last else (H * W, 1)
    wide = triton.next_power_of_2(C)
    given = (y, h, x, C, H * W, *strides, eps)
    constants = {"WIDE": wide, "P": P, "INTERPRETED": not x.is_cuda}
    pixel_norm_kernel[(B * triton.cdiv(H * W, P),)](*given, **constants, **options(wide * P))
    return y, h
