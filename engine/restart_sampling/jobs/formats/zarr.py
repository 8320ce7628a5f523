r"""One Zarr 3 store for the whole job, for float32 samples: `xarray.open_zarr("job/samples/samples.zarr")`.

    samples.zarr/samples    float32 [sample, …] or [input, member, …], NaN where there is no sample
    samples.zarr/seed       int64, the seed of each sample, −1 where there is none
    samples.zarr/class      int64, for a network with classes
    records/shard-K.jsonl   for a job with inputs, what is known of each sample

A shard of the job is a shard of the array, one file: an inner chunk, the unit that is read, has whole samples and about
a megabyte, and inner chunks without samples take no room. So workers share no file but the metadata, which depend on
run.json alone: every run begins by writing those that are not there, before any sample, and a job that has grown gets
longer axes. Nothing is compressed: samples hardly shrink, and the bytes then do not depend on a compressor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...common.zarr_files import DAMAGE
from ..record import seeds_of
from ..shards import Shard
from .base import Format, Index, ShardData, Written, many_files
from .fields import NAMES, NONE, axes, block, checked_shape, dimensions, filled, length
from .fields import unfit as unfit_grid
from .options import Options
from .pictures import check as check_lines
from .text import as_json

STORE = "samples.zarr"
INNER = 1 << 20  # bytes of an inner chunk
LARGEST = 2**40  # seeds; at 2^62 zarr writes no chunk and says nothing


def divisor(n: int, most: int) -> int:
    """Return the largest divisor of n up to `most`, at least 1."""
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)


def inner(options: Options, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of an inner chunk along the counting axes: samples of about a megabyte, dividing a shard."""
    *outer, last = block(options)
    room = max(1, INNER // (4 * prod(shape)))
    ends = divisor(last, room)
    return (*(divisor(n, room // last) if ends == last else 1 for n in outer), ends)


def specs(options: Options, shape: tuple[int, ...], classes: bool) -> dict[str, dict[str, Any]]:
    """Return, by array, the options of zarr's `create_array` besides the shape."""
    lead, found = block(options), {}
    for name in NAMES:
        tail = shape if name == "samples" else ()
        if name != "class" or classes:
            found[name] = {
                "dtype": NAMES[name],
                "fill_value": NONE[name],
                "shards": (*lead, *shape) if name == "samples" else None,
                "chunks": (*inner(options, shape), *shape) if name == "samples" else lead,
                "compressors": None,
                "chunk_key_encoding": {"name": "default", "separator": "."},  # no folder for each axis
                "dimension_names": (*axes(options), *(dimensions(tail))),
            }
    return found


def store(options: Options, shape: tuple[int, ...], classes: bool, size: tuple[int, ...], plan: str) -> tuple[Any, Any]:
    """Return an empty group in memory, with axes of `size`, and the dict of its files."""
    import zarr
    from zarr.storage import MemoryStore

    kept: dict[str, Any] = {}
    group: Any = zarr.create_group(MemoryStore(kept), zarr_format=3, attributes={"plan": plan})
    others = " ".join(name for name in specs(options, shape, classes) if name != "samples")
    for name, spec in specs(options, shape, classes).items():
        tail, said = (shape, {"coordinates": others}) if name == "samples" else ((), {})
        group.create_array(name, shape=(*size, *tail), attributes=said, **spec)
    return group, kept


def key(name: str, shard: Shard, options: Options, tail: int) -> str:
    """Return the name of the file of an array's shard."""
    places = [shard.index - options.first // options.shard_size, *[0] * (len(axes(options)) - 1 + tail)]
    return f"{STORE}/{name}/c.{'.'.join(map(str, places))}"


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the names of the shard's files; a shard without samples has none."""
    if not len(seeds):
        return
    yield key("samples", shard, options, len(checked_shape(options)))
    for name in ("seed", "class") if options.classes else ("seed",):
        yield key(name, shard, options, 0)
    if options.per_input is not None:
        yield f"records/shard-{shard.name}.jsonl"


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write a shard as a file of each array."""
    lead, index = block(options), data.shard.index - options.first // options.shard_size
    size = ((index + 1) * lead[0], *lead[1:])
    group, kept = store(options, checked_shape(options), options.classes, size, data.plan)

    def contents() -> Iterator[bytes]:
        for name, values in filled(data, options).items():
            group[name][index * lead[0] :] = values
            yield kept.pop(key(name, data.shard, options, values.ndim - len(lead)).removeprefix(f"{STORE}/")).to_bytes()
        if options.per_input is not None:
            yield b"".join(as_json(data.record(i)) + b"\n" for i in range(len(data.seeds)))

    names = files(data.shard, data.seeds.tolist(), options)
    return many_files(folder, zip(names, contents() if len(data.seeds) else (), strict=True), tag)


def check(path: Path) -> int:
    """Return the number of samples in a file of an array; raise ValueError if it cannot be read."""
    if path.suffix == ".jsonl":
        return check_lines(path)
    name, index = path.parent.name, int(path.name.split(".")[1])
    import zarr

    try:
        array: Any = zarr.open_array(str(path.parent), mode="r")
        step = (array.shards or array.chunks)[0]
        values = np.asarray(array[index * step : (index + 1) * step])
        counted = axes(Options(per_input=1)) if "member" in array.metadata.dimension_names else axes(Options())
    except DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if name != "samples":
        return 0
    return int(np.isfinite(values.reshape(prod(values.shape[: len(counted)]), -1)).any(axis=1).sum())


# --- the metadata, which are of no shard -------------------------------------------------------------------------


def metadata(record: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of the metadata of a job's store, by name."""
    options = Options.of(record)
    _, kept = store(
        options, checked_shape(options), options.classes, length(record, options), str(record["plan_digest"])
    )
    return {f"{STORE}/{name}": content.to_bytes() for name, content in sorted(kept.items())}


def write_metadata(folder: Path, record: Mapping[str, Any], tag: str) -> None:
    """Write the metadata of a job's store. Raises OSError."""
    many_files(folder, metadata(record).items(), tag)


def fault(folder: Path, record: Mapping[str, Any]) -> str:
    """Return why the metadata in a folder are not those of the job, or ""."""
    import zarr

    options = Options.of(record)
    shape, size = checked_shape(options), length(record, options)
    try:
        group: Any = zarr.open_group(str(folder / STORE), mode="r")
        for name, spec in specs(options, shape, options.classes).items():
            array, wanted = group[name], (*size, *(shape if name == "samples" else ()))
            if array.shape != wanted:
                return f"the axes of {STORE}/{name} are {list(array.shape)}, not {list(wanted)}"
            if (array.shards, array.chunks, str(array.dtype)) != (spec["shards"], spec["chunks"], spec["dtype"]):
                return f"{STORE}/{name} has other chunks than the job's shards"
    except DAMAGE as error:
        return f"the metadata of {STORE} cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return ""


def unfit(record: Mapping[str, Any]) -> str:
    """Return why a job cannot be stored so, or ""."""
    if max(part[-1] for part in seeds_of(record).parts) >= LARGEST:
        return f"holds samples by their seeds, which must be below {LARGEST:,}, and this job has larger ones"
    if (first := record.get("inputs", {}).get("first", 0)) % (size := record["shard_size"]):
        return (
            f"begins with a whole shard, and this job's first seed is {first:,} and its shards have {size:,} "
            f"(--first-seed {first - first % size} would do)"
        )
    return unfit_grid(record)


FORMAT = Format(
    name="zarr",
    title="one Zarr 3 store for the job, a shard of it for each shard: samples, seed, class",
    note="one store of float32 samples",
    pixels=("float32",),
    write=write,
    files=files,
    check=check,
    unfit=unfit,
    grid=True,
    index=Index(names=metadata, write=write_metadata, fault=fault),
    needs="zarr",
    modules=("zarr",),
    bytes_per_image=40,
)
