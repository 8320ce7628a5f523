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

from typing import Any

import torch
from torch import Tensor, nn


def rows_of(labels: Tensor | None, batch: int, device: torch.device) -> Tensor:
    """int64 [batch], the rows of the embedding table: 0 for labels of zeros, p + 1 for the one-hot label p.

    Without labels there is one prompt: row 1.
    """
    if labels is None:
        return torch.ones(batch, dtype=torch.int64, device=device)
    numbers = torch.arange(1, labels.shape[1] + 1, device=labels.device, dtype=torch.float32)
    return (labels.to(torch.float32) * numbers).sum(dim=1).round().to(torch.int64)


class Unconditional(nn.Module):
    """UNet2DModel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.net(net_in, c_noise.expand(len(net_in)), return_dict=False)[0]


class TextUNet(nn.Module):
    """UNet2DConditionModel; `embeds` [P + 1, S, D], for SDXL also `pooled` [P + 1, E] and `time_ids` [1, 6]."""

    embeds: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None

    def __init__(
        self, net: nn.Module, embeds: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer("time_ids", time_ids, persistent=False)

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


class ClassTransformer(nn.Module):
    """DiT; the class after the last one is the empty one of guidance."""

    def __init__(self, net: nn.Module, classes: int, channels: int) -> None:
        super().__init__()
        self.net, self.classes, self.channels = net, classes, channels

    def forward(self, net_in: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        n = len(net_in)
        rows = rows_of(labels, n, net_in.device)
        number = torch.where(rows > 0, rows - 1, self.classes)
        F = self.net(net_in, timestep=c_noise.expand(n), class_labels=number, return_dict=False)[0]
        return F[:, : self.channels]


class TextTransformer(nn.Module):
    """SD3Transformer2DModel; `embeds` [P + 1, S, D], `pooled` [P + 1, E]."""

    embeds: Tensor
    pooled: Tensor

    def __init__(self, net: nn.Module, embeds: Tensor, pooled: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)

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


class PackedTransformer(nn.Module):
    """FluxTransformer2DModel on latents [B, C, H, W], which it takes as [B, H/2·W/2, 4C]; `guidance` is its distilled
    scale.
    """

    embeds: Tensor
    pooled: Tensor
    guidance: Tensor | None

    def __init__(
        self, net: nn.Module, embeds: Tensor, pooled: Tensor, height: int, width: int, guidance: float | None
    ) -> None:
        super().__init__()
        self.net, self.height, self.width = net, height // 2, width // 2
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
