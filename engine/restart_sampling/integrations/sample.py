"""`rs.sample`: a sampler made for one call, and its latents decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from ..sampler import one_call
from ..sampler.inputs import Seeds
from ..sampler.labels import Labels


def sample(
    denoiser: Denoiser,
    plan: Plan,
    seeds: Seeds,
    class_labels: Labels = None,
    *,
    decode: str | Path | Any = None,
    **options: Any,
) -> Tensor:
    """Return samples float32 [len(seeds), *shape]: `Sampler(denoiser, plan, …).run(seeds, class_labels, …)`.

    Args:
        seeds: a list of seeds, e.g. range(64); one integer alone is refused, see `Sampler.run`.
        decode: for a model of latents, the folder of its VAE or pipeline, as diffusers' `save_pretrained` writes it, or
            an autoencoder of diffusers. The samples are then images float32 [len(seeds), 3, H, W] in [0, 1].
        **options: keyword arguments of `Sampler` (batch_size, backend, …) and of `Sampler.run` (conditions, …).
    """
    if decode is None:
        return one_call.sample(denoiser, plan, seeds, class_labels, **options)
    from .diffusers.vae import Decoder, image_shape, kind_of, open_vae

    vae = open_vae(decode, denoiser.device) if isinstance(decode, (str, Path)) else decode
    encoder = denoiser.info.get("encoder")
    image_shape(kind_of(vae), vae.config, encoder, denoiser.shape)  # before anything is drawn
    return Decoder(vae, encoder)(one_call.sample(denoiser, plan, seeds, class_labels, **options))
