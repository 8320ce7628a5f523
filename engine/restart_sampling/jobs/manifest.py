r"""The manifest: one line for each finished shard, written once the files it names are on the disk.

A shard is done when its line is there, and not before; so whatever a crash leaves behind, nothing that reads as done is
half written. Each worker appends to a file of its own, `manifest-<rank>.jsonl`. A line that is not whole is skipped:
its shard is drawn again, with the same bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from ..common import json_lines
from ..common.checks import is_count
from ..common.files import flush_folder, write_atomically
from ..sampler.seeds import Seeds
from .shards import Shards

_SEEDS, _SHA256 = re.compile(r"[0-9][0-9,:-]*"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Line:
    """A finished shard.

    Attributes:
        shard: its number.
        seeds: the seeds it holds, as text.
        count: images written, so without `nonfinite`.
        files, bytes, sha256: what the format wrote, see `formats.base.Written`.
        nonfinite: seeds whose samples became NaN or infinite and have no image.
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
    later run. The order of the files says nothing about the order of these lines, so `choose` prefers the line of the
    whole shard.

    Attributes:
        folder: the job's folder.
        rank: number of this worker.
        lines: by shard, the line that counts.
        others: by shard, more lines of it.
        damaged: which lines could not be read, in words.
        aside: shards whose lines were set aside.
    """

    folder: Path
    rank: int = 0
    lines: dict[int, Line] = field(default_factory=dict)
    others: dict[int, list[Line]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    aside: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path, rank: int = 0) -> Manifest:
        """Read the manifests of all workers in `folder`. Raises OutputError if one cannot be read."""
        manifest = cls(folder, rank)
        for path in manifest.paths():
            for number, text in json_lines.numbered(path):
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
        """Choose among several lines of a shard: the one of all its seeds, if there is one, else the last."""
        for index, others in self.others.items():
            whole = str(shards[index].seeds)
            for line in [*others, self.lines[index]]:
                if line.seeds == whole:
                    self.lines[index] = line

    def paths(self) -> list[Path]:
        """Return the files of all workers."""
        return sorted(self.folder.glob("manifest-*.jsonl"))

    def append(self, line: Line) -> None:
        """Append the line of a finished shard and flush it to the disk."""
        path = self.folder / f"manifest-{self.rank}.jsonl"
        new = not path.exists()
        json_lines.append(path, line_text(line))
        if new:
            flush_folder(self.folder)
        self.lines[line.shard] = line

    def done(self, shard: int, seeds: Seeds) -> bool:
        """Whether the shard is finished with just these seeds."""
        line = self.lines.get(shard)
        return line is not None and line.seeds == str(seeds)

    def set_aside(self, shard: int, why: str) -> None:
        """Treat the line of a shard as damaged: it no longer counts, and `remove` drops it."""
        del self.lines[shard]
        self.aside.add(shard)
        self.damaged.append(f"the line of shard {shard} ({why})")

    def remove(self, shards: set[int]) -> None:
        """Remove the lines of some shards, so that they are drawn again. No other worker may be running."""
        shards = shards | self.aside
        for path in self.paths():
            texts = (text for _, text in json_lines.numbered(path))
            left = [text for text in texts if (found := _shard(text)) is not None and found not in shards]
            content = "".join(f"{text}\n" for text in left).encode()
            write_atomically(path, partial(_write, content=content))
        flush_folder(self.folder)
        self.lines = {shard: line for shard, line in self.lines.items() if shard not in shards}


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def line_text(line: Line) -> str:
    """Return a line as the file has it."""
    return json.dumps(asdict(line), sort_keys=True)


def _parsed(text: str) -> Line:
    """Return the line in a text; ValueError if there is none. Its seeds are parsed only where they are compared."""
    fields = json_lines.parse(text)
    if not _REQUIRED <= fields.keys() <= _KNOWN:
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


def _shard(text: str) -> int | None:
    """Return the number of the shard of a line, or None if the line cannot be read."""
    try:
        return _parsed(text).shard
    except ValueError:
        return None
