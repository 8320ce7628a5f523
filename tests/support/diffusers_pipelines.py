"""Tiny diffusers pipelines with random weights, made in a second: real classes, nothing downloaded."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

SD_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
TOKENS, WIDTH, POOLED = 5, 16, 16


def unet(**options) -> UNet2DConditionModel:
    torch.manual_seed(0)
    settings = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    return UNet2DConditionModel(**{**settings, **options}).eval()


def vae(shift_factor: float | None = None, **options) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=shift_factor,
        **options,
    ).eval()


def _quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(cls=None, **unet_options):
    from diffusers import StableDiffusionPipeline

    return _quiet(
        (cls or StableDiffusionPipeline)(
            vae=vae(),
            text_encoder=None,
            tokenizer=None,
            unet=unet(**unet_options),
            safety_checker=None,
            scheduler=DDIMScheduler(clip_sample=False, **SD_BETAS),
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl():
    from diffusers import StableDiffusionXLPipeline

    sizes = dict(addition_embed_type="text_time", addition_time_embed_dim=4)
    scale = dict(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[0.5, 1.0, 2.0, 3.0])
    net = unet(projection_class_embeddings_input_dim=6 * 4 + POOLED, **sizes)
    return _quiet(
        StableDiffusionXLPipeline(
            vae=vae(**scale),
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=net,
            scheduler=DDIMScheduler(clip_sample=False, **SD_BETAS),
            add_watermarker=False,
        )
    )


def dit():
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    ).eval()
    return _quiet(DiTPipeline(transformer=net, vae=vae(), scheduler=DDPMScheduler()))


def ddpm():
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    return _quiet(DDPMPipeline(unet=net, scheduler=DDPMScheduler()))


def stable_diffusion_3(cls=None):
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    net = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()
    return _quiet(
        (cls or StableDiffusion3Pipeline)(
            transformer=net,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(0.1),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def flux():
    from diffusers import FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    net = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    ).eval()
    return _quiet(
        FluxPipeline(
            transformer=net,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=vae(0.1),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
        )
    )


def embeddings(n: int, *, pooled: bool = False) -> dict:
    """prompt and negative prompt embeddings of n samples; the negative ones all alike."""
    g = torch.Generator().manual_seed(7)
    found = {
        "prompt_embeds": torch.randn(n, TOKENS, WIDTH, generator=g),
        "negative_prompt_embeds": torch.randn(1, TOKENS, WIDTH, generator=g).expand(n, -1, -1),
    }
    if pooled:
        found["pooled_prompt_embeds"] = torch.randn(n, POOLED, generator=g)
        found["negative_pooled_prompt_embeds"] = torch.randn(1, POOLED, generator=g).expand(n, -1)
    return found


def counted(net: torch.nn.Module) -> list[int]:
    """Grows by the batch size at every call of the network."""
    calls: list[int] = []

    def hook(module, args, kwargs):
        calls.append(len(args[0]) if args else len(kwargs["hidden_states"]))

    net.register_forward_pre_hook(hook, with_kwargs=True)
    return calls
