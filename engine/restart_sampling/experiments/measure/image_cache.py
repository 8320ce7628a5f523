r"""A cache of the images that quality was measured on, so that nothing is drawn twice.

CACHE/<model, 12 digits>/<runner's key>/<first seed>-<last seed>.npz holds images uint8 [n, C, H, W] and labels
int64 [n], −1 for none.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...common.files import NPZ_DAMAGE, write_atomically


def default_folder() -> Path:
    """Return the folder of the cache if none is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "restart-sampling" / "bench"


def path_of(cache: Path, model_sha256: str, key: str, first: int, n: int) -> Path:
    """Return the file of a block of seeds."""
    return cache / (model_sha256[:12] or "unknown") / key / f"{first}-{first + n - 1}.npz"


def read(path: Path, n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """Return (images uint8 [n, *shape], labels int64 [n]) of a file, or None if it is missing or not whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            if images.dtype != np.uint8 or images.shape != (n, *shape) or labels.shape != (n,):
                return None
            return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    except NPZ_DAMAGE:
        return None


def write(path: Path, images: Tensor, labels: Tensor | None) -> None:
    """Write a block. A folder that cannot be written is no error: the block is drawn again then."""
    known = np.full(len(images), -1, dtype=np.int64) if labels is None else labels.numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            path, lambda file: np.savez_compressed(file, images=images.numpy(), labels=known), durable=False
        )
    except OSError:
        return
