"""Parquet shards with the columns seed, class, plan and image; an image as `datasets` stores it: struct<bytes, path>.

A job with inputs also has prompt, negative_prompt, input, k and meta, the last as the text of a JSON object: the tables
of all shards then have the same columns of the same types, whatever a prompt file holds in which row.

float32 samples are the column `sample`, a fixed-size list of floats, with the shape in the schema's metadata. Since
version 2 the metadata also has the features of the columns as `datasets` writes them, so that `load_dataset` shows
images as images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..shards import Shard
from .base import Format, Hashing, ShardData, Written, one_file
from .encodings.registry import ENCODINGS
from .options import Options
from .pictures import picture
from .text import as_json, valid

# The type of each column that is a value of `ShardData.record`.
TYPES = {
    "seed": "int64",
    "class": "int64",
    "plan": "string",
    "prompt": "string",
    "negative_prompt": "string",
    "input": "int64",
    "k": "int64",
    "meta": "string",
}
PLAIN = ("seed", "class", "plan")  # of a job without inputs


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the name of the shard's file."""
    yield f"shard-{shard.name}.parquet"


def _features(columns: Iterable[str], shape: tuple[int, ...]) -> str:
    """Return the schema's entry "huggingface", by which `datasets` shows the column `image` as pictures."""
    features: dict[str, Any] = {}
    for name in columns:
        if name == "image":
            features[name] = {"_type": "Image"}
        elif name == "sample":
            element = {"dtype": "float32", "_type": "Value"}
            features[name] = {"feature": element, "length": int(np.prod(shape)), "_type": "Sequence"}
        else:
            features[name] = {"dtype": TYPES[name], "_type": "Value"}
    return json.dumps({"info": {"features": features}})


def _value(name: str, value: Any) -> Any:
    """Return a value of a record as its column has it."""
    if value is None or TYPES[name] != "string":
        return value
    return as_json(value).decode() if name == "meta" else valid(value)


def _write(folder: Path, data: ShardData, options: Options, tag: str, features: bool) -> Written:
    """Write a shard as one table, with or without the schema's entry for `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [data.record(i) for i in range(len(data.seeds))]
    names = [name for name in (TYPES if data.rows is not None else PLAIN) if name != "class" or data.labels is not None]
    columns: dict[str, Any] = {
        name: pa.array([_value(name, record.get(name)) for record in records], getattr(pa, TYPES[name])())
        for name in names
    }
    metadata: dict[str, str] = {}
    if data.images.dtype == np.uint8:
        rows = [
            {"bytes": picture(data, i, options), "path": f"{seed:06d}.{options.encoding}"}
            for i, seed in enumerate(data.seeds)
        ]
        columns["image"] = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        flat = pa.array(np.ascontiguousarray(data.images).reshape(-1))
        columns["sample"] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(data.images.shape[1:])))
        metadata["shape"] = ",".join(map(str, data.images.shape[1:]))
    if features:
        metadata["huggingface"] = _features(columns, data.images.shape[1:])
    table = pa.table(columns).replace_schema_metadata(metadata or None)

    def save(file: Hashing) -> None:
        pq.write_table(table, pa.PythonFile(file, mode="w"), compression="none")

    (name,) = files(data.shard, (), options)
    return one_file(folder, name, save, tag)


def check(path: Path) -> int:
    """Return the number of rows of a table; raise ValueError if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_table(path, columns=["seed"]).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(str(error)) from error


_FORMAT_1 = Format(
    name="parquet",
    title="one Parquet table for each shard: seed, class, plan, image, and the prompts",
    pixels=("uint8", "float32"),
    write=partial(_write, features=False),
    files=files,
    check=check,
    needs="parquet",
    modules=("pyarrow",),
    bytes_per_image=300,
    encodings=tuple(ENCODINGS),
    metadata=("text",),
)
FORMAT = replace(_FORMAT_1, version=2, write=partial(_write, features=True), before=_FORMAT_1)
