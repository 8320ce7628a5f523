r"""Layers of the EDM networks: convolution with resampling, group norm, attention, the residual block.

Theory and sources: EDM (arXiv 2206.00364, appendix F.1 and Table 7), ADM (arXiv 2105.05233, appendix A), Score SDE
(arXiv 2011.13456, appendix H). One residual block serves both U-Nets; with w the skip scale

    SongUNet  h = silu(norm1(h + e))                w = √½      e = affine(emb)          [B, C]
    ADM       h = silu(norm1(h)·(1 + a) + b)        w = 1       (a, b) = affine(emb)     [B, 2C]
    out       x = (conv1(h) + skip(x))·w, then with attention x = (proj(attn(norm2 x)) + x)·w

Types: weights are stored in float32 and cast to the activation's dtype at each call, a no-op in float32. The noise
embedding and linear layers stay in float32, which they say by `keeps_float32`: copies of a network in half precision
leave them as they are. Every layer takes contiguous or channels_last input; channels_last is faster.

Weights start as zeros, not random numbers: building a network to load a checkpoint costs nothing and touches no random
generator. :func:`initialize` draws the initial weights of the papers from a generator of its own.

Limiting cases: the filter [1, 1] makes down-sampling the 2×2 mean and up-sampling the repetition of pixels, and both
are then computed that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restart_kernels.norm import group_norm

from ...common.errors import CheckpointError
from .. import norms

ADM_HEAD_CHANNELS = 64


def silu(x: Tensor) -> Tensor:
    """Return x·sigmoid(x), in place when no gradient is recorded: only for tensors that are not read again."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class Init(NamedTuple):
    """How a weight and its bias are drawn.

    Attributes:
        kind: "xavier", uniform within ±√(6/(fan_in+fan_out)); "kaiming", uniform within ±√(3/fan_in); "normal",
            variance 1/fan_in.
        gain, bias_gain: what the weight and the bias are multiplied by.
    """

    kind: str
    gain: float = 1.0
    bias_gain: float = 0.0


XAVIER = Init("xavier")  # SongUNet
KAIMING = Init("kaiming", math.sqrt(1 / 3), math.sqrt(1 / 3))  # ADM
NEAR_ZERO, ZERO = Init("xavier", 1e-5), Init("kaiming", 0.0)  # last layers of SongUNet and ADM


class Weighted(nn.Module):
    """A module with a weight [out, in, ...] and an optional bias [out], which knows how they are drawn."""

    def __init__(self, shape: Sequence[int], bias: bool, init: Init) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.init = init

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial weights in place."""
        kind, gain, bias_gain = self.init
        fan_in, fan_out = self.weight[0].numel(), self.weight[:, 0].numel()
        bound = math.sqrt(6 / (fan_in + fan_out) if kind == "xavier" else 3 / fan_in)
        for parameter, scale in ((self.weight, gain), (self.bias, bias_gain)):
            if parameter is None:
                continue
            if kind == "normal":
                parameter.normal_(0.0, math.sqrt(1 / fan_in), generator=generator)
            else:
                parameter.uniform_(-bound, bound, generator=generator)
            parameter.mul_(scale)

    def cast(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias in `dtype`."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


class Linear(Weighted):
    """y = x·Wᵀ + b on [..., in]."""

    keeps_float32 = True  # it embeds noise level and class: small, and F is sensitive to it

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init: Init = XAVIER) -> None:
        super().__init__((out_features, in_features), bias, init)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.cast(x.dtype)
        return F.linear(x, weight, bias)


def low_pass(taps: Sequence[float]) -> Tensor:
    """Return the filter [1, 1, k, k]: the outer product of the k `taps` with themselves, divided by (Σ taps)²."""
    f = torch.tensor(list(taps), dtype=torch.float32)
    return torch.outer(f, f)[None, None] / f.sum() ** 2


def resample(x: Tensor, f: Tensor, *, up: bool, pad: int | None = None) -> Tensor:
    """Filter and change resolution by 2: [B, C, H, W] → [B, C, 2H, 2W] (`up`) or [B, C, H/2, W/2].

    `f` is a filter of :func:`low_pass`; the padding is (k−1)//2 unless `pad` is given. Down: stride 2. Up: transposed,
    stride 2, filter × 4. Every 2×2 filter is treated as the box filter [1, 1], whose two directions need no
    convolution.
    """
    C, k = x.shape[1], f.shape[-1]
    if k == 2 and pad is None:
        return F.interpolate(x, scale_factor=2, mode="nearest") if up else F.avg_pool2d(x, 2)
    pad = (k - 1) // 2 if pad is None else pad
    f = f.to(x.dtype)
    if up:
        return F.conv_transpose2d(x, (4 * f).expand(C, -1, -1, -1), groups=C, stride=2, padding=pad)
    return F.conv2d(x, f.expand(C, -1, -1, -1), groups=C, stride=2, padding=pad)


class Resample(nn.Module):
    """:func:`resample` as a module with the buffer `resample_filter` and no weight."""

    resample_filter: Tensor

    def __init__(self, taps: Sequence[float], *, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resample_filter, up=self.up)


class Conv2d(Weighted):
    """k×k convolution with padding k//2 ("same" for the odd k used here)."""

    bias: nn.Parameter  # a convolution always has one

    def __init__(self, in_channels: int, out_channels: int, kernel: int, init: Init = XAVIER) -> None:
        super().__init__((out_channels, in_channels, kernel, kernel), True, init)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.cast(x.dtype)
        return F.conv2d(x, weight, bias, padding=self.padding)


class ResampleConv2d(Conv2d):
    """A convolution with resampling before it, or (`fused`, down only) after it and before the bias.

    Fused is Score SDE's order for NCSN++'s input pyramid: convolution with padding k//2 + p, filter with none.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        taps: Sequence[float],
        *,
        up: bool = False,
        fused: bool = False,
        init: Init = XAVIER,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, init)
        self.up, self.fused = up, fused
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            f, k = self.resample_filter, self.weight.shape[-1]
            if self.up and k == 1 and f.shape[-1] == 2:  # pixels repeat: the same values from a quarter of the products
                return resample(super().forward(x), f, up=True)
            return super().forward(resample(x, f, up=self.up))
        weight, bias = self.cast(x.dtype)
        p = (self.resample_filter.shape[-1] - 1) // 2
        x = F.conv2d(x, weight, padding=self.padding + p)
        x = resample(x, self.resample_filter, up=False, pad=0)
        return x if bias is None else x + bias[:, None, None]


class GroupNorm(nn.Module):
    """Group norm with min(32, C//4) groups; weight and bias [C].

    Raises:
        CheckpointError: C does not divide into the groups.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        if channels % self.groups:
            raise CheckpointError(
                f"network config: {channels} channels do not divide into {self.groups} norm groups; "
                "model_channels and channel_mult must make sums of neighbours multiples of 32 (or < 128)"
            )
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Tensor,
        add: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        act: bool = False,
    ) -> Tensor:
        """Return norm(x + add)·(1 + scale) + shift, and silu of it with `act`.

        Vectors are [B or 1, C]; scale and shift are given together. x may be written to if `add` is given.
        """
        if norms.fused(x):
            vectors = {"add": add, "scale": scale, "shift": shift}
            return group_norm(x, self.groups, self.weight, self.bias, self.eps, **vectors, silu=act)
        if add is not None:
            x = x.add_(add[:, :, None, None])
        y = F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if scale is not None and shift is not None:
            y = torch.addcmul(shift[:, :, None, None], y, scale[:, :, None, None] + 1)
        return silu(y) if act else y


class NoiseEmbedding(nn.Module):
    """[cos(t·f), sin(t·f)] of c_noise t [N] → [N, channels], or [sin, cos] when `swap` (SongUNet).

    Positional: f_i = 10000^(−i/n), n = channels/2 (ADM) or channels/2 − 1 (SongUNet, `endpoint`), without a tensor in
    the state dict. Fourier: f_i = 2π·freqs_i with the buffer `freqs` drawn from N(0, 16²).
    """

    keeps_float32 = True
    freqs: Tensor

    def __init__(self, channels: int, *, fourier: bool = False, endpoint: bool = False, swap: bool = False) -> None:
        super().__init__()
        n = channels // 2
        self.fourier, self.swap = fourier, swap
        i = torch.arange(n, dtype=torch.float32) / (n - int(endpoint))
        f = torch.zeros(n) if fourier else (1 / 10000) ** i
        self.register_buffer("freqs", f, persistent=fourier)

    def draw(self, generator: torch.Generator) -> None:
        """Draw the Fourier frequencies in place."""
        if self.fourier:
            self.freqs.normal_(0.0, 16.0, generator=generator)

    def forward(self, t: Tensor) -> Tensor:
        f = self.freqs.to(t.dtype) * (2 * math.pi if self.fourier else 1)
        angle = t[:, None] * f
        parts = (angle.sin(), angle.cos()) if self.swap else (angle.cos(), angle.sin())
        return torch.cat(parts, dim=1)


class Block(nn.Module):
    """The residual block of SongUNet and ADM; see the module docstring for the formulas.

    x [B, in, H, W], emb float32 [1 or B, E] → [B, out, H', W'] with H' = 2H (`up`), H/2 (`down`) or H.
    `heads` 0 means no attention. `adm` picks scale and shift, w = 1, eps 1e-5 and ADM's initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        heads: int = 0,
        dropout: float = 0.0,
        taps: Sequence[float] = (1, 1),
        adm: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.adm = heads, dropout, adm
        self.w = 1.0 if adm else math.sqrt(0.5)
        eps, init, last = (1e-5, KAIMING, ZERO) if adm else (1e-6, XAVIER, NEAR_ZERO)

        def conv(cin: int, cout: int, kernel: int) -> Conv2d:
            if up or down:
                return ResampleConv2d(cin, cout, kernel, taps, up=up, init=init)
            return Conv2d(cin, cout, kernel, init)

        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = conv(in_channels, out_channels, 3)
        self.affine = Linear(emb_channels, out_channels * (2 if adm else 1), init=init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, last)
        self.skip: nn.Module | None = None
        if in_channels != out_channels or ((up or down) and not adm):
            self.skip = conv(in_channels, out_channels, 1)
        elif up or down:
            self.skip = Resample(taps, up=up)
        if heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, KAIMING if adm else Init("xavier", math.sqrt(0.2)))
            self.proj = Conv2d(out_channels, out_channels, 1, last)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(self.norm0(x, act=True))
        e = self.affine(emb).to(x.dtype)
        if self.adm:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm1(h, scale=scale, shift=shift, act=True)
        else:
            h = self.norm1(h, e, act=True)
        if self.dropout and self.training:
            h = F.dropout(h, self.dropout)
        h = self.conv1(h)
        x = h.add_(x if self.skip is None else self.skip(x))
        x = x if self.adm else x.mul_(self.w)
        if self.heads:
            x = self.attention(x).add_(x)
            x = x if self.adm else x.mul_(self.w)
        return x

    def attention(self, x: Tensor) -> Tensor:
        """Return proj(softmax(q·kᵀ/√d)·v) over the pixels of norm2(x), d = C/heads.

        The 3C outputs of `qkv` are ordered (head, channel, {q, k, v}). The rows of its weight are reordered to
        ({q, k, v}, head, channel) instead of the activations, which are larger and would be read at stride 3.
        """
        B, C, H, W = x.shape
        weight, bias = self.qkv.weight.to(x.dtype), self.qkv.bias.to(x.dtype)
        weight = weight.view(self.heads, -1, 3, C).permute(2, 0, 1, 3).reshape(3 * C, C)
        bias = bias.view(self.heads, -1, 3).permute(2, 0, 1).reshape(3 * C)
        pixels = self.norm2(x).permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = F.linear(pixels, weight, bias).view(B, H * W, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)
        a = a.transpose(1, 2).reshape(B, H, W, C).permute(0, 3, 1, 2)
        return self.proj(a)


def initialize(network: nn.Module, seed: int) -> None:
    """Draw all initial weights of `network` (on the CPU) in place, the same for the same seed (EDM, F.1)."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (Weighted, NoiseEmbedding)):
            module.draw(generator)
