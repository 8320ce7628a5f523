r"""Aesthetic score: linear layers on the image embedding of CLIP ViT-L/14, trained on people's ratings from 1 to 10.

The layers are those of LAION's improved aesthetic predictor, `sac+logos+ava1-l14-linearMSE.pth`: 768 → 1024 → 128 → 64
→ 16 → 1 with nothing in between, on the embedding at unit length. "Restart" (arXiv 2306.14878, section 5.2) uses it.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ....common.errors import CheckpointError
from .base import Kind, Score
from .clip import ClipScore, open_clip

LAYER = re.compile(r"(?:.*\.)?(\d+)\.(weight|bias)")


class Aesthetic:
    """Scores images alone; prompts do not matter."""

    def __init__(self, clip: ClipScore, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.clip, self.layers = clip, layers

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        model = self.clip.model
        seen = model.vision_model(pixel_values=self.clip.pixels(images)).pooler_output
        x = F.normalize(model.visual_projection(seen), dim=-1)
        for weight, bias in self.layers:
            x = F.linear(x, weight, bias)
        return x[:, 0].double()


def read_layers(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Return (weight, bias) of the linear layers in a file, in order. Raises CheckpointError with the path."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is no file of weights that can be read ({str(error)[:200]})") from None
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        match = LAYER.fullmatch(str(name))
        if match and isinstance(value, Tensor):
            found.setdefault(int(match[1]), {})[match[2]] = value.float()
    layers = [(found[k]["weight"], found[k]["bias"]) for k in sorted(found) if set(found[k]) == {"weight", "bias"}]
    sizes = [tuple(weight.shape) for weight, _ in layers]
    fits = all(len(size) == 2 for size in sizes) and all(a[0] == b[1] for a, b in itertools.pairwise(sizes))
    if not layers or not fits or sizes[-1][0] != 1:
        raise CheckpointError(f"{path} does not hold linear layers down to one number, got {sizes}")
    return layers


def load(paths: Sequence[Path]) -> Score:
    """Return the scorer of a file of layers and the folder of the CLIP network that they were trained on."""
    clip, layers = open_clip(paths[1]), read_layers(paths[0])
    size = int(clip.model.config.projection_dim)
    if layers[0][0].shape[1] != size:
        raise CheckpointError(
            f"{paths[0]} takes embeddings of {layers[0][0].shape[1]} numbers, and the CLIP network in {paths[1]} gives "
            f"{size}; give the network that it was trained on"
        )
    return Aesthetic(clip, layers)


KIND = Kind(
    name="aesthetic",
    title="LAION's aesthetic predictor, as in arXiv 2306.14878",
    files=("the file of its layers", "the folder of CLIP ViT-L/14"),
    load=load,
    needs="diffusers",
    modules=("transformers",),
)
