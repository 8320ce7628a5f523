"""Images: uint8 conversion, PNG files, a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from torch import Tensor

import restart_kernels as kernels

from .errors import OutputError
from .files import write_atomically


def to_uint8(x: Tensor) -> np.ndarray:
    """Samples float [n, C, H, W] in [−1, 1] → uint8 [n, H, W, C]; see `restart_kernels.pixels`."""
    return kernels.pixels(x).cpu().numpy()


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] with C = 1 (grey) or 3 (RGB) → a PIL image."""
    if image.shape[-1] not in (1, 3):
        raise OutputError(f"images need 1 or 3 channels, got {image.shape[-1]}; use --format npz for other data")
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def write_output(path: Path, write: Callable[[IO[bytes]], object], tag: str | None = None) -> None:
    """Write a result file atomically; OutputError says why it cannot be written. `tag` as in `write_atomically`."""
    try:
        write_atomically(path, write, durable=False, tag=tag)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def save_png(path: Path, image: np.ndarray, tag: str | None = None) -> None:
    """One image uint8 [H, W, C] as PNG."""
    picture = to_pil(image)
    write_output(path, lambda file: picture.save(file, format="PNG"), tag)


def grid(images: np.ndarray, columns: int | None = None, scale: int = 1, gap: int = 2) -> np.ndarray:
    """A contact sheet uint8 of images uint8 [n, H, W, C], row by row, each enlarged `scale` times."""
    n, height, width, channels = images.shape
    columns = columns or max(1, round(n**0.5))
    rows = -(-n // columns)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
