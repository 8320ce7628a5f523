"""`rs.load`: a bundled name, a model file, a diffusers folder or a diffusers pipeline as a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.devices import check_device
from ..common.errors import CheckpointError
from ..models.denoiser import Denoiser
from ..models.registry import load_model

PIPELINE_FOLDER = "model_index.json"  # the file by which diffusers knows the folder of a pipeline


def load(
    source: Any,
    device: str = "cpu",
    sha256: str | None = None,
    *,
    guide: Any = None,
    guide_null: bool = False,
    **pipeline: Any,
) -> Denoiser:
    """Return the denoiser in `source`, guided by the one in `guide` if that is given.

    Args:
        source: a bundled name ("fashion-mnist"); a .safetensors file written by this package; a .pkl snapshot of
            EDM, EDM2 or PFGM++, or a .pt training state of EDM or PFGM++; the folder of a diffusers pipeline, as
            `save_pretrained` writes it; or a diffusers pipeline. Nothing in a file is ever executed, and nothing is
            downloaded.
        device: where the network goes. A pipeline that is given as an object stays where it is.
        sha256: pins a file: its SHA-256, or that of its tensors, as `restart-sampling models inspect` prints them.
        guide: another network, which gives the second output of guidance, see `Denoiser.guided_by`: a bundled name, a
            file, or a Denoiser. Pipelines take none.
        guide_null: tell the guide the nulls instead of each sample's conditions.
        **pipeline: for pipelines: text models need `prompt=` or embeddings, see `integrations.diffusers.denoiser_of`.

    Returns:
        A denoiser. Its `info` says what was loaded, see `models.registry.load_model`; of a pipeline it holds
        "pipeline" and "network", the names of their classes.

    Raises:
        CheckpointError: with the path, what is wrong with the file. Other RestartErrors: a pipeline that is not
            supported, or a guide that does not fit.
    """
    if guide is not None and (_is_pipeline(source) or _is_pipeline(guide)):
        raise CheckpointError(
            "guide is for networks of model files, and a pipeline is guided by its negative prompt; leave it out, or "
            "give two denoisers to Denoiser.guided_by"
        )
    if _is_pipeline(source):
        if sha256 is not None:
            raise CheckpointError("sha256 pins a file, and a pipeline is none; leave it out")
        from .diffusers import denoiser_of  # needs diffusers

        if not isinstance(source, (str, Path)):
            return denoiser_of(source, **pipeline)
        from .diffusers.folder import open_pipeline

        folder = Path(source).expanduser()
        denoiser = denoiser_of(open_pipeline(folder).to(check_device(device)), **pipeline)
        denoiser.info["path"] = str(folder)
        return denoiser
    if pipeline:
        raise CheckpointError(f"{next(iter(pipeline))} is only for diffusers pipelines; leave it out")
    return load_model(source, device, sha256, guide, guide_null)


def _is_pipeline(source: Any) -> bool:
    if not isinstance(source, (str, Path)):
        return hasattr(source, "components") and hasattr(source, "scheduler")
    try:
        return (Path(source).expanduser() / PIPELINE_FOLDER).is_file()
    except (OSError, ValueError):  # no path at all; load_model says so
        return False
