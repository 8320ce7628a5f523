"""Latents [B, C, H, W] as rows of 2 × 2 patches [B, H/2·W/2, 4C], as several pipelines hold them, and back."""

from __future__ import annotations

from torch import Tensor


def packed(x: Tensor) -> Tensor:
    """Return latents [B, C, H, W] as [B, H/2·W/2, 4C]; a row is C × 2 × 2 numbers."""
    B, C, H, W = x.shape
    return x.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, H // 2 * (W // 2), 4 * C)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """Return rows [B, height·width, 4C] of patches as latents [B, C, 2·height, 2·width]."""
    B, C = len(rows), rows.shape[2] // 4
    patches = rows.reshape(B, height, width, C, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(B, C, 2 * height, 2 * width)
