"""PNG files, one for each seed, in EDM's layout: SEED.png, or in subfolders of a thousand seeds for large jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...common.files import flush_folder, write_atomically
from ...common.images import png_bytes
from ..shards import Shard
from .base import Format, ShardData, Written, joint_digest


def name_of(seed: int, subfolders: bool) -> str:
    """Return `000012.png`, or `000000/000012.png` with subfolders."""
    return f"{seed - seed % 1000:06d}/{seed:06d}.png" if subfolders else f"{seed:06d}.png"


def files(shard: Shard, seeds: Sequence[int], subfolders: bool) -> Iterator[str]:
    """Yield the name of each seed's file."""
    return (name_of(seed, subfolders) for seed in seeds)


def write(folder: Path, data: ShardData, subfolders: bool, tag: str) -> Written:
    """Write one file for each seed, and flush each and then their folders to the disk."""
    names = [name_of(int(seed), subfolders) for seed in data.seeds]
    total, digests = 0, []
    folders = {(folder / name).parent for name in names}
    for parent in folders:
        if parent != folder and not parent.exists():
            parent.mkdir(exist_ok=True)  # without its parents: a job's folder that was removed is an error
            flush_folder(parent.parent)
    for name, image in zip(names, data.images, strict=True):
        content = png_bytes(image)
        write_atomically(folder / name, lambda file, content=content: file.write(content), tag=tag)  # type: ignore[misc]
        total += len(content)
        digests.append(hashlib.sha256(content).hexdigest())
    for parent in folders:
        flush_folder(parent)
    return Written(len(names), total, joint_digest(names, digests))


def check(path: Path) -> int:
    """Return 1, the number of images in a file; raise ValueError if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    return 1


FORMAT = Format(
    name="png",
    title="one PNG file for each seed, in EDM's layout",
    note="a file for each seed",
    pixels=("uint8",),
    write=write,
    files=files,
    check=check,
    file_per_seed=True,
    bytes_per_image=200,
)
