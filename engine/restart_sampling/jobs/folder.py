"""The folder of a job while a run writes into it: claimed, new or resumed, swept, and locked until the run ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.checks import either
from ..common.errors import OutputError, SeedError
from ..common.files import flush_folder, write_atomically
from ..common.terminal import size
from ..sampler.seeds import Seeds, parse_seeds
from .formats.registry import VERSION, find, holding
from .job import SAME, SOMETIMES, Definition, read_job
from .lock import WORKERS, FolderLock, held
from .manifest import Line, Manifest
from .parts import FOLDER as PARTS
from .parts import Parts, part_files
from .record import SAMPLES, checked, edited, other_inputs, seal, short
from .shards import Shard, check_number

SUBFOLDERS_FROM = 10_000  # seeds: above it, a format with a file for each seed puts them into subfolders


class JobFolder:
    """Claims a folder for a job, new or resumed, and holds its lock until `close`.

    Args:
        path: the folder.
        record: what run.json is to say; `job.SAME` of it makes the job, and "seeds" says what to draw.
        overwrite: start anew where another run is; only files of that run are removed.
        rank: number of this worker of the run.
        world: number of its workers.
        bytes_per_sample: of the pixels of a sample, to see in time that the disk is too small.

    Attributes:
        resumed: whether the folder held this job already.
        definition, manifest: what the job is, and what of it is finished.
        samples: the folder of the samples.
        parts: saved samples of unfinished shards.

    Raises:
        OutputError: the folder cannot be used, or holds something else or another job; nothing is touched then.
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
            others = holding(record["pixels"])
            raise OutputError(
                f"--format {format.name} holds {' or '.join(format.pixels)} pixels, not {record['pixels']!r}; choose "
                + (f"--format {either(others)}, or " if others else "")
                + "other --pixels"
            )
        if why := format.unfit(record):
            raise OutputError(f"--format {format.name} {why}; choose another --format")
        seeds = parse_seeds(record["seeds"])
        if not os.path.exists(path):
            self._check_space(len(seeds) * (bytes_per_sample + format.bytes_per_image))
        check_number(seeds, record["shard_size"])
        _make_usable(path)
        self.lock = FolderLock(path, rank)
        try:
            self.resumed = self._claim(record, overwrite)
            self.definition, self.manifest = read_job(path, rank)
            self.samples = self._samples()
            self._index()
            self.parts = Parts(path, self.tag, self.definition.identity)
            self.sweep()
            left = len(self.definition.seeds) - self.finished_seeds()
            unfinished = min(left, world * self.definition.shards.size)  # their samples may lie in part files too
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
        """Return whether the folder holds this job already; make the job if it does not."""
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
                f"folder {self.path} is not empty ({len(others)} entries) and holds no run; choose another or add "
                f"--overwrite"
            )
        if "run.json" in others:
            _remove(self.path)
        elif any(name.startswith("manifest-") or name == PARTS for name in others):
            raise OutputError(  # its lines would be read as those of the new run
                f"folder {self.path} holds what a run has drawn, but not its run.json, so --overwrite does not know "
                f"what to remove; restore run.json, empty the folder, or choose another"
            )
        if self.rank == 0 or not (self.path / "run.json").exists():
            seeds = len(parse_seeds(record["seeds"]))
            subfolders = find(record["format"]).file_per_seed and seeds > SUBFOLDERS_FROM
            self._write({**record, "samples": SAMPLES, "subfolders": subfolders})
        return False

    def _samples(self) -> Path:
        """Return the folder of the samples, made if it is not there."""
        samples = self.path / self.definition.samples
        try:
            samples.mkdir(exist_ok=True)
            flush_folder(self.path)
        except OSError as error:
            raise OutputError(f"cannot use folder {samples}: {error.strerror or error}") from error
        return samples

    def _index(self) -> None:
        """Write the files that belong to no shard, where they are not there or the job has grown."""
        index, record = self.definition.format.index, self.definition.record
        if index is not None and index.fault(self.samples, record):
            index.write(self.samples, record, self.tag)

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
        """A part of the names of this worker's temporary files, by which a later run of it knows them."""
        return f"r{self.rank}"

    def sweep(self) -> None:
        """Remove what killed runs left behind: of this rank and, by rank 0, of Ray's workers and of ranks beyond the
        number of workers.
        """
        for path in self.path.rglob(".*.tmp"):
            kind, number = (tag := path.name.rsplit(".", 2)[1])[:1], tag[1:]
            if kind == "r" and number.isdecimal():
                gone = int(number) == self.rank or (self.rank == 0 and int(number) >= self.world)
            else:
                gone = kind == "w" and self.rank == 0 and not held(self.path / WORKERS / number)
            if gone:
                path.unlink(missing_ok=True)
        for index, path in part_files(self.path):  # of a worker that was killed after it wrote the shard's line
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
        """Yield the shards that are not finished, whichever worker draws them."""
        return (s for s in self.definition.shards if not self.manifest.done(s.index, s.seeds))

    def todo(self) -> Iterator[Shard]:
        """Yield the shards that this worker has to draw: of those that are not finished, every world-th by number."""
        return (shard for shard in self.unfinished() if shard.index % self.world == self.rank)

    def finished_seeds(self) -> int:
        """Return the number of seeds of finished shards."""
        shards = self.definition.shards
        found = ((index, shards[index].seeds) for index in self.manifest.lines)
        return sum(len(seeds) for index, seeds in found if self.manifest.done(index, seeds))

    def saved(self) -> int:
        """Return how many images of unfinished shards earlier runs have saved."""
        return sum(map(len, self.definition.saved(self.path, self.manifest).values()))

    def finish(self, line: Line) -> None:
        """Append the line of a shard whose files are on the disk; the shard's part files go when it is whole."""
        self.manifest.append(line)
        if self.manifest.done(line.shard, self.definition.shards[line.shard].seeds):
            self.parts.remove(line.shard)

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()


def _make_usable(path: Path) -> None:
    """Make the folder if it is not there; OutputError if it cannot be written."""
    if os.path.exists(path) and not path.is_dir():
        raise OutputError(f"{path} is a file; give a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot use folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"folder {path} cannot be written; choose another")


def _merge(there: Definition, record: dict[str, Any]) -> dict[str, Any]:
    """Return run.json of a resumed job: that of the folder, with seeds added. OutputError where the jobs differ."""
    differ = [
        f"{name} is {short(there.record.get(name))} there and {short(value)} here"
        for name in (*SAME, *SOMETIMES)
        for value in [record.get(name)]
        if there.record.get(name) != value
    ]
    differ += [*edited(there.record, record), *other_inputs(there.record, record)]
    if differ:
        raise OutputError(
            f"the folder holds another job: {'; '.join(_details(there, record, differ))}; choose another folder, or "
            f"add --overwrite"
        )
    old, new = there.seeds, parse_seeds(record["seeds"])
    if old == new:
        return there.record
    if each := record.get("edits", {}).get("each"):
        raise OutputError(
            f"{' and '.join(each)} has an image for each seed in their order, so the seeds of the run must stay "
            f"{short(str(old))}, and these are {short(str(new))}"
        )
    gone = next((seed for part in old.parts for seed in (part[0], part[-1]) if seed not in new), None)
    if gone is not None:
        raise OutputError(
            f"the folder holds seed {gone}, which is not among those asked for ({short(str(new))}); seeds can be added "
            f"to a run, not taken away: ask for all of them, or choose another folder"
        )
    return {**there.record, "seeds": str(new)}


def _details(there: Definition, record: dict[str, Any], differ: list[str]) -> list[str]:
    """Return the differences, with two plans that differ replaced by the options in which they do."""
    old, new = there.record.get("plan"), record.get("plan")
    if old == new or not isinstance(old, dict) or not isinstance(new, dict):
        return differ
    options = [
        f"{name} is {short(old.get(name))} there and {short(new.get(name))} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return [*options, *(text for text in differ if not text.startswith("plan is"))]


def _remove(folder: Path) -> None:
    """Remove a run and nothing else, its manifests first: at no time does a shard read as finished that is not."""
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
    samples, folders, options = folder / definition.samples, {folder / definition.samples}, definition.options
    for shard in definition.shards:
        line = manifest.lines.get(shard.index)
        seeds = [*shard.seeds, *(_named(line, definition.shards.size) if line else ())]
        for name in definition.format.files(shard, seeds, options):
            _unlink(samples / name, folders)
        (folder / "sheets" / f"{shard.name}.png").unlink(missing_ok=True)
    for name in () if definition.format.index is None else definition.format.index.names(definition.record):
        _unlink(samples / name, folders)
    for path in [*sorted(folders, reverse=True), folder / "sheets", folder / PARTS]:  # subfolders first
        if path != folder and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in ("grid.png", "preview.png", "log.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)


def _unlink(path: Path, folders: set[Path]) -> None:
    """Remove a file, and add the folders that it lies in to `folders`, up to one that is there already."""
    path.unlink(missing_ok=True)
    parent = path.parent
    while parent not in folders:
        folders.add(parent)
        parent = parent.parent


def _named(line: Line, size: int) -> Seeds:
    """Return the seeds that a manifest's line names; none if they are not of its shard, so the line was changed."""
    try:
        found = parse_seeds(line.seeds)
    except SeedError:
        return Seeds()
    whole = range(line.shard * size, (line.shard + 1) * size)
    return found if all(part[0] in whole and part[-1] in whole for part in found.parts) else Seeds()
