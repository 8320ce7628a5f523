r"""What a format is, and what formats share.

A format turns a `ShardData` into files under a folder, whole or not at all, with the same bytes for the same data, and
says afterwards which files those are and whether one can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...common.files import flush_folder, write_atomically
from ...common.lazy import moved_names
from ..shards import Shard
from .options import Options


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
        rows: for each image, in order, what else is known of it, as JSON values: "prompt", "negative_prompt", "input"
            and "k" (the sample is the k-th of this input), and "meta", a mapping of the prompt file's other columns.
            All rows of a job have the same keys. None for a job without inputs.
    """

    shard: Shard
    seeds: np.ndarray
    labels: np.ndarray | None
    images: np.ndarray
    plan: str
    nonfinite: tuple[int, ...] = ()
    rows: tuple[Mapping[str, Any], ...] | None = None

    def record(self, i: int) -> dict[str, Any]:
        """Return what is known of image i: whatever a format stores beside an image comes from here.

        A row goes on top, so it may name the seed of the noise where that is not the number of the sample.
        """
        label = None if self.labels is None else int(self.labels[i])
        row = {} if self.rows is None else self.rows[i]
        return {"seed": int(self.seeds[i]), "class": label, "plan": self.plan, **row}


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
class Index:
    """Files of a job that belong to none of its shards, and depend on its run.json alone.

    Every run writes them before any sample where they are not there or are those of the job before it grew.

    Attributes:
        names: names(record) yields their names.
        write: write(folder, record, tag) writes them, each whole or not at all. Raises OSError.
        fault: fault(folder, record) returns why those in the folder are not the job's, or "".
    """

    names: Callable[[Mapping[str, Any]], Iterable[str]]
    write: Callable[[Path, Mapping[str, Any], str], None]
    fault: Callable[[Path, Mapping[str, Any]], str]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as `--format` has it.
        title: what it is, in a sentence.
        pixels: what it can hold, of "uint8" and "float32".
        write: write(folder, data, options, tag) writes a shard as the job's `Options` say; `tag` goes into the names of
            temporary files. Raises OSError.
        files: files(shard, seeds, options) yields the names of the files that hold these seeds, in order.
        check: check(path) returns the number of images in a file; raises ValueError if it cannot be read.
        note: a few words after the name in `--help`.
        file_per_seed: whether each image is a file of its own, so that large jobs want subfolders.
        encodings: of its pictures, as far as there is a choice; the first is the default.
        metadata: of `options.METADATA`, what it can store with each picture.
        needs: the pip extra that it needs, "" for none.
        modules: what that extra installs, to see whether it is there.
        bytes_per_image: roughly the bytes of an image besides its pixels, to see in time that the disk is too small.
        unfit: unfit(record) returns why it cannot hold the job of a run.json, as "holds …, and this job …", or "".
        grid: whether run.json must say the shape of a sample, and whether samples have classes, for a grid of them.
        index: files that belong to no shard.
        version: number of the layout; a job writes all its shards in the layout that it began with.
        before: the format as it was in the versions before, for jobs that began with it.
    """

    name: str
    title: str
    pixels: tuple[str, ...]
    write: Callable[[Path, ShardData, Options, str], Written]
    files: Callable[[Shard, Sequence[int], Options], Iterable[str]]
    check: Callable[[Path], int]
    note: str = ""
    file_per_seed: bool = False
    encodings: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    needs: str = ""
    modules: tuple[str, ...] = ()
    bytes_per_image: int = 100
    unfit: Callable[[Mapping[str, Any]], str] = lambda record: ""
    grid: bool = False
    index: Index | None = None
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


def many_files(folder: Path, contents: Iterable[tuple[str, bytes]], tag: str) -> Written:
    """Write a shard that is many files, each (name, content), whose names may lie in folders of `folder`.

    Each is flushed to the disk and renamed, and then the folders are flushed.
    """
    names, digests, total = [], [], 0
    folders: set[Path] = set()
    for name, content in contents:
        path = folder / name
        if path.parent not in folders:
            _make(path.parent, folder)
            folders.add(path.parent)
        write_atomically(path, lambda file, content=content: file.write(content), tag=tag)  # type: ignore[misc]
        names.append(name)
        digests.append(hashlib.sha256(content).hexdigest())
        total += len(content)
    for parent in folders:
        flush_folder(parent)
    return Written(len(names), total, joint_digest(names, digests))


def _make(path: Path, above: Path) -> None:
    """Make a folder within `above`, and flush the names of those that were not there.

    `above` itself is not made: a job's folder that was removed is an error.
    """
    if path == above or path.exists():
        return
    if path.parent != above:
        _make(path.parent, above)
    path.mkdir(exist_ok=True)
    flush_folder(path.parent)


def joint_digest(names: Iterable[str], digests: Iterable[str]) -> str:
    """Return the SHA-256 of the lines "name sha256", for a shard of many files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


__getattr__ = moved_names(__name__, dict.fromkeys(("VERSION", "find"), "restart_sampling.jobs.formats.registry"))
