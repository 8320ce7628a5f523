"""The forward pass of EDM's U-Nets, written a second time: plain functions on a state dict, no modules, no shortcuts.

Follows the formulas of Score SDE and ADM as EDM uses them (arXiv 2206.00364, appendix F.1), float64 throughout, and
finds out what to do from the names in the state dict alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, min(32, x.shape[1] // 4), s[name + ".weight"], s[name + ".bias"], eps)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, s[name + ".weight"], s.get(name + ".bias"))


def resampled(x: Tensor, f: Tensor, up: bool, padding: int) -> Tensor:
    f = f.repeat(x.shape[1], 1, 1, 1)
    if up:
        return F.conv_transpose2d(x, 4 * f, stride=2, padding=padding, groups=x.shape[1])
    return F.conv2d(x, f, stride=2, padding=padding, groups=x.shape[1])


def conv(s: State, name: str, x: Tensor, up: bool = False) -> Tensor:
    if (f := s.get(name + ".resample_filter")) is not None:
        x = resampled(x, f, up, (f.shape[-1] - 1) // 2)
    if (w := s.get(name + ".weight")) is not None:
        x = F.conv2d(x, w, s[name + ".bias"], padding=w.shape[-1] // 2)
    return x


def block(s: State, name: str, x: Tensor, emb: Tensor, adm: bool) -> Tensor:
    eps, w, up = (1e-5, 1.0, "_up" in name) if adm else (1e-6, math.sqrt(0.5), "_up" in name)
    h = conv(s, name + ".conv0", F.silu(norm(s, name + ".norm0", x, eps)), up)
    e = linear(s, name + ".affine", emb)[:, :, None, None]
    if adm:
        C = h.shape[1]
        h = F.silu(norm(s, name + ".norm1", h, eps) * (1 + e[:, :C]) + e[:, C:])
    else:
        h = F.silu(norm(s, name + ".norm1", h + e, eps))
    x = (conv(s, name + ".conv1", h) + conv(s, name + ".skip", x, up)) * w
    if name + ".qkv.weight" not in s:
        return x
    B, C, H, W = x.shape
    heads = C // 64 if adm else 1
    qkv = conv(s, name + ".qkv", norm(s, name + ".norm2", x, eps)).reshape(B, heads, C // heads, 3, H * W)
    out = torch.empty(B, heads, C // heads, H * W, dtype=x.dtype)
    for b in range(B):
        for n in range(heads):
            q, k, v = qkv[b, n].unbind(1)  # each [d, pixels]
            out[b, n] = v @ (q.T @ k / math.sqrt(C // heads)).softmax(1).T
    return (conv(s, name + ".proj", out.reshape(B, C, H, W)) + x) * w


def network(state: State, x: Tensor, c_noise: Tensor, labels: Tensor | None, adm: bool) -> Tensor:
    """F of a network whose state dict is `state`, all float64; for iDDPM both halves of the output."""
    s = {n.removeprefix("model."): t.double() for n, t in state.items()}
    x, t = x.double(), c_noise.double()
    Z = s["map_layer0.weight"].shape[1]
    if "map_noise.freqs" in s:
        f = 2 * math.pi * s["map_noise.freqs"]
    else:
        f = 10000.0 ** (-torch.arange(Z // 2, dtype=torch.float64) / (Z // 2 - (0 if adm else 1)))
    cos, sin = torch.cos(t[:, None] * f), torch.sin(t[:, None] * f)
    emb = torch.cat([cos, sin] if adm else [sin, cos], 1)
    label = "map_label.weight" in s
    if label:
        L = s["map_label.weight"].shape[1]
        one_hot = torch.zeros(1, L, dtype=torch.float64) if labels is None else labels.double()
    if adm:
        emb = linear(s, "map_layer1", F.silu(linear(s, "map_layer0", emb)))
        emb = F.silu(emb + linear(s, "map_label", one_hot)) if label else F.silu(emb)
    else:
        emb = emb + linear(s, "map_label", one_hot * math.sqrt(L)) if label else emb
        emb = F.silu(linear(s, "map_layer1", F.silu(linear(s, "map_layer0", emb))))

    def names(part: str) -> list[str]:
        return list(dict.fromkeys(".".join(n.split(".")[:2]) for n in s if n.startswith(part)))

    stack, aux = [], x
    for name in names("enc."):
        if name.endswith("_conv"):
            stack.append(conv(s, name, x))
        elif name.endswith("_aux_residual"):
            f = s[name + ".resample_filter"]
            y = F.conv2d(aux, s[name + ".weight"], padding=1 + (f.shape[-1] - 1) // 2)
            y = resampled(y, f, False, 0) + s[name + ".bias"][:, None, None]
            stack[-1] = aux = (stack[-1] + y) / math.sqrt(2)
        elif name.endswith("_aux_down"):
            aux = conv(s, name, aux)
        elif name.endswith("_aux_skip"):
            stack[-1] = stack[-1] + conv(s, name, aux)
        else:
            stack.append(block(s, name, stack[-1], emb, adm))
    x, image = stack[-1], None
    for name in names("dec."):
        if name.endswith("_aux_up"):
            image = conv(s, name, image, up=True)
        elif name.endswith("_aux_norm"):
            y = F.silu(norm(s, name, x, 1e-6))
        elif name.endswith("_aux_conv"):
            image = conv(s, name, y) + (0 if image is None else image)
        else:
            wanted = s[name + ".norm0.weight"].shape[0]
            x = torch.cat([x, stack.pop()], 1) if x.shape[1] != wanted else x
            x = block(s, name, x, emb, adm)
    return conv(s, "out_conv", F.silu(norm(s, "out_norm", x, 1e-5))) if adm else image
