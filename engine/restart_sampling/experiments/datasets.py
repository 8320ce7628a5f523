"""Data sets of images as one uint8 array, from files on this machine; nothing is downloaded.

| source                          | read as |
|---------------------------------|---------|
| `fashion-mnist`                 | the four IDX files of Debian's package `dataset-fashion-mnist` |
| a file named `…-images-idx3-…`  | IDX, plain or .gz; labels from `…-labels-idx1-…` beside it, if there |
| `.npz`                          | array `images`, optional array `labels` |
| a folder                        | pictures; its sub-folders, if any, are the classes in name order |

IDX (yann.lecun.com): two zero bytes, a type byte (8: uint8), the number of dimensions, each size as
big-endian int32, then the data.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.errors import RestartValueError
from ..common.files import NPZ_DAMAGE

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


class DataError(RestartValueError):
    """A data set that is missing or cannot be read."""


@dataclass(frozen=True)
class Images:
    """A data set: `images` uint8 [N, C, H, H]; `labels` int64 [N] in [0, number of classes), or None."""

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]

    @property
    def sigma_data(self) -> float:
        """Root mean square of the images scaled to [−1, 1]: σ_data for data that is not centred."""
        counts = np.bincount(self.images.reshape(-1), minlength=256)
        value = np.arange(256) / 127.5 - 1
        return float(np.sqrt((counts * value**2).sum() / counts.sum()))


def _read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file. Raises DataError."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if body.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path}: the header promises {list(shape)} bytes, the file holds {body.size}")
    return body.reshape(shape)


def _checked(name: str, images: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...] = ()) -> Images:
    """Return a data set with images as [N, C, H, H] and labels as int64. Raises DataError if they do not fit."""
    if images.dtype != np.uint8:
        raise DataError(f"{name}: images must be uint8, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3] or not len(images):
        raise DataError(f"{name}: need [N, H, H], [N, H, H, C] or [N, C, H, H], C 1 or 3; got {list(images.shape)}")
    if labels is not None:
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise DataError(
                f"{name}: labels must be {len(images)} integers >= 0, got {labels.dtype} {list(labels.shape)}"
            )
        labels = labels.astype(np.int64)
        classes = classes or tuple(str(i) for i in range(int(labels.max()) + 1))
    return Images(name, np.array(images, order="C"), labels, classes if labels is not None else ())


def fashion_mnist(split: str = "train", folder: Path = FASHION_MNIST) -> Images:
    """Return Fashion-MNIST (arXiv 1708.07747): 10 classes, [1, 28, 28], "train" (60,000) or "test" (10,000).

    Raises DataError if it is not in `folder`.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be train or test, got {split!r}")
    stem = "train" if split == "train" else "t10k"
    pair = [folder / f"{stem}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    if not all(path.is_file() for path in pair):
        raise DataError(
            f"Fashion-MNIST is not in {folder}. On Debian or Ubuntu: apt-get install dataset-fashion-mnist. "
            "Elsewhere give the path of train-images-idx3-ubyte.gz (github.com/zalandoresearch/fashion-mnist)"
        )
    return _checked("fashion-mnist", _read_idx(pair[0]), _read_idx(pair[1]), FASHION_MNIST_CLASSES)


def _read_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "images" not in file:
                raise DataError(f"{path}: has no array `images`; it holds {', '.join(file.files[:20]) or 'nothing'}")
            return _checked(str(path), file["images"], file.get("labels"))
    except DataError:
        raise
    except NPZ_DAMAGE as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from None


def _read_folder(folder: Path) -> Images:
    from PIL import Image, UnidentifiedImageError

    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    groups = [folder / name for name in classes] or [folder]
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for label, group in enumerate(groups):
        for path in sorted(p for p in group.iterdir() if p.suffix.lower() in PICTURES):
            try:
                with Image.open(path) as picture:
                    array = np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise DataError(f"{path}: not a readable picture ({error})") from None
            if arrays and array.shape != arrays[0].shape:
                raise DataError(f"{path}: is {array.shape}, the pictures before it {arrays[0].shape}; make them equal")
            arrays.append(array)
            labels.append(label)
    if not arrays:
        raise DataError(f"{folder}: no pictures ({', '.join(sorted(PICTURES))}) in it or its sub-folders")
    return _checked(str(folder), np.stack(arrays), np.asarray(labels) if classes else None, classes)


def load_images(source: str | Path) -> Images:
    """Return the images of `source`: "fashion-mnist", an IDX file, an .npz file or a folder, see the table at the top.

    Raises DataError, which says what is wrong with which file.
    """
    if str(source) == "fashion-mnist":
        return fashion_mnist()
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder (known by name: fashion-mnist)")
    if path.suffix == ".npz":
        return _read_npz(path)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = _read_idx(beside) if beside != path and beside.exists() else None
    return _checked(str(path), _read_idx(path), labels)
