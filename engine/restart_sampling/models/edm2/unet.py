r"""EDM2's U-Net (arXiv 2312.02696, config G; Figure 21 and Table 6), with the state-dict names of its files.

Level i has resolution img_resolution >> i and model_channels·channel_mult[i] channels. Every output of the encoder goes
on a stack; each `block` of the decoder pops one and reads mp_cat(x, skip). The input gets a channel of ones at its end,
in place of biases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum


class UNet(nn.Module):
    """F: x [B, C, H, W], c_noise [1 or B], labels float [1 or B, label_dim] or None → [B, C, H, W]."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int,
        channel_mult: Sequence[int],
        channel_mult_noise: int | None,
        channel_mult_emb: int | None,
        num_blocks: int,
        attn_resolutions: Sequence[int],
        label_balance: float,
        concat_balance: float,
        channels_per_head: int,
        **of_blocks: Any,
    ) -> None:
        """Make the network; defaults are in `config.py`. `of_blocks`: dropout, balances, clip_act, see `Block`."""
        super().__init__()
        self.label_balance, self.concat_balance = label_balance, concat_balance
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        Z = levels[0][1] if channel_mult_noise is None else model_channels * channel_mult_noise
        E = max(C for _, C in levels) if channel_mult_emb is None else model_channels * channel_mult_emb

        def block(cin: int, cout: int, *, decoder: bool, mode: str = "keep", attention: bool = False) -> Block:
            heads = cout // channels_per_head if attention else 0
            return Block(cin, cout, E, decoder=decoder, mode=mode, heads=heads, **of_blocks)

        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(Z)
        self.emb_noise = MPConv(Z, E)
        self.emb_label = MPConv(label_dim, E) if label_dim else None
        C, stack = img_channels + 1, []
        self.enc = nn.ModuleDict()
        for level, (r, cout) in enumerate(levels):
            name = f"{r}x{r}"
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(C, cout, 3)
                C = cout
            else:
                self.enc[f"{name}_down"] = block(C, C, decoder=False, mode="down")
            stack.append(C)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = block(C, cout, decoder=False, attention=r in attn_resolutions)
                C = cout
                stack.append(C)
        self.dec = nn.ModuleDict()
        for level, (r, cout) in reversed(list(enumerate(levels))):
            name = f"{r}x{r}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = block(C, C, decoder=True, attention=True)
                self.dec[f"{name}_in1"] = block(C, C, decoder=True)
            else:
                self.dec[f"{name}_up"] = block(C, C, decoder=True, mode="up")
            for i in range(num_blocks + 1):
                attention = r in attn_resolutions
                self.dec[f"{name}_block{i}"] = block(C + stack.pop(), cout, decoder=True, attention=attention)
                C = cout
        self.out_conv = MPConv(C, img_channels, 3)

    def embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the embedding of noise level and class, [1 or B, E]."""
        emb: Tensor = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            if labels is None:
                labels = emb.new_zeros(1, self.emb_label.weight.shape[1])
            emb = mp_sum(emb, self.emb_label(labels * math.sqrt(labels.shape[1])), self.label_balance)
        return mp_silu(emb)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.embed(c_noise, labels)
        x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
        stack: list[Tensor] = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, emb)
            stack.append(x)
        for name, module in self.dec.items():
            x = module(mp_cat(x, stack.pop(), self.concat_balance) if "_block" in name else x, emb)
        out: Tensor = self.out_conv(x, self.out_gain)
        return out
