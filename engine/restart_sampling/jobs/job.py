r"""A job and its folder: plan + model + seeds, drawn shard by shard, resumable at any moment.

    run.json              what the job is; written first, never changed by a resume
    manifest-<rank>.jsonl one line for each finished shard, written last (manifest.py)
    log.jsonl             what happened, for people
    grid.png, sheets/     contact sheets
    samples/              the samples, and nothing else, as the format has them (writers/)
    .parts/               what is drawn of shards that are not finished (parts.py)

The same command again goes on where it stopped; a job that differs is refused with the difference named. Seeds may be
added. Version 0.1.0 wrote the samples beside run.json, which then has no field "samples"; such a folder goes on as it
is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import OutputError, SeedError
from ..common.files import flush_folder, write_atomically
from ..common.terminal import size
from ..sampler.seeds import Seeds, parse_seeds
from .formats.base import VERSION, Format, find
from .lock import WORKERS, FolderLock, held
from .manifest import Line, Manifest
from .parts import FOLDER as PARTS
from .parts import Parts, kept, part_files
from .record import SAMPLES, checked, seal, seeds_of, shards_of
from .record import read as read_record
from .shards import Shard, Shards, check_number

# What makes two runs the same job. Everything else (batch, device, backend, workers) changes no noise.
SAME = ("model_sha256", "plan", "class", "dtype", "format", "pixels", "shard_size", "noise")
SUBFOLDERS_FROM = 10_000  # seeds: above it, PNG files go into subfolders of a thousand
PIXELS = ("uint8", "float32")


@dataclass(frozen=True)
class Definition:
    """What run.json says of a job: `record` as JSON, and what was read from it."""

    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Definition:
        """Read that of a folder. Raises OutputError if there is none, or it is not as a run wrote it."""
        path = folder / "run.json"
        if not os.path.exists(path):  # false also for names that no file can have
            if not os.path.exists(folder):
                raise OutputError(f"there is no folder {folder}")
            raise OutputError(f"{folder} does not hold a run (there is no run.json)")
        try:
            definition = cls(read_record(path))
            _ = definition.format
        except OutputError as error:
            raise OutputError(f"{folder} does not hold a run ({error})") from None
        return definition

    @property
    def seeds(self) -> Seeds:
        return seeds_of(self.record)

    @property
    def shards(self) -> Shards:
        return shards_of(self.record)

    @property
    def format(self) -> Format:
        return find(self.record["format"], self.record["format_version"])

    @property
    def subfolders(self) -> bool:
        return bool(self.record["subfolders"])

    @property
    def samples(self) -> str:
        """The folder of the samples in the job's folder; "" for the job's folder itself, as earlier versions had it."""
        return str(self.record["samples"])

    @property
    def identity(self) -> str:
        """A digest of what makes two runs the same job."""
        text = json.dumps([self.record.get(name) for name in SAME], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def kept(self, folder: Path, manifest: Manifest, *, nonfinite: bool = False) -> dict[int, set[int]]:
        """Seeds with an image in part files, or those without one, by unfinished shard: the next run does not draw them
        again.
        """
        found = {}
        for index, seeds in kept(folder, self.identity, nonfinite=nonfinite).items():
            if not manifest.done(index, shard := self.shards[index].seeds):
                found[index] = {seed for seed in seeds if seed in shard}
        return found


class JobFolder:
    """Claims `path` for a job, new or resumed; holds the lock until `close`.

    Args:
        path: the folder. record: what run.json is to say; SAME of it names the job, and "seeds" what to draw.
        overwrite: start anew where another run is; only files of that run are removed.
        rank, world: which of how many workers of one run this is.
        bytes_per_sample: pixels of a sample, to see in time that the disk is too small.

    Raises OutputError: the folder cannot be used, holds something else, or another job; nothing is touched then.
    """

    def __init__(
        self,
        path: Path,
        record: dict[str, Any],
        overwrite: bool = False,
        rank: int = 0,
        world: int = 1,
        bytes_per_sample: int = 0,
    ) -> None:
        self.path, self.rank, self.world = path, rank, world
        format = find(record["format"], record.get("format_version", VERSION))
        if record["pixels"] not in format.pixels:
            raise OutputError(
                f"--format {format.name} holds {' or '.join(format.pixels)} pixels, not {record['pixels']!r}; choose "
                f"--format npz, wds or parquet, or other --pixels"
            )
        seeds = parse_seeds(record["seeds"])
        if not os.path.exists(path):
            self._check_space(len(seeds) * (bytes_per_sample + format.bytes_per_image))
        check_number(seeds, record["shard_size"])
        _usable(path)
        self.lock = FolderLock(path, rank)
        try:
            self.resumed = self._claim(record, overwrite)
            self.definition, self.manifest = read_job(path, rank)
            self.samples = self._samples()
            self.parts = Parts(path, self.tag, self.definition.identity)
            self.sweep()
            left = len(self.definition.seeds) - self.finished_seeds()
            unfinished = min(left, world * self.definition.shards.size)  # may lie in part files too
            self._check_space(left * (bytes_per_sample + format.bytes_per_image) + unfinished * bytes_per_sample)
        except OSError as error:
            self.close()
            where = error.filename or path
            raise OutputError(
                f"cannot use {where}: {error.strerror or error}; move it away, or choose another folder"
            ) from error
        except BaseException:
            self.close()
            raise

    def _claim(self, record: dict[str, Any], overwrite: bool) -> bool:
        """Whether the folder holds this job already; else it is made."""
        own = (f".lock-{self.rank}", "log.jsonl", WORKERS)
        others = [p.name for p in self.path.iterdir() if p.name not in own and not p.name.startswith(".lock-")]
        if "run.json" in others and not overwrite:
            there = Definition.read(self.path)
            wanted = _merge(there, record)
            if wanted != there.record:
                self._write(wanted)
            return True
        if others and not overwrite and not all(name.endswith(".tmp") for name in others):
            raise OutputError(
                f"folder {self.path} is not empty ({len(others)} entries) and holds no run; choose another or add --overwrite"
            )
        if "run.json" in others:
            _remove(self.path)
        elif any(name.startswith("manifest-") or name == PARTS for name in others):
            raise OutputError(  # its lines would be read as those of the new run
                f"folder {self.path} holds what a run has drawn, but not its run.json, so --overwrite does not know what to "
                f"remove; restore run.json, empty the folder, or choose another"
            )
        if self.rank == 0 or not (self.path / "run.json").exists():
            subfolders = record["format"] == "png" and len(parse_seeds(record["seeds"])) > SUBFOLDERS_FROM
            self._write({**record, "samples": SAMPLES, "subfolders": subfolders})
        return False

    def _samples(self) -> Path:
        """The folder of the samples, made where it is not there."""
        samples = self.path / self.definition.samples
        try:
            samples.mkdir(exist_ok=True)
            flush_folder(self.path)
        except OSError as error:
            raise OutputError(f"cannot use folder {samples}: {error.strerror or error}") from error
        return samples

    def _write(self, record: dict[str, Any]) -> None:
        record = seal(record)
        try:
            checked(record)  # nothing is written that could not be read again
        except ValueError as error:
            raise OutputError(f"the job cannot be recorded in run.json: {error}") from None
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        try:
            write_atomically(self.path / "run.json", lambda file: file.write(text.encode()), tag=self.tag)
            flush_folder(self.path)
        except OSError as error:
            raise OutputError(f"cannot write {self.path / 'run.json'}: {error.strerror or error}") from error

    @property
    def tag(self) -> str:
        """In the names of this worker's temporary files, so that the next one knows them for leftovers."""
        return f"r{self.rank}"

    def sweep(self) -> None:
        """Remove what killed runs left behind: of this rank, of Ray's workers, and by rank 0 of ranks there are no
        more.
        """
        for path in self.path.rglob(".*.tmp"):
            kind, number = (tag := path.name.rsplit(".", 2)[1])[:1], tag[1:]
            if kind == "r" and number.isdecimal():
                gone = int(number) == self.rank or (self.rank == 0 and int(number) >= self.world)
            else:
                gone = kind == "w" and self.rank == 0 and not held(self.path / WORKERS / number)
            if gone:
                path.unlink(missing_ok=True)
        for index, path in part_files(self.path):  # of a worker that was killed after the shard's line
            if self.manifest.done(index, self.definition.shards[index].seeds):
                path.unlink(missing_ok=True)

    def _check_space(self, needed: int) -> None:
        absolute = self.path.absolute()
        there = next(p for p in (absolute, *absolute.parents) if os.path.exists(p))
        free = shutil.disk_usage(there).free
        if needed > free:
            raise OutputError(
                f"the run may write {size(needed)}, and {there} has {size(free)} free; ask for fewer seeds"
            )

    def unfinished(self) -> Iterator[Shard]:
        """Shards that are not finished, of all workers."""
        return (s for s in self.definition.shards if not self.manifest.done(s.index, s.seeds))

    def finished_seeds(self) -> int:
        """Seeds of shards that are finished."""
        shards = self.definition.shards
        found = (shards[index].seeds for index in self.manifest.lines)
        return sum(
            len(seeds)
            for seeds, index in zip(found, self.manifest.lines, strict=True)
            if self.manifest.done(index, seeds)
        )

    def finish(self, line: Line) -> None:
        """Write down that the files of a line are on the disk; what was kept of the shard goes when it is whole."""
        self.manifest.append(line)
        if self.manifest.done(line.shard, self.definition.shards[line.shard].seeds):
            self.parts.remove(line.shard)

    def kept(self) -> int:
        """Images of unfinished shards that are kept by earlier runs."""
        return sum(map(len, self.definition.kept(self.path, self.manifest).values()))

    def todo(self) -> Iterator[Shard]:
        """Shards that this worker has to draw: of those that are not finished, every world-th by number."""
        return (shard for shard in self.unfinished() if shard.index % self.world == self.rank)

    def close(self) -> None:
        """Let go of the folder."""
        self.lock.release()


def read_job(folder: Path, rank: int = 0) -> tuple[Definition, Manifest]:
    """Read what a folder is to hold and what is finished, and compare the two.

    A line of the manifest that speaks of seeds which are not the job's, or does not count its seeds, is set aside as
    damaged. In folders without a `job_digest` the seeds of run.json may as well be what was changed, and nothing is
    drawn or removed on a guess.

    Raises OutputError: there is no job, it is not as a run wrote it, or record and manifest contradict each other.
    """
    definition, manifest = Definition.read(folder), Manifest.read(folder, rank)
    shards, strange = definition.shards, []
    manifest.choose(shards)
    for index, line in manifest.lines.items():
        seeds = shards[index].seeds
        if line.seeds != str(seeds) and not _within(line.seeds, seeds):
            strange.append(index)
    if strange and definition.record["job_digest"] is None:
        raise OutputError(
            f"{folder} contradicts itself: run.json asks for seeds {_short(str(definition.seeds))}, and the manifest has "
            f"shard {strange[0]} with seeds {_short(manifest.lines[strange[0]].seeds)}; restore whichever was changed"
        )
    for index in strange:
        manifest.set_aside(index, "its seeds are not of this job")
    for index, line in [*manifest.lines.items()]:
        seeds = shards[index].seeds if line.seeds == str(shards[index].seeds) else parse_seeds(line.seeds)
        if line.count + len(line.nonfinite) != len(seeds) or not all(seed in seeds for seed in line.nonfinite):
            manifest.set_aside(index, "its counts are not those of its seeds")
    return definition, manifest


def _within(text: str, seeds: Seeds) -> bool:
    """Whether the seeds of a manifest's line are the first of a shard's, as a stop within a shard leaves them, or
    fewer.
    """
    try:
        found = parse_seeds(text)
    except SeedError:
        return False
    return len(found) <= len(seeds) and all(
        part[0] in seeds and part[-1] in seeds and (len(part) <= 2 or part[1] in seeds) for part in found.parts
    )


def _named(line: Line, size: int) -> Seeds:
    """The seeds a manifest's line names; none if they are not of its shard, so that a changed line is not followed."""
    try:
        found = parse_seeds(line.seeds)
    except SeedError:
        return Seeds()
    whole = range(line.shard * size, (line.shard + 1) * size)
    return found if all(part[0] in whole and part[-1] in whole for part in found.parts) else Seeds()


def _usable(path: Path) -> None:
    if os.path.exists(path) and not path.is_dir():
        raise OutputError(f"{path} is a file; give a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot use folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"folder {path} cannot be written; choose another")


def _merge(there: Definition, record: dict[str, Any]) -> dict[str, Any]:
    """run.json of a resumed job: that of the folder, with seeds added. OutputError where the jobs differ."""
    differ = [
        f"{name} is {_short(there.record.get(name))} there and {_short(value)} here"
        for name in SAME
        for value in [record.get(name)]
        if there.record.get(name) != value
    ]
    if differ:
        raise OutputError(
            f"the folder holds another job: {'; '.join(_details(there, record, differ))}; choose another folder, or add "
            f"--overwrite"
        )
    old, new = there.seeds, parse_seeds(record["seeds"])
    if old == new:
        return there.record
    gone = next((seed for part in old.parts for seed in (part[0], part[-1]) if seed not in new), None)
    if gone is not None:
        raise OutputError(
            f"the folder holds seed {gone}, which is not among those asked for ({_short(str(new))}); seeds can be added to "
            f"a run, not taken away: ask for all of them, or choose another folder"
        )
    return {**there.record, "seeds": str(new)}


def _details(there: Definition, record: dict[str, Any], differ: list[str]) -> list[str]:
    """Of two plans only the options that differ."""
    old, new = there.record.get("plan"), record.get("plan")
    if old == new or not isinstance(old, dict) or not isinstance(new, dict):
        return differ
    options = [
        f"{name} is {_short(old.get(name))} there and {_short(new.get(name))} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return [*options, *(text for text in differ if not text.startswith("plan is"))]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _remove(folder: Path) -> None:
    """Remove a run and nothing else: the manifests first, so that at no time something reads as finished that is not."""
    try:
        definition = Definition.read(folder)
    except OutputError as error:
        raise OutputError(f"{error}; --overwrite removes only runs of ours: choose another folder") from error
    manifest = Manifest.read(folder)
    for path in manifest.paths():
        path.unlink(missing_ok=True)
    for _, path in part_files(folder):
        path.unlink(missing_ok=True)
    flush_folder(folder)
    samples, folders = folder / definition.samples, {folder / definition.samples}
    for shard in definition.shards:
        line = manifest.lines.get(shard.index)
        seeds = [*shard.seeds, *(_named(line, definition.shards.size) if line else ())]
        for name in definition.format.files(shard, seeds, definition.subfolders):
            (samples / name).unlink(missing_ok=True)
            folders.add((samples / name).parent)
        (folder / "sheets" / f"{shard.name}.png").unlink(missing_ok=True)
    for path in [*sorted(folders, reverse=True), folder / "sheets", folder / PARTS]:  # subfolders first
        if path != folder and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in ("grid.png", "preview.png", "log.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)
