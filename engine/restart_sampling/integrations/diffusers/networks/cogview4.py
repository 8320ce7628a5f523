"""CogView4Transformer2DModel: CogView4.

F = ε − x₀; told prompt_embeds [S, D] of GLM, the original and the target size [2] and the crop [2], and for the time
the timestep before the shift: 1000·v where t = s·v/(1 + (s − 1)v).

In the pipeline a prompt has as many tokens as the longest of its batch, rounded up to 16, and no mask, so an image
depends on its neighbours. Here a prompt has the tokens that it has alone, and prompt_embeds_mask [S] leaves out what
fills it up to the common length. (The network's own processor adds its mask to the logits as 0 or 1, which leaves out
nothing, so the attention has another processor here, in modules of its own that share the network's weights.)
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ....models.conditions import SAME, Condition
from ..network import Conditions, PipelineNetwork, Shape, root, with_negative


class CogView4(PipelineNetwork):
    """CogView4Transformer2DModel; both halves of guidance have the sizes alike, as in the pipeline."""

    runs = "CogView4Transformer2DModel"
    text = ("prompt_embeds", "prompt_embeds_mask")
    encoded = with_negative("prompt_embeds")
    mask = "prompt_embeds_mask"
    length_multiple = 16
    flow = True

    def __init__(self, net: nn.Module, shape: Shape, like: Tensor) -> None:
        tensors = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
        super().__init__(copy.deepcopy(net, tensors))  # other modules, the same tensors
        for module in self.net.modules():
            if hasattr(module, "processor") and hasattr(module, "to_q"):
                module.processor = MaskedAttention()
        self.angles = Angles(*(part.to(like.device) for part in self.net.rope(torch.empty(1, *shape))))

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        size = torch.tensor([float(side * pipe.vae_scale_factor) for side in shape[1:]])
        sizes = {"original_size": size, "target_size": size, "crop_coords": torch.zeros(2)}
        told = {name: Condition((2,), null=SAME, default=value) for name, value in sizes.items()}
        return cls(net, shape, next(net.parameters())), cls.told(pipe, known) | told

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return T * t / (shift - (shift - 1) * t)

    @classmethod
    def multiple(cls, net: Any) -> int:
        return int(net.config.patch_size)

    @classmethod
    def shift_parameter(cls, config: Any, net: Any, shape: Shape) -> float:
        return root(config, shape[1] * shape[2] // int(net.config.patch_size) ** 2)

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        prompt_embeds_mask: Tensor,
        original_size: Tensor,
        target_size: Tensor,
        crop_coords: Tensor,
    ) -> Tensor:
        return self.net(
            hidden_states=net_in,
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            timestep=c_noise.expand(len(net_in)),
            original_size=original_size.to(net_in.dtype),
            target_size=target_size.to(net_in.dtype),
            crop_coords=crop_coords.to(net_in.dtype),
            attention_mask=prompt_embeds_mask,
            image_rotary_emb=(self.angles.cos, self.angles.sin),
            return_dict=False,
        )[0]


class Angles(nn.Module):
    """The cosines and sines [L, d] by which patches are turned, float32 in every precision."""

    keeps_float32 = True

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)


class MaskedAttention:
    """Attention of text and image together, in which text that is padding is no key.

    Args of the call: hidden_states [B, L, D] of the image, encoder_hidden_states [B, S, D] of the text, attention_mask
    [B, S] of the text, image_rotary_emb (cos, sin) [L, d] of the image. Returns the two.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        S, dtype = encoder_hidden_states.shape[1], encoder_hidden_states.dtype
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            to(both).unflatten(2, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        query = query if attn.norm_q is None else attn.norm_q(query).to(dtype)
        key = key if attn.norm_k is None else attn.norm_k(key).to(dtype)
        query, key = (torch.cat([x[:, :, :S], _turned(x[:, :, S:], *image_rotary_emb)], dim=2) for x in (query, key))
        real = torch.cat([attention_mask.bool(), attention_mask.new_ones(hidden_states.shape[:2]).bool()], dim=1)
        found = scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None])
        found = found.transpose(1, 2).flatten(2, 3).type_as(query)
        for layer in attn.to_out:
            found = layer(found)
        return found[:, S:], found[:, :S]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x [B, heads, L, d] with each pair (x_i, x_{i + d/2}) turned by its angle; cos and sin are [L, d]."""
    a, b = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)


NETWORK = CogView4
