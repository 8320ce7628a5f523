r"""What a format is, and what formats share.

A format turns a `ShardData` into files under a folder, whole or not at all, with the same bytes for the same data, and
says afterwards which files those are and whether one can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ...common.files import flush_folder, write_atomically
from ...common.lazy import moved_names
from ..shards import Shard


@dataclass(frozen=True)
class ShardData:
    """The images of a shard, in ascending order of their seeds, without seeds that have no image.

    Attributes:
        shard: the number of the shard and all its seeds.
        seeds: int64 [n], those of the images.
        labels: class labels int64 [n], or None for an unconditional network.
        images: uint8 [n, H, W, C], or float32 [n, C, H, W] in the model's own range for "float32" pixels.
        plan: digest of the plan.
        nonfinite: seeds that have no image, because their samples became NaN or infinite.
    """

    shard: Shard
    seeds: np.ndarray
    labels: np.ndarray | None
    images: np.ndarray
    plan: str
    nonfinite: tuple[int, ...] = ()

    def record(self, i: int) -> dict[str, object]:
        """Return what is known of image i, for formats that store it beside the image."""
        label = None if self.labels is None else int(self.labels[i])
        return {"seed": int(self.seeds[i]), "class": label, "plan": self.plan}


@dataclass(frozen=True)
class Written:
    """The files that a format wrote for a shard.

    Attributes:
        files: their names relative to the folder of the samples, or their number if each seed has a file.
        bytes: of all of them.
        sha256: of the file; for a format with a file for each seed, `joint_digest` of all.
    """

    files: tuple[str, ...] | int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as `--format` has it.
        title: what it is, in a sentence.
        pixels: what it can hold, of "uint8" and "float32".
        write: write(folder, data, subfolders, tag) writes a shard. `subfolders` asks for one folder for each thousand
            seeds; `tag` goes into the names of temporary files. Raises OSError.
        files: files(shard, seeds, subfolders) yields the names of the files that hold these seeds, in order.
        check: check(path) returns the number of images in a file; raises ValueError if it cannot be read.
        note: a few words after the name in `--help`.
        file_per_seed: whether each image is a file of its own.
        needs: the pip extra that it needs, "" for none.
        modules: what that extra installs, to see whether it is there.
        bytes_per_image: roughly the bytes of an image besides its pixels, to see in time that the disk is too small.
        version: number of the layout; a job writes all its shards in the layout that it began with.
        before: the format as it was in the versions before, for jobs that began with it.
    """

    name: str
    title: str
    pixels: tuple[str, ...]
    write: Callable[[Path, ShardData, bool, str], Written]
    files: Callable[[Shard, Sequence[int], bool], Iterable[str]]
    check: Callable[[Path], int]
    note: str = ""
    file_per_seed: bool = False
    needs: str = ""
    modules: tuple[str, ...] = ()
    bytes_per_image: int = 100
    version: int = 1
    before: Format | None = None


class Hashing:
    """A file that is hashed as it is written. It cannot seek, so the hash is that of what is on the disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self.bytes += view.nbytes
        self.file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self.file.flush()

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    closed = False


def one_file(folder: Path, name: str, write: Callable[[Hashing], object], tag: str) -> Written:
    """Write a shard that is one file: it is flushed to the disk, renamed, and then its folder is flushed."""
    made: list[Hashing] = []

    def hashed(file: IO[bytes]) -> None:
        made.append(Hashing(file))
        write(made[0])

    write_atomically(folder / name, hashed, tag=tag)
    flush_folder(folder)
    return Written((name,), made[0].bytes, made[0].sha256.hexdigest())


def joint_digest(names: Iterable[str], digests: Iterable[str]) -> str:
    """Return the SHA-256 of the lines "name sha256", for a shard of many files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


__getattr__ = moved_names(__name__, dict.fromkeys(("VERSION", "find"), "restart_sampling.jobs.formats.registry"))
