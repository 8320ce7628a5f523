r"""run.json: the record of a job, checked before anything acts on it.

The file may have been edited, cut short or damaged, and a job that does something else than its folder says is a wrong
result. So every entry has a type and bounds (`ENTRIES`), and two digests stand beside what they name:

    plan_digest   of "plan"
    job_digest    of the entries in SEALED, so of everything that decides what is drawn and where it is

A job whose latents are decoded has vae_sha256, of the VAE, which is then sealed too, vae_folder, where it was, and
decode_batch. A job that begins with images or keeps some (edits.py) has two entries more, and "edits" is then
sealed too:

    edits         the SHA-256 of each image's pixels, strength, sigma, paste, and "each": the images of which there is
                  one for each seed
    edit_files    where the images were

A job whose pictures are not stored as its format does by default has up to three entries more, all of them sealed:

    encoding, quality    of the pictures (formats/encodings/)
    metadata             what is stored with each picture, a list of "text" and "json"

Where the samples are a grid (formats/fields.py), "grid", which is sealed too, has the shape of a sample and whether
samples have classes.

A diffusers pipeline from the disk has one entry more, which is sealed too, and if its weights are in a single file
config_path, the folder beside it:

    pipeline      what it was loaded with: prompt, negative_prompt, height, width, variant and the like, dtype of its
                  weights, and of a tensor its SHA-256

A network with a guide (models/guided.py) has four entries more, of which "guide_null" is then sealed too:

    guide, guide_path, guide_sha256     as model, model_path and model_sha256
    guide_null                          whether the guide is told the nulls

A job that draws from prompts or conditions (inputs/inputs.py) has "inputs", which is then sealed too, and "input_file",
where their file was.

Entries that decide nothing about the samples (batch, device, paths) may be edited. Older folders have no
job_digest, and are checked by everything else. The weights are not sealed: they are compared with the model itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..common.checks import is_count, is_number
from ..common.errors import OutputError, RestartError
from ..common.strict_json import loads
from ..sampler.seeds import Seeds, parse_seeds
from .formats.encodings.registry import ENCODINGS
from .formats.options import ENTRIES as STORED
from .formats.options import METADATA
from .shards import LARGEST, Shards, check_number

SAMPLES = "samples"  # the folder of the samples in a job's folder
SEALED = ("plan", "nfe", "seeds", "class", "dtype", "format", "pixels", "shard_size", "samples", "subfolders", "noise")
DECODE_MOST = 4  # latents that are decoded at once: the activations of a decoder are far larger
MAX_BYTES = 256 << 20  # of run.json; a million single seeds need 20 MB
REQUIRED, LEFT_OUT = object(), object()  # an entry that must be there, and one that may be missing
IMAGES = ("start", "known", "mask")
OPTIONS = ("strength", "sigma", "paste")


class Entry(NamedTuple):
    """One entry of run.json.

    Attributes:
        fits: whether a value may stand there.
        allowed: what may stand there, in words.
        default: the value of an entry that is missing, REQUIRED, or LEFT_OUT where it then stays missing.
    """

    fits: Callable[[Any], bool]
    allowed: str
    default: Any = REQUIRED


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 4096 and "\0" not in value


def _optional(entry: Entry, default: Any = REQUIRED) -> Entry:
    return Entry(lambda value: value is None or entry.fits(value), f"{entry.allowed} or null", default)


def _integer(low: int, high: int) -> Entry:
    return Entry(lambda value: is_count(value, high + 1) and value >= low, f"an integer from {low} to {high:,}")


def _digits(count: int) -> Entry:
    def fits(value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{count}}}", value) is not None

    return Entry(fits, f"{count} hexadecimal digits")


def _edits(value: Any) -> bool:
    if not isinstance(value, dict) or not value or not set(value) <= {*IMAGES, *OPTIONS, "each"}:
        return False
    numbers = [value[name] for name in ("strength", "sigma") if name in value]
    each = value.get("each", [])
    return (
        all(_digits(64).fits(value[name]) for name in IMAGES if name in value)
        and all(is_number(number) and number > 0 for number in numbers)
        and value.get("paste", "initial") in ("initial", "fresh")
        and isinstance(each, list)
        and all(name in IMAGES and name in value for name in each)
    )


def _grid(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"shape", "classes"}
        and isinstance(value["shape"], list)
        and 0 < len(value["shape"]) <= 32
        and all(is_count(n, LARGEST) and n > 0 for n in value["shape"])
        and isinstance(value["classes"], bool)
    )


def _metadata(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and value == [name for name in METADATA if name in value]


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(name in IMAGES and _text(path) for name, path in value.items())


def _inputs(value: Any) -> bool:
    """Whether an entry is one of `Inputs.record`, and its numbers are those of the seeds."""
    if not isinstance(value, dict) or value.get("kind") not in ("prompts", "conditions", "images"):
        return False
    names = {"kind", "sha256", "count", "per_input", "first", "same_seeds"}
    texts = {"column", "negative"} if value["kind"] == "prompts" else set()
    return (
        names <= set(value) <= names | texts
        and _digits(64).fits(value["sha256"])
        and all(is_count(value[name], 2**63) for name in ("count", "per_input", "first"))
        and min(value["count"], value["per_input"]) > 0
        and isinstance(value["same_seeds"], bool)
        and all(isinstance(value[name], str) for name in texts & set(value))
    )


def _pipeline(value: Any) -> bool:
    def fits(item: Any) -> bool:
        if isinstance(item, list):
            return bool(item) and all(isinstance(text, str) for text in item)
        if isinstance(item, dict):
            return set(item) == {"sha256"} and _digits(64).fits(item["sha256"])
        return item is None or isinstance(item, (str, bool)) or is_number(item)

    return isinstance(value, dict) and all(name.isidentifier() and fits(item) for name, item in value.items())


TEXT = Entry(_text, "text of 1 to 4096 characters")
ENTRIES = {
    "model": TEXT,
    "model_path": _optional(TEXT, None),
    "model_sha256": _optional(_digits(64)),
    "guide": TEXT._replace(default=LEFT_OUT),
    "guide_path": _optional(TEXT, LEFT_OUT),
    "guide_sha256": _optional(_digits(64), LEFT_OUT),
    "guide_null": Entry(lambda value: isinstance(value, bool), "true or false", LEFT_OUT),
    "pipeline": Entry(_pipeline, "an object of texts, numbers and SHA-256", LEFT_OUT),
    "config_path": TEXT._replace(default=LEFT_OUT),
    "plan": Entry(lambda value: isinstance(value, dict), "an object"),
    "plan_digest": _digits(12),
    "nfe": _integer(1, 10_000_000),
    "notes": Entry(
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value), "a list of texts", ()
    ),
    "seeds": Entry(lambda value: isinstance(value, str), "text"),
    "class": _optional(TEXT),
    "edits": Entry(_edits, "an object of SHA-256, strength, sigma, paste and each", LEFT_OUT),
    "edit_files": Entry(_files, "an object of paths", LEFT_OUT),
    "vae_sha256": _digits(64)._replace(default=LEFT_OUT),
    "vae_folder": TEXT._replace(default=LEFT_OUT),
    "decode_batch": _integer(1, DECODE_MOST)._replace(default=LEFT_OUT),
    "inputs": Entry(_inputs, "an object of kind, sha256, count, per_input, first and same_seeds", LEFT_OUT),
    "input_file": TEXT._replace(default=LEFT_OUT),
    "batch": _integer(1, LARGEST),
    "device": _optional(TEXT),
    "dtype": TEXT,
    "backend": TEXT,
    "graph": Entry(_text, TEXT.allowed, "auto"),
    "compile": Entry(_text, TEXT.allowed, "auto"),
    "format": TEXT,
    "format_version": _integer(1, 1000)._replace(default=1),
    "pixels": TEXT,
    "shard_size": _integer(1, LARGEST),
    "encoding": Entry(
        lambda value: isinstance(value, str) and value in ENCODINGS, f"one of {', '.join(ENCODINGS)}", LEFT_OUT
    ),
    "quality": _integer(1, 100)._replace(default=LEFT_OUT),
    "grid": Entry(_grid, "an object of shape (sizes) and classes (true or false)", LEFT_OUT),
    "metadata": Entry(_metadata, f"a list of {' and '.join(METADATA)}", LEFT_OUT),
    "samples": Entry(lambda value: value in ("", SAMPLES), f"{SAMPLES!r}, or left out for samples beside run.json", ""),
    "subfolders": Entry(lambda value: isinstance(value, bool), "true or false"),
    "noise": TEXT,
    "job_digest": _digits(12)._replace(default=None),
}


def read(path: Path) -> dict[str, Any]:
    """Return the record in `path`, complete and checked; entries that are not in ENTRIES stay as they are.

    Raises:
        OutputError: the file cannot be read, is no record, or was changed after a run wrote it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise OutputError(f"{path} is larger than {MAX_BYTES >> 20} MiB, so it is not the record of a run")
    try:
        return checked(loads(content))
    except (ValueError, RestartError) as error:
        raise OutputError(
            f"{path.name} is not as a run wrote it: {error}; restore the file, or start a new run in another folder"
        ) from None


def checked(record: Any) -> dict[str, Any]:
    """Return `record` with its defaults. Raises ValueError or a RestartError that names the first wrong entry."""
    if not isinstance(record, dict):
        raise ValueError(f"it holds {_shown(record)}, not an object")
    complete = dict(record)
    for name, entry in ENTRIES.items():
        if name not in record:
            if entry.default is REQUIRED:
                raise ValueError(f"the entry {name!r} is missing")
            if entry.default is not LEFT_OUT:
                complete[name] = entry.default
        elif not entry.fits(record[name]):
            raise ValueError(f"{name!r} must be {entry.allowed}, got {_shown(record[name])}")
    if digest(record["plan"]) != record["plan_digest"]:
        raise ValueError("'plan' is not the plan that 'plan_digest' names, so one of them was changed")
    if complete["job_digest"] not in (None, seal(complete)["job_digest"]):
        raise ValueError(f"'job_digest' is that of other values: one of {', '.join(_sealed(complete))} was changed")
    check_number(seeds_of(record), record["shard_size"])
    return complete


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `record` with the digest of what it says."""
    return {**record, "job_digest": digest({name: record[name] for name in _sealed(record)})}


def _sealed(record: Mapping[str, Any]) -> tuple[str, ...]:
    some = ("edits", "guide_null", "vae_sha256", "inputs", "pipeline", *STORED)
    return (*SEALED, *(name for name in some if name in record))


def digest(value: Any) -> str:
    """Return twelve hexadecimal digits that name a JSON value; for the options of a plan they are `Plan.digest`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def edited(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in which edits two records differ, each in words; an image that differs is named by its file."""
    old, new = there.get("edits", {}), here.get("edits", {})
    found = []
    for name in (*IMAGES, *OPTIONS, "each"):
        if old.get(name) != new.get(name):
            file = here.get("edit_files", {}).get(name)
            a, b = (_edit(name, edits.get(name)) for edits in (old, new))
            found.append(f"{name}{f' {file}' if file else ''} is {a} there and {b} here")
    return found


def _edit(name: str, value: Any) -> str:
    if value is None:
        return "not given"
    if name in IMAGES:
        return f"the image with SHA-256 {value[:12]}…"
    return f"for {' and '.join(value)}" if isinstance(value, list) else str(value)


def other_inputs(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in which entries the inputs of two records differ, each in words."""
    old, new = there.get("inputs"), here.get("inputs")
    if old == new:
        return []
    if old is None or new is None:
        return [f"it draws {'from ' + old['kind'] if old else 'without inputs'} there and not here"]
    if old["kind"] == new["kind"] and old["sha256"] != new["sha256"]:
        return [f"the {new['kind']} in {here.get('input_file')} are not those that the run began with"]
    return [
        f"{name} of the inputs is {short(old.get(name))} there and {short(new.get(name))} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def seeds_of(record: Mapping[str, Any]) -> Seeds:
    """Return the seeds of a record, in the order they were asked for."""
    return parse_seeds(record["seeds"])


def shards_of(record: Mapping[str, Any]) -> Shards:
    """Return the shards of a record."""
    return Shards(seeds_of(record), record["shard_size"])


def short(value: Any) -> str:
    """Return a value of a record as a message compares it with another: text, or JSON, of at most 60 characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _shown(value: Any) -> str:
    """Return a value that is wrong as the file has it, of at most about 40 characters."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
