"""Contact sheets, so that people can look at the samples of a job: grid.png, sheets/SHARD.png, preview.png."""

from __future__ import annotations

import time

import numpy as np

from ..common.images import grid, save_png
from .folder import JobFolder
from .formats.base import ShardData

IMAGES = 64  # of a sheet
SECONDS = 5.0  # between previews


class Sheets:
    """Makes the sheets of a job from its finished shards.

    Args:
        folder: the job's folder.
        every: N: a sheet of the first shard, grid.png, and one of every N-th shard; 0 for none.
        preview: also write preview.png, a sheet of the latest samples, at most every few seconds.
    """

    def __init__(self, folder: JobFolder, every: int, preview: bool) -> None:
        self.folder, self.every, self.preview = folder, every, preview
        self.first = next(iter(folder.definition.shards)).index
        self.latest = -SECONDS

    def add(self, data: ShardData) -> None:
        """Make the sheets that are due with this shard."""
        images = _pictures(data.images[:IMAGES])
        if images is None:
            return
        if self.every and data.shard.index == self.first:
            save_png(self.folder.path / "grid.png", _sheet(images), self.folder.tag)
        elif self.every and data.shard.index % self.every == 0:
            (self.folder.path / "sheets").mkdir(exist_ok=True)
            save_png(self.folder.path / "sheets" / f"{data.shard.name}.png", _sheet(images), self.folder.tag)
        if self.preview and self.folder.rank == 0 and time.monotonic() - self.latest > SECONDS:
            self.latest = time.monotonic()
            latest = _pictures(data.images[-IMAGES:])
            if latest is not None:
                save_png(self.folder.path / "preview.png", _sheet(latest), self.folder.tag)


def _pictures(images: np.ndarray) -> np.ndarray | None:
    """Return pixels uint8 [n, H, W, C] with 1 or 3 channels, or None if the samples are no pictures."""
    if images.ndim != 4:  # neither [n, H, W, C] nor float32 [n, C, H, W]
        return None
    if images.dtype != np.uint8:
        images = (images * 127.5 + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return images if len(images) and images.shape[-1] in (1, 3) else None


def _sheet(images: np.ndarray) -> np.ndarray:
    """Return a sheet on which small images are enlarged."""
    return grid(images, scale=max(1, 96 // images.shape[1]))
