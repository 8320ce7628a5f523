r"""DDPM++ and NCSN++, the U-Nets of Score SDE (arXiv 2011.13456) as used by EDM (arXiv 2206.00364, Table 7).

| preset | embedding  | encoder  | decoder  | channel_mult_noise | resample_filter |
|--------|------------|----------|----------|--------------------|-----------------|
| DDPM++ | positional | standard | standard | 1                  | [1, 1]          |
| NCSN++ | fourier    | residual | standard | 2                  | [1, 3, 3, 1]    |

Level i has resolution img_resolution >> i and model_channels·channel_mult[i] channels. The encoder pushes its outputs
on a stack; each `block` of the decoder pops one and reads [x, skip]. "residual" and "skip" encoders also feed a
down-sampled copy of the image into each level; a "skip" decoder sums an image over the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layers import NEAR_ZERO, Block, Conv2d, GroupNorm, Linear, NoiseEmbedding, Resample, ResampleConv2d, silu

EPS = 1e-6


class SongUNet(nn.Module):
    """F: x [B, in, H, W], c_noise [1 or B], labels float [1 or B, label_dim] or None → [B, out, H, W].

    The result has the dtype of x. State-dict names follow EDM checkpoints. `label_dropout` belongs to training, which
    feeds rows of zeros; it changes nothing here.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        E, Z = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        taps = resample_filter

        def block(cin: int, cout: int, *, up: bool = False, down: bool = False, attention: bool = False) -> Block:
            return Block(cin, cout, E, up=up, down=down, heads=int(attention), dropout=dropout, taps=taps)

        self.map_noise = NoiseEmbedding(Z, fourier=embedding_type == "fourier", endpoint=True, swap=True)
        if label_dim:
            self.map_label = Linear(label_dim, Z)
        if augment_dim:
            self.map_augment = Linear(augment_dim, Z, bias=False)
        self.map_layer0 = Linear(Z, E)
        self.map_layer1 = Linear(E, E)

        self.enc = nn.ModuleDict()
        C, C_aux, stack = model_channels, in_channels, []
        for level, (r, cout) in enumerate(levels):
            name = f"{r}x{r}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(in_channels, C, 3)
            else:
                self.enc[f"{name}_down"] = block(C, C, down=True)
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Resample(taps)
                    self.enc[f"{name}_aux_skip"] = Conv2d(C_aux, C, 1)
                elif encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = ResampleConv2d(C_aux, C, 3, taps, fused=True)
                    C_aux = C
            stack.append(C)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = block(C, cout, attention=r in attn_resolutions)
                C = cout
                stack.append(C)

        self.dec = nn.ModuleDict()
        deepest = len(levels) - 1
        for level, (r, cout) in reversed(list(enumerate(levels))):
            name = f"{r}x{r}"
            if level == deepest:
                self.dec[f"{name}_in0"] = block(C, C, attention=True)
                self.dec[f"{name}_in1"] = block(C, C)
            else:
                self.dec[f"{name}_up"] = block(C, C, up=True)
            for i in range(num_blocks + 1):
                attention = i == num_blocks and r in attn_resolutions
                self.dec[f"{name}_block{i}"] = block(C + stack.pop(), cout, attention=attention)
                C = cout
            if level == 0 or decoder_type == "skip":
                if level < deepest and decoder_type == "skip":
                    self.dec[f"{name}_aux_up"] = Resample(taps, up=True)
                self.dec[f"{name}_aux_norm"] = GroupNorm(C, EPS)
                self.dec[f"{name}_aux_conv"] = Conv2d(C, out_channels, 3, NEAR_ZERO)

    def embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the embedding of noise level and class, [1 or B, E]."""
        emb = self.map_noise(c_noise)
        if self.label_dim and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(self.label_dim))
        return silu(self.map_layer1(silu(self.map_layer0(emb))))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.embed(c_noise, labels)
        stack: list[Tensor] = []
        aux = x
        for name, module in self.enc.items():
            if name.endswith("_aux_down"):
                aux = module(aux)
            elif name.endswith("_aux_skip"):
                x = stack[-1] = x + module(aux)
            elif name.endswith("_aux_residual"):
                x = stack[-1] = aux = (x + module(aux)) * math.sqrt(0.5)
            else:
                x = module(x) if name.endswith("_conv") else module(x, emb)
                stack.append(x)

        image: Any = None  # level 0 always makes one
        y = x
        for name, module in self.dec.items():
            if name.endswith("_aux_up"):
                image = module(image)
            elif name.endswith("_aux_norm"):
                y = module(x, act=True)
            elif name.endswith("_aux_conv"):
                image = module(y) if image is None else image + module(y)
            else:
                x = module(torch.cat((x, stack.pop()), dim=1) if "_block" in name else x, emb)
        return image
