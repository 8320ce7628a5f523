"""FluxTransformer2DModel: Flux.1, on latents [B, C, H, W], which it takes as rows of 2 × 2 patches.

F = ε − x₀; told t, prompt_embeds [S, D], pooled_prompt_embeds [E] and, if it knows one, its distilled guidance, a
number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....common.errors import BackendError
from ....models.conditions import SAME, Condition
from ..network import Conditions, PipelineNetwork, Shape
from ..packing import packed, unpacked


class PackedTransformer(PipelineNetwork):
    """FluxTransformer2DModel."""

    runs = "FluxTransformer2DModel"
    text = ("prompt_embeds", "pooled_prompt_embeds")
    encoded = ("prompt_embeds", "pooled_prompt_embeds")
    flow = distilled = to_one_nth = packs = True
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
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        told = cls.told(pipe, known)
        if told["prompt_embeds"].null is not None:
            raise BackendError("Flux is guided by its distilled guidance only here; true_cfg_scale is not supported")
        if net.config.guidance_embeds:
            told["guidance"] = Condition((), null=SAME, default=float(guidance))
        return cls(net, shape[1], shape[2], told["prompt_embeds"].shape[0], next(net.parameters())), told

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return t

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
        F = self.net(
            hidden_states=packed(net_in),
            timestep=c_noise.expand(len(net_in)).to(net_in.dtype),
            guidance=guidance,
            pooled_projections=pooled_prompt_embeds.to(net_in.dtype),
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            txt_ids=self.txt_ids,
            img_ids=self.img_ids,
            return_dict=False,
        )[0]
        return unpacked(F, self.height, self.width)


NETWORK = PackedTransformer
