"""The layout of formats with a file for each seed, as EDM has it: SEED.png, in subfolders of a thousand for large jobs.

With `--metadata json`, SEED.json beside each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..shards import Shard
from .base import Format, ShardData, Written, many_files
from .options import METADATA, Options
from .pictures import check, picture
from .text import as_json


def stem(seed: int, subfolders: bool) -> str:
    """Return `000012`, or `000000/000012` with subfolders."""
    return f"{seed - seed % 1000:06d}/{seed:06d}" if subfolders else f"{seed:06d}"


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the names of each seed's files."""
    suffixes = (options.encoding, "json") if "json" in options.metadata else (options.encoding,)
    return (f"{stem(seed, options.subfolders)}.{suffix}" for seed in seeds for suffix in suffixes)


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write the files of each seed, and flush each and then their folders to the disk."""

    def contents() -> Iterator[bytes]:
        for i in range(len(data.seeds)):
            yield picture(data, i, options)
            if "json" in options.metadata:
                yield as_json(data.record(i))

    names = files(data.shard, data.seeds.tolist(), options)
    return many_files(folder, zip(names, contents(), strict=True), tag)


def of_encoding(name: str, title: str) -> Format:
    """Return the format whose files have the encoding `name`."""
    return Format(
        name=name,
        title=title,
        note="a file for each seed",
        pixels=("uint8",),
        write=write,
        files=files,
        check=check,
        file_per_seed=True,
        encodings=(name,),
        metadata=METADATA,
        bytes_per_image=200,
    )
