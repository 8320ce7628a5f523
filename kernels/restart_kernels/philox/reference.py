"""Scheme philox-v1 in plain PyTorch; the definition is in `coefficients.py`.

Words are int64 tensors that hold 0 … 2³²−1: a product of two of them wraps modulo 2⁶⁴ with the right low 64 bits, so
(p >> 32) & 0xffffffff is the exact high word. Float32 tensor operations are rounded one by one.

Accuracy against float64 on the same u and angle (`benchmarks/fit_philox_v1.py`): every r is within 1.3e-7 of
itself, every normal within 9.4e-7 absolute, tails (|z| ≤ 6.77) included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import coefficients as c

MASK = 0xFFFFFFFF
SIGN = -(1 << 31)
# Counters in one pass: enough to hide the cost of a call, and the pairs of one pass stay below the 32768 elements from
# which torch starts threads.
CHUNK = 16000


def philox(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor, rounds: int = c.ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox4x32 for counter (c0 … c3) and key (k0, k1): int64, shapes that broadcast."""
    for _ in range(rounds):
        p0, p1 = c0 * c.MULTIPLIER_0, c2 * c.MULTIPLIER_1
        c0 = ((p1 >> 32) ^ c1 ^ k0).bitwise_and_(MASK)
        c2 = ((p0 >> 32) ^ c3 ^ k1).bitwise_and_(MASK)
        c1, c3 = p1, p0  # the mask of the next round removes their high words
        k0, k1 = k0 + c.WEYL_0, k1 + c.WEYL_1
    return c0, c1 & MASK, c2, c3 & MASK


def box_muller(wa: Tensor, wb: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 normals (r cos, r sin) of two words of one shape, int64."""
    u = wa.to(torch.float32).mul_(c.U_SCALE).add_(c.U_SHIFT)
    b = u.view(torch.int32) - c.SQRT_HALF_BITS
    e = (b >> 23).to(torch.float32)
    m = b.bitwise_and_(0x7FFFFF).add_(c.SQRT_HALF_BITS).view(torch.float32)
    f = 1.0 - m
    square = _horner(c.LN, f).mul_(f).add_(e * c.LN2_LO).add_(e.mul_(c.LN2_HI))
    # Rounded from float64 this is the IEEE float32 root: no float32 root is within 2**-50 of a tie. rsqrt, because sqrt
    # starts threads from 2048 elements on: on busy cores that took 5 ms a call, as long as all the rest.
    square = square.to(torch.float64)
    r = (square.clamp(min=1e-30).rsqrt_().mul_(square)).to(torch.float32).view(torch.int32)

    t = wb.to(torch.int32).bitwise_left_shift_(2).to(torch.float32).mul_(c.T_SCALE)
    v = t * t
    sin, cos = _horner(c.SIN, v).mul_(t).view(torch.int32), _horner(c.COS, v).view(torch.int32)
    # The quadrant is applied to the bits (bit 30: odd, bit 31: the half turn): torch.where takes 6 ns an element here.
    q = (wb + (1 << 29)).to(torch.int32)
    odd = (q << 1).bitwise_right_shift_(31)
    swap = (sin ^ cos).bitwise_and_(odd)
    r.bitwise_xor_(q.bitwise_and_(SIGN))
    z0 = cos.bitwise_xor_(swap).bitwise_xor_(odd.bitwise_and_(SIGN)).view(torch.float32)
    z1 = sin.bitwise_xor_(swap).view(torch.float32)
    return z0.mul_(r.view(torch.float32)), z1.mul_(r.view(torch.float32))


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Return the polynomial with these coefficients, lowest power first, at x: × and + in turn, each rounded."""
    p = x * coefficients[-1]
    for a in coefficients[-2:0:-1]:
        p.add_(a).mul_(x)
    return p.add_(coefficients[0])


def _words4(seeds: Tensor, draw: Tensor | int, quads: Tensor, stream: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the words of the counters (quads, draw, stream, 0): four tensors [B, len(quads)]."""
    draw = torch.as_tensor(draw, dtype=torch.int64, device=seeds.device).reshape(-1, 1) & MASK
    zero = torch.zeros(1, 1, dtype=torch.int64, device=seeds.device)
    seeds = seeds[:, None]
    return philox(quads[None, :], draw, zero + stream, zero, seeds & MASK, seeds >> 32)


def words(seeds: Tensor, draw: int, count: int, *, stream: int = c.STREAM_NORMAL) -> Tensor:
    """Return raw words int64 [B, count], 0 … 2³²−1: word i of a sample is word i % 4 of counter i // 4."""
    quads = torch.arange((count + 3) // 4, dtype=torch.int64, device=seeds.device)
    return torch.stack(_words4(seeds, draw, quads, stream), dim=-1).flatten(1)[:, :count].contiguous()


def normal(seeds: Tensor, draw: Tensor | int, numel: int, *, stream: int = c.STREAM_NORMAL) -> Tensor:
    """Return standard normals float32 [B, numel] on the device of `seeds`, int64 [B].

    `draw` is one number, or an int64 tensor [1] (for all samples) or [B].
    """
    batch, count = seeds.shape[0], (numel + 3) // 4
    out = torch.empty(batch, count, 4, dtype=torch.float32, device=seeds.device)
    rows = max(1, CHUNK // max(1, count))
    for i in range(0, batch, rows):
        # Under a shared cursor the whole batch has one draw, and there is nothing to slice.
        draw_i = draw[i : i + rows] if isinstance(draw, Tensor) and draw.numel() > 1 else draw
        for j in range(0, count, CHUNK):
            quads = torch.arange(j, min(j + CHUNK, count), dtype=torch.int64, device=seeds.device)
            w0, w1, w2, w3 = _words4(seeds[i : i + rows], draw_i, quads, stream)
            # Both pairs in one call: at this size a torch call costs as much as its arithmetic.
            cos, sin = box_muller(torch.stack((w0, w2), -1), torch.stack((w1, w3), -1))
            piece = out[i : i + rows, j : j + CHUNK]
            piece[..., 0::2], piece[..., 1::2] = cos, sin
    return out.flatten(1)[:, :numel].contiguous()
