"""SD3Transformer2DModel: Stable Diffusion 3 (arXiv 2403.03206).

F = ε − x₀; told 1000·t, prompt_embeds [S, D] of three encoders and pooled_prompt_embeds [E].
"""

from __future__ import annotations

from torch import Tensor

from ..network import PipelineNetwork


class TextTransformer(PipelineNetwork):
    """SD3Transformer2DModel."""

    runs = "SD3Transformer2DModel"
    text = ("prompt_embeds", "pooled_prompt_embeds")
    encoded = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    flow = True

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


NETWORK = TextTransformer
