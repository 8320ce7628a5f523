r"""ZImageTransformer2DModel: Z-Image (arXiv 2511.22699).

F = x₀ − ε; told 1 − t and prompt_embeds [S, D] of Qwen3 with prompt_embeds_mask [S]. The pipeline's guidance scale g is
w − 1: F_c + g·(F_c − F_u).

The network's own forward takes lists and lays each sample out after the length of its prompt. Here the same layers run
on one layout, [image, text], in which a mask leaves out what is behind a prompt. Prompts and images are filled with the
network's own padding tokens up to a multiple of 32, which take part; so for a prompt of n tokens, m = 32·⌈n/32⌉, text
token j has the position (1 + j, 0, 0) for j < m, and the patch in row y and column x has (m + 1, y, x).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ....common.errors import BackendError
from ..network import IN_PLACE_FLOW, Conditions, PipelineNetwork, Shape, with_negative
from ..positions import Positions, behind

MULTIPLE = 32  # tokens of a prompt, and of an image
KEY = "2-1"  # the layers of patches of 2 × 2 pixels and 1 frame


class ZImage(PipelineNetwork):
    """ZImageTransformer2DModel."""

    runs = "ZImageTransformer2DModel"
    text = ("prompt_embeds", "prompt_embeds_mask")
    encoded = with_negative("prompt_embeds")
    mask = "prompt_embeds_mask"
    length_multiple = MULTIPLE
    flow = to_one_nth = True
    sign = -1
    patch = 2
    guidance_offset = 1.0

    first: Tensor
    of_text: Tensor
    of_patches: Tensor
    of_padding: Tensor

    def __init__(self, net: Any, shape: Shape, tokens: int, device: torch.device) -> None:
        super().__init__(net)
        self.rows, self.columns = shape[1] // 2, shape[2] // 2
        self.padding = -self.rows * self.columns % MULTIPLE
        rope = net.rope_embedder
        parts = rope.precompute_freqs_cis(rope.axes_dims, rope.axes_lens, theta=rope.theta)
        found = Positions.of([part.to(device) for part in parts], self.rows, self.columns, tokens, before=1)
        self.register_buffer("first", found.first, persistent=False)
        self.register_buffer("of_text", found.text(tokens, before=1), persistent=False)
        self.register_buffer("of_patches", found.patches, persistent=False)
        self.register_buffer("of_padding", found.text(1).expand(self.padding, -1), persistent=False)

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        if KEY not in net.all_x_embedder or net.siglip_embedder is not None:
            raise BackendError(f"a Z-Image network of other patches, or that edits, does not run here; {IN_PLACE_FLOW}")
        told = cls.told(pipe, known)
        return cls(net, shape, told["prompt_embeds"].shape[0], next(net.parameters()).device), told

    @classmethod
    def as_read(cls, pipe: Any, prompt: str) -> tuple[str, int]:
        message, options = {"role": "user", "content": prompt}, {"add_generation_prompt": True, "enable_thinking": True}
        before, _, _ = str(pipe.tokenizer.apply_chat_template([message], tokenize=False, **options)).rpartition(prompt)
        return before + prompt, 0

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        return 1 - t

    @classmethod
    def size(cls, pipe: Any, net: Any) -> tuple[int, int]:
        side = 1024 // int(pipe.vae_scale_factor)
        return side, side

    def forward(
        self,
        net_in: Tensor,
        c_noise: Tensor,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor,
        prompt_embeds_mask: Tensor,
    ) -> Tensor:
        net, (B, C) = self.net, net_in.shape[:2]
        rows, columns, L = self.rows, self.columns, self.rows * self.columns
        time = net.t_embedder(c_noise.expand(B) * net.t_scale).type_as(net_in)
        given = prompt_embeds_mask.bool()
        length = (given.sum(dim=1) + MULTIPLE - 1) // MULTIPLE * MULTIPLE
        real = torch.arange(given.shape[1], device=given.device) < length[:, None]

        patches = net_in.reshape(B, C, rows, 2, columns, 2).permute(0, 2, 4, 3, 5, 1).reshape(B, L, 4 * C)
        image = net.all_x_embedder[KEY](patches)
        image = torch.cat([image, net.x_pad_token.expand(B, self.padding, -1).to(image.dtype)], dim=1)
        of_image = behind(self.first, self.of_patches, length + 1)
        of_image = torch.cat([of_image, self.of_padding.expand(B, -1, -1)], dim=1)
        for layer in net.noise_refiner:
            image = layer(image, None, of_image, time)

        text = net.cap_embedder(prompt_embeds.to(net_in.dtype))
        text = torch.where(given[..., None], text, net.cap_pad_token.to(text.dtype))
        of_text = self.of_text.expand(B, -1, -1)
        for layer in net.context_refiner:
            text = layer(text, real, of_text)

        both, of_both = torch.cat([image, text], dim=1), torch.cat([of_image, of_text], dim=1)
        keys = pad(real, (image.shape[1], 0), value=True)
        for layer in net.layers:
            both = layer(both, keys, of_both, time)
        found = net.all_final_layer[KEY](both, c=time)[:, :L].reshape(B, rows, columns, 2, 2, C)
        return found.permute(0, 5, 1, 3, 2, 4).reshape(B, C, 2 * rows, 2 * columns)


NETWORK = ZImage
