"""Folders of pictures as `datasets` loads them: `load_dataset("imagefolder", data_dir="job/samples")`.

    shard-K/SEED.png        the pictures, in any encoding
    shard-K/metadata.jsonl  a line for each: file_name, seed, class, plan, and for a job with inputs text (the prompt),
                            negative_prompt, input, k and meta, the last as the text of a JSON object

A line has the same columns of the same types in every shard, since `datasets` refuses anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..shards import Shard
from .base import Format, ShardData, Written, many_files
from .encodings.registry import ENCODINGS
from .options import Options
from .pictures import check, picture
from .text import as_json, valid


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the names of the seeds' pictures, and that of the file of their lines."""
    for seed in seeds:
        yield f"shard-{shard.name}/{seed:06d}.{options.encoding}"
    yield f"shard-{shard.name}/metadata.jsonl"


def line(data: ShardData, i: int, name: str) -> dict[str, Any]:
    """Return what metadata.jsonl says of image i, whose file is `name`."""
    record = data.record(i)
    found = {"file_name": name, "seed": record["seed"], "plan": record["plan"]}
    if data.labels is not None:
        found["class"] = record["class"]
    if data.rows is not None:
        found |= {"text": valid(record.get("prompt")), "negative_prompt": valid(record.get("negative_prompt"))}
        found |= {"input": record.get("input"), "k": record.get("k")}
        found["meta"] = as_json(record.get("meta") or {}).decode()
    return found


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write the pictures of a shard, and then their lines."""
    names = [*files(data.shard, data.seeds.tolist(), options)]

    def contents() -> Iterator[bytes]:
        lines = []
        for i, name in enumerate(names[:-1]):
            yield picture(data, i, options)
            lines.append(as_json(line(data, i, name.rpartition("/")[2])) + b"\n")
        yield b"".join(lines)

    return many_files(folder, zip(names, contents(), strict=True), tag)


FORMAT = Format(
    name="imagefolder",
    title="a folder of pictures for each shard, with metadata.jsonl as datasets' imagefolder reads it",
    note="pictures and captions for datasets",
    pixels=("uint8",),
    write=write,
    files=files,
    check=check,
    encodings=tuple(ENCODINGS),
    metadata=("text",),
    bytes_per_image=500,
)
