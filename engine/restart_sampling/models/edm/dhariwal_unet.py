r"""ADM, the U-Net of Dhariwal & Nichol (arXiv 2105.05233), in EDM for ImageNet-64 (arXiv 2206.00364).

It differs from SongUNet by scale-and-shift conditioning, attention with 64 channels per head in every block of the
levels in `attn_resolutions`, up- and down-sampling blocks without a skip convolution, and the class, which is added
after the second mapping layer and not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import ADM_HEAD_CHANNELS, KAIMING, ZERO, Block, Conv2d, GroupNorm, Init, Linear, NoiseEmbedding, silu

EPS = 1e-5


class DhariwalUNet(nn.Module):
    """F: x [B, in, H, W], c_noise [1 or B], labels float [1 or B, label_dim] or None → [B, out, H, W]."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        E, Z = model_channels * channel_mult_emb, model_channels
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]

        def block(cin: int, cout: int, *, up: bool = False, down: bool = False, attention: bool = False) -> Block:
            heads = cout // ADM_HEAD_CHANNELS if attention else 0
            return Block(cin, cout, E, up=up, down=down, heads=heads, dropout=dropout, adm=True)

        self.map_noise = NoiseEmbedding(Z)
        if augment_dim:
            self.map_augment = Linear(augment_dim, Z, bias=False, init=ZERO)
        self.map_layer0 = Linear(Z, E, init=KAIMING)
        self.map_layer1 = Linear(E, E, init=KAIMING)
        if label_dim:
            # Unit normal for one-hot input: variance 1/label_dim × label_dim.
            self.map_label = Linear(label_dim, E, bias=False, init=Init("normal", math.sqrt(label_dim)))

        self.enc = nn.ModuleDict()
        C, stack = levels[0][1], []
        for level, (r, cout) in enumerate(levels):
            name = f"{r}x{r}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(in_channels, C, 3, KAIMING)
            else:
                self.enc[f"{name}_down"] = block(C, C, down=True)
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
                self.dec[f"{name}_block{i}"] = block(C + stack.pop(), cout, attention=r in attn_resolutions)
                C = cout
        self.out_norm = GroupNorm(C, EPS)
        self.out_conv = Conv2d(C, out_channels, 3, ZERO)

    def embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the embedding of noise level and class, [1 or B, E]."""
        emb = self.map_layer1(silu(self.map_layer0(self.map_noise(c_noise))))
        if self.label_dim and labels is not None:
            emb = emb + self.map_label(labels)
        return silu(emb)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.embed(c_noise, labels)
        stack: list[Tensor] = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, emb)
            stack.append(x)
        for name, module in self.dec.items():
            x = module(torch.cat((x, stack.pop()), dim=1) if "_block" in name else x, emb)
        return self.out_conv(self.out_norm(x, act=True))
