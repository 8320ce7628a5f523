r"""The manifest: one line for each finished shard, written after everything it speaks of is on the disk.

A shard is done when its line is there, and not before; so whatever a crash leaves behind, nothing that reads as done is
half written. Every worker has a file of its own, `manifest-<rank>.jsonl`, and appends to it only. A line that is not
whole is passed over: its shard is drawn again, with the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from ..common.errors import OutputError
from ..common.files import append_line, flush_folder, write_atomically
from ..sampler.seeds import SEED_LIMIT, Seeds
from .shards import Shards

_SEEDS, _SHA256 = re.compile(r"[0-9][0-9,:-]*"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Line:
    """A finished shard.

    Attributes:
        shard: its number; seeds: what it holds, as text; count: images written (without `nonfinite`).
        files: names in the folder of the samples, or their number where there is one for each seed; bytes: of all of
            them.
        sha256: of the file; where there is one file for each seed, of the lines "name sha256" of all, in order of
            seeds.
        nonfinite: seeds that became NaN or infinite and have no image.
        batch, dtype, device: how it was drawn; they change no noise, and images only by the network's rounding.
    """

    shard: int
    seeds: str
    count: int
    files: tuple[str, ...] | int
    bytes: int
    sha256: str
    nonfinite: tuple[int, ...] = ()
    batch: int = 0
    dtype: str = "fp32"
    device: str = "cpu"


_KNOWN = {entry.name for entry in dataclasses.fields(Line)}
_REQUIRED = {entry.name for entry in dataclasses.fields(Line) if entry.default is dataclasses.MISSING}


@dataclass
class Manifest:
    """The lines of a folder, and the file that this worker appends to.

    A shard may have several lines, in files of several workers: one stopped within it, and another finished it in a
    later run. The order of the files says nothing about the order of these, so `choose` prefers the line of the whole
    shard."""

    folder: Path
    rank: int = 0
    lines: dict[int, Line] = field(default_factory=dict)
    others: dict[int, list[Line]] = field(default_factory=dict)  # more lines of the same shards
    damaged: list[str] = field(default_factory=list)
    aside: set[int] = field(default_factory=set)  # shards whose lines were set aside

    @classmethod
    def read(cls, folder: Path, rank: int = 0) -> Manifest:
        """What is finished in `folder`; `damaged` says which lines could not be read."""
        manifest = cls(folder, rank)
        for path in manifest.paths():
            for number, text in enumerate(_lines(path), 1):
                if not text.strip():
                    continue
                try:
                    line = _parsed(text)
                except ValueError:
                    manifest.damaged.append(f"{path.name}, line {number}")
                else:
                    if line.shard in manifest.lines:
                        manifest.others.setdefault(line.shard, []).append(manifest.lines[line.shard])
                    manifest.lines[line.shard] = line
        return manifest

    def choose(self, shards: Shards) -> None:
        """Of several lines of a shard, take the one that speaks of all its seeds, if there is one, else the last."""
        for index, others in self.others.items():
            whole = str(shards[index].seeds)
            for line in [*others, self.lines[index]]:
                if line.seeds == whole:
                    self.lines[index] = line

    def paths(self) -> list[Path]:
        """The manifests of all workers."""
        return sorted(self.folder.glob("manifest-*.jsonl"))

    def append(self, line: Line) -> None:
        """Write down that a shard is finished."""
        path = self.folder / f"manifest-{self.rank}.jsonl"
        new = not path.exists()
        append_line(path, _text(line))
        if new:
            flush_folder(self.folder)
        self.lines[line.shard] = line

    def done(self, shard: int, seeds: Seeds) -> bool:
        """Whether the shard is finished with just these seeds."""
        line = self.lines.get(shard)
        return line is not None and line.seeds == str(seeds)

    def set_aside(self, shard: int, why: str) -> None:
        """Take the line of a shard for damaged: it is read no more, and `remove` drops it."""
        del self.lines[shard]
        self.aside.add(shard)
        self.damaged.append(f"the line of shard {shard} ({why})")

    def remove(self, shards: set[int]) -> None:
        """Forget some shards, so that they are drawn again. No other worker may be running."""
        shards = shards | self.aside
        for path in self.paths():
            kept = [text for text in _lines(path) if (found := _shard(text)) is not None and found not in shards]
            content = "".join(f"{text}\n" for text in kept).encode()
            write_atomically(path, partial(_write, content=content))
        flush_folder(self.folder)
        self.lines = {shard: line for shard, line in self.lines.items() if shard not in shards}


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                yield text.rstrip("\n")
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def _text(line: Line) -> str:
    return json.dumps(asdict(line), sort_keys=True)


def _parsed(text: str) -> Line:
    """The line in a text. Raises ValueError. Its seeds are read in full only where they are compared or checked."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict) or not _REQUIRED <= fields.keys() <= _KNOWN:
        raise ValueError("not a line of a manifest")
    files, nonfinite = fields["files"], fields.get("nonfinite", [])
    whole = (
        all(is_count(fields[name]) for name in ("shard", "count", "bytes"))
        and isinstance(fields["seeds"], str)
        and _SEEDS.fullmatch(fields["seeds"]) is not None
        and isinstance(fields["sha256"], str)
        and _SHA256.fullmatch(fields["sha256"]) is not None
        and isinstance(nonfinite, list)
        and all(is_count(seed) for seed in nonfinite)
        and (is_count(files) or (isinstance(files, list) and all(isinstance(name, str) for name in files)))
        and is_count(fields.get("batch", 0))
        and all(isinstance(fields.get(name, ""), str) for name in ("dtype", "device"))
    )
    if not whole:
        raise ValueError("not a line of a manifest")
    fields["files"] = files if isinstance(files, int) else tuple(files)
    fields["nonfinite"] = tuple(nonfinite)
    return Line(**fields)


def is_count(value: object) -> bool:
    """Whether a value of a JSON line is a number of samples, bytes or workers, or a seed."""
    return type(value) is int and 0 <= value < SEED_LIMIT


def _shard(text: str) -> int | None:
    try:
        return _parsed(text).shard
    except ValueError:
        return None
