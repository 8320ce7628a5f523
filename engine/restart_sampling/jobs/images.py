r"""Images that a job is given: what it begins with, keeps, or masks with.

| given | what it is |
|---|---|
| a picture: PNG, JPEG, WebP or BMP | one image for all samples |
| a folder | its pictures and those of its sub-folders, by name: one for each seed, in the order of the seeds |
| .npy, or .npz with `arr_0`, `images` or one array | [C, H, W] for all samples, [n, C, H, W] with one for each seed |
| an array or a tensor | likewise |

Bytes become x / 127.5 − 1, as they do where a network is trained; floats stay as they are. A .npy and the pictures of a
folder are read batch by batch, so they may be larger than the memory. A mask is grey: white (255, 1.0, True) is free
and black is kept. A byte array may have its channels last, as `generate --format npz` writes it.

Images are compared by the SHA-256 of their float32 values, so the same pixels in another file are the same images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.checks import shown
from ..common.errors import RestartTypeError, RestartValueError
from ..common.files import NPZ_DAMAGE
from ..common.images import PICTURES, read_picture

BLOCK = 256  # images that are converted at a time
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one purpose.

    Attributes:
        name: what they are for: "start", "known" or "mask".
        path: the file or folder, absolute; None for an array.
        shape: of one sample.
        array: [*shape] for all samples, or [n, *shape]; bytes, booleans or floats, of a folder read as they are needed.
            That of a mask may have other dimensions that stretch to these.
        each: whether there is one for each seed.
        sha256: of the float32 values.
    """

    name: str
    path: str | None
    shape: Shape
    array: Any = field(repr=False)
    each: bool
    sha256: str

    def of(self, places: np.ndarray) -> np.ndarray:
        """Return those of the seeds at these places, float32 [n, *shape], or [*shape] if one serves all."""
        return self._floats(self.array[places] if self.each else self.array)

    def check(self, seeds: int, per_image: int = 1) -> None:
        """Raise RestartValueError unless there is one for all, or one for each `per_image` of so many seeds."""
        if self.each and len(self.array) * per_image != seeds:
            wanted = "one for each seed in order" if per_image == 1 else f"one for each {per_image} of them in order"
            raise RestartValueError(
                f"{self} has {len(self.array):,} images for {seeds:,} seed{'s' * (seeds != 1)}; give one for all, or "
                f"{wanted}"
            )

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name} {self.path}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a file by its path: workers read it themselves, and it must still have the same pixels."""
        if self.path is None:
            return Images, (self.name, None, self.shape, self.array, self.each, self.sha256)
        return _again, (self.name, self.path, self.shape, self.sha256)

    def _floats(self, array: np.ndarray) -> np.ndarray:
        return _converted(array, self.name == "mask")


def read_images(name: str, given: Any, shape: Shape) -> Images:
    """Return the images that a job is given for one purpose, checked.

    Args:
        name: "start", "known" or "mask".
        given: a path, an array or a tensor; Images are returned as they are.
        shape: of one sample.

    Raises:
        RestartTypeError, RestartValueError: one sentence about what cannot be read or does not fit.
    """
    if isinstance(given, Images):
        return given
    path, array = None, given
    if isinstance(given, (str, Path)):
        file = Path(given).expanduser().resolve()
        path, array = str(file), _file(name, file, shape)
    elif isinstance(given, torch.Tensor):
        tensor = given.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    what = name if path is None else f"{name} {path}"
    if not isinstance(array, (np.ndarray, _Pictures)):
        raise RestartTypeError(f"{name} must be a file, an array or a tensor, got {shown(given)}")
    mask = name == "mask"
    if array.dtype != np.uint8 and array.dtype.kind != "f" and not (mask and array.dtype == bool):
        kinds = "bytes, booleans or floats in [0, 1]" if mask else "bytes, or floats in [-1, 1]"
        raise RestartTypeError(f"{what} holds {array.dtype}; images are {kinds}")
    array, each = _placed(what, array, shape, mask)
    return Images(name, path, shape, array, each, _digest(what, array, each, shape, mask))


def _again(name: str, path: str, shape: Shape, sha256: str) -> Images:
    found = read_images(name, path, shape)
    if found.sha256 != sha256:
        raise RestartValueError(f"{found} has changed while the job runs; start the job again with the same pixels")
    return found


class _Pictures:
    """The pictures of a folder as bytes [n, C, H, W], read as they are indexed, so there may be any number of them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, name: str, files: list[Path], shape: Shape) -> None:
        self.name, self.files, self.sample = name, files, shape
        self.shape = (len(files), *self[0].shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, int):
            return self._read(self.files[key])
        files = self.files[key] if isinstance(key, slice) else [self.files[i] for i in np.asarray(key).tolist()]
        return np.stack([self._read(file) for file in files])

    def _read(self, file: Path) -> np.ndarray:
        return _picture(f"{self.name} {file}", file, self.sample, self.name == "mask")


def _file(name: str, path: Path, shape: Shape) -> Any:
    """Return the array of a file or folder; pictures as bytes [C, H, W], or [n, C, H, W] of a folder."""
    what, suffix = f"{name} {path}", path.suffix.lower()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and not p.name.startswith("."))
        if not files:
            raise RestartValueError(f"{what} holds no pictures ({', '.join(PICTURES)})")
        return _Pictures(name, files, shape)
    if not path.is_file():
        raise RestartValueError(f"{what}: there is no such file or folder")
    if suffix in PICTURES:
        return _picture(what, path, shape, name == "mask")
    if suffix not in (".npy", ".npz"):
        raise RestartValueError(f"{what} is no picture ({', '.join(PICTURES)}), no folder of them, no .npy and no .npz")
    try:
        if suffix == ".npy":
            return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            main = next((n for n in ("arr_0", "images") if n in names), names[0] if len(names) == 1 else None)
            if main is None:
                raise RestartValueError(f"{what} holds {', '.join(names[:10])}; images are arr_0, images or one array")
            return np.asarray(archive[main])
    except RestartValueError:
        raise
    except NPZ_DAMAGE as error:
        raise RestartValueError(f"{what} cannot be read: {error or type(error).__name__}") from error


def _picture(what: str, path: Path, shape: Shape, mask: bool) -> np.ndarray:
    """Return a picture as bytes [C, H, W], one channel for a mask; grey serves every C, and colours that are grey do.

    Raises RestartValueError for a picture of another size.
    """
    try:
        image = read_picture(path.read_bytes, what).transpose(2, 0, 1)
    except OSError as error:
        raise RestartValueError(f"{what} cannot be read: {error.strerror or error}") from error
    channels = 1 if mask or not shape else shape[0]
    if len(image) == 3 and channels == 1 and (image[0] == image[1]).all() and (image[0] == image[2]).all():
        image = image[:1]
    if len(shape) != 3:
        raise RestartValueError(f"{what} is a picture, and samples are {list(shape)}; give a .npy or .npz")
    if image.shape[1:] != shape[1:] or len(image) not in (1, channels):
        wanted = (channels, *shape[1:])
        raise RestartValueError(f"{what} has {_size(image.shape)}; it must have {_size(wanted)}, as the samples have")
    return np.repeat(image, channels, 0) if len(image) < channels else image


def _placed(what: str, array: Any, shape: Shape, mask: bool) -> tuple[Any, bool]:
    """Return an array as [*shape] or [n, *shape], and whether it is one for each seed; a mask's may be smaller."""
    last = (*shape[1:], *shape[:1])
    for axis in (0, 1):
        if array.dtype == np.uint8 and array.shape[axis:] == last != shape and array.ndim == len(shape) + axis:
            array = np.moveaxis(array, -1, axis)
    fits = array.shape in (shape, (*array.shape[:1], *shape))
    if mask and not fits:
        own = array.shape[1:] if array.ndim > len(shape) else array.shape
        try:
            fits = np.broadcast_shapes(own, shape) == shape and array.ndim <= len(shape) + 1
        except ValueError:
            fits = False
    if not fits or not array.size:
        allowed = f"{list(shape)}, or [n, {str(list(shape))[1:]} with one for each seed"
        stretched = ", or a shape that stretches to these" if mask else ""
        raise RestartValueError(f"{what} has the shape {list(array.shape)}; it must be {allowed}{stretched}")
    each = array.ndim > len(shape)
    return (array[0], False) if each and len(array) == 1 else (array, each)


def _digest(what: str, array: Any, each: bool, shape: Shape, mask: bool) -> str:
    """Return the SHA-256 of the values as samples see them. Raises RestartValueError for values that cannot be."""
    sha256 = hashlib.sha256(repr(((len(array), *shape) if each else shape, "float32")).encode())
    for block in _blocks(array) if each else (array,):
        values = _converted(block, mask)
        if not np.isfinite(values).all():
            raise RestartValueError(f"{what} holds NaN or infinite values")
        if mask and not ((values >= 0) & (values <= 1)).all():
            low, high = float(values.min()), float(values.max())
            raise RestartValueError(f"{what} has values from {low:g} to {high:g}; masks are from 0 (kept) to 1 (free)")
        wanted = (len(block), *shape) if each else shape
        sha256.update(np.ascontiguousarray(np.broadcast_to(values, wanted), "<f4").tobytes())
    return sha256.hexdigest()


def _blocks(array: Any) -> Iterator[np.ndarray]:
    return (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))


def _converted(array: np.ndarray, mask: bool) -> np.ndarray:
    """Return float32 values in C order: bytes as x/127.5 − 1, those of a mask as x/255."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        values = np.ascontiguousarray(array).astype(np.float32)
    if array.dtype == np.uint8:
        return values / np.float32(255) if mask else values / np.float32(127.5) - np.float32(1)
    return values


def _size(shape: Shape) -> str:
    """Return "28×28, 1 channel" for [1, 28, 28]."""
    return f"{shape[1]}×{shape[2]}, {shape[0]} channel{'s' * (shape[0] != 1)}"
