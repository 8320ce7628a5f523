r"""A job: plan + model + seeds, drawn shard by shard, resumable at any moment. This module reads one; `folder` writes.

    run.json              what the job is; written first, changed by a resume only to add seeds
    manifest-<rank>.jsonl one line for each finished shard, written last (manifest.py)
    log.jsonl             what happened, for people
    grid.png, sheets/     contact sheets
    samples/              the samples, and nothing else, as the format has them (formats/)
    .parts/               saved samples of shards that are not finished (parts.py)

The same command again goes on where it stopped; a job that differs is refused and the difference named. Seeds may be
added. Version 0.1.0 wrote the samples beside run.json, which then has no field "samples"; such a folder goes on as it
is."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import OutputError, SeedError
from ..common.lazy import moved_names
from ..sampler.seeds import Seeds, parse_seeds
from .formats.base import Format
from .formats.options import ENTRIES as STORED
from .formats.options import Options
from .formats.registry import find
from .manifest import Manifest
from .parts import saved
from .record import read as read_record
from .record import seeds_of, shards_of, short
from .shards import Shards

# What makes two runs the same job. Everything else (batch, device, backend, workers) changes no noise.
# What only some jobs have does too, see `Definition.identity`.
SAME = ("model_sha256", "plan", "class", "dtype", "format", "pixels", "shard_size", "noise")
# Likewise, where there is a guide, a decoder or a pipeline, or pictures are stored in another way than the default.
SOMETIMES = ("guide_sha256", "guide_null", "vae_sha256", "pipeline", *STORED)


@dataclass(frozen=True)
class Definition:
    """What run.json says of a job.

    Attributes:
        record: its entries, checked and complete.
    """

    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Definition:
        """Read run.json from a job folder.

        Raises:
            OutputError: there is no run.json, or it is not as a run wrote it.
        """
        path = folder / "run.json"
        if not os.path.exists(path):  # false also for names that no file can have
            if not os.path.exists(folder):
                raise OutputError(f"there is no folder {folder}")
            raise OutputError(f"{folder} does not hold a run (there is no run.json)")
        try:
            definition = cls(read_record(path))
            _ = definition.format, definition.options
        except OutputError as error:
            raise OutputError(f"{folder} does not hold a run ({error})") from None
        return definition

    @property
    def seeds(self) -> Seeds:
        """All seeds of the job, in the order they were asked for."""
        return seeds_of(self.record)

    @property
    def shards(self) -> Shards:
        """The shards of the job."""
        return shards_of(self.record)

    @property
    def format(self) -> Format:
        """The format of the samples, in the version that the job began with."""
        return find(self.record["format"], self.record["format_version"])

    @property
    def options(self) -> Options:
        """How the format stores the samples."""
        return Options.of(self.record)

    @property
    def samples(self) -> str:
        """The folder of the samples in the job's folder; "" for the job's folder itself, as version 0.1.0 had it."""
        return str(self.record["samples"])

    @property
    def identity(self) -> str:
        """A digest of what makes two runs the same job."""
        same = [self.record.get(name) for name in SAME]
        same += [self.record[name] for name in ("edits", "inputs", *SOMETIMES) if name in self.record]
        text = json.dumps(same, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def saved(self, folder: Path, manifest: Manifest, *, nonfinite: bool = False) -> dict[int, set[int]]:
        """Return, by unfinished shard, the seeds that are saved in part files, which the next run does not draw.

        They are those with an image, or with `nonfinite` those whose samples became NaN or infinite.
        """
        found = {}
        for index, seeds in saved(folder, self.identity, nonfinite=nonfinite).items():
            if not manifest.done(index, shard := self.shards[index].seeds):
                found[index] = {seed for seed in seeds if seed in shard}
        return found


def read_job(folder: Path, rank: int = 0) -> tuple[Definition, Manifest]:
    """Read what a folder is to hold and what is finished, and compare the two.

    A line of the manifest that names seeds of another job, or does not count its seeds, is set aside as damaged. In
    folders without a `job_digest` it may as well be run.json that was changed, so nothing is drawn or removed on a
    guess.

    Raises:
        OutputError: there is no job, run.json is not as a run wrote it, or it and the manifest contradict each other.
    """
    definition, manifest = Definition.read(folder), Manifest.read(folder, rank)
    shards, strange = definition.shards, []
    manifest.choose(shards)
    for index in sorted(manifest.lines):  # two writers append in no order
        line, seeds = manifest.lines[index], shards[index].seeds
        if line.seeds != str(seeds) and not _within(line.seeds, seeds):
            strange.append(index)
    if strange and definition.record["job_digest"] is None:
        raise OutputError(
            f"{folder} contradicts itself: run.json asks for seeds {short(str(definition.seeds))}, and the manifest "
            f"has shard {strange[0]} with seeds {short(manifest.lines[strange[0]].seeds)}; restore whichever changed"
        )
    for index in strange:
        manifest.set_aside(index, "its seeds are not of this job")
    for index, line in [*manifest.lines.items()]:
        seeds = shards[index].seeds if line.seeds == str(shards[index].seeds) else parse_seeds(line.seeds)
        if line.count + len(line.nonfinite) != len(seeds) or not all(seed in seeds for seed in line.nonfinite):
            manifest.set_aside(index, "its counts are not those of its seeds")
    return definition, manifest


def _within(text: str, seeds: Seeds) -> bool:
    """Whether the seeds of a manifest's line lie within those of its shard: a run that was stopped wrote fewer."""
    try:
        found = parse_seeds(text)
    except SeedError:
        return False
    return len(found) <= len(seeds) and all(
        part[0] in seeds and part[-1] in seeds and (len(part) <= 2 or part[1] in seeds) for part in found.parts
    )


__getattr__ = moved_names(__name__, {"JobFolder": "restart_sampling.jobs.folder"})
