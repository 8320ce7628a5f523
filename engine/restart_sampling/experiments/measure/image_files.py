r"""Readers of one file of images, sample by sample; nothing is read whole but one picture or a Parquet row group.

| kind | what is read | classes |
|---|---|---|
| png | one picture: PNG, JPEG, WebP, BMP, GIF or TIFF | none |
| npz | `arr_0` uint8 [N, H, W, C]; `images` uint8, or float32 in [−1, 1], [N, C, H, W] | `arr_1` or `labels` |
| wds | a WebDataset .tar: one picture or .npy for each key | `.cls` |
| parquet | `image`, encoded or as `datasets` stores it, or `sample` | `class` or `label` |

A file may claim any size, and NumPy and tarfile allocate what is claimed, so sizes are checked before anything is read.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from ...common.errors import OutputError
from ...common.files import NPZ_DAMAGE
from ...common.images import PICTURES, read_picture, to_uint8

ROWS = 500  # of a Parquet file, read at once
LARGEST = 256 << 20  # bytes of one image
# What the readers of archives and pictures raise for files that are damaged or something else.
DAMAGE = (*NPZ_DAMAGE, tarfile.TarError, Image.DecompressionBombError)
Sample = tuple[np.ndarray, int | None]  # uint8 [H, W, C], class


def samples(file: Path, kind: str) -> Iterator[Sample]:
    """Yield the samples of a file; `kind` is png, npz, wds or parquet. Raises OutputError if it cannot be read."""
    if kind == "png":
        yield read_picture(file.read_bytes, str(file)), None
        return
    try:
        yield from {"npz": _npz, "wds": _wds, "parquet": _parquet}[kind](file)
    except OutputError:
        raise
    except DAMAGE as error:
        raise OutputError(f"{file} cannot be read: {_reason(error)}") from error


def _npz(file: Path) -> Iterator[Sample]:
    """Yield the samples of an .npz, row by row."""
    with zipfile.ZipFile(file) as archive:
        names = {Path(name).stem: name for name in archive.namelist()}
        main = next((name for name in ("arr_0", "images") if name in names), None)
        if main is None:
            raise OutputError(
                f"{file} holds {', '.join(sorted(names)[:10])}; images are arr_0 [N, H, W, C] or images [N, C, H, W]"
            )
        classes = next((names[name] for name in ("arr_1", "labels") if name in names), None)
        with archive.open(names[main]) as member:
            rows = array_rows(member, f"{file}, {main}")
            shape, dtype = next(rows)
            if len(shape) != 4 or dtype not in (np.uint8, np.float32):
                raise OutputError(
                    f"{file}: {main} is {dtype} {list(shape)}; images are uint8 or float32 with four dimensions"
                )
            last = dtype == np.uint8 and (main == "arr_0" or shape[1] not in (1, 3))
            labels = _classes(archive, classes, shape[0], file)
            for row in rows:
                label = next(labels)
                yield (row if last else _bytes(row, file)), label


def array_rows(member: IO[bytes], what: str) -> Iterator[Any]:
    """Yield (shape, dtype) of an .npy stream, then its rows."""
    shape, dtype, fortran = _header(member, what)
    if (fortran and len(shape) > 1) or not shape:
        raise OutputError(f"{what} is not an array in C order; save it with numpy.savez")
    yield shape, dtype
    size = _bytes_of(shape[1:], dtype, what)
    for _ in range(shape[0]):
        content = member.read(size)
        if len(content) != size:
            raise OutputError(f"{what} ends before its {shape[0]:,} rows do: the file is cut off")
        yield np.frombuffer(content, dtype).reshape(shape[1:])


def _header(member: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return (shape, dtype, Fortran order) of an .npy stream, read up to its data."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise OutputError(f"{what} holds Python objects; save it as an array of numbers")
    return shape, dtype, fortran


def _bytes_of(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> int:
    """Return the bytes of an array. Raises OutputError if it has none, or more than an image can have."""
    size = math.prod(shape) * dtype.itemsize
    if not all(n > 0 for n in shape) or not 0 < size <= LARGEST:
        raise OutputError(f"{what} claims images of {list(shape)}; an image has 1 byte to {LARGEST >> 20} MiB")
    return size


def _classes(archive: zipfile.ZipFile, name: str | None, n: int, file: Path) -> Iterator[int | None]:
    """Yield the classes of n images; None for ever if the archive holds no classes."""
    if name is None:
        while True:
            yield None
    with archive.open(name) as member:
        rows = array_rows(member, f"{file}, {name}")
        shape, dtype = next(rows)
        if shape != (n,) or dtype.kind not in "iu":
            raise OutputError(f"{file}: classes are {dtype} {list(shape)} for {n:,} images; they are {n:,} integers")
        for row in rows:
            yield int(row)


def _wds(file: Path) -> Iterator[Sample]:
    """Yield the samples of a .tar."""
    for key, members in keyed(file):
        yield _sample(members, f"{file}, {key}")


def keyed(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, content by suffix) of a .tar: its pictures, arrays and classes.

    Members of one key follow each other; a key ends at the first dot of the name.
    """
    with tarfile.open(file, "r|*") as archive:
        key = ""
        members: dict[str, bytes] = {}
        for member in archive:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if f"{folder}/{stem}" != key:
                if members:
                    yield key, members
                key, members = f"{folder}/{stem}", {}
            if f".{suffix.lower()}" in (*PICTURES, ".npy", ".cls"):
                if member.size > LARGEST:
                    raise OutputError(
                        f"{file}, {member.name} has {member.size:,} bytes; an image has at most {LARGEST >> 20} MiB"
                    )
                content = archive.extractfile(member)
                members[suffix.lower()] = content.read() if content is not None else b""
        if members:
            yield key, members


def _sample(members: dict[str, bytes], what: str) -> Sample:
    """Return the sample whose members are given by their suffix."""
    label = None
    if "cls" in members:
        text = members["cls"].decode(errors="replace").strip()
        if not re.fullmatch("-?[0-9]{1,9}", text):
            raise OutputError(f"{what}: the class is {text[:20]!r}; it is an integer")
        label = int(text)
    if "npy" in members:
        return _bytes(array_in(members["npy"], what), what), label
    suffix = next((suffix for suffix in members if suffix != "cls"), None)
    if suffix is None:
        raise OutputError(f"{what} has a class and no image")
    return read_picture(lambda: members[suffix], what), label


def array_in(content: bytes, what: str) -> np.ndarray:
    """Return the array of an .npy file. Its header is checked first, because NumPy allocates what it claims."""
    stream = io.BytesIO(content)
    shape, dtype, _ = _header(stream, what)
    _bytes_of(shape, dtype, what)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _parquet(file: Path) -> Iterator[Sample]:
    """Yield the samples of a Parquet file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OutputError("Parquet needs pyarrow; install it with: pip install 'restart-sampling[parquet]'") from None
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            image = next((name for name in ("image", "sample") if name in names), None)
            if image is None:
                raise OutputError(
                    f"{file} has the columns {', '.join(names[:10])}; images are the column image or sample"
                )
            classes = next((name for name in ("class", "label") if name in names), None)
            shape = (table.schema_arrow.metadata or {}).get(b"shape", b"").decode()
            for batch in table.iter_batches(ROWS, columns=[image, *([classes] if classes else [])]):
                labels = batch[classes].to_pylist() if classes else [None] * len(batch)
                for row, label in zip(batch[image], labels, strict=True):
                    if image == "sample":
                        sizes = [int(size) for size in shape.split(",")]
                        yield _bytes(np.asarray(row.as_py(), np.float32).reshape(sizes), file), label
                    else:
                        value = row.as_py()
                        content = value.get("bytes") if isinstance(value, dict) else value
                        if not isinstance(content, bytes):
                            raise OutputError(f"{file}: its images are not in the file itself but {str(value)[:60]}")
                        yield read_picture(lambda content=content: content, str(file)), label  # type: ignore[misc]
    except pa.ArrowException as error:
        raise OutputError(f"{file} is not a Parquet file that can be read: {error}") from error


def _bytes(image: np.ndarray, what: Any) -> np.ndarray:
    """Return a sample [C, H, W], uint8 or float32 in [−1, 1], as uint8 [H, W, C]."""
    if image.ndim != 3 or image.dtype not in (np.uint8, np.float32):
        raise OutputError(
            f"{what}: a sample is {image.dtype} {list(image.shape)}; samples are [C, H, W], uint8 or float32"
        )
    if image.dtype == np.uint8:
        return image.transpose(1, 2, 0)
    if not np.isfinite(image).all():
        raise OutputError(f"{what} holds a sample that is NaN or infinite; leave it out")
    return to_uint8(torch.from_numpy(image.copy())[None])[0]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
