"""WebDataset tar shards: SEED.cls, SEED.json and SEED.png (or SEED.npy) of each sample, in order of seeds.

Owners, times and modes are fixed, so equal data are equal bytes. A tar that was cut at the border of a member reads
without an error; that is why the manifest has the count and the SHA-256."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...common.images import to_pil
from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file


def files(shard: Shard, seeds: Sequence[int], subfolders: bool) -> Iterator[str]:
    yield f"shard-{shard.name}.tar"


def write(folder: Path, data: ShardData, subfolders: bool, tag: str) -> Written:
    def save(file: Hashing) -> None:
        # "|" writes a stream: nothing is sought, so what was hashed is what is on the disk.
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            for i, seed in enumerate(data.seeds):
                for suffix, content in _members(data, i):
                    member = tarfile.TarInfo(f"{int(seed):06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    (name,) = files(data.shard, (), subfolders)
    return one_file(folder, name, save, tag)


def _members(data: ShardData, i: int) -> Iterator[tuple[str, bytes]]:
    if data.labels is not None:
        yield "cls", str(int(data.labels[i])).encode()
    yield "json", json.dumps(data.record(i), sort_keys=True).encode()
    buffer, image = io.BytesIO(), data.images[i]
    if image.dtype == np.uint8:
        to_pil(image).save(buffer, format="PNG")
        yield "png", buffer.getvalue()
    else:
        np.lib.format.write_array(buffer, np.ascontiguousarray(image), allow_pickle=False)
        yield "npy", buffer.getvalue()


def check(path: Path) -> int:
    try:
        with tarfile.open(path, "r:") as archive:
            return sum(member.name.endswith((".png", ".npy")) for member in archive)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(str(error)) from error


FORMAT = Format(
    "wds",
    "one WebDataset tar for each shard: cls, json and png (or npy) of every seed",
    ("uint8", "float32"),
    write,
    files,
    check,
    bytes_per_image=3000,
)
