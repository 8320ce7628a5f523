r"""The networks of pipelines as F(net_in, c_noise, class_labels, **conditions), what `rs.Denoiser` runs.

Prompts are conditions: each sample has embeddings of its own, given by a run or picked by its class from the prompts
that the pipeline was loaded with, and the null of guidance is the negative prompt. The conditions are named as the
pipelines' arguments are. Nothing depends on the number of prompts, and a captured or compiled network needs nothing new
for another one.

| network | told | F |
|---|---|---|
| UNet2DModel | timestep | as predicted |
| UNet2DConditionModel | timestep, prompt_embeds; SDXL: pooled_prompt_embeds, time_ids | as predicted |
| DiTTransformer2DModel | timestep, class | the first half of the channels; the second is a learned variance |
| SD3Transformer2DModel | 1000·t, prompt_embeds and pooled_prompt_embeds | ε − x₀ |
| FluxTransformer2DModel | t, the same, positions, distilled guidance | ε − x₀, on 2 × 2 patches |
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...common.errors import BackendError, ConfigError
from ...models.conditions import SAME, Condition
from .conditioning import Conditioning

Shape = tuple[int, int, int]
Conditions = dict[str, Condition]
IN_PLACE = "put RestartScheduler into the pipeline instead"  # what to do with a network that does not run here


def _pooled(pipe: Any, known: Conditioning) -> Condition:
    if known.pooled is None:
        raise ConfigError(f"{type(pipe).__name__} needs pooled_prompt_embeds besides prompt_embeds")
    return known.pooled


class PipelineNetwork(nn.Module):
    """The network of a pipeline, shared with it; subclasses call it as it wants to be called.

    Attributes:
        takes_text: whether prompts condition it.
        flow: whether it is of a flow-matching model.
        told_t: whether a network of a flow-matching model is told t itself, not the model's timestep.
        patch: the side of the patches that the pipeline packs latents into.
        distilled: whether guidance is distilled into it, so that it has no negative prompt.
        label_dim: classes that the network itself is told.
    """

    takes_text: ClassVar[bool] = False
    flow: ClassVar[bool] = False
    told_t: ClassVar[bool] = False
    patch: ClassVar[int] = 1
    distilled: ClassVar[bool] = False
    label_dim: int = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[PipelineNetwork, Conditions]:
        """Return the network `net` of `pipe` for latents of `shape` (C, H, W), and the conditions that it is told.

        Args:
            known: the embeddings, a `Conditioning`; None for a network that takes no text.
            guidance: the guidance scale that a network into which guidance is distilled is told.

        Raises:
            BackendError: the network is of a kind that does not run here. ConfigError: embeddings are missing.
        """
        raise NotImplementedError


class Unconditional(PipelineNetwork):
    """UNet2DModel."""

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[Unconditional, Conditions]:
        if net.config.get("class_embed_type") or net.config.get("num_class_embeds"):
            raise BackendError(f"a UNet2DModel with classes does not run here; {IN_PLACE}")
        return cls(net), {}

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.net(net_in, c_noise.expand(len(net_in)), return_dict=False)[0]


class TextUNet(PipelineNetwork):
    """UNet2DConditionModel: prompt_embeds [S, D], for SDXL also pooled_prompt_embeds [E] and time_ids [6].

    time_ids are the original size, the crop and the target size, by default those of the image; both halves of guidance
    have them alike, as in the pipeline.
    """

    takes_text = True

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[TextUNet, Conditions]:
        _check_unet(net.config)
        told = {"prompt_embeds": known.embeds}
        if net.config.addition_embed_type is not None:
            size = [side * pipe.vae_scale_factor for side in shape[1:]]
            ids = torch.tensor([*size, 0.0, 0.0, *size])
            told |= {"pooled_prompt_embeds": _pooled(pipe, known), "time_ids": Condition((6,), null=SAME, default=ids)}
        return cls(net), told

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        added: dict[str, Any] | None = None
        if pooled_prompt_embeds is not None and time_ids is not None:
            added = {"text_embeds": pooled_prompt_embeds.to(net_in.dtype), "time_ids": time_ids.to(net_in.dtype)}
        return self.net(
            net_in,
            c_noise.expand(len(net_in)),
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


def _check_unet(c: Any) -> None:
    """Raise BackendError for a U-Net that is told more than text and sizes."""
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
            raise BackendError(f"a U-Net with {what} does not run here; {IN_PLACE}")


class ClassTransformer(PipelineNetwork):
    """DiTTransformer2DModel; the class after the last one is the empty one of guidance, told by a row of zeros."""

    def __init__(self, net: nn.Module, classes: int, channels: int) -> None:
        super().__init__(net)
        self.label_dim = self.classes = classes
        self.channels = channels

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[ClassTransformer, Conditions]:
        return cls(net, int(net.config.num_embeds_ada_norm), shape[0]), {}

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor) -> Tensor:
        number = torch.where(class_labels.any(dim=1), class_labels.argmax(dim=1), self.classes)
        timestep = c_noise.expand(len(net_in))
        return self.net(net_in, timestep=timestep, class_labels=number, return_dict=False)[0][:, : self.channels]


class TextTransformer(PipelineNetwork):
    """SD3Transformer2DModel: prompt_embeds [S, D], pooled_prompt_embeds [E]."""

    takes_text = flow = True

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[TextTransformer, Conditions]:
        return cls(net), {"prompt_embeds": known.embeds, "pooled_prompt_embeds": _pooled(pipe, known)}

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
    ) -> Tensor:
        return self.net(
            hidden_states=net_in,
            timestep=c_noise.expand(len(net_in)),
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            pooled_projections=pooled_prompt_embeds.to(net_in.dtype),
            return_dict=False,
        )[0]


class PackedTransformer(PipelineNetwork):
    """FluxTransformer2DModel on latents [B, C, H, W], which it takes as [B, H/2·W/2, 4C].

    It is told prompt_embeds [S, D], pooled_prompt_embeds [E] and, if it knows one, its distilled guidance, a number.
    """

    takes_text = flow = told_t = distilled = True
    patch = 2

    def __init__(self, net: nn.Module, height: int, width: int, tokens: int, like: Tensor) -> None:
        super().__init__(net)
        self.height, self.width = height // 2, width // 2
        places = torch.zeros(self.height, self.width, 3, device=like.device)
        places[..., 1] += torch.arange(self.height, device=like.device)[:, None]
        places[..., 2] += torch.arange(self.width, device=like.device)
        self.register_buffer("img_ids", places.view(-1, 3).to(like.dtype), persistent=False)
        self.register_buffer("txt_ids", torch.zeros(tokens, 3).to(like), persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> tuple[PackedTransformer, Conditions]:
        told = {"prompt_embeds": known.embeds, "pooled_prompt_embeds": _pooled(pipe, known)}
        if known.guided:
            raise BackendError("Flux is guided by its distilled guidance only here; true_cfg_scale is not supported")
        if net.config.guidance_embeds:
            told["guidance"] = Condition((), null=SAME, default=float(guidance))
        return cls(net, shape[1], shape[2], known.embeds.shape[0], next(net.parameters())), told

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        n, C = net_in.shape[:2]
        h, w = self.height, self.width
        packed = net_in.view(n, C, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, 4 * C)
        F = self.net(
            hidden_states=packed,
            timestep=c_noise.expand(n).to(net_in.dtype),
            guidance=guidance,
            pooled_projections=pooled_prompt_embeds.to(net_in.dtype),
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            txt_ids=self.txt_ids,
            img_ids=self.img_ids,
            return_dict=False,
        )[0]
        return F.view(n, h, w, C, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, C, 2 * h, 2 * w)


NETWORKS: dict[str, type[PipelineNetwork]] = {
    "UNet2DModel": Unconditional,
    "UNet2DConditionModel": TextUNet,
    "DiTTransformer2DModel": ClassTransformer,
    "SD3Transformer2DModel": TextTransformer,
    "FluxTransformer2DModel": PackedTransformer,
}
