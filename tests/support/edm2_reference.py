"""The forward pass of EDM2's U-Net, written a second time: plain functions on a state dict, float64, no shortcuts.

Follows arXiv 2312.02696, appendix B, and finds out what to do from the names in the state dict; what names and shapes
do not show is in :class:`Options`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Options(NamedTuple):
    """What names and shapes of a network do not show."""

    channels_per_head: int = 64
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256.0


def unit(x: Tensor, dims: list[int]) -> Tensor:
    return x / (x.square().mean(dims, keepdim=True).sqrt() + 1e-4)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x) / 0.596


def mixed(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def layer(s: State, name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    w = s[name + ".weight"]
    w = unit(w, list(range(1, w.ndim))) * gain / math.sqrt(w[0].numel())
    return x @ w.T if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[2] // 2)


def attention(qkv: Tensor, channels_per_head: int) -> Tensor:
    """One head of one image after the other; the layer's outputs are ordered (head, channel, {q, k, v})."""
    B, C3, H, W = qkv.shape
    heads = C3 // 3 // channels_per_head
    parts = qkv.reshape(B, heads, C3 // 3 // heads, 3, H * W)
    out = torch.empty(B, heads, C3 // 3 // heads, H * W, dtype=qkv.dtype)
    for b in range(B):
        for h in range(heads):
            q, k, v = (unit(parts[b, h, :, i], [0]) for i in range(3))  # each [d, pixels]
            out[b, h] = v @ (q.T @ k / math.sqrt(len(q))).softmax(1).T
    return out.reshape(B, C3 // 3, H, W)


def block(s: State, name: str, x: Tensor, emb: Tensor, o: Options) -> Tensor:
    encoder = name.startswith("enc.")
    if name.endswith("_down"):
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    elif name.endswith("_up"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    skip = name + ".conv_skip.weight" in s
    if encoder:
        x = unit(layer(s, name + ".conv_skip", x) if skip else x, [1])
    y = layer(s, name + ".conv_res0", silu(x))
    c = layer(s, name + ".emb_linear", emb, s[name + ".emb_gain"]) + 1
    y = layer(s, name + ".conv_res1", silu(y * c[:, :, None, None]))
    if skip and not encoder:
        x = layer(s, name + ".conv_skip", x)
    x = mixed(x, y, o.res_balance)
    if name + ".attn_qkv.weight" in s:
        found = attention(layer(s, name + ".attn_qkv", x), o.channels_per_head)
        x = mixed(x, layer(s, name + ".attn_proj", found), o.attn_balance)
    return x if o.clip_act is None else x.clamp(-o.clip_act, o.clip_act)


def network(state: State, x: Tensor, c_noise: Tensor, labels: Tensor | None, options: Options) -> Tensor:
    """F of a network whose state dict is `state`; all is computed in float64."""
    s = {n.removeprefix("unet."): t.double() for n, t in state.items()}
    x, t = x.double(), c_noise.double()
    emb = math.sqrt(2) * torch.cos(t[:, None] * s["emb_fourier.freqs"] + s["emb_fourier.phases"])
    emb = layer(s, "emb_noise", emb)
    if "emb_label.weight" in s:
        n = s["emb_label.weight"].shape[1]
        one_hot = torch.zeros(1, n, dtype=torch.float64) if labels is None else labels.double()
        emb = mixed(emb, layer(s, "emb_label", one_hot * math.sqrt(n)), options.label_balance)
    emb = silu(emb)

    def names(part: str) -> list[str]:
        return list(dict.fromkeys(".".join(n.split(".")[:2]) for n in s if n.startswith(part)))

    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    stack = []
    for name in names("enc."):
        x = layer(s, name, x) if name.endswith("_conv") else block(s, name, x, emb, options)
        stack.append(x)
    for name in names("dec."):
        if "_block" in name:
            skip, t_skip = stack.pop(), options.concat_balance
            a, b = x.shape[1], skip.shape[1]
            c = math.sqrt((a + b) / ((1 - t_skip) ** 2 + t_skip**2))
            x = torch.cat([x * (c * (1 - t_skip) / math.sqrt(a)), skip * (c * t_skip / math.sqrt(b))], 1)
        x = block(s, name, x, emb, options)
    return layer(s, "out_conv", x, s["out_gain"])
