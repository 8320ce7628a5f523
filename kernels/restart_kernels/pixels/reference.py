"""Samples to pixels in plain PyTorch: uint8 = clip(127.5·x + 128, 0, 255), truncated; EDM's rule for samples in [−1,
1].

Product and sum are float32 operations, each rounded on its own. What is not a number has no pixel: its value is not
defined."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE, SHIFT, LARGEST = 127.5, 128.0, 255.0


def pixels(x: Tensor) -> Tensor:
    """Samples float [B, C, H, W] → uint8 [B, H, W, C], contiguous, on the device of x."""
    levels = (x.to(torch.float32) * SCALE + SHIFT).clamp_(0, LARGEST)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
