r"""Writers: one file each, from the images of a shard to files on the disk.

A writer turns a :class:`ShardData` into files under a folder, whole or not at all, with the same bytes for the same
data. A new format is a module here with `FORMAT`, a :class:`Format`, and its name in `NAMES`."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ...common.errors import OutputError
from ...common.files import flush_folder, write_atomically
from ..shards import Shard

# of what the files hold beyond the samples; a job keeps the one it began with, so that its shards stay alike
VERSION = 2
NAMES = ("png", "npz", "wds", "parquet")


@dataclass(frozen=True)
class ShardData:
    """The images of a shard, seeds ascending, seeds without an image left out.

    Attributes:
        shard: which.
        seeds: int64 [n]. labels: int64 [n], or None for an unconditional network.
        images: uint8 [n, H, W, C], or float32 [n, C, H, W] in the model's own range ("float32" pixels).
        plan: digest of the plan. nonfinite: seeds that have no image.
    """

    shard: Shard
    seeds: np.ndarray
    labels: np.ndarray | None
    images: np.ndarray
    plan: str
    nonfinite: tuple[int, ...] = ()

    def record(self, i: int) -> dict[str, object]:
        """What is known of sample i, for formats that keep it beside the image."""
        label = None if self.labels is None else int(self.labels[i])
        return {"seed": int(self.seeds[i]), "class": label, "plan": self.plan}


@dataclass(frozen=True)
class Written:
    """What a writer made: file names relative to the folder (or their number), bytes, SHA-256 (see `manifest.Line`)."""

    files: tuple[str, ...] | int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as --format has it. title: what it is, for help texts.
        pixels: what it can hold, of "uint8" and "float32".
        write: write(folder, data, subfolders, tag) → Written. Raises OSError.
        files: files(shard, count, subfolders) → the names it makes for the seeds, in order; to check and to remove.
        check: check(path) → the number of images in a file; raises ValueError where it is broken.
        needs: pip extra to install, "" for none; modules: what it imports.
        bytes_per_image: bytes per image besides its pixels, roughly.
    """

    name: str
    title: str
    pixels: tuple[str, ...]
    write: Callable[[Path, ShardData, bool, str], Written]
    files: Callable[[Shard, Sequence[int], bool], Iterable[str]]
    check: Callable[[Path], int]
    needs: str = ""
    modules: tuple[str, ...] = ()
    bytes_per_image: int = 100


def find(name: str, version: int = VERSION) -> Format:
    """The format called `name`, as of `version`; OutputError names what there is, or the extra to install."""
    if name not in NAMES:
        raise OutputError(f"format must be one of {', '.join(NAMES)}, got {name[:40]!r}")
    if version > VERSION:
        raise OutputError(f"the files are of format version {version}, and this program knows up to {VERSION}")
    module = importlib.import_module(f".{name}", __package__)
    format: Format = getattr(module, f"FORMAT_{version}", module.FORMAT)
    for needed in format.modules:
        try:
            importlib.import_module(needed)
        except ImportError:
            raise OutputError(
                f"--format {name} needs {needed}; install it with: pip install 'restart-sampling[{format.needs}]'"
            ) from None
    return format


class Hashing:
    """A file that is hashed as it is written; it cannot seek, so what is written is what was hashed."""

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
    """A shard that is one file: written, flushed, renamed, and the folder flushed."""
    made: list[Hashing] = []

    def hashed(file: IO[bytes]) -> None:
        made.append(Hashing(file))
        write(made[0])

    write_atomically(folder / name, hashed, tag=tag)
    flush_folder(folder)
    return Written((name,), made[0].bytes, made[0].sha256.hexdigest())


def digest_of(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else _digest(file)


def _digest(file: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        sha256.update(block)
    return sha256.hexdigest()


def joint_digest(names: Iterable[str], digests: Iterable[str]) -> str:
    """SHA-256 of the lines "name sha256", for a shard of many files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
