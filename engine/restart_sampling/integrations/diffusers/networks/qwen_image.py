"""QwenImageTransformer2DModel: Qwen-Image, on latents [B, C, H, W], which it takes as rows of 2 × 2 patches.

F = ε − x₀; told t and prompt_embeds [S, D] of Qwen2.5-VL with prompt_embeds_mask [S]. The pipeline gives no mask where
all tokens are real; here there is always one, which is the same, so that a prompt of any length runs in the same
shapes. Padding stands behind the prompt and has no part in anything. After guidance the pipeline scales the prediction
of each patch to the length of the conditional one, which is not done here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from ....common.errors import BackendError
from ..network import IN_PLACE_FLOW, Conditions, PipelineNetwork, Shape
from ..packing import packed, unpacked


class QwenImage(PipelineNetwork):
    """QwenImageTransformer2DModel."""

    runs = "QwenImageTransformer2DModel"
    text = ("prompt_embeds", "prompt_embeds_mask")
    encoded = ("prompt_embeds", "prompt_embeds_mask")
    mask = "prompt_embeds_mask"
    empty = " "  # what its authors give for none
    flow = to_one_nth = packs = True
    patch = 2
    guidance = "true_cfg_scale"

    def __init__(self, net: nn.Module, height: int, width: int) -> None:
        super().__init__(net)
        self.height, self.width = height // 2, width // 2

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        for key, what in (
            ("guidance_embeds", "is told its guidance"),
            ("zero_cond_t", "edits images"),
            ("use_additional_t_cond", "draws layers"),
            ("use_layer3d_rope", "draws layers"),
        ):
            if net.config.get(key):
                raise BackendError(f"a Qwen-Image network that {what} does not run here; {IN_PLACE_FLOW}")
        return cls(net, shape[1], shape[2]), cls.told(pipe, known)

    @classmethod
    def as_read(cls, pipe: Any, prompt: str) -> tuple[str, int]:
        before, _, _ = str(pipe.prompt_template_encode).partition("{}")
        return before + prompt, pipe.prompt_template_encode_start_idx + pipe.tokenizer.num_special_tokens_to_add()

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
        prompt_embeds_mask: Tensor,
    ) -> Tensor:
        F = self.net(
            hidden_states=packed(net_in),
            timestep=c_noise.expand(len(net_in)).to(net_in.dtype),
            encoder_hidden_states_mask=prompt_embeds_mask,
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            img_shapes=[[(1, self.height, self.width)]] * len(net_in),
            return_dict=False,
        )[0]
        return unpacked(F, self.height, self.width)


NETWORK = QwenImage
