"""Images: pixels of samples, PNG, contact sheets.

PIL and torch are imported where they are used, so that what only names an image format does not wait for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from .errors import OutputError
from .files import NPZ_DAMAGE, write_atomically

ENCODINGS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # what a picture may be, whatever its name says
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def to_uint8(x: Tensor) -> np.ndarray:
    """Return the pixels uint8 [n, H, W, C] of samples float [n, C, H, W] in [−1, 1], see `restart_kernels.pixels`."""
    import restart_kernels as kernels

    return kernels.pixels(x).cpu().numpy()


def read_picture(read: Callable[[], bytes], what: str) -> np.ndarray:
    """Return a picture as uint8 [H, W, C], C = 1 for grey and 3 for colour.

    Args:
        read: returns the file's content.
        what: names the picture in errors.

    Raises:
        OutputError: it is no picture, transparent, or of more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read()), formats=ENCODINGS) as image:
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                raise OutputError(f"{what} is transparent; put it on a background first")
            if image.mode.startswith(("I", "F")):
                raise OutputError(f"{what} has more than 8 bits a channel; convert it to 8 bits first")
            array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except OutputError:
        raise
    except (*NPZ_DAMAGE, Image.DecompressionBombError) as error:
        raise OutputError(f"{what} is not a picture that can be read: {error or type(error).__name__}") from error
    return array[..., None] if array.ndim == 2 else array


def to_pil(image: np.ndarray) -> Image:
    """Return a PIL image of pixels uint8 [H, W, C], with C = 1 (grey) or 3 (RGB).

    Raises:
        OutputError: another number of channels.
    """
    from PIL import Image

    if image.shape[-1] not in (1, 3):
        raise OutputError(f"images need 1 or 3 channels, got {image.shape[-1]}; use --format npz for other data")
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png_bytes(image: np.ndarray, *, optimize: bool = False) -> bytes:
    """Return the PNG file of pixels uint8 [H, W, C]; `optimize` makes it smaller and takes longer.

    Raises:
        OutputError: as `to_pil`.
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()


def save_png(path: Path, image: np.ndarray, tag: str | None = None) -> None:
    """Write pixels uint8 [H, W, C] as a PNG file. Raises as `to_pil` and `write_output`; `tag` as in `write_output`."""
    content = png_bytes(image)
    write_output(path, lambda file: file.write(content), tag)


def write_output(path: Path, write: Callable[[IO[bytes]], object], tag: str | None = None) -> None:
    """Write a result file so that `path` holds the old content or the new one; `tag` is that of `write_atomically`.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        write_atomically(path, write, durable=False, tag=tag)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def grid(images: np.ndarray, columns: int | None = None, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Return a contact sheet uint8 [H', W', C] of images uint8 [n, H, W, C], row by row on white.

    Args:
        images: the images.
        columns: how many a row has, by default √n.
        scale: factor by which each image is enlarged.
        gap: pixels between images.
    """
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
