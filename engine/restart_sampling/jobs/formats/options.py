"""How a job stores its samples: what run.json says of its files besides the name of the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..shards import DEFAULT_SIZE
from .encodings.registry import DEFAULT

# The entries of run.json that are there only where they are not the defaults, or where samples are a grid. All are part
# of the job's identity.
ENTRIES = ("encoding", "quality", "metadata", "grid")
METADATA = ("text", "json")  # what of `ShardData.record` is stored with each picture besides what the format stores


@dataclass(frozen=True)
class Options:
    """What a job chose of its format, the same for all of its shards and workers.

    Attributes:
        subfolders: whether the files of each thousand seeds have a folder of their own.
        encoding: of pictures, the name of a file in `encodings/`.
        quality: of the encoding; None where it has none.
        metadata: of METADATA: "text" in each picture, "json" beside it.
        per_input, first: samples of each input, and the first seed: that of the k-th sample of input i is first +
            i·per_input + k. None and 0 without inputs.
        shard_size: seeds of a shard.
        shape, classes: of a sample, and whether it has a class; for formats that make a grid of them.
        job: the entries of run.json that the text in a picture is made of: plan, nfe and model_sha256.
    """

    subfolders: bool = False
    encoding: str = DEFAULT
    quality: int | None = None
    metadata: tuple[str, ...] = ()
    per_input: int | None = None
    first: int = 0
    shard_size: int = DEFAULT_SIZE
    shape: tuple[int, ...] | None = None
    classes: bool = False
    job: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Options:
        """Return the options that a record, checked and complete, says."""
        grid = record.get("grid")
        return cls(
            subfolders=bool(record["subfolders"]),
            encoding=record.get("encoding", DEFAULT),
            quality=record.get("quality"),
            metadata=tuple(record.get("metadata", ())),
            per_input=record.get("inputs", {}).get("per_input"),
            first=record.get("inputs", {}).get("first", 0),
            shard_size=record["shard_size"],
            shape=None if grid is None else tuple(grid["shape"]),
            classes=grid is not None and grid["classes"],
            job={name: record[name] for name in ("plan", "nfe", "model_sha256") if name in record},
        )
