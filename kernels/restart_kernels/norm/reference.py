r"""Norms of networks in plain PyTorch: what the Triton kernels compute.

    group_norm   y = act(n·(1 + scale) + shift),  n = (u − mean)/√(var + ε)·weight + bias,  u = x + add
                 mean, var of u over a group: C/G channels and all pixels of one sample    (arXiv 1803.08494)
    pixel_norm   y = x/(ε + rms(x)), rms over the channels of a pixel, and silu(y)     (arXiv 2312.02696, eq. 66)

act is the identity or silu(y) = y·sigmoid(y). The residual blocks of EDM's networks are group norms with one of the
vectors given (add in SongUNet; scale and shift in ADM, arXiv 2105.05233, appendix A), EDM2's encoder blocks a pixel
norm. What a block adds to its input it adds after its last convolution, so that is no part of a norm.

Statistics are float32, or wider where x is: the mean first, and then the mean of (u − mean)², so a group whose mean is
large beside its deviation loses no digits to cancellation. With n values in a group the sums err by O(log n) roundings
where they are trees, as in Triton, and the result is rounded once, to the dtype of x.

Limiting cases: a group of equal values is 0 before w and bias, since ε > 0 is in the root; so is a pixel of zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Return y as above in the dtype and the layout of x [B, C, H, W]; weight and bias [C], vectors [B or 1, C]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    B, C, H, W = x.shape
    u = x.to(wide) if add is None else x.to(wide) + add.to(wide)[:, :, None, None]
    u = u.reshape(B, groups, C // groups * H * W)
    d = u - u.mean(2, keepdim=True)
    y = (d / ((d * d).mean(2, keepdim=True) + eps).sqrt()).view(B, C, H, W)
    gain, offset = weight.to(wide)[None], bias.to(wide)[None]
    if scale is not None:
        gain, offset = gain * (1 + scale.to(wide)), offset * (1 + scale.to(wide))
    if shift is not None:
        offset = offset + shift.to(wide)
    y = y * gain[:, :, None, None] + offset[:, :, None, None]
    return laid_out(F.silu(y) if silu else y, x)


def pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and silu(y) as above, in the dtype and the layout of x [B, C, H, W]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    u = x.to(wide)
    y = u / (u.square().mean(1, keepdim=True).sqrt() + eps)
    return laid_out(y, x), laid_out(F.silu(y), x)


def laid_out(y: Tensor, like: Tensor) -> Tensor:
    """Return y in the dtype of `like`, contiguous in its memory format."""
    return torch.empty_like(like, memory_format=memory_format(like)).copy_(y)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return channels_last for a tensor that is so and not contiguous, else contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
