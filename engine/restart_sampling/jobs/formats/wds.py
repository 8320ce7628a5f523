"""WebDataset tar shards: SEED.cls, SEED.json and SEED.png (or .jpg, .webp, .npy) of each sample, in order of seeds.

A job with prompts also has SEED.txt, the prompt. Every sample of a job has the same members, as `datasets` wants them,
and no key has a dot in it, since a key ends at the first one.

Owners, times and modes are fixed, so equal data give equal bytes. A tar that was cut at the border of a member reads
without an error, which is why the manifest has the count and the SHA-256."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file
from .encodings.registry import ENCODINGS
from .options import Options
from .pictures import SUFFIXES, picture
from .text import as_json, valid


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the name of the shard's file."""
    yield f"shard-{shard.name}.tar"


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write a shard as one archive."""

    def save(file: Hashing) -> None:
        # "|" writes a stream: it never seeks, so the hash is that of what is on the disk.
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            for i, seed in enumerate(data.seeds):
                for suffix, content in _members(data, i, options):
                    member = tarfile.TarInfo(f"{int(seed):06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    (name,) = files(data.shard, (), options)
    return one_file(folder, name, save, tag)


def _members(data: ShardData, i: int, options: Options) -> Iterator[tuple[str, bytes]]:
    """Yield (suffix, content) of the members of image i."""
    record, image = data.record(i), data.images[i]
    if data.labels is not None:
        yield "cls", str(int(data.labels[i])).encode()
    yield "json", as_json(record)
    if "prompt" in record:
        yield "txt", valid(record["prompt"]).encode()
    if image.dtype == np.uint8:
        yield options.encoding, picture(data, i, options)
    else:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(image), allow_pickle=False)
        yield "npy", buffer.getvalue()


def check(path: Path) -> int:
    """Return the number of images in an archive; raise ValueError if it cannot be read."""
    try:
        with tarfile.open(path, "r:") as archive:
            return sum(member.name.endswith((*SUFFIXES, ".npy")) for member in archive)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(str(error)) from error


FORMAT = Format(
    name="wds",
    title="one WebDataset tar for each shard: cls, json and png (jpg, webp, npy) of every seed, and txt with prompts",
    note="WebDataset tar",
    pixels=("uint8", "float32"),
    write=write,
    files=files,
    check=check,
    bytes_per_image=3000,
    encodings=tuple(ENCODINGS),
    metadata=("text",),
)
