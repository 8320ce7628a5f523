"""`rs.load`: a bundled name, a model file, a diffusers folder or a diffusers pipeline as a denoiser."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.devices import check_device
from ..common.errors import CheckpointError
from ..models.denoiser import Denoiser
from ..models.registry import load_model
from ..models.tensors import tensors_sha256

PIPELINE_FOLDER = "model_index.json"  # the file by which diffusers knows the folder of a pipeline


def load(
    source: Any,
    device: str = "cpu",
    sha256: str | None = None,
    *,
    guide: Any = None,
    guide_null: bool = False,
    dtype: str | None = None,
    variant: str | None = None,
    config: str | Path | None = None,
    **pipeline: Any,
) -> Denoiser:
    """Return the denoiser in `source`, guided by the one in `guide` if that is given.

    Args:
        source: a bundled name ("fashion-mnist"); a .safetensors file written by this package; a .pkl snapshot of
            EDM, EDM2 or PFGM++, or a .pt training state of EDM or PFGM++; the folder of a diffusers pipeline, as
            `save_pretrained` writes it; with `config` a .safetensors file with all weights of a pipeline; or a
            diffusers pipeline. Nothing in a file is ever executed, and nothing is downloaded.
        device: where the network goes. A pipeline that is given as an object stays where it is.
        sha256: pins a file: its SHA-256, or that of its tensors, as `restart-sampling models inspect` prints them.
        guide: another network, which gives the second output of guidance, see `Denoiser.guided_by`: a bundled name, a
            file, or a Denoiser. Pipelines take none.
        guide_null: tell the guide the nulls instead of each sample's conditions.
        dtype: of a pipeline's weights in memory, "fp32" (default), "bf16" or "fp16". A sampler computes in its own
            `dtype`, whatever this is; the same one needs no second copy of the network.
        variant: of a pipeline's folder: the weight files with this in their names, such as "fp16".
        config: of a single file: a folder of the same pipeline, its weights left out if need be.
        **pipeline: for pipelines: text models need `prompt=` or embeddings, see `integrations.diffusers.denoiser_of`.

    Returns:
        A denoiser. Its `info` says what was loaded, see `models.registry.load_model`; of a pipeline it holds
        "pipeline" and "network", the names of their classes, and if it was loaded from the disk "path", "sha256" (of
        everything that decides its samples), "vae", the folder of its VAE, None without one, and "told", what it was
        loaded with.

    Raises:
        CheckpointError: with the path, what is wrong with the file. Other RestartErrors: a pipeline that is not
            supported, or a guide that does not fit.
    """
    single = config is not None and isinstance(source, (str, Path))
    if guide is not None and (single or is_pipeline(source) or is_pipeline(guide)):
        raise CheckpointError(
            "guide is for networks of model files, and a pipeline is guided by its negative prompt; leave it out, or "
            "give two denoisers to Denoiser.guided_by"
        )
    folder = is_pipeline(source) and isinstance(source, (str, Path))
    for name, value, allowed in (("dtype", dtype, folder or single), ("variant", variant, folder)):
        if value is not None and not allowed:
            raise CheckpointError(f"{name} is only for diffusers pipelines on the disk; leave it out")
    if config is not None and (folder or not single):
        raise CheckpointError("config is for a pipeline's weights in a single .safetensors file; leave it out")
    if single or is_pipeline(source):
        if sha256 is not None:
            raise CheckpointError("sha256 pins a file, and a pipeline is none; leave it out")
        if not isinstance(source, (str, Path)):
            from .diffusers import denoiser_of  # needs diffusers

            return denoiser_of(source, **pipeline)
        return _from_disk(Path(source).expanduser(), config, device, dtype or "fp32", variant, pipeline)
    if pipeline:
        raise CheckpointError(f"{next(iter(pipeline))} is only for diffusers pipelines; leave it out")
    return load_model(source, device, sha256, guide, guide_null)


def _from_disk(
    path: Path, config: str | Path | None, device: str, dtype: str, variant: str | None, pipeline: dict[str, Any]
) -> Denoiser:
    """Return the denoiser of a folder, or of a single file with its folder `config`."""
    from .diffusers import denoiser_of  # needs diffusers
    from .diffusers.folder import digest, open_file, open_pipeline

    found = check_device(device)
    folder = path if config is None else Path(config).expanduser()
    if config is not None and not is_pipeline(folder):
        raise CheckpointError(
            f"{folder}: config must be the folder of a diffusers pipeline, with its {PIPELINE_FOLDER}; nothing is "
            "downloaded"
        )
    with ThreadPoolExecutor(1, "restart-sha256") as pool:  # lets other threads run, as reading the weights does
        pipe = open_pipeline(path, dtype, variant) if config is None else open_file(path, folder, dtype)
        sha256 = pool.submit(digest, folder, variant, None if config is None else path)
        denoiser = denoiser_of(pipe.to(found), **pipeline)
        vae = folder if any((folder / "vae").glob("*.safetensors")) else None
        denoiser.info.update(path=str(path), sha256=sha256.result(), vae=None if vae is None else str(vae))
    told = {"dtype": dtype, "variant": variant, **pipeline}
    denoiser.info["told"] = {name: _noted(name, value) for name, value in told.items() if value is not None}
    if config is not None:
        denoiser.info["config"] = str(folder.resolve())
    return denoiser


def _noted(name: str, value: Any) -> Any:
    """Return an argument as run.json has it: tensors by their SHA-256."""
    if isinstance(value, Tensor):
        return {"sha256": tensors_sha256({name: value})}
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return {"sha256": tensors_sha256({f"{i}": item for i, item in enumerate(value)})}
    return list(value) if isinstance(value, tuple) else value


def is_pipeline(source: Any) -> bool:
    """Whether `source` is a diffusers pipeline, or the folder of one."""
    if not isinstance(source, (str, Path)):
        return hasattr(source, "components") and hasattr(source, "scheduler")
    try:
        return (Path(source).expanduser() / PIPELINE_FOLDER).is_file()
    except (OSError, ValueError):  # no path at all; load_model says so
        return False
