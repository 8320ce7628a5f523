r"""Part files: the samples of a shard that is not finished, saved so that the next run goes on inside the shard.

    .parts/shard-<number>.<tag>.part    pieces of one shard, appended by the worker `tag`

A piece is a line of JSON (its seeds, its shape, a SHA-256) and then the bytes of its labels and images as they are in
memory. Pieces are appended and flushed to the disk; a part file is removed once the line of its shard is in the
manifest. A part file is no sample, and no command reads it as one: as always, the shard is finished when its line is
there. A piece that is torn or damaged ends the file: what is before it counts, the rest is drawn again.

Raw bytes in one file, because a piece then costs one write and one fsync, whatever the format and however many samples
it has. PNG files would cost an fsync each (a thousand for a shard), and an archive that is rewritten with every piece
would cost bytes quadratic in the shard. Pieces are written at most every `pipeline.KEEP_SECONDS`, so a shard that takes
less than that costs nothing, and any other at most the bytes of its pixels once more."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..common.checks import is_count
from ..common.files import flush_folder
from ..common.strict_json import loads
from ..sampler.seeds import Seeds, parse_seeds

DTYPES = ("uint8", "float32")
LONGEST = 2**24  # bytes of a header; with a thousand single seeds it has 20 kB
FOLDER = ".parts"
_NAME = re.compile(r"shard-([0-9]+)\.[^/]+\.part")


@dataclass(frozen=True)
class Piece:
    """Samples of one shard.

    Attributes:
        seeds: int64 [n], ascending.
        labels: class labels int64 [n], or None for an unconditional network.
        images: uint8 [n, H, W, C] or float32 [n, C, H, W].
        nonfinite: further seeds, which have no image because their samples became NaN or infinite.
    """

    seeds: np.ndarray
    labels: np.ndarray | None
    images: np.ndarray
    nonfinite: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """The number of its seeds, with those that have no image."""
        return len(self.seeds) + len(self.nonfinite)

    def only(self, wanted: np.ndarray) -> Piece:
        """Return the piece restricted to the seeds in `wanted`."""
        keep = np.isin(self.seeds, wanted)
        if keep.all() and np.isin(self.nonfinite, wanted).all():
            return self
        labels = None if self.labels is None else self.labels[keep]
        left = tuple(seed for seed in self.nonfinite if seed in wanted)
        return Piece(self.seeds[keep], labels, self.images[keep], left)


@dataclass
class Parts:
    """The part files of a job.

    Attributes:
        folder: the job's folder.
        tag: a part of the names of this worker's files.
        job: identity of the job; pieces of another are not read.
        ends: where the next piece goes, for files that were read or written.
    """

    folder: Path
    tag: str
    job: str
    ends: dict[Path, int] = field(default_factory=dict)

    def load(self, shard: int, seeds: Seeds) -> list[Piece]:
        """Return what any worker has saved of a shard whose seeds are `seeds`, each seed once."""
        found, wanted = [], None
        for path in self._paths(shard):
            for piece in self._read(path):
                wanted = seeds.numpy() if wanted is None else wanted
                piece = piece.only(wanted)
                if piece.count:
                    found.append(piece)
                    wanted = np.setdiff1d(wanted, [*piece.seeds, *piece.nonfinite], assume_unique=True)
        return found

    def save(self, shard: int, pieces: list[Piece]) -> None:
        """Append pieces and flush them to the disk. Raises OSError; earlier pieces stay readable."""
        path = self.folder / FOLDER / f"shard-{shard:06d}.{self.tag}.part"
        new = not path.exists()
        end = 0 if new else self.ends.get(path)
        if end is None:
            end = sum(length for _, length in _headers(path, self.job))
        if new and not path.parent.exists():
            path.parent.mkdir(exist_ok=True)  # without its parents: a job's folder that was removed is an error
            flush_folder(self.folder)
        with path.open("ab") as file:
            file.truncate(end)  # a torn piece of a killed run, or of a write that failed
            for piece in pieces:
                for block in self._blocks(piece):
                    end += file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if new:
            flush_folder(path.parent)
        self.ends[path] = end

    def remove(self, shard: int) -> None:
        """Remove what is saved of a shard, once its line is in the manifest."""
        for path in self._paths(shard):
            path.unlink(missing_ok=True)
            self.ends.pop(path, None)

    def _paths(self, shard: int) -> list[Path]:
        return sorted((self.folder / FOLDER).glob(f"shard-{shard:06d}.*.part"))

    def _blocks(self, piece: Piece) -> Iterator[bytes | memoryview]:
        """Yield the bytes of a piece: its header, its labels, its images."""
        labels = () if piece.labels is None else (np.ascontiguousarray(piece.labels, np.int64),)
        arrays = [a.data.cast("B") for a in (*labels, np.ascontiguousarray(piece.images)) if a.size]
        header: dict[str, Any] = {
            "job": self.job,
            "seeds": str(Seeds.ascending(piece.seeds)) if len(piece.seeds) else "",
            "nonfinite": list(piece.nonfinite),
            "labels": piece.labels is not None,
            "shape": list(piece.images.shape),
            "dtype": str(piece.images.dtype),
        }
        yield json.dumps(header | {"sha256": _digest(header, *arrays)}, sort_keys=True).encode() + b"\n"
        yield from arrays

    def _read(self, path: Path) -> Iterator[Piece]:
        """Yield the pieces of a file up to the first that is damaged."""
        end = 0
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            for header, length in _headers(path, self.job):
                shape, dtype = header["shape"], np.dtype(header["dtype"])
                file.seek(end + header["length"])
                labels = np.frombuffer(file.read(8 * shape[0]), np.int64) if header["labels"] else None
                images = np.frombuffer(file.read(dtype.itemsize * math.prod(shape)), dtype).reshape(shape)
                hashed = {name: value for name, value in header.items() if name not in ("sha256", "length")}
                arrays = [a.data.cast("B") for a in (labels, images) if a is not None and a.size]
                if _digest(hashed, *arrays) != header["sha256"]:
                    break
                end += length
                yield Piece(_seeds(header).numpy(), labels, images, tuple(header["nonfinite"]))
        self.ends[path] = end


def saved(folder: Path, job: str, *, nonfinite: bool = False) -> dict[int, set[int]]:
    """Return, by shard, the seeds that have an image in part files, or with `nonfinite` those that have none there.

    Headers and lengths are checked, not every byte.
    """
    found: dict[int, set[int]] = {}
    for shard, path in part_files(folder):
        for header, _ in _headers(path, job):
            found.setdefault(shard, set()).update(header["nonfinite"] if nonfinite else _seeds(header))
    return found


def part_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield (number of the shard, path) of every part file."""
    for path in sorted((folder / FOLDER).glob("shard-*.part")):
        if match := _NAME.fullmatch(path.name):
            yield int(match[1]), path


def _headers(path: Path, job: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (header, bytes of the whole piece) of the whole pieces; "length" is that of the header in bytes."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        end, size = 0, os.fstat(file.fileno()).st_size
        while header := _header(file, job):
            images = np.dtype(header["dtype"]).itemsize * math.prod(header["shape"])
            length = header["length"] + images + (8 * header["shape"][0] if header["labels"] else 0)
            if end + length > size:
                return
            yield header, length
            end += length
            file.seek(end)


def _header(file: IO[bytes], job: str) -> dict[str, Any] | None:
    """Return the header that begins here, or None if it is torn, damaged or of another job."""
    line = file.readline(LONGEST)
    try:
        header = loads(line)
        shape, bad = header["shape"], header["nonfinite"]
        whole = (
            line.endswith(b"\n")
            and set(header) == {"job", "seeds", "nonfinite", "labels", "shape", "dtype", "sha256"}
            and header["job"] == job
            and header["dtype"] in DTYPES
            and isinstance(header["labels"], bool)
            and all(map(is_count, (*shape, *bad)))
            and len(shape) > 1
            and all(shape[1:])  # so that no header names more seeds than the file has bytes
            and len(_seeds(header)) == shape[0]
        )
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return {**header, "length": len(line)} if whole else None


def _seeds(header: dict[str, Any]) -> Seeds:
    """Return the seeds that a header names."""
    return parse_seeds(header["seeds"]) if header["seeds"] else Seeds()


def _digest(header: dict[str, Any], *arrays: memoryview) -> str:
    """Return the SHA-256 of a header and the bytes after it."""
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        sha256.update(array)
    return sha256.hexdigest()
