"""Tiny text-to-image pipelines with random weights, text encoders and tokenizers among them: real classes throughout.

Each is a `Case`: the pipeline with a flow or plain Euler scheduler, how it is called so that it does what the engine
does, and how its latents are laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKLQwenImage, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .diffusers_pipelines import _quiet, vae

TEXT = "a an the fox two red hares on hill in fog of and with image prompt small large under sky"
WORDS = ["[PAD]", "[UNK]", "[END]", *TEXT.split()]
PROMPTS = ["a fox", "two red hares on a hill in the fog under a large red sky and " + "a small fox with two hares " * 4]
NEGATIVE = "the fog"
LENGTH = 64  # of prompts, where a pipeline lets one choose
CHANNELS, SIDE = 4, 8


@dataclass
class Case:
    """A pipeline, and how to call it.

    Attributes:
        pipe: of diffusers.
        pixels: H and W of images whose latents are 8 × 8.
        call: further arguments of its call.
        guide: w → the arguments of its call that guide it so.
        pack, unpack: latents [n, 4, 8, 8] ↔ as its call takes and returns them.
        length: max_sequence_length as the denoiser takes it.
    """

    pipe: Any
    pixels: int
    call: dict[str, Any] = field(default_factory=dict)
    guide: Callable[[float], dict[str, Any]] = lambda w: {"guidance_scale": w, "negative_prompt": NEGATIVE}
    pack: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    unpack: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    length: int | None = LENGTH

    @property
    def size(self) -> dict[str, int]:
        return {"height": self.pixels, "width": self.pixels}

    @property
    def told(self) -> dict[str, Any]:
        """Arguments of `denoiser_of` and `rs.load` besides prompts."""
        return self.size | ({} if self.length is None else {"max_sequence_length": self.length})


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the words above, with an end token."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[END]",
        padding_side="right",
        chat_template="{% for m in messages %}{{ m['content'] }} the prompt{% endfor %}",
        **options,
    )


def _seeded(make: Callable[..., torch.nn.Module], *args: Any, seed: int = 0, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return make(*args, **options).eval()


def _t5() -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    return _seeded(
        T5EncoderModel, T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=4)
    )


def _gemma() -> torch.nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    sizes = dict(head_dim=8, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2)
    return _seeded(Gemma2Model, Gemma2Config(**sizes, num_hidden_layers=2, vocab_size=len(WORDS), pad_token_id=0))


def _pixart(kind: str, sample_size: int) -> Case:
    import diffusers

    net = _seeded(
        diffusers.PixArtTransformer2DModel,
        sample_size=sample_size,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=CHANNELS,
        cross_attention_dim=24,
        out_channels=2 * CHANNELS,
    )
    pipe = getattr(diffusers, kind)(
        tokenizer=tokenizer(),
        text_encoder=_t5(),
        vae=vae(),
        transformer=net,
        scheduler=EulerDiscreteScheduler(beta_start=0.0001, beta_end=0.02, timestep_spacing="linspace"),
    )
    call = dict(use_resolution_binning=False, clean_caption=False, max_sequence_length=LENGTH)
    return Case(pipe, 2 * SIDE, call)


def pixart_sigma() -> Case:
    return _pixart("PixArtSigmaPipeline", 32)


def pixart_alpha() -> Case:
    """At 1024 pixels the network is told sizes; here it draws a smaller image."""
    return _pixart("PixArtAlphaPipeline", 128)


def sana() -> Case:
    from diffusers import SanaPipeline, SanaTransformer2DModel

    net = _seeded(
        SanaTransformer2DModel,
        patch_size=1,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
        timestep_scale=0.5,
    )
    decoder = _seeded(
        AutoencoderDC,
        seed=1,
        latent_channels=CHANNELS,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 3,
        decoder_block_types=("ResBlock",) * 3,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41,
    )
    pipe = SanaPipeline(
        tokenizer=tokenizer(),
        text_encoder=_gemma(),
        vae=decoder,
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return Case(pipe, 4 * SIDE, dict(use_resolution_binning=False, max_sequence_length=LENGTH))


def auraflow() -> Case:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    net = _seeded(
        AuraFlowTransformer2DModel,
        sample_size=32,
        in_channels=CHANNELS,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pos_embed_max_size=256,
    )
    encoder = UMT5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=4)
    pipe = AuraFlowPipeline(
        tokenizer=tokenizer(),
        text_encoder=_seeded(UMT5EncoderModel, encoder),
        vae=vae(),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    return Case(pipe, 2 * SIDE, dict(max_sequence_length=LENGTH))


def cogview4() -> Case:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel
    from transformers import GlmConfig, GlmModel

    net = _seeded(
        CogView4Transformer2DModel,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
    )
    encoder = GlmConfig(
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        vocab_size=len(WORDS),
        pad_token_id=0,
    )
    pipe = CogView4Pipeline(
        tokenizer=tokenizer(),
        text_encoder=_seeded(GlmModel, encoder),
        vae=vae(),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )
    return Case(pipe, 2 * SIDE, dict(max_sequence_length=LENGTH))


def lumina2() -> Case:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    net = _seeded(
        Lumina2Transformer2DModel,
        sample_size=SIDE,
        in_channels=CHANNELS,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(80, 8, 8),
        cap_feat_dim=8,
    )
    pipe = Lumina2Pipeline(
        tokenizer=tokenizer(),
        text_encoder=_gemma(),
        vae=vae(0.1),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    return Case(pipe, 8 * SIDE, dict(max_sequence_length=LENGTH, cfg_normalization=False))


def qwen_image() -> Case:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    net = _seeded(
        QwenImageTransformer2DModel,
        in_channels=4 * CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    decoder = _seeded(
        AutoencoderKLQwenImage,
        seed=1,
        base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, 0.2, 0.3, 0.4],
        latents_std=[0.5, 1.0, 2.0, 3.0],
    )
    text = dict(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=len(WORDS),
        rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        rope_theta=1000000.0,
    )
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
    encoder = _seeded(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    pipe = QwenImagePipeline(
        tokenizer=tokenizer(), text_encoder=encoder, vae=decoder, transformer=net, scheduler=scheduler
    )
    return Case(
        pipe,
        2 * SIDE,
        dict(max_sequence_length=LENGTH),
        guide=lambda w: {"true_cfg_scale": w, "negative_prompt": NEGATIVE},
        pack=lambda x: pipe._pack_latents(x, len(x), CHANNELS, SIDE, SIDE),
        unpack=lambda rows: pipe._unpack_latents(rows, 2 * SIDE, 2 * SIDE, pipe.vae_scale_factor)[:, :, 0],
    )


def z_image() -> Case:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    net = _seeded(
        ZImageTransformer2DModel,
        in_channels=CHANNELS,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[128, 8, 8],
    )
    torch.nn.init.normal_(net.x_pad_token)
    torch.nn.init.normal_(net.cap_pad_token)
    encoder = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=len(WORDS),
    )
    pipe = ZImagePipeline(
        tokenizer=tokenizer(),
        text_encoder=_seeded(Qwen3Model, encoder),
        vae=vae(0.1),
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    return Case(
        pipe,
        2 * SIDE,
        dict(max_sequence_length=LENGTH),
        guide=lambda w: {"guidance_scale": w - 1, "negative_prompt": NEGATIVE},
    )


FAMILIES = {
    make.__name__: make for make in (pixart_sigma, pixart_alpha, sana, auraflow, cogview4, lumina2, qwen_image, z_image)
}


@cache
def case(name: str) -> Case:
    """The case of this name, made once; nothing may change it."""
    found = FAMILIES[name]()
    _quiet(found.pipe)
    return found
