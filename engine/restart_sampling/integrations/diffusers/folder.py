"""A diffusers pipeline on the disk, opened without running what is in it: a folder, or a file with a folder beside it.

`save_pretrained` writes a folder with a part in each subfolder. Other programs keep all weights of a pipeline in one
.safetensors file, which says nothing of the parts; a second folder, of the same pipeline but without weights if need
be, says what they are.

diffusers itself builds the parts. Before it is asked, `model_index.json` is checked to name nothing but classes of
diffusers and transformers, so no Python file of the folder is run; weights are read from safetensors files only, and
nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch

from ...common.checks import choice, shown
from ...common.errors import CheckpointError
from ...common.files import file_sha256
from ...common.strict_json import loads
from .weight_files import SUFFIX, by_variant, chosen

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
NETWORKS = ("transformer", "unet")  # the parts that are the network
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN = (".json", ".txt", ".model", ".jinja")  # configs and vocabularies, which decide something too


def open_pipeline(folder: Path, dtype: str = "fp32", variant: str | None = None) -> Any:
    """Return the pipeline in `folder`, on the CPU.

    Args:
        dtype: of all its weights in memory: "fp32", "bf16" or "fp16".
        variant: "fp16" and the like: the weight files that have it in their names; a part without such files has
            others.

    Raises:
        CheckpointError: with the path: the index cannot be read, a part is of another library or brings code of its
            own, no file is of this variant, or diffusers cannot load it.
    """
    index = _index(folder)
    wanted = _dtype(dtype)
    _check_variant(folder, index, variant)
    options = {"use_safetensors": True, "local_files_only": True, "variant": variant}
    return _loaded(folder, diffusers.DiffusionPipeline.from_pretrained, wanted, **options, **_absent(index))


def open_file(path: Path, config: Path, dtype: str = "fp32") -> Any:
    """Return the pipeline whose weights are in one safetensors file, on the CPU.

    Args:
        path: the file, of a kind that diffusers' `from_single_file` knows.
        config: a folder of the same pipeline: its index, the configs of its parts and its tokenizers. Parts that the
            file does not hold need their weights here, and a VAE here goes before that of the file.
        dtype: as of `open_pipeline`.

    Raises:
        CheckpointError: with the path, as `open_pipeline`, and for a pipeline that diffusers reads from no single file.
    """
    index = _index(config)
    wanted = _dtype(dtype)
    kind = getattr(diffusers, index["_class_name"])
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: a single file of weights must be {SUFFIX}; others are pickles, and not read")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if not hasattr(kind, "from_single_file"):
        raise CheckpointError(
            f"{path}: diffusers {diffusers.__version__} reads no {kind.__name__} from a single file; give the folder "
            "of the pipeline with its weights"
        )
    for part in index:
        names = [f.name for f in (config / part).iterdir()] if (config / part).is_dir() else []
        if any(name.endswith(".bin") for name in names) and not any(name.endswith(SUFFIX) for name in names):
            raise CheckpointError(f"{config / part}: its weights are pickles (.bin), which are not read; remove them")
    parts = _absent(index)
    if index.get("vae") and any((config / "vae").glob(f"*{SUFFIX}")):
        vae = getattr(diffusers, index["vae"][1], None)
        if vae is not None:
            options = {"use_safetensors": True, "local_files_only": True}
            parts["vae"] = _loaded(config / "vae", vae.from_pretrained, wanted, **options)
    return _loaded(path, kind.from_single_file, wanted, config=str(config), local_files_only=True, **parts)


def digest(folder: Path, variant: str | None = None, file: Path | None = None) -> str:
    """Return a SHA-256 of what decides a pipeline's samples, hex: configs, vocabularies and weights, but no VAE.

    Args:
        folder: of the pipeline. variant: as of `open_pipeline`.
        file: of the weights, if they are in a single file.
    """
    index, found = _index(folder), hashlib.sha256()
    said = {name: value for name, value in index.items() if name not in ("_diffusers_version", "_name_or_path")}
    found.update(json.dumps(said, sort_keys=True).encode())
    for part in sorted(index):
        if part.startswith("_") or part == "vae" or not (folder / part).is_dir():
            continue
        in_file = file is not None and part in NETWORKS
        weights = [] if in_file else chosen(folder / part, variant)
        plain = [path for path in (folder / part).iterdir() if path.suffix in _PLAIN and ".index." not in path.name]
        for path in sorted([*weights, *plain]):
            found.update(f"{part}/{path.name} {file_sha256(path)}\n".encode())
    if file is not None:
        found.update(file_sha256(file).encode())
    return found.hexdigest()


def _check_variant(folder: Path, index: dict[str, Any], variant: str | None) -> None:
    """Raise CheckpointError unless some part has weights of this variant, or without one, all have plain ones."""
    if variant is None:
        for part in index:
            if None not in (found := by_variant(folder / part)) and found:
                name = next(iter(found))
                raise CheckpointError(f"{folder / part}: its weights are of the variant {name}; give variant={name!r}")
        return
    there = {name for part in index for name in by_variant(folder / part)} - {None}
    if variant not in there:
        known = f"there are {', '.join(sorted(filter(None, there)))}" if there else "leave it out"
        raise CheckpointError(f"{folder}: no weights are of the variant {shown(variant)}; {known}")


def _absent(index: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that a pipeline was saved without, which diffusers wants to be told again."""
    return {part: None for part, value in index.items() if value == [None, None]}


def _dtype(name: str) -> torch.dtype:
    return DTYPES[choice("dtype", name, tuple(DTYPES), error=CheckpointError)]


def _loaded(path: Path, load: Callable[..., Any], dtype: torch.dtype, **options: Any) -> Any:
    """Return what a function of diffusers loads from `path`. Raises CheckpointError."""
    # The name of this argument changed; the old one warns, and older versions know it alone.
    name = "dtype" if hasattr(diffusers.utils, "deprecation_utils") else "torch_dtype"
    try:
        return load(str(path), **{name: dtype}, **options)
    except Exception as error:  # diffusers, transformers and their tokenizers raise whatever a damaged file leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        what = "VAE" if path.name == "vae" else "pipeline"
        raise CheckpointError(f"{path}: diffusers cannot load this {what} ({reason})") from error


def _index(folder: Path) -> dict[str, Any]:
    """Return the index of a folder. Raises CheckpointError unless it names classes of known libraries alone."""
    path = folder / INDEX
    try:
        index = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    name = index.get("_class_name") if isinstance(index, dict) else None
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise CheckpointError(
            f"{path}: _class_name must be a pipeline of diffusers {diffusers.__version__}, got {shown(name)}"
        )
    for part, value in index.items():
        if not isinstance(value, list) or part.startswith("_") or value in ([None, None], []):
            continue
        library = value[0]
        if library in LIBRARIES or (isinstance(library, str) and hasattr(diffusers.pipelines, library)):
            if not (folder / part / f"{library}.py").exists():
                continue
            library = f"{part}/{library}.py"
        raise CheckpointError(
            f"{path}: {part} is of {shown(library)}, which would be code of others; parts must be of "
            f"{' or '.join(LIBRARIES)}. Load the pipeline yourself and give it to rs.load"
        )
    return dict(index)
