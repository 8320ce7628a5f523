r"""CLIP score: the cosine between the embeddings of image and prompt, neither scaled nor cut off at 0.

So "Restart" measures text alignment (arXiv 2306.14878, section 5.2), with the ViT-g-14 of OpenCLIP; the original CLIP
score (arXiv 2104.08718) is 2.5·max(cos, 0). Values of different CLIP networks cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....common.errors import CheckpointError
from .base import Kind, Score


class ClipScore:
    """Scores by a CLIP network of transformers and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.tokens = int(model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        text = self.processor(
            text=list(prompts), padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        found = self.model(**text, pixel_values=self.pixels(images))
        return (found.image_embeds.double() * found.text_embeds.double()).sum(-1)

    def pixels(self, images: Tensor) -> Tensor:
        """Return images as the network takes them."""
        rows = list(images.permute(0, 2, 3, 1).numpy())
        pixels: Tensor = self.processor(images=rows, return_tensors="pt")["pixel_values"]
        return pixels


def open_clip(folder: Path) -> ClipScore:
    """Return the CLIP network in a folder, as `save_pretrained` of transformers writes it.

    Raises CheckpointError with the path.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = CLIPModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        return ClipScore(model, CLIPProcessor.from_pretrained(str(folder), local_files_only=True))
    except Exception as error:  # transformers and its tokenizers raise whatever a damaged file leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{folder}: transformers cannot load this CLIP network ({reason})") from error


def load(paths: Sequence[Path]) -> Score:
    """Return the scorer of a folder."""
    return open_clip(paths[0])


KIND = Kind(
    name="clip",
    title="cosine of the embeddings of image and prompt, as in arXiv 2306.14878",
    files=("the folder of a CLIP network of transformers",),
    load=load,
    needs="diffusers",
    modules=("transformers",),
)
