r"""Layers of EDM2's networks, which keep the magnitude of what passes through them (arXiv 2312.02696, appendix B).

No layer has a bias, and no group norm is anywhere. Instead weights are normalized whenever they are used, and sums and
concatenations are weighted so that unit variance stays unit variance:

    normalize(x)    = x / (ε + rms(x)),  ε = 1e-4, added to the root mean square         (eq. 66)
    weight          = normalize(w for each output)·gain/√fan_in                          (Algorithm 1)
    mp_silu(x)      = silu(x)/0.596                                                      (eq. 81)
    mp_sum(a, b, t) = ((1−t)·a + t·b) / √((1−t)² + t²)                                   (eq. 88)
    mp_cat(a, b, t) = [a·c·(1−t)/√Na, b·c·t/√Nb],  c = √((Na + Nb)/((1−t)² + t²))        (eq. 103)
    Fourier         = √2·cos(c_noise·freqs + phases)                                     (eq. 75)

This is the network as the paper writes it, for training and as a reference. Samplers run `sampling.py`, where all that
depends on weights alone is computed once.

Weights start as zeros; :meth:`MPConv.draw` and :meth:`MPFourier.draw` draw the initial ones, N(0, 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-4
SILU = 0.596  # root mean square of silu of a unit normal, to three digits as EDM2 has it


def normalize(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Return x / (ε + its root mean square over `dims`), the root mean square computed in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=wide)
    rms = norm * math.sqrt(norm.numel() / x.numel())
    return x / (rms + EPS).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return silu(x)/0.596."""
    return F.silu(x) / SILU


def sum_weights(t: float) -> tuple[float, float]:
    """Return the weights of a and b in mp_sum(a, b, t)."""
    norm = math.hypot(1 - t, t)
    return (1 - t) / norm, t / norm


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return a and b mixed, t the share of b, with unit variance if they are uncorrelated and have it."""
    of_a, of_b = sum_weights(t)
    return of_a * a + of_b * b


def cat_weights(a: int, b: int, t: float) -> tuple[float, float]:
    """Return what a channels and b channels are multiplied by in mp_cat."""
    c = math.sqrt((a + b) / ((1 - t) ** 2 + t**2))
    return c * (1 - t) / math.sqrt(a), c * t / math.sqrt(b)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the channels of a and b [B, ·, H, W] one after the other, t the share of b."""
    of_a, of_b = cat_weights(a.shape[1], b.shape[1], t)
    return torch.cat((of_a * a, of_b * b), dim=1)


def resample(x: Tensor, mode: str) -> Tensor:
    """Return x [B, C, H, W] as it is ("keep"), means of 2×2 pixels ("down"), or every pixel four times ("up")."""
    if mode == "keep":
        return x
    return F.avg_pool2d(x, 2) if mode == "down" else F.interpolate(x, scale_factor=2, mode="nearest")


class MPFourier(nn.Module):
    """√2·cos(t·freqs + phases) of t [N] → [N, channels]; freqs ~ 2π·N(0, 1), phases ~ 2π·U(0, 1)."""

    keeps_float32 = True
    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(channels))
        self.register_buffer("phases", torch.zeros(channels))

    def draw(self, generator: torch.Generator) -> None:
        """Draw frequencies and phases in place."""
        self.freqs.normal_(generator=generator).mul_(2 * math.pi)
        self.phases.uniform_(generator=generator).mul_(2 * math.pi)

    def forward(self, t: Tensor) -> Tensor:
        return (t[:, None] * self.freqs.to(t.dtype) + self.phases.to(t.dtype)).cos() * math.sqrt(2)


class MPConv(nn.Module):
    """x·Wᵀ for a kernel of 0, or a k×k convolution with zeros around, by the normalized weight; no bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *[kernel] * 2 * (kernel > 0)))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial weight in place."""
        self.weight.normal_(generator=generator)

    @torch.no_grad()
    def normalize_(self) -> None:
        """Normalize the weight in place, which training does at every step (Algorithm 1, forced normalization)."""
        self.weight.copy_(normalize(self.weight, tuple(range(1, self.weight.ndim))))

    def effective(self, gain: float | Tensor = 1.0) -> Tensor:
        """Return the weight that x is multiplied by, in the weight's dtype."""
        fan_in = self.weight[0].numel()
        return normalize(self.weight, tuple(range(1, self.weight.ndim))) * (gain / math.sqrt(fan_in))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        weight = self.effective(gain).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Block(nn.Module):
    """The residual block (arXiv 2312.02696, Figure 21).

    x [B, in, H, W], emb float32 [1 or B, E] → [B, out, H', W'], H' = 2H (`mode` "up"), H/2 ("down") or H ("keep").

    Attributes:
        decoder: the skip convolution comes after the residual branch, and there is no pixel norm.
        heads: of the attention, 0 for none.
        res_balance, attn_balance: the share of the residual branch and of the attention.
        clip_act: outputs are clamped to ±clip_act; None: they are not.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        decoder: bool,
        mode: str = "keep",
        heads: int = 0,
        dropout: float,
        res_balance: float,
        attn_balance: float,
        clip_act: float | None,
    ) -> None:
        super().__init__()
        self.decoder, self.mode, self.heads, self.dropout = decoder, mode, heads, dropout
        self.res_balance, self.attn_balance, self.clip_act = res_balance, attn_balance, clip_act
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(in_channels if decoder else out_channels, out_channels, 3)
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        if heads:
            self.attn_qkv = MPConv(out_channels, 3 * out_channels, 1)
            self.attn_proj = MPConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resample(x, self.mode)
        if not self.decoder:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), 1)
        y = self.conv_res0(mp_silu(x))
        c = self.emb_linear(emb, self.emb_gain) + 1
        y = mp_silu(y * c.to(y.dtype)[:, :, None, None])
        if self.dropout and self.training:
            y = F.dropout(y, self.dropout)
        y = self.conv_res1(y)
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.heads:
            x = mp_sum(x, self.attn_proj(self.attention(x)), self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def attention(self, x: Tensor) -> Tensor:
        """Return softmax(q·kᵀ/√d)·v over the pixels, q, k and v normalized over the d channels of a head.

        The outputs of `attn_qkv` are ordered (head, channel, {q, k, v}).
        """
        B, C, H, W = x.shape
        q, k, v = normalize(self.attn_qkv(x).view(B, self.heads, C // self.heads, 3, H * W), 2).unbind(3)
        a = F.scaled_dot_product_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        return a.transpose(2, 3).reshape(B, C, H, W)


def initialize(network: nn.Module, seed: int) -> None:
    """Draw all initial weights of `network` (on the CPU) in place, the same for the same seed; gains stay 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (MPConv, MPFourier)):
            module.draw(generator)


def normalize_weights(network: nn.Module) -> None:
    """Normalize the weights of all layers in place, as training does before every step."""
    for module in network.modules():
        if isinstance(module, MPConv):
            module.normalize_()
