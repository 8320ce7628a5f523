"""WebDataset tar shards: SEED.cls, SEED.json and SEED.png (or SEED.npy) of each sample, in order of seeds.

Owners, times and modes are fixed, so equal data give equal bytes. A tar that was cut at the border of a member reads
without an error, which is why the manifest has the count and the SHA-256."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...common.images import png_bytes
from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file


def files(shard: Shard, seeds: Sequence[int], subfolders: bool) -> Iterator[str]:
    """Yield the name of the shard's file."""
    yield f"shard-{shard.name}.tar"


def write(folder: Path, data: ShardData, subfolders: bool, tag: str) -> Written:
    """Write a shard as one archive."""

    def save(file: Hashing) -> None:
        # "|" writes a stream: it never seeks, so the hash is that of what is on the disk.
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            for i, seed in enumerate(data.seeds):
                for suffix, content in _members(data, i):
                    member = tarfile.TarInfo(f"{int(seed):06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    (name,) = files(data.shard, (), subfolders)
    return one_file(folder, name, save, tag)


def _members(data: ShardData, i: int) -> Iterator[tuple[str, bytes]]:
    """Yield (suffix, content) of the members of image i."""
    if data.labels is not None:
        yield "cls", str(int(data.labels[i])).encode()
    yield "json", json.dumps(data.record(i), sort_keys=True).encode()
    image = data.images[i]
    if image.dtype == np.uint8:
        yield "png", png_bytes(image)
    else:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(image), allow_pickle=False)
        yield "npy", buffer.getvalue()


def check(path: Path) -> int:
    """Return the number of images in an archive; raise ValueError if it cannot be read."""
    try:
        with tarfile.open(path, "r:") as archive:
            return sum(member.name.endswith((".png", ".npy")) for member in archive)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(str(error)) from error


FORMAT = Format(
    name="wds",
    title="one WebDataset tar for each shard: cls, json and png (or npy) of every seed",
    note="WebDataset tar",
    pixels=("uint8", "float32"),
    write=write,
    files=files,
    check=check,
    bytes_per_image=3000,
)
