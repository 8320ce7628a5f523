"""Pictures by prompt, as GenEval's evaluation reads them: a folder for each prompt, numbered from 0.

    00000/metadata.jsonl      the prompt's line of the prompt file: its columns, and `prompt`
    00000/samples/00000.png   its pictures, in any encoding

Sample input·n + k of a job with n samples for each input is picture k of folder `input`. Where the samples of a prompt
lie in two shards, both write its metadata.jsonl, with the same bytes: perhaps at the same time, by two threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..shards import Shard
from .base import Format, ShardData, Written, many_files
from .encodings.registry import ENCODINGS
from .inputs import place, places
from .options import Options
from .pictures import check, picture
from .text import as_json, valid


def files(shard: Shard, seeds: Sequence[int], options: Options) -> Iterator[str]:
    """Yield the names of the samples' files, each prompt's metadata first."""
    last = -1
    for seed in seeds:
        number, k = place(seed, options)
        if number != last:
            yield f"{number:05d}/metadata.jsonl"
        yield f"{number:05d}/samples/{k:05d}.{options.encoding}"
        last = number


def write(folder: Path, data: ShardData, options: Options, tag: str) -> Written:
    """Write the pictures of a shard and what its prompts' lines say."""
    found = [*places(data, options)]

    def contents() -> Iterator[bytes]:
        last = -1
        for i, (number, _) in enumerate(found):
            if number != last:
                record = data.record(i)
                yield as_json({**(record.get("meta") or {}), "prompt": valid(record.get("prompt"))})
            yield picture(data, i, options)
            last = number

    names = files(data.shard, data.seeds.tolist(), options)
    return many_files(folder, zip(names, contents(), strict=True), f"{data.shard.name}.{tag}")


def unfit(record: Mapping[str, Any]) -> str:
    """Return why a job cannot be stored so, or ""."""
    return "" if "inputs" in record else "holds the samples of prompts, and this job has none"


FORMAT = Format(
    name="geneval",
    title="a folder for each prompt, as GenEval's evaluation reads it",
    note="a folder for each prompt",
    pixels=("uint8",),
    write=write,
    files=files,
    check=check,
    unfit=unfit,
    encodings=tuple(ENCODINGS),
    metadata=("text",),
    bytes_per_image=300,
)
