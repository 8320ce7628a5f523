"""AuraFlowTransformer2DModel: AuraFlow.

F = ε − x₀; told t and prompt_embeds [256, D] of UMT5. The network takes no mask: the pipeline makes the embeddings of
padding zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..network import PipelineNetwork


class AuraFlow(PipelineNetwork):
    """AuraFlowTransformer2DModel."""

    runs = "AuraFlowTransformer2DModel"
    text = ("prompt_embeds",)
    encoded = ("prompt_embeds", "", "negative_prompt_embeds", "")
    flow = True

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return t

    @classmethod
    def multiple(cls, net: Any) -> int:
        return int(net.config.patch_size)

    def forward(
        self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, *, prompt_embeds: Tensor
    ) -> Tensor:
        return self.net(
            net_in,
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            timestep=c_noise.expand(len(net_in)).to(net_in.dtype),
            return_dict=False,
        )[0]


NETWORK = AuraFlow
