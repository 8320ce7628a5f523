"""What training the classifier and the extractors share: the order of batches, the rate, shifted images, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets import Images


def tensors(images: Images) -> tuple[Tensor, Tensor]:
    """Return pixels uint8 [N, C, H, H] and classes int64 [N]."""
    return torch.from_numpy(images.images), torch.from_numpy(np.asarray(images.labels))


def scaled(pixels: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [−1, 1]."""
    return pixels.float() / 127.5 - 1


def batches(n: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, float]]:
    """Yield (indices int64 [batch], share of the peak rate) for each step.

    Each epoch is a new permutation of n images, and images that do not fill a batch are left out of it. The rate is a
    one-cycle: up for a tenth of all steps, then a cosine to 0, and never below a hundredth of the peak.
    """
    per_epoch = n // batch
    total = epochs * per_epoch
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(n))
        done = step / total
        share = done / 0.1 if done < 0.1 else 0.5 * (1 + np.cos(np.pi * (done - 0.1) / 0.9))
        yield order[step % per_epoch * batch :][:batch], max(float(share), 0.01)


def shifted(x: Tensor, shift: int, rng: np.random.Generator) -> Tensor:
    """Return a batch [B, C, H, W] in [−1, 1] moved by up to `shift` pixels, black where it moved away."""
    height, width = x.shape[2:]
    dy, dx = rng.integers(0, 2 * shift + 1, 2)
    return F.pad(x, (shift, shift, shift, shift), value=-1.0)[:, :, dy : dy + height, dx : dx + width]


@torch.no_grad()
def share_right(logits: Callable[[Tensor], Tensor], images: Images) -> float:
    """Return the share of images whose class has the largest logit."""
    pixels, labels = tensors(images)
    guesses = torch.cat([logits(scaled(part)).argmax(1) for part in pixels.split(1000)])
    return float((guesses == labels).float().mean())
