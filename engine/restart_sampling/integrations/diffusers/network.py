r"""The networks of pipelines as F(net_in, c_noise, labels), what `rs.Denoiser` runs.

Conditioning goes by class label: a denoiser made for P prompts has P classes, class p being prompt p, and the label of
zeros, which the engine gives to the second half of a guided batch, is the negative prompt. The embeddings are a table
in the network, row 0 the negative prompt and row p + 1 prompt p, and a batch picks its rows by index. So conditioning
depends on the sample alone, not on its place in a batch, and a captured or compiled network needs nothing new for
another sample.

| network | told | F |
|---|---|---|
| UNet2DModel | timestep | as predicted |
| UNet2DConditionModel | timestep, text embeddings; SDXL: pooled embeddings, sizes | as predicted |
| DiTTransformer2DModel | timestep, class | the first half of the channels; the second is a learned variance |
| SD3Transformer2DModel | 1000·t, text and pooled embeddings | ε − x₀ |
| FluxTransformer2DModel | t, text and pooled embeddings, positions, distilled guidance | ε − x₀, on 2 × 2 patches |
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...common.errors import BackendError, ConfigError
from .conditioning import Conditioning

Shape = tuple[int, int, int]
IN_PLACE = "put RestartScheduler into the pipeline instead"  # what to do with a network that does not run here


def rows_of(labels: Tensor | None, batch: int, device: torch.device) -> Tensor:
    """Return int64 [batch], the rows of the embedding table: 0 for labels of zeros, p + 1 for the one-hot label p.

    Without labels there is one prompt: row 1.
    """
    if labels is None:
        return torch.ones(batch, dtype=torch.int64, device=device)
    numbers = torch.arange(1, labels.shape[1] + 1, device=labels.device, dtype=torch.float32)
    return (labels.to(torch.float32) * numbers).sum(dim=1).round().to(torch.int64)


def _pooled(pipe: Any, known: Conditioning) -> Tensor:
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
        label_dim: classes of the denoiser.
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
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> PipelineNetwork:
        """Return the network `net` of `pipe` for latents of `shape` (C, H, W).

        Args:
            known: the tables of embeddings, a `Conditioning`; None for a network that takes no text.
            guidance: the guidance scale that a network into which guidance is distilled is told.

        Raises:
            BackendError: the network is of a kind that does not run here. ConfigError: embeddings are missing.
        """
        raise NotImplementedError


class Unconditional(PipelineNetwork):
    """UNet2DModel."""

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> Unconditional:
        if net.config.get("class_embed_type") or net.config.get("num_class_embeds"):
            raise BackendError(f"a UNet2DModel with classes does not run here; {IN_PLACE}")
        return cls(net)

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.net(net_in, c_noise.expand(len(net_in)), return_dict=False)[0]


class TextUNet(PipelineNetwork):
    """UNet2DConditionModel; `embeds` [P + 1, S, D], for SDXL also `pooled` [P + 1, E] and `time_ids` [1, 6]."""

    takes_text = True
    embeds: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None

    def __init__(
        self, net: nn.Module, embeds: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None
    ) -> None:
        super().__init__(net)
        self.label_dim = len(embeds) - 1
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer("time_ids", time_ids, persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> TextUNet:
        _check_unet(net.config)
        if net.config.addition_embed_type is None:
            return cls(net, known.embeds)
        pooled = _pooled(pipe, known)
        factor = pipe.vae_scale_factor
        size = (shape[1] * factor, shape[2] * factor)
        ids = torch.tensor([[*size, 0, 0, *size]]).to(known.embeds)  # original size, crop, target size
        return cls(net, known.embeds, pooled, ids)

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        n = len(net_in)
        rows = rows_of(labels, n, net_in.device)
        added: dict[str, Any] | None = None
        if self.pooled is not None and self.time_ids is not None:
            added = {"text_embeds": self.pooled[rows], "time_ids": self.time_ids.expand(n, -1)}
        return self.net(
            net_in,
            c_noise.expand(n),
            encoder_hidden_states=self.embeds[rows],
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
    """DiTTransformer2DModel; the class after the last one is the empty one of guidance."""

    def __init__(self, net: nn.Module, classes: int, channels: int) -> None:
        super().__init__(net)
        self.label_dim = self.classes = classes
        self.channels = channels

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> ClassTransformer:
        return cls(net, int(net.config.num_embeds_ada_norm), shape[0])

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        n = len(net_in)
        rows = rows_of(labels, n, net_in.device)
        number = torch.where(rows > 0, rows - 1, self.classes)
        F = self.net(net_in, timestep=c_noise.expand(n), class_labels=number, return_dict=False)[0]
        return F[:, : self.channels]


class TextTransformer(PipelineNetwork):
    """SD3Transformer2DModel; `embeds` [P + 1, S, D], `pooled` [P + 1, E]."""

    takes_text = flow = True
    embeds: Tensor
    pooled: Tensor

    def __init__(self, net: nn.Module, embeds: Tensor, pooled: Tensor) -> None:
        super().__init__(net)
        self.label_dim = len(embeds) - 1
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> TextTransformer:
        return cls(net, known.embeds, _pooled(pipe, known))

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        n = len(net_in)
        rows = rows_of(labels, n, net_in.device)
        return self.net(
            hidden_states=net_in,
            timestep=c_noise.expand(n),
            encoder_hidden_states=self.embeds[rows],
            pooled_projections=self.pooled[rows],
            return_dict=False,
        )[0]


class PackedTransformer(PipelineNetwork):
    """FluxTransformer2DModel on latents [B, C, H, W], which it takes as [B, H/2·W/2, 4C].

    `guidance` is its distilled scale, None for a network without one.
    """

    takes_text = flow = told_t = distilled = True
    patch = 2
    embeds: Tensor
    pooled: Tensor
    guidance: Tensor | None

    def __init__(
        self, net: nn.Module, embeds: Tensor, pooled: Tensor, height: int, width: int, guidance: float | None
    ) -> None:
        super().__init__(net)
        self.label_dim = len(embeds) - 1
        self.height, self.width = height // 2, width // 2
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer(
            "guidance", None if guidance is None else torch.tensor([guidance], device=embeds.device), persistent=False
        )
        places = torch.zeros(self.height, self.width, 3, device=embeds.device)
        places[..., 1] += torch.arange(self.height, device=embeds.device)[:, None]
        places[..., 2] += torch.arange(self.width, device=embeds.device)
        self.register_buffer("img_ids", places.view(-1, 3).to(embeds.dtype), persistent=False)
        self.register_buffer("txt_ids", torch.zeros(embeds.shape[1], 3).to(embeds), persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Any, guidance: float) -> PackedTransformer:
        pooled = _pooled(pipe, known)
        if known.guided:
            raise BackendError("Flux is guided by its distilled guidance only here; true_cfg_scale is not supported")
        told = guidance if net.config.guidance_embeds else None
        return cls(net, known.embeds, pooled, shape[1], shape[2], told)

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        n, C = net_in.shape[:2]
        h, w = self.height, self.width
        rows = rows_of(labels, n, net_in.device)
        packed = net_in.view(n, C, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, 4 * C)
        guidance = None if self.guidance is None else self.guidance.expand(n)
        F = self.net(
            hidden_states=packed,
            timestep=c_noise.expand(n).to(net_in.dtype),
            guidance=guidance,
            pooled_projections=self.pooled[rows],
            encoder_hidden_states=self.embeds[rows],
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
