r"""The fast path: a pipeline's network inside `rs.Sampler`, its encoders and decoder around it.

    images = draw(pipe, prompt="a red fox", plan=plan, seeds=range(4), guidance_scale=7.5)     # float32 [4, 3, H, W] in [0, 1]

Unlike a scheduler in the pipeline's loop, this is the engine: the fused step, guidance mixed inside it, noise that
depends on the seed alone, and on a GPU a compiled network in a captured graph. What it runs, and what not, is in the
table of `network`; not supported are CPU offload, IP-Adapters, ControlNets, guidance rescale, LCM-style networks and
in-painting networks, and one negative prompt serves all prompts. For those, put RestartScheduler into the pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...common.errors import BackendError, ConfigError
from ...models.denoiser import Denoiser
from ...models.parameterization import Parameterization, flow
from ...plan.plan import Plan
from ...sampler.inputs import check_plan
from ...sampler.noise import seed_tensor
from ...sampler.sampler import Sampler
from .conditioning import Conditioning, conditioning_of
from .keys import refuse_other_kinds
from .network import ClassTransformer, PackedTransformer, TextTransformer, TextUNet, Unconditional

NETWORKS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)
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
    """The denoiser of a diffusers pipeline, with its network shared, not copied.

    Args:
        pipe: a StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, DiT or DDPM pipeline, or one with the same
            parts.
        height, width: of the images, in pixels; default: the network's sample size.
        distilled_guidance: Flux's own guidance_scale.
        **conditioning: for text models: prompt or prompt_embeds [P, S, D] (and pooled_prompt_embeds [P, E]),
        negative_prompt or
            negative_prompt_embeds, guided=False for a network without guidance. Class p of the denoiser is prompt p.

    Raises:
        RestartError: a pipeline, or a part of it, that this does not run.
    """
    unknown = sorted(set(conditioning) - set(_CONDITIONING))
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r}; known are height, width and {', '.join(_CONDITIONING)}")
    net = _network(pipe)
    kind = type(net).__name__
    if any(hasattr(module, "_hf_hook") for module in net.modules()):
        raise BackendError("the pipeline offloads its network; move it to one device with pipe.to(device) instead")
    text = kind not in ("UNet2DModel", "DiTTransformer2DModel")
    if not text and conditioning:
        raise ConfigError(f"{type(pipe).__name__} takes no text; leave out {', '.join(sorted(conditioning))}")
    shape = _shape(pipe, net, kind, height, width)
    known: Conditioning | None = None
    if text:
        if kind == "FluxTransformer2DModel":
            conditioning = {"guided": False, **conditioning}
        known = conditioning_of(pipe, like=next(net.parameters()), **conditioning)
    network, label_dim = _wrapped(pipe, net, kind, shape, known, distilled_guidance)
    info = {"pipeline": type(pipe).__name__, "network": kind}
    return Denoiser(network, parameterization_of(pipe), shape, label_dim, name=type(pipe).__name__, info=info)


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
    """Images float32 [n, 3, H, W] in [0, 1] on the pipeline's device, image i from seeds[i] alone.

    Args:
        prompt: one text for all seeds, or one for each; or embeddings in `conditioning`, see :func:`denoiser_of`.
        plan: what runs; `rs.preset("sd15-w8")` and the like, or a plan of your own.
        guidance_scale: replaces the plan's w (1 is off). For Flux it is the distilled guidance.
        class_labels: for DiT, one or one per seed; default: drawn from the seed.
        decode: False gives the latents.
        sampler_options: of `rs.Sampler`: backend, graph, compile, dtype (default: the network's own).
    """
    check_plan(plan)
    if prompt is not None:
        conditioning["prompt"] = prompt
    kind = type(_network(pipe)).__name__
    if kind == "FluxTransformer2DModel":
        if guidance_scale is not None:
            conditioning["distilled_guidance"] = guidance_scale
    else:
        if guidance_scale is not None and guidance_scale != plan.config.guidance_scale:
            plan = Plan.build(**{**plan.config.to_dict(), "guidance_scale": float(guidance_scale)})
        if kind not in ("UNet2DModel", "DiTTransformer2DModel"):
            conditioning.setdefault("guided", plan.config.guided)
    denoiser = denoiser_of(pipe, height=height, width=width, **conditioning)
    wanted = seed_tensor(seeds)
    if class_labels is None and isinstance(denoiser.network, (TextUNet, TextTransformer, PackedTransformer)):
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
    """What the pipeline's network predicts, and at which levels, by its scheduler's config."""
    kind = type(_network(pipe)).__name__
    if kind in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        from .flow import FlowMatchRestartScheduler

        refuse_other_kinds(pipe.scheduler.config, FlowMatchRestartScheduler, "flow")
        return flow(1.0 if kind == "FluxTransformer2DModel" else float(pipe.scheduler.config.num_train_timesteps))
    from .scheduler import RestartScheduler

    scheduler = RestartScheduler.from_config(pipe.scheduler.config, restart=None)
    scheduler.refuse_other_models()
    return scheduler.parameterization


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor, batch_size: int = 8) -> Tensor:
    """Images float32 [n, 3, H, W] in [0, 1] of latents [n, C, H, W], by the pipeline's VAE; pixels for a pipeline
    without one.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return (latents / 2 + 0.5).clamp(0, 1)
    c = vae.config
    mean, std = c.get("latents_mean"), c.get("latents_std")
    if mean is not None and std is not None:
        mean, std = (torch.tensor(v, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1) for v in (mean, std))
        latents = latents * std / c.scaling_factor + mean
    else:
        latents = latents / c.scaling_factor + (c.get("shift_factor") or 0.0)
    kept = vae.dtype
    upcast = kept == torch.float16 and bool(c.get("force_upcast"))  # SDXL's decoder overflows in float16
    if upcast:
        vae.to(torch.float32)
    try:
        parts = [vae.decode(z.to(vae.dtype), return_dict=False)[0].float() for z in latents.split(max(batch_size, 1))]
    finally:
        if upcast:
            vae.to(kept)
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def _network(pipe: Any) -> nn.Module:
    net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if type(net).__name__ not in NETWORKS:
        raise BackendError(
            f"{type(pipe).__name__} has a {type(net).__name__}, and only {', '.join(NETWORKS)} run here; "
            "put RestartScheduler into the pipeline instead"
        )
    assert isinstance(net, nn.Module)
    return net


def _shape(pipe: Any, net: Any, kind: str, height: int | None, width: int | None) -> tuple[int, int, int]:
    """(C, H, W) of the latents."""
    factor = int(getattr(pipe, "vae_scale_factor", 0) or 0)
    vae = getattr(pipe, "vae", None)
    if not factor and vae is not None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
    factor = factor or 1
    size = net.config.sample_size if kind != "FluxTransformer2DModel" else getattr(pipe, "default_sample_size", 128)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    channels = net.config.in_channels // (4 if kind == "FluxTransformer2DModel" else 1)
    multiple = factor * (2 if kind == "FluxTransformer2DModel" else 1)
    result = []
    for name, asked, own in (("height", height, sides[0]), ("width", width, sides[1])):
        if asked is not None and (asked < multiple or asked % multiple):
            raise ConfigError(f"{name} must be a multiple of {multiple}, got {asked}")
        result.append(own if asked is None else asked // factor)
    return channels, result[0], result[1]


def _wrapped(
    pipe: Any, net: Any, kind: str, shape: tuple[int, int, int], known: Conditioning | None, distilled: float
) -> tuple[nn.Module, int]:
    """(F, label_dim)."""
    c = net.config
    if kind == "UNet2DModel":
        if c.get("class_embed_type") or c.get("num_class_embeds"):
            raise BackendError(
                "a UNet2DModel with classes does not run here; put RestartScheduler into the pipeline instead"
            )
        return Unconditional(net), 0
    if kind == "DiTTransformer2DModel":
        classes = int(c.num_embeds_ada_norm)
        return ClassTransformer(net, classes, shape[0]), classes
    assert known is not None
    if kind in ("SD3Transformer2DModel", "FluxTransformer2DModel") and known.pooled is None:
        raise ConfigError(f"{type(pipe).__name__} needs pooled_prompt_embeds besides prompt_embeds")
    if kind == "SD3Transformer2DModel":
        assert known.pooled is not None
        return TextTransformer(net, known.embeds, known.pooled), known.prompts
    if kind == "FluxTransformer2DModel":
        if known.guided:
            raise BackendError("Flux is guided by its distilled guidance only here; true_cfg_scale is not supported")
        assert known.pooled is not None
        guidance = distilled if c.guidance_embeds else None
        return PackedTransformer(net, known.embeds, known.pooled, shape[1], shape[2], guidance), known.prompts
    _check_unet(c)
    if c.addition_embed_type is None:
        return TextUNet(net, known.embeds), known.prompts
    if known.pooled is None:
        raise ConfigError(f"{type(pipe).__name__} needs pooled_prompt_embeds besides prompt_embeds")
    factor = pipe.vae_scale_factor
    size = (shape[1] * factor, shape[2] * factor)
    ids = torch.tensor([[*size, 0, 0, *size]]).to(known.embeds)  # original size, crop, target size
    return TextUNet(net, known.embeds, known.pooled, ids), known.prompts


def _check_unet(c: Any) -> None:
    for wrong, what in (
        (c.in_channels != c.out_channels, f"{c.in_channels} input and {c.out_channels} output channels (in-painting)"),
        (c.get("time_cond_proj_dim") is not None, "an embedding of the guidance scale (LCM)"),
        (c.get("class_embed_type") is not None, "class embeddings"),
        (c.get("encoder_hid_dim_type") is not None, "image prompts (IP-Adapter)"),
        (
            c.get("addition_embed_type") not in (None, "text_time"),
            f"addition_embed_type {c.get('addition_embed_type')!r}",
        ),
    ):
        if wrong:
            raise BackendError(f"a U-Net with {what} does not run here; put RestartScheduler into the pipeline instead")


__all__ = ["decoded", "denoiser_of", "draw", "parameterization_of"]
