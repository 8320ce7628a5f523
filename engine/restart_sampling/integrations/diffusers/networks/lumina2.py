r"""Lumina2Transformer2DModel: Lumina-Image 2.0 (arXiv 2503.21758).

F = x₀ − ε; told 1 − t and prompt_embeds [256, D] of Gemma with prompt_attention_mask [256].

The network's own forward reads the lengths of the prompts on the host and lays each sample out after them. Here the
same layers run on one layout, [text, image], in which a mask leaves padding out; attention depends on the order of its
keys only through their positions, and these are the same: text token j has the position (j, 0, 0), the patch in row y
and column x has (n, y, x) for a prompt of n tokens. After guidance the pipeline scales the prediction, in each row of
the image, to the length of the conditional one (cfg_normalization), which is not done here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network import Conditions, PipelineNetwork, Shape, line, with_negative
from ..positions import Positions, behind


class Lumina2(PipelineNetwork):
    """Lumina2Transformer2DModel."""

    runs = "Lumina2Transformer2DModel"
    text = ("prompt_embeds", "prompt_attention_mask")
    encoded = with_negative(*text)
    mask = "prompt_attention_mask"
    flow = to_one_nth = True
    sign = -1

    first: Tensor
    of_text: Tensor
    of_patches: Tensor

    def __init__(self, net: Any, shape: Shape, tokens: int, device: torch.device) -> None:
        super().__init__(net)
        self.rows, self.columns = (side // net.config.patch_size for side in shape[1:])
        tables = [part.to(device, torch.complex64) for part in net.rope_embedder.freqs_cis]
        found = Positions.of(tables, self.rows, self.columns, tokens)
        self.register_buffer("first", found.first, persistent=False)
        self.register_buffer("of_text", found.text(tokens), persistent=False)
        self.register_buffer("of_patches", found.patches, persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        told = cls.told(pipe, known)
        return cls(net, shape, told["prompt_embeds"].shape[0], next(net.parameters()).device), told

    @classmethod
    def as_read(cls, pipe: Any, prompt: str) -> tuple[str, int]:
        return f"{pipe.system_prompt} <Prompt Start> {prompt}", 0

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return 1 - t

    @classmethod
    def multiple(cls, net: Any) -> int:
        return int(net.config.patch_size)

    @classmethod
    def shift_parameter(cls, config: Any, net: Any, shape: Shape) -> float:
        return line(config, shape[0])  # the pipeline takes the number of channels for that of tokens

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        prompt_attention_mask: Tensor,
    ) -> Tensor:
        net, B, p = self.net, len(net_in), self.net.config.patch_size
        rows, columns, L = self.rows, self.columns, self.rows * self.columns
        real = prompt_attention_mask.bool()
        time, text = net.time_caption_embed(net_in, c_noise.expand(B), prompt_embeds.to(net_in.dtype))
        of_image = behind(self.first, self.of_patches, real.sum(dim=1))
        of_text = self.of_text.expand(B, -1, -1)
        patches = net_in.reshape(B, -1, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(B, L, -1)
        image = net.x_embedder(patches)
        for layer in net.context_refiner:
            text = layer(text, real, of_text)
        for layer in net.noise_refiner:
            image = layer(image, None, of_image, time)
        both, of_both = torch.cat([text, image], dim=1), torch.cat([of_text, of_image], dim=1)
        keys = torch.cat([real, real.new_ones(B, L)], dim=1)
        for layer in net.layers:
            both = layer(both, keys, of_both, time)
        found = net.norm_out(both, time)[:, -L:].reshape(B, rows, columns, p, p, -1)
        return found.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, rows * p, columns * p)


NETWORK = Lumina2
