"""Samples to pixels in plain PyTorch, by EDM's rule for samples in [−1, 1].

    uint8 = clip(127.5·x + 128, 0, 255), truncated

Product and sum are float32 operations, each rounded on its own; other float types are cast to float32 first.

Limiting cases: −1 and all below is 0, 1 and all above is 255, infinities included. The pixel of a NaN is not defined.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE, SHIFT, LARGEST = 127.5, 128.0, 255.0


def pixels(x: Tensor) -> Tensor:
    """Return samples float [B, C, H, W] as uint8 [B, H, W, C], contiguous, on the device of x."""
    levels = (x.to(torch.float32) * SCALE + SHIFT).clamp_(0, LARGEST)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
