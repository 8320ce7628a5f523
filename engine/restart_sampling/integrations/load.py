"""`rs.load`: a bundled name, a model file, a diffusers folder or a diffusers pipeline as a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.devices import check_device
from ..common.errors import CheckpointError
from ..models.denoiser import Denoiser
from ..models.registry import load_model

PIPELINE_FOLDER = "model_index.json"  # the file by which diffusers knows the folder of a pipeline


def load(source: Any, device: str = "cpu", sha256: str | None = None, **pipeline: Any) -> Denoiser:
    """Return the denoiser in `source`.

    Args:
        source: a bundled name ("fashion-mnist"); a .safetensors file written by this package; a .pkl snapshot of
            EDM, EDM2 or PFGM++, or a .pt training state of EDM or PFGM++; the folder of a diffusers pipeline, as
            `save_pretrained` writes it; or a diffusers pipeline. Nothing in a file is ever executed, and nothing is
            downloaded.
        device: where the network goes. A pipeline that is given as an object stays where it is.
        sha256: pins a file: its SHA-256, or that of its tensors, as `restart-sampling models inspect` prints them.
        **pipeline: for pipelines: text models need `prompt=` or embeddings, see `integrations.diffusers.denoiser_of`.

    Returns:
        A denoiser. Its `info` says what was loaded, see `models.registry.load_model`; of a pipeline it holds
        "pipeline" and "network", the names of their classes.

    Raises:
        CheckpointError: with the path, what is wrong with the file. Other RestartErrors: a pipeline that is not
            supported.
    """
    is_folder = isinstance(source, (str, Path)) and _is_pipeline_folder(source)
    if is_folder or (hasattr(source, "components") and hasattr(source, "scheduler")):
        if sha256 is not None:
            raise CheckpointError("sha256 pins a file, and a pipeline is none; leave it out")
        from .diffusers import denoiser_of  # needs diffusers

        if not is_folder:
            return denoiser_of(source, **pipeline)
        from .diffusers.folder import open_pipeline

        folder = Path(source).expanduser()
        denoiser = denoiser_of(open_pipeline(folder).to(check_device(device)), **pipeline)
        denoiser.info["path"] = str(folder)
        return denoiser
    if pipeline:
        raise CheckpointError(f"{next(iter(pipeline))} is only for diffusers pipelines; leave it out")
    return load_model(source, device, sha256)


def _is_pipeline_folder(source: str | Path) -> bool:
    try:
        return (Path(source).expanduser() / PIPELINE_FOLDER).is_file()
    except (OSError, ValueError):  # no path at all; load_model says so
        return False
