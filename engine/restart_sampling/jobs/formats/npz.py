"""NPZ arrays in the layout of ADM's evaluation: `arr_0` the images, `arr_1` the classes, and `seeds`.

A job with inputs also has `records`, a JSON text for each image, as bytes: `json.loads(arrays["records"][0])`.

They are not compressed: noise and natural images hardly shrink, and a plain member is read at the speed of the disk.
Names and times in the archive are fixed, so equal data give equal bytes, on Pythons whose `zipfile` writes the same
headers: 3.11.4 and later write others than those before, of one length and around the same arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...common.files import NPZ_DAMAGE
from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file
from .options import Options
from .text import as_json


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the name of the shard's file."""
    yield f"shard-{shard.name}.npz"


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write a shard as one archive."""
    arrays = {"arr_0": data.images, "arr_1": data.labels, "seeds": data.seeds}
    if data.rows is not None:
        arrays["records"] = np.array([as_json(data.record(i)) for i in range(len(data.seeds))], np.bytes_)

    def save(file: Hashing) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:  # type: ignore[call-overload]
            for name, array in arrays.items():
                if array is None:
                    continue
                info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

    (name,) = files(data.shard, (), options)
    return one_file(folder, name, save, tag)


def check(path: Path) -> int:
    """Return the number of images in an archive; raise ValueError if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            counts = {len(arrays[name]) for name in arrays.files}
    except NPZ_DAMAGE as error:
        raise ValueError(str(error)) from error
    if len(counts) != 1:
        raise ValueError("its arrays have different lengths")
    return counts.pop()


FORMAT = Format(
    name="npz",
    title="one NPZ archive for each shard, arr_0 and arr_1 as ADM's evaluation reads them",
    pixels=("uint8", "float32"),
    write=write,
    files=files,
    check=check,
)
