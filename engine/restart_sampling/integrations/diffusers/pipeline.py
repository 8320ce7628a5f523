r"""The fast path: a pipeline's network inside `rs.Sampler`, its encoders and decoder around it.

    images = draw(pipe, prompt="a red fox", plan=plan, seeds=range(4), guidance_scale=7.5)  # float32 [4, 3, H, W]

Unlike a scheduler in the pipeline's loop, this is the engine: the fused step, guidance mixed inside it, noise that
depends on the seed alone, and on a GPU a compiled network in a captured graph. The table in network.py lists the
networks that run here. CPU offload, IP-Adapters, ControlNets, guidance rescale, LCM-style networks and in-painting
networks are not supported, and one negative prompt serves all prompts. For those, put RestartScheduler into the
pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...common.errors import BackendError, ConfigError
from ...models.denoiser import Denoiser
from ...models.parameterization import Parameterization, flow
from ...plan.plan import Plan
from ...sampler.inputs import check_plan
from ...sampler.noise import seed_tensor
from ...sampler.sampler import Sampler
from .conditioning import Conditioning, conditioning_of
from .flow import FlowMatchRestartScheduler
from .kinds import refuse_other_kinds
from .network import IN_PLACE, NETWORKS, PipelineNetwork
from .scheduler import RestartScheduler
from .vae import Decoder

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_CONDITIONING = tuple(name for name in inspect.signature(conditioning_of).parameters if name not in ("pipe", "like"))


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
        pipe: a StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, DiT or DDPM pipeline, or one with the same
            parts.
        height, width: of the images, in pixels; default: the network's sample size.
        distilled_guidance: Flux's own guidance_scale.
        **conditioning: for text models: prompt or prompt_embeds [P, S, D] (and pooled_prompt_embeds [P, E]),
            negative_prompt or negative_prompt_embeds, guided=False for a network without guidance. Class p of the
            denoiser is prompt p; other prompts are conditions of a run, prompt_embeds [n, S, D] (and
            pooled_prompt_embeds [n, E]), any number of them. The negative prompt is their null.

    Raises:
        BackendError: the pipeline, or a part of it, does not run here.
        ConfigError: an argument that cannot be used, or one that is missing.
    """
    unknown = sorted(set(conditioning) - set(_CONDITIONING))
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r}; known are height, width and {', '.join(_CONDITIONING)}")
    net, wrapper = _network(pipe)
    if any(hasattr(module, "_hf_hook") for module in net.modules()):
        raise BackendError("the pipeline offloads its network; move it to one device with pipe.to(device) instead")
    if not wrapper.takes_text and conditioning:
        raise ConfigError(f"{type(pipe).__name__} takes no text; leave out {', '.join(sorted(conditioning))}")
    shape = _shape(pipe, net, wrapper, height, width)
    known: Conditioning | None = None
    if wrapper.takes_text:
        if wrapper.distilled:
            conditioning = {"guided": False, **conditioning}
        known = conditioning_of(pipe, like=next(net.parameters()), **conditioning)
    network, told = wrapper.of(pipe, net, shape, known, distilled_guidance)
    name, info = type(pipe).__name__, {"pipeline": type(pipe).__name__, "network": type(net).__name__}
    return Denoiser(network, parameterization_of(pipe), shape, network.label_dim, name=name, info=info, conditions=told)


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
        guidance_scale: replaces the plan's w (1 is off). For Flux it is the distilled guidance.
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
    wrapper = _network(pipe)[1]
    if wrapper.distilled:
        if guidance_scale is not None:
            conditioning["distilled_guidance"] = guidance_scale
    else:
        if guidance_scale is not None and guidance_scale != plan.config.guidance_scale:
            plan = Plan.build(**{**plan.config.to_dict(), "guidance_scale": float(guidance_scale)})
        if wrapper.takes_text:
            conditioning.setdefault("guided", plan.config.guided)
    denoiser = denoiser_of(pipe, height=height, width=width, **conditioning)
    wanted = seed_tensor(seeds)
    if class_labels is None and wrapper.takes_text:
        prompts = denoiser.label_dim
        if prompts not in (1, len(wanted)):
            raise ConfigError(f"{prompts} prompts were given for {len(wanted)} seeds; give one, or one per seed")
        class_labels = torch.arange(len(wanted)) if prompts > 1 else 0
    dtype = _DTYPES.get(next(denoiser.network.parameters()).dtype, "fp32")  # type: ignore[attr-defined]
    options = {"dtype": dtype, **(sampler_options or {})}
    sampler = Sampler(denoiser, plan, batch_size, **options)
    x = sampler.run(wanted, class_labels)
    return decoded(pipe, x, batch_size) if decode else x


def parameterization_of(pipe: Any) -> Parameterization:
    """Return what the pipeline's network predicts, and at which levels, by its scheduler's config.

    Raises:
        ConfigError: the config is of a model of another kind, or asks for levels that are not supported.
    """
    wrapper = _network(pipe)[1]
    if wrapper.flow:
        refuse_other_kinds(pipe.scheduler.config, FlowMatchRestartScheduler, "flow")
        return flow(1.0 if wrapper.told_t else float(pipe.scheduler.config.num_train_timesteps))
    scheduler = RestartScheduler.from_config(pipe.scheduler.config, restart=None)
    scheduler.refuse_other_models()
    return scheduler.parameterization


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor, batch_size: int = 8) -> Tensor:
    """Return images float32 [n, 3, H, W] in [0, 1] of latents [n, C, H, W], decoded by the pipeline's VAE.

    Without a VAE the latents are the images, in [−1, 1].
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return (latents / 2 + 0.5).clamp(0, 1)
    return Decoder(vae, batch_size=max(batch_size, 1))(latents)


def _network(pipe: Any) -> tuple[Any, type[PipelineNetwork]]:
    """Return the network of a pipeline, and the class that runs it here. Raises BackendError if there is none."""
    net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    wrapper = NETWORKS.get(type(net).__name__)
    if wrapper is None:
        raise BackendError(
            f"{type(pipe).__name__} has a {type(net).__name__}, and only {', '.join(NETWORKS)} run here; {IN_PLACE}"
        )
    return net, wrapper


def _shape(
    pipe: Any, net: Any, wrapper: type[PipelineNetwork], height: int | None, width: int | None
) -> tuple[int, int, int]:
    """Return (C, H, W) of the latents."""
    factor = int(getattr(pipe, "vae_scale_factor", 0) or 0)
    vae = getattr(pipe, "vae", None)
    if not factor and vae is not None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
    factor = factor or 1
    packed = wrapper.patch > 1
    size = getattr(pipe, "default_sample_size", 128) if packed else net.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    channels = net.config.in_channels // wrapper.patch**2
    multiple = factor * wrapper.patch
    result = []
    for name, asked, own in (("height", height, sides[0]), ("width", width, sides[1])):
        if asked is not None and (asked < multiple or asked % multiple):
            raise ConfigError(f"{name} must be a multiple of {multiple}, got {asked}")
        result.append(own if asked is None else asked // factor)
    return channels, result[0], result[1]


__all__ = ["decoded", "denoiser_of", "draw", "parameterization_of"]
