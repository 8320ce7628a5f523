r"""The fast path: a pipeline's network inside `rs.Sampler`, its encoders and decoder around it.

    images = draw(pipe, prompt="a red fox", plan=plan, seeds=range(4), guidance_scale=7.5)  # float32 [4, 3, H, W]

Unlike a scheduler in the pipeline's loop, this is the engine: the fused step, guidance mixed inside it, noise that
depends on the seed alone, and on a GPU a compiled network in a captured graph. The networks that run here are the files
of networks/. CPU offload, IP-Adapters, ControlNets, LCM-style networks and in-painting networks are not supported, and
one negative prompt serves all prompts. For those, put RestartScheduler into the pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...common.checks import integer
from ...common.errors import BackendError, ConfigError
from ...models.denoiser import Denoiser
from ...models.parameterization import Parameterization
from ...plan.plan import Plan
from ...sampler.inputs import check_plan
from ...sampler.noise import seed_tensor
from ...sampler.sampler import Sampler
from .conditioning import OPTIONS, arguments, conditioning_of, truncation
from .levels import own_levels
from .levels import parameterization_of as _parameterization
from .network import Conditions, PipelineNetwork, Shape, network_of
from .prompts import PromptEncoder
from .vae import Decoder

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def denoiser_of(
    pipe: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    distilled_guidance: float = 3.5,
    **conditioning: Any,
) -> Denoiser:
    """Return the denoiser of a diffusers pipeline, with its network shared, not copied.

    Args:
        pipe: of diffusers, with a network that one of the files of networks/ runs.
        height, width: of the images, in pixels; default: the network's sample size.
        distilled_guidance: Flux's own guidance_scale.
        **conditioning: for text models: prompt or prompt_embeds [P, S, D] (and what else a prompt becomes, such as
            pooled_prompt_embeds [P, E] or a mask [P, S]), negative_prompt or negative_prompt_embeds,
            max_sequence_length, and guided=False for a network without guidance. Class p of the denoiser is prompt p;
            other prompts are conditions of a run, any number of them, as `prompt_conditions` gives them. The negative
            prompt is their null.

    Returns:
        A denoiser. Its `info` holds "pipeline" and "network", the names of their classes, "latent", whether a VAE
        decodes its samples, and "levels", which gives the plan options of the pipeline's own levels, see `OwnLevels`.

    Raises:
        BackendError: the pipeline, or a part of it, does not run here.
        ConfigError: an argument that cannot be used, or one that is missing.
    """
    net, family = network_of(pipe)
    taken = arguments(family)
    unknown = sorted(set(conditioning) - set(taken))
    if not taken and (texts := [name for name in unknown if name in OPTIONS or name.endswith(("embeds", "mask"))]):
        raise ConfigError(f"{type(pipe).__name__} takes no text; leave out {', '.join(texts)}")
    if unknown:
        names = ", ".join(("height", "width", *taken))
        raise ConfigError(f"unknown argument {unknown[0]!r}; known are {names}")
    if any(hasattr(module, "_hf_hook") for module in net.modules()):
        raise BackendError("the pipeline offloads its network; move it to one device with pipe.to(device) instead")
    shape = _shape(pipe, net, family, height, width)
    known: Conditions = {}
    if family.text:
        if family.distilled:
            conditioning = {"guided": False, **conditioning}
        known = conditioning_of(pipe, family, like=next(net.parameters()), **conditioning)
    network, told = family.of(pipe, net, shape, known, distilled_guidance)
    guided = bool(network.label_dim) or any(condition.null is not None for condition in known.values())
    name = type(pipe).__name__
    info = {
        "pipeline": name,
        "network": type(net).__name__,
        "latent": getattr(pipe, "vae", None) is not None,
        "levels": own_levels(pipe, net, family, shape, guided),
    }
    levels = _parameterization(pipe, net, family, shape)
    found = Denoiser(network, levels, shape, network.label_dim, name=name, info=info, conditions=told)
    if not family.text:
        return found
    length = conditioning.get("max_sequence_length")
    cut = partial(truncation, pipe, max_sequence_length=length)
    return replace(found, encode=PromptEncoder(pipe, length), truncation=cut)


def draw(
    pipe: Any,
    prompt: str | list[str] | None = None,
    *,
    plan: Plan,
    seeds: str | Iterable[int] | Tensor,
    guidance_scale: float | None = None,
    class_labels: int | Iterable[int] | Tensor | None = None,
    batch_size: int = 8,
    height: int | None = None,
    width: int | None = None,
    decode: bool = True,
    sampler_options: dict[str, Any] | None = None,
    **conditioning: Any,
) -> Tensor:
    """Return images float32 [n, 3, H, W] in [0, 1] on the pipeline's device, image i from seeds[i] alone.

    Args:
        pipe: as for :func:`denoiser_of`.
        prompt: one text for all seeds, or one for each; or embeddings in `conditioning`, see :func:`denoiser_of`.
        plan: the plan that runs, `rs.preset("sd15-w8")` and the like, or one of your own.
        seeds: one for each image, in any form that `rs.Sampler` takes.
        guidance_scale: what the pipeline's call has under this name (Qwen-Image: true_cfg_scale), in place of the
            plan's w: w itself (1 is off), for Z-Image w − 1 (0 is off), for Flux the distilled guidance.
        class_labels: for DiT, one or one per seed; default: drawn from the seed.
        batch_size: of the sampler, and of the decoder.
        height, width: of the images, in pixels; default: the network's sample size.
        decode: False returns the latents.
        sampler_options: of `rs.Sampler`: backend, graph, compile, dtype (default: the network's own).

    Raises:
        RestartError: as `denoiser_of` and `rs.Sampler.run`; ConfigError: prompts and seeds differ in number.
    """
    check_plan(plan)
    if prompt is not None:
        conditioning["prompt"] = prompt
    family = network_of(pipe)[1]
    if family.distilled:
        if guidance_scale is not None:
            conditioning["distilled_guidance"] = guidance_scale
    else:
        w = None if guidance_scale is None else float(guidance_scale) + family.guidance_offset
        if w is not None and w != plan.config.guidance_scale:
            plan = Plan.build(**{**plan.config.to_dict(), "guidance_scale": w})
        if family.text:
            conditioning.setdefault("guided", plan.config.guided)
    denoiser = denoiser_of(pipe, height=height, width=width, **conditioning)
    wanted = seed_tensor(seeds)
    if class_labels is None and family.text:
        prompts = denoiser.label_dim
        if prompts not in (1, len(wanted)):
            raise ConfigError(f"{prompts} prompts were given for {len(wanted)} seeds; give one, or one per seed")
        class_labels = torch.arange(len(wanted)) if prompts > 1 else 0
    dtype = _DTYPES.get(next(denoiser.network.parameters()).dtype, "fp32")  # type: ignore[attr-defined]
    options = {"dtype": dtype, **(sampler_options or {})}
    sampler = Sampler(denoiser, plan, batch_size, **options)
    x = sampler.run(wanted, class_labels)
    return decoded(pipe, x, batch_size) if decode else x


def parameterization_of(pipe: Any, shape: Shape | None = None) -> Parameterization:
    """Return what the pipeline's network predicts, and at which levels, by its scheduler's config.

    Args:
        shape: (C, H, W) of the latents, by default those of the network's sample size; some shifts depend on it.

    Raises:
        ConfigError: the config is of a model of another kind, or asks for levels that are not supported.
    """
    net, family = network_of(pipe)
    return _parameterization(pipe, net, family, shape or _shape(pipe, net, family, None, None))


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor, batch_size: int = 8) -> Tensor:
    """Return images float32 [n, 3, H, W] in [0, 1] of latents [n, C, H, W], decoded by the pipeline's VAE.

    Without a VAE the latents are the images, in [−1, 1].
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return (latents / 2 + 0.5).clamp(0, 1)
    return Decoder(vae, batch_size=max(batch_size, 1))(latents)


def _shape(pipe: Any, net: Any, family: type[PipelineNetwork], height: int | None, width: int | None) -> Shape:
    """Return (C, H, W) of the latents."""
    factor = int(getattr(pipe, "vae_scale_factor", 0) or 0)
    vae = getattr(pipe, "vae", None)
    if not factor and vae is not None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
    factor = factor or 1
    own = None if height and width else family.size(pipe, net)  # a network may have none
    multiple = factor * family.multiple(net)
    result = []
    for i, (name, asked) in enumerate((("height", height), ("width", width))):
        if asked is not None:
            integer(name, asked, 1)
            if asked % multiple:
                raise ConfigError(f"{name} must be a multiple of {multiple}, got {asked}")
        result.append(asked // factor if asked is not None else own[i] if own is not None else 0)
    return net.config.in_channels // family.patch_channels(net), result[0], result[1]


__all__ = ["decoded", "denoiser_of", "draw", "parameterization_of"]
