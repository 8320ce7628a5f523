r"""A netCDF file for each shard, for float32 samples: `xarray.open_mfdataset("job/samples/*.nc")` is the whole job.

    samples        float32 [sample, …], or [input, member, …] for a job with inputs
    sample         the number of each sample, its seed; or input, those that have a sample here, and member
    seed, class    int64 along the same axes: seed for a job with inputs, class for a network with classes
    record         for a job with inputs, what is known of each sample, as the text of a JSON object

Where an input has no sample with some number, samples are NaN, seed and class −1, and record is empty. The format is
netCDF's classic one with 64-bit data (CDF-5): a netCDF-4 file says when it was made, so equal data would not be equal
files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file
from .fields import NONE, axes, dimensions, filled, first_input, unfit
from .options import Options
from .text import as_json

KIND: Any = "NETCDF3_64BIT_DATA"
# netCDF's library has one list of open files and no lock of its own, and netCDF4 lets other threads run meanwhile: two
# writers at once end in a crash of the process.
ONE_AT_A_TIME = threading.Lock()
# What netCDF4 raises for a file that is damaged or something else.
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the name of the shard's file."""
    yield f"shard-{shard.name}.nc"


def variables(data: ShardData, options: Options) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return the variables of a shard by name, each (its dimensions, its values)."""
    whole, lead = filled(data, options), axes(options)
    found: dict[str, tuple[tuple[str, ...], np.ndarray]]
    if len(lead) == 1:
        rows: Any = data.seeds - data.shard.index * options.shard_size
        found = {"sample": (lead, whole.pop("seed")[rows])}
    else:
        rows = np.flatnonzero((whole["seed"] >= 0).any(axis=1))
        numbers, members = rows + first_input(data, options), np.arange(whole["seed"].shape[1])
        found = {"input": (lead[:1], numbers), "member": (lead[1:], members)}
    found |= {name: ((*lead, *dimensions(v.shape[len(lead) :])), v[rows]) for name, v in whole.items()}
    if data.rows is not None:
        texts = np.array([as_json(data.record(i)) for i in range(len(data.seeds))], np.bytes_)
        record = np.zeros(options.shard_size, texts.dtype)
        record[data.seeds - data.shard.index * options.shard_size] = texts
        record = record.reshape(whole["seed"].shape)[rows] if len(lead) == 2 else texts
        found["record"] = ((*lead, "record_length"), record[..., None].view("S1"))
    return found


def encoded(data: ShardData, options: Options) -> bytes:
    """Return the file of a shard. It is made in memory, so that it is hashed as it is written, whole or not at all."""
    found = variables(data, options)
    with ONE_AT_A_TIME:
        return _encoded(data, found)


def _encoded(data: ShardData, found: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> bytes:
    import netCDF4

    with_fill = {name: NONE[name] for name in found if name in NONE}
    # The memory must be less than the file, so that it grows to the very size: more stays at the end, as it was found.
    file: Any = netCDF4.Dataset("shard.nc", "w", format=KIND, memory=max(1, data.images.nbytes))
    file.plan = data.plan
    for names, values in found.values():
        for name, n in zip(names, values.shape, strict=True):
            if name not in file.dimensions:
                file.createDimension(name, n)
    made = {
        name: file.createVariable(name, values.dtype, names, fill_value=with_fill.get(name))
        for name, (names, values) in found.items()
    }
    made["samples"].coordinates = " ".join(name for name in found if name in ("seed", "class"))
    for name, (_, values) in found.items():
        made[name].set_auto_maskandscale(False)
        made[name][:] = values
    return bytes(file.close())


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write a shard as one file."""

    def save(file: Hashing) -> None:
        file.write(encoded(data, options))

    (name,) = files(data.shard, (), options)
    return one_file(folder, name, save, tag)


def check(path: Path) -> int:
    """Return the number of samples in a file; raise ValueError if it cannot be read."""
    import netCDF4

    try:
        with ONE_AT_A_TIME, netCDF4.Dataset(str(path)) as file:
            file.set_auto_mask(False)
            samples = file["samples"][:]
            counted = 2 if "member" in file.dimensions else 1
    except DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return int(np.isfinite(samples.reshape(int(np.prod(samples.shape[:counted])), -1)).any(axis=1).sum())


FORMAT = Format(
    name="netcdf",
    title="one netCDF file for each shard: samples with their coordinates",
    note="a file of float32 samples for each shard",
    pixels=("float32",),
    write=write,
    files=files,
    check=check,
    unfit=unfit,
    needs="netcdf",
    modules=("netCDF4",),
    bytes_per_image=40,
)
