"""float32 samples as a grid: what the formats of fields share.

Without inputs a grid has the axis `sample`, the seed. A job with n samples for each of its inputs has the axes `input`
and `member`; a shard then is a block of whole inputs, so its size and the first seed must be multiples of n. Where
there is no sample, because it was not asked for or became NaN, samples are NaN, and `seed` and `class` are −1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...common.errors import OutputError
from ..record import seeds_of
from .base import ShardData
from .inputs import places
from .options import Options

NAMES = {"samples": "float32", "seed": "int64", "class": "int64"}
NONE = {"samples": float("nan"), "seed": -1, "class": -1}


def axes(options: Options) -> tuple[str, ...]:
    """Return the names of the axes along which samples are counted."""
    return ("sample",) if options.per_input is None else ("input", "member")


def dimensions(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of a sample's own axes: channel, y and x of a picture or a field on a grid."""
    return ("channel", "y", "x") if len(shape) == 3 else tuple(f"axis_{i}" for i in range(len(shape)))


def block(options: Options) -> tuple[int, ...]:
    """Return the sizes of a whole shard along `axes`."""
    n = options.per_input
    return (options.shard_size,) if n is None else (options.shard_size // n, n)


def filled(data: ShardData, options: Options) -> dict[str, np.ndarray]:
    """Return the arrays of a whole shard, [*block, …]: samples, seed, and class for a network with classes."""
    for _ in places(data, options):  # raises where a row is not of its sample
        pass
    lead, at = block(options), data.seeds - data.shard.index * options.shard_size
    values = {"samples": data.images, "seed": data.seeds, "class": data.labels}
    found = {}
    for name, array in values.items():
        if array is not None:
            whole = np.full((options.shard_size, *array.shape[1:]), NONE[name], NAMES[name])
            whole[at] = array
            found[name] = whole.reshape(*lead, *array.shape[1:])
    return found


def length(record: Mapping[str, Any], options: Options) -> tuple[int, ...]:
    """Return the sizes of a whole job along `axes`."""
    last = max(part[-1] for part in seeds_of(record).parts) - options.first
    n = options.per_input
    return (last + 1,) if n is None else (last // n + 1, n)


def first_input(data: ShardData, options: Options) -> int:
    """Return the number of the first input of a shard."""
    return (data.shard.index * options.shard_size - options.first) // (options.per_input or 1)


def unfit(record: Mapping[str, Any]) -> str:
    """Return why a job cannot be stored as a grid, or ""."""
    inputs, size = record.get("inputs", {}), record["shard_size"]
    n, first = inputs.get("per_input", 1), inputs.get("first", 0)
    if size % n:
        near = sorted({max(1, size // n) * n, -(-size // n) * n})
        return (
            f"holds whole inputs in each shard, and this job has {n:,} samples for each and shards of {size:,} "
            f"(--shard-size {' or '.join(map(str, near))} would do)"
        )
    if first % n:
        return (
            f"holds whole inputs in each shard, and this job has {n:,} samples for each and its first seed is "
            f"{first:,} (--first-seed {first - first % n} would do)"
        )
    return ""


def checked_shape(options: Options) -> tuple[int, ...]:
    """Return the shape of a sample. Raises OutputError where run.json does not say it."""
    if options.shape is None:
        raise OutputError("run.json does not say the shape of a sample, so its grid cannot be made")
    return options.shape
