r"""Norms of networks in one launch: group norm with what stands around it, and EDM2's pixel norm.

    y = group_norm(x, groups, weight, bias, eps, add=…, scale=…, shift=…, silu=True)
    y, h = pixel_norm(x, eps)

They are operators of PyTorch, `restart::group_norm` and `restart::pixel_norm`, so a compiled network keeps them as they
are. On CUDA they run `triton.py`, elsewhere `reference.py`, which states what they compute. Neither records gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from . import reference

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """Return act(norm(x + add)·(1 + scale) + shift), norm with weight and bias, in the dtype and the layout of x.

    Args:
        x: [B, C, H, W], contiguous or channels_last; float32, bfloat16 or float16.
        groups: of the C channels.
        weight, bias: [C]. eps: is added to the variance.
        add, scale, shift: [B, C] or [1, C] each, 0 unless given.
        silu: whether act is silu; else it is the identity.

    Raises:
        KernelError: shapes or dtypes that do not fit.
    """
    _check(x)
    C = x.shape[1]
    if not isinstance(groups, int) or groups < 1 or C % groups:
        raise KernelError(f"groups must divide the {C} channels of x, got {groups!r}")
    if not eps > 0:
        raise KernelError(f"eps must be above 0, got {eps!r}")
    for name, value in (("weight", weight), ("bias", bias)):
        if tuple(value.shape) != (C,):
            raise KernelError(f"{name} must be [{C}], one number for each channel of x, got {list(value.shape)}")
    for name, given in (("weight", weight), ("bias", bias), ("add", add), ("scale", scale), ("shift", shift)):
        if given is not None and (given.device != x.device or not given.is_floating_point()):
            raise KernelError(f"{name} must be floats on {x.device}, as x, got {given.dtype} on {given.device}")
    for name, vector in (("add", add), ("scale", scale), ("shift", shift)):
        if vector is not None and tuple(vector.shape) not in ((len(x), C), (1, C)):
            raise KernelError(f"{name} must be [{len(x)}, {C}] or [1, {C}], got {list(vector.shape)}")
    found: Tensor = _group_norm(x, groups, weight, bias, eps, add, scale, shift, silu)
    return found


def pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y = x/(ε + rms(x)), rms over the channels of a pixel, and silu(y).

    Args:
        x: [B, C, H, W], contiguous or channels_last; float32, bfloat16 or float16.

    Raises:
        KernelError: another shape or dtype.
    """
    _check(x)
    y, h = _pixel_norm(x, eps)
    return y, h


def _check(x: Tensor) -> None:
    if x.ndim != 4 or x.dtype not in FLOATS:
        raise KernelError(f"x must be [B, C, H, W] in float32, bfloat16 or float16, got {list(x.shape)} in {x.dtype}")


@torch.library.custom_op("restart::group_norm", mutates_args=())
def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> Tensor:
    given = (x, groups, weight, bias, eps, add, scale, shift, silu)
    if x.device.type != "cuda" or not x.numel():
        return reference.group_norm(*given)
    from . import triton

    return triton.group_norm(*given)


@_group_norm.register_fake
def _(x, groups, weight, bias, eps, add, scale, shift, silu):
    return torch.empty_like(x, memory_format=reference.memory_format(x))


@torch.library.custom_op("restart::pixel_norm", mutates_args=())
def _pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if x.device.type != "cuda" or not x.numel():
        return reference.pixel_norm(x, eps)
    from . import triton

    return triton.pixel_norm(x, eps)


@_pixel_norm.register_fake
def _(x, eps):
    like = reference.memory_format(x)
    return torch.empty_like(x, memory_format=like), torch.empty_like(x, memory_format=like)
