r"""Checking a job's folder: does it hold what its manifest says, and is everything there?

Checked for every shard: the line of the manifest, the files, their bytes and SHA-256, the count, and for some shards
whether the files can be decoded. What is missing is not broken: it has not been drawn yet, or its samples became NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import OutputError
from ..common.files import file_sha256
from ..sampler.seeds import parse_seeds
from .formats.base import joint_digest
from .job import Definition, read_job
from .manifest import Line, Manifest
from .parts import Parts, part_files
from .shards import Shard


@dataclass
class Report:
    """What a folder holds.

    Attributes:
        seeds, shards: how many the job has.
        finished: how many shards are finished.
        images: how many images there are.
        saved: how many seeds of unfinished shards are drawn and wait in part files for the next run.
        nonfinite: seeds without an image.
        missing: shards that are not finished, as (number, how many of its seeds are neither written nor saved).
        broken: by shard, why its files are not what the manifest says.
        damaged: lines of manifests that cannot be read, in words.
        index: why the files that belong to no shard are not the job's, or "".
    """

    seeds: int = 0
    shards: int = 0
    finished: int = 0
    images: int = 0
    saved: int = 0
    nonfinite: list[int] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    index: str = ""

    @property
    def exit_code(self) -> int:
        """0 for a whole job, 1 if something is missing, 3 if something is broken."""
        if self.broken or self.damaged or self.index:
            return 3
        return 1 if self.missing or self.nonfinite else 0


def verify(folder: Path, decode: int = 1) -> Iterator[tuple[Shard, Report]]:
    """Check a folder shard by shard; yield each shard and the report, which is complete with the last.

    Args:
        folder: the job's folder.
        decode: N: decode the files of every N-th shard as well; 0 for none.

    Raises:
        OutputError: there is no run in the folder.
    """
    definition, manifest = read_job(folder)
    report = Report(seeds=len(definition.seeds), damaged=manifest.damaged)
    if (index := definition.format.index) is not None:
        report.index = index.fault(folder / definition.samples, definition.record)
    parts = Parts(folder, "verify", definition.identity)
    in_parts = {index for index, _ in part_files(folder)}
    for shard in definition.shards:
        report.shards += 1
        line = manifest.lines.get(shard.index)
        whole = manifest.done(shard.index, shard.seeds)
        decoded = bool(decode) and not report.index and (report.shards - 1) % decode == 0
        why = check(folder, definition, shard, line, decoded) if line is not None else ""
        if why and whole:
            report.broken[shard.index] = why
        elif line is not None and not why:
            report.images += line.count
            report.nonfinite += line.nonfinite
            report.finished += whole
        if not whole:  # files that differ from an old line of the shard are being replaced by those of the whole shard
            there = set(parse_seeds(line.seeds)) if line is not None and not why else set()
            saved = set()
            for piece in parts.load(shard.index, shard.seeds) if shard.index in in_parts else ():
                saved |= {*piece.seeds.tolist(), *piece.nonfinite}
            report.saved += len(saved)
            report.missing.append((shard.index, len(shard.seeds) - len(there | saved)))
        yield shard, report


def check(folder: Path, definition: Definition, shard: Shard, line: Line, decode: bool) -> str:
    """Return why the files of a shard are not what its line says, or "" if they are."""
    names, why = _names(definition, shard, line)
    if why:
        return why
    total, digests, found = 0, [], 0
    folder = folder / definition.samples
    for name in names:
        try:
            size, digest = (folder / name).stat().st_size, file_sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is not there"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        total += size
        digests.append(digest)
    joint = digests[0] if isinstance(line.files, tuple) else joint_digest(names, digests)
    if total != line.bytes:
        return _wrong_size(names, line, total)
    if joint != line.sha256:
        return f"SHA-256 of {names[0] if len(names) == 1 else 'its files'} is {joint[:12]}…, not {line.sha256[:12]}…"
    if decode:
        for name in names:
            try:
                found += definition.format.check(folder / name)
            except ValueError as error:
                return f"{name} cannot be decoded: {error}"
        if found != line.count:
            return f"its files hold {found} images, not {line.count}"
    return ""


def glance(folder: Path, definition: Definition, manifest: Manifest) -> dict[int, str]:
    """Return why files of finished shards are gone or have another size, by shard. No file is opened."""
    broken, shards, folder = {}, definition.shards, folder / definition.samples
    for index, line in manifest.lines.items():
        if not manifest.done(index, shards[index].seeds):
            continue  # the files of a shard that was cut short or has grown are about to be replaced
        names, why = _names(definition, shards[index], line)
        total = 0
        for name in names:
            try:
                total += (folder / name).stat().st_size
            except FileNotFoundError:
                why = f"{name} is not there"
                break
            except OSError as error:
                why = f"{name} cannot be read: {error.strerror or error}"
                break
        if why or total != line.bytes:
            broken[index] = why or _wrong_size(names, line, total)
    return broken


def _names(definition: Definition, shard: Shard, line: Line) -> tuple[list[str], str]:
    """Return the files of a shard, and what is wrong with its line before any file is looked at, or ""."""
    left_out = set(line.nonfinite)
    seeds = [seed for seed in parse_seeds(line.seeds) if seed not in left_out]
    if len(seeds) != line.count:
        return [], f"its line counts {line.count} images for {len(seeds)} seeds"
    return list(definition.format.files(shard, seeds, definition.options)), ""


def _wrong_size(names: list[str], line: Line, total: int) -> str:
    return f"{names[0] if len(names) == 1 else 'its files'} should have {line.bytes:,} bytes, not {total:,}"


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the manifest's digests in order of shards: equal samples give equal ones, however drawn.

    Raises:
        OutputError: a shard is not finished.
    """
    definition, manifest = read_job(folder)
    digest = hashlib.sha256()
    for shard in definition.shards:
        if not manifest.done(shard.index, shard.seeds):
            raise OutputError(f"shard {shard.index} of {folder} is not finished; run the same command again first")
        digest.update(f"{shard.index} {manifest.lines[shard.index].sha256}\n".encode())
    return digest.hexdigest()
