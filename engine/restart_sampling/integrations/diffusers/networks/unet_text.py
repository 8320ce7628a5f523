"""UNet2DConditionModel: Stable Diffusion 1 and 2 (arXiv 2112.10752) and SDXL (arXiv 2307.01952).

F as it is predicted; told the timestep, prompt_embeds [S, D], and for SDXL pooled_prompt_embeds [E] and time_ids [6].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....common.errors import BackendError
from ....models.conditions import SAME, Condition
from ..network import IN_PLACE, Conditions, PipelineNetwork, Shape


class TextUNet(PipelineNetwork):
    """UNet2DConditionModel.

    time_ids are the original size, the crop and the target size, by default those of the image; both halves of guidance
    have them alike, as in the pipeline.
    """

    runs = "UNet2DConditionModel"
    text = ("prompt_embeds", "pooled_prompt_embeds")
    encoded = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        _check(net.config)
        if net.config.addition_embed_type is None:
            return cls(net), {"prompt_embeds": known["prompt_embeds"]}
        size = [side * pipe.vae_scale_factor for side in shape[1:]]
        ids = torch.tensor([*size, 0.0, 0.0, *size])
        return cls(net), cls.told(pipe, known) | {"time_ids": Condition((6,), null=SAME, default=ids)}

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


def _check(c: Any) -> None:
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


NETWORK = TextUNet
