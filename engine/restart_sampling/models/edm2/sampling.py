r"""EDM2's U-Net as samplers run it: what depends on weights alone is computed once.

In `layers.py` every call normalizes every weight. Here each layer has its weight as it is used, and into it go the
gains, the weights of sums, and the factors 1/0.596 of the activations before it:

    conv_res0 ← W/0.596       conv_res1 ← t·W/0.596, t of the sum after it       skip of a decoder ← (1 − t)·W
    emb_linear ← gain·W/0.596, those of all blocks one matrix, multiplied once   attn_proj ← t·W       out_conv ← gain·W

so that a sum is one pass, y + (1 − t)·x, and none with a skip convolution. The rows of `attn_qkv` are reordered from
(head, channel, {q, k, v}) to ({q, k, v}, head, channel), which makes q, k and v plain views. The values are those of
`layers.py` up to rounding: tests compare them in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restart_kernels.norm import pixel_norm

from .. import norms
from .layers import EPS, SILU, Block, MPConv, MPFourier, cat_weights, normalize, resample, sum_weights

if TYPE_CHECKING:
    from .unet import UNet


def normalized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y = normalize(x) over the channels of x [B, C, H, W], and silu(y)."""
    if norms.fused(x):
        return pixel_norm(x, EPS)
    y = normalize(x, 1)
    return y, F.silu(y)


class Weight(nn.Module):
    """A layer's weight as it is used."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)


class Rows(Weight):
    """A weight that multiplies rows in float32: it embeds noise level and class."""

    keeps_float32 = True

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class SamplingBlock(nn.Module):
    """A `Block` without its embedding: x [B, in, H, W], its factors c [1 or B, out] → [B, out, H', W']."""

    def __init__(self, block: Block, scaled: Tensor | None) -> None:
        """Take the weights of `block`. `scaled` [in] are the factors of the channels of mp_cat, if it reads one."""
        super().__init__()
        self.decoder, self.mode, self.heads, self.clip_act = block.decoder, block.mode, block.heads, block.clip_act
        self.channels = block.conv_res1.weight.shape[0]
        of_x, of_y = sum_weights(block.res_balance)
        self.scaled: Tensor | None
        self.register_buffer("scaled", scaled, persistent=False)
        self.conv_res0 = Weight(block.conv_res0.effective() / SILU)
        self.conv_res1 = Weight(block.conv_res1.effective() * (of_y / SILU))
        self.conv_skip: Weight | None = None
        self.of_x = of_x
        if block.conv_skip is not None:
            weight = block.conv_skip.effective()
            if block.decoder:
                weight, self.of_x = weight * of_x, 1.0
            self.conv_skip = Weight(weight)
        if block.heads:
            weight = block.attn_qkv.effective()
            C = weight.shape[1]
            self.attn_qkv = Weight(weight.view(block.heads, -1, 3, C).permute(2, 0, 1, 3).reshape(3 * C, C))
            self.attn_x, of_a = sum_weights(block.attn_balance)
            self.attn_proj = Weight(block.attn_proj.effective().view(C, C) * of_a)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if self.scaled is not None:
            x = x.mul_(self.scaled.to(x.dtype)[:, None, None])  # of the concatenation, which nobody else reads
        x = resample(x, self.mode)
        if self.decoder:
            y = F.silu(x)
        else:
            x, y = normalized(x if self.conv_skip is None else self.conv_skip(x))
        y = self.conv_res0(y)
        y = F.silu(y.mul_(c.to(y.dtype)[:, :, None, None]), inplace=True)
        y = self.conv_res1(y)
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = y.add_(x, alpha=self.of_x)
        if self.heads:
            x = self.attention(x).add_(x, alpha=self.attn_x)
        return x if self.clip_act is None else x.clamp_(-self.clip_act, self.clip_act)

    def attention(self, x: Tensor) -> Tensor:
        """Return t·proj(softmax(q·kᵀ/√d)·v) over the pixels."""
        B, C, H, W = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = F.linear(pixels, self.attn_qkv.weight).view(B, H * W, 3, self.heads, C // self.heads)
        q, k, v = normalize(qkv, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return F.linear(a, self.attn_proj.weight).view(B, H, W, C).permute(0, 3, 1, 2)


class SamplingUNet(nn.Module):
    """The function of a :class:`UNet`, for sampling: its weights, used and not learned."""

    @torch.no_grad()
    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.emb_fourier: MPFourier = unet.emb_fourier
        blocks: list[Block] = []
        of_noise, self.emb_label = 1.0, None
        if unet.emb_label is not None:
            of_noise, of_label = sum_weights(unet.label_balance)
            of_label *= math.sqrt(unet.emb_label.weight.shape[1])
            self.emb_label = Rows(unet.emb_label.effective() * of_label)
        self.emb_noise = Rows(unet.emb_noise.effective() * of_noise)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        stack: list[int] = []
        channels = 0
        for name, module in unet.enc.items():
            if isinstance(module, MPConv):
                self.enc[name] = Weight(module.effective())
                channels = module.weight.shape[0]
            else:
                self.enc[name] = made = SamplingBlock(module, None)  # type: ignore[arg-type]
                blocks.append(module)  # type: ignore[arg-type]
                channels = made.channels
            stack.append(channels)
        for name, module in unet.dec.items():
            assert isinstance(module, Block)
            scaled = None
            if "_block" in name:
                skip = stack.pop()
                of_x, of_skip = cat_weights(channels, skip, unet.concat_balance)
                scaled = module.emb_gain.new_tensor([of_x] * channels + [of_skip] * skip)
            self.dec[name] = made = SamplingBlock(module, scaled)
            blocks.append(module)
            channels = made.channels
        self.emb_linear = Rows(torch.cat([block.emb_linear.effective(block.emb_gain) / SILU for block in blocks]))
        self.sizes = [block.conv_res1.weight.shape[0] for block in blocks]
        self.out_conv = Weight(unet.out_conv.effective(unet.out_gain))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None and labels is not None:
            emb = emb + self.emb_label(labels)
        factors = list((self.emb_linear(F.silu(emb)) + 1).split(self.sizes, dim=1))[::-1]
        x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
        stack: list[Tensor] = []
        for name, module in self.enc.items():
            x = module(x) if name.endswith("_conv") else module(x, factors.pop())
            stack.append(x)
        for name, module in self.dec.items():
            x = module(torch.cat((x, stack.pop()), dim=1) if "_block" in name else x, factors.pop())
        out: Tensor = self.out_conv(x)
        return out
