"""PixArtTransformer2DModel: PixArt-α (arXiv 2310.00426) and PixArt-Σ (arXiv 2403.04692).

F is the first half of the output's channels, the second is a learned variance; told the timestep, prompt_embeds [S, D]
of T5 with prompt_attention_mask [S], S = 120 for α and 300 for Σ. α at 1024 pixels is told the resolution [2] and the
aspect ratio [1] of the image besides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....models.conditions import SAME, Condition
from ..network import Conditions, PipelineNetwork, Shape, with_negative


class PixArt(PipelineNetwork):
    """PixArtTransformer2DModel; both halves of guidance have the sizes alike, as in the pipeline."""

    runs = "PixArtTransformer2DModel"
    text = ("prompt_embeds", "prompt_attention_mask")
    encoded = with_negative(*text)
    mask = "prompt_attention_mask"

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__(net)
        self.channels = channels

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        told = cls.told(pipe, known)
        if net.use_additional_conditions:
            height, width = (float(side * pipe.vae_scale_factor) for side in shape[1:])
            told["resolution"] = Condition((2,), null=SAME, default=torch.tensor([height, width]))
            told["aspect_ratio"] = Condition((1,), null=SAME, default=torch.tensor([height / width]))
        return cls(net, shape[0]), told

    @classmethod
    def multiple(cls, net: Any) -> int:
        return int(net.config.patch_size)

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        prompt_attention_mask: Tensor,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
    ) -> Tensor:
        sizes = {"resolution": resolution, "aspect_ratio": aspect_ratio}
        return self.net(
            net_in,
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            encoder_attention_mask=prompt_attention_mask,
            timestep=c_noise.expand(len(net_in)),
            added_cond_kwargs={name: None if size is None else size.to(net_in.dtype) for name, size in sizes.items()},
            return_dict=False,
        )[0][:, : self.channels]


NETWORK = PixArt
