"""SanaTransformer2DModel: Sana (arXiv 2410.10629), latents of a deep-compression autoencoder.

F = ε − x₀, the first C of the output's channels; told 1000·t times the config's timestep_scale, prompt_embeds [300, D]
of Gemma with prompt_attention_mask [300]. The pipeline's "complex human instruction" stands before the prompt, and not
before the negative one.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import Tensor, nn

from ....common.errors import BackendError
from ..network import IN_PLACE_FLOW, Conditions, PipelineNetwork, Shape, with_negative


class Sana(PipelineNetwork):
    """SanaTransformer2DModel."""

    runs = "SanaTransformer2DModel"
    text = ("prompt_embeds", "prompt_attention_mask")
    encoded = with_negative(*text)
    mask = "prompt_attention_mask"
    flow = True

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__(net)
        self.channels = channels

    @classmethod
    def as_read(cls, pipe: Any, prompt: str) -> tuple[str, int]:
        lines = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
        before = "\n".join(lines or ())
        return before + prompt, len(pipe.tokenizer.encode(before)) - 2 if before else 0

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        if net.config.get("guidance_embeds"):
            raise BackendError(f"a Sana network that is told its guidance (Sprint) does not run here; {IN_PLACE_FLOW}")
        return cls(net, shape[0]), cls.told(pipe, known)

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return T * t * float(config.get("timestep_scale", 1.0))

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
    ) -> Tensor:
        return self.net(
            net_in,
            encoder_hidden_states=prompt_embeds.to(net_in.dtype),
            timestep=c_noise.expand(len(net_in)),
            encoder_attention_mask=prompt_attention_mask,
            return_dict=False,
        )[0][:, : self.channels]


NETWORK = Sana
