"""The folder of a diffusers pipeline, as `save_pretrained` writes it, opened without running what is in it.

diffusers itself builds the parts. Before it is asked, `model_index.json` is checked to name nothing but classes of
diffusers and transformers, so no Python file of the folder is run; weights are read from safetensors files only, and
nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers

from ...common.checks import shown
from ...common.errors import CheckpointError
from ...common.strict_json import loads

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")


def open_pipeline(folder: Path) -> Any:
    """Return the pipeline in `folder`, float32, on the CPU.

    Raises:
        CheckpointError: with the path: the index cannot be read, a part is of another library or brings code of its
            own, or diffusers cannot load it.
    """
    _check(folder)
    try:
        return diffusers.DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers, transformers and their tokenizers raise whatever a damaged file leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{folder}: diffusers cannot load this pipeline ({reason})") from error


def _check(folder: Path) -> None:
    """Raise CheckpointError unless the index names classes of known libraries alone."""
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
