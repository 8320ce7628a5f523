"""Doing a recorded run again: what its run.json says, for the same folder or another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import ConfigError
from ..models.denoiser import Denoiser
from ..models.registry import BUNDLED
from ..plan.plan import Plan
from ..sampler.noise import SCHEME
from .record import DECODE_MOST, IMAGES, read

# What a run may be repeated with, beside its edits.
OPTIONS = ("seeds", "batch", "dtype", "backend", "device", "graph", "compile")
WEIGHTS = ("model_sha256", "guide_sha256", "guide_null", "vae_sha256")
LAYOUT = ("format", "pixels", "shard_size", "format_version", "encoding", "quality", "metadata")


@dataclass(frozen=True)
class Recorded:
    """A run that run.json records.

    Attributes:
        options: model, guide (None without one), seeds, class_, batch, dtype, backend, device, graph and compile.
        weights: model_sha256, with a guide guide_sha256 and guide_null, as `weights_of` gives them, and with a decoder
            vae_sha256.
        plan: the plan.
        layout: format, pixels, shard_size and format_version of the files, and encoding, quality and metadata as far as
            they are not the defaults.
        edits: start, known and mask as paths of their images, strength, sigma and paste, as far as the run has them.
        sha256: of the pixels of the images, by name, and of the "inputs".
        decoding: decode, the folder of the VAE, and decode_batch; empty where the samples are not decoded.
        inputs: options of the inputs, as the command line has them; empty without any.
        pipeline: of a diffusers pipeline: what it was loaded with, as `rs.load` takes it; else empty.
    """

    options: dict[str, Any]
    weights: dict[str, Any]
    plan: Plan
    layout: dict[str, Any]
    edits: dict[str, Any]
    sha256: dict[str, str]
    decoding: dict[str, Any]
    inputs: dict[str, Any]
    pipeline: dict[str, Any]


def recorded(
    path: Path,
    model: str | None = None,
    images: Mapping[str, Path] | None = None,
    guide: str | None = None,
    decode: Path | None = None,
    inputs: Mapping[str, Path] | None = None,
    config: Path | None = None,
) -> Recorded:
    """Return the run that a run.json records.

    Args:
        path: of run.json.
        model: replaces the path of its weights.
        images: replace the paths of its images, by name.
        guide: replaces the path of its guide's weights.
        decode: replaces the folder of its VAE.
        inputs: replaces the file of its inputs, {"prompts": …} or {"conditions": …}.
        config: replaces the folder of a pipeline whose weights are in a single file.

    Raises:
        OutputError: the file cannot be read, or is not as a run wrote it.
        ConfigError: it records another noise scheme, a plan that cannot be run, or no model or image that is found.
    """
    record = read(path)
    if record["noise"] != SCHEME:
        raise ConfigError(f"{path} was drawn with noise {record['noise'][:40]!r}, and this program has {SCHEME!r}")
    if guide is not None and "guide" not in record:
        raise ConfigError(f"the run of {path} has no guide; leave out --guide")
    options = {name: record[name] for name in OPTIONS} | {"class_": record["class"]}
    options["model"] = _model(record, path, "model", model)
    options["guide"] = _model(record, path, "guide", guide) if "guide" in record else None
    weights = {name: record[name] for name in WEIGHTS if name in record}
    try:
        plan = Plan.build(**record["plan"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"the plan in {path} cannot be run: {str(error)[:300]}") from error
    edits = dict(record.get("edits", {}))
    edits.pop("each", None)
    sha256 = {name: edits[name] for name in IMAGES if name in edits}
    for name in images or {}:
        if name not in sha256:
            raise ConfigError(f"the run of {path} has no {name} image; leave out --{name}")
    edits |= {name: _image(name, record, path, (images or {}).get(name)) for name in sha256}
    if "inputs" in record:
        sha256["inputs"] = record["inputs"]["sha256"]
    layout = {name: record[name] for name in LAYOUT if name in record}
    return Recorded(
        options,
        weights,
        plan,
        layout,
        edits,
        sha256,
        _decoding(record, path, decode),
        _inputs(record, path, inputs or {}),
        _pipeline(record, path, config),
    )


def _inputs(record: dict[str, Any], path: Path, given: Mapping[str, Path]) -> dict[str, Any]:
    """Return the options of a record's inputs, whose file is the one that was given, or where it was."""
    entry = record.get("inputs")
    for name in given:
        if entry is None or entry["kind"] != name:
            raise ConfigError(f"the run of {path} draws from no {name}; leave out --{name}")
    if entry is None:
        return {}
    names = {"column": "prompt_column", "per_input": "per_input", "first": "first_seed"}
    found: dict[str, Any] = {to: entry[name] for name, to in names.items() if name in entry}
    found["same_seeds"] = entry["same_seeds"]
    kind = entry["kind"]
    if kind == "images":  # which are among the edits
        return found
    where = str(given[kind]) if kind in given else record.get("input_file")
    if where is None or (kind not in given and not os.path.exists(where)):
        raise ConfigError(f"the {kind} of {path} are not at {where}; say with --{kind} where they are now")
    return {**found, kind: Path(where)}


def _pipeline(record: dict[str, Any], path: Path, given: Path | None) -> dict[str, Any]:
    """Return what the pipeline of a record was loaded with, its folder `config` where it is now."""
    found, config = dict(record.get("pipeline", {})), record.get("config_path")
    if config is None:
        if given is not None:
            raise ConfigError(f"the run of {path} needs no folder beside its weights; leave out --config")
    else:
        found["config"] = Path(config) if given is None else given
    if digests := [name for name, value in found.items() if isinstance(value, dict)]:
        raise ConfigError(f"the pipeline of {path} was loaded with tensors ({', '.join(digests)}), which no file holds")
    return found


def _decoding(record: dict[str, Any], path: Path, given: Path | None) -> dict[str, Any]:
    """Return how the latents of a record are decoded: by the VAE in the folder that was given, or where it was."""
    if "vae_sha256" not in record:
        if given is not None:
            raise ConfigError(f"the run of {path} decodes no latents; leave out --decode")
        return {}
    where = record.get("vae_folder") if given is None else str(given)
    if where is None or not os.path.isdir(where):
        raise ConfigError(
            f"the VAE of {path} is not at {where}; say with `generate --repeat … --decode` where it is now"
        )
    return {"decode": where, "decode_batch": record.get("decode_batch", DECODE_MOST)}


def _image(name: str, record: dict[str, Any], path: Path, given: Path | None) -> str:
    """Return where an image of a record is: the path that was given, else where it was."""
    where = record.get("edit_files", {}).get(name) if given is None else str(given)
    if where is None:
        raise ConfigError(f"the {name} image of {path} came from no file; give it with --{name}")
    if given is None and not os.path.exists(where):
        raise ConfigError(f"the {name} image of {path} is not at {where}; say with --{name} where it is now")
    return str(where)


def weights_of(denoiser: Denoiser) -> dict[str, Any]:
    """Return the entries of run.json that name the weights of a network, and of its guide if it has one."""
    info = denoiser.info
    if (guide := info.get("guide")) is None:
        return {"model_sha256": info.get("sha256")}
    own = info.get("network_sha256")
    return {"model_sha256": own, "guide_sha256": guide.get("sha256"), "guide_null": guide["null"]}


def _model(record: dict[str, Any], path: Path, which: str, given: str | None) -> str:
    """Return the model or the guide of a record: the one that is given, its name, or where its file is now.

    The file is looked for where it was, and then by the relative path that was typed, from the folder of run.json and
    each one above it: that path was typed in some folder, and the run's folder is often below that one.
    """
    if given is not None:
        if record.get(f"{which}_sha256") is None:
            raise ConfigError(f"{path} records no SHA-256 of its {which}, so --{which} cannot be checked; leave it out")
        return given
    name = str(record[which])
    if name in BUNDLED:
        return name
    folder = path.absolute().parent
    places = [Path(record.get(f"{which}_path") or name), Path(name).expanduser()]
    places += [above / name for above in (folder, *folder.parents)]  # `name` itself if it is absolute
    found = next((place for place in places if os.path.isfile(place) or (place / "model_index.json").is_file()), None)
    if found is None:
        raise ConfigError(f"the {which} of {path} is not at {places[0]}; say with --{which} where it is now")
    return str(found)
