"""Scheme philox-v1 in plain PyTorch; the definition is in `coefficients.py`.

Words are int64 tensors holding 0 … 2³²−1: a product of two of them wraps modulo 2⁶⁴ with the right low 64 bits,
so (p >> 32) & 0xffffffff is the exact high word. Float32 tensor operations are rounded one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import coefficients as c

MASK = 0xFFFFFFFF
# Elements of one pass. 2**15 counters keep the eight int64 temporaries inside a 2 MB L2.
CHUNK = 1 << 15


def philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor, rounds: int = c.ROUNDS):
    """Philox4x32: counter (c0..c3) and key (k0, k1) -> four words. int64, any shapes that broadcast."""
    for _ in range(rounds):
        p0 = c0 * c.MULTIPLIER_0
        p1 = c2 * c.MULTIPLIER_1
        c0 = (p1 >> 32).bitwise_xor(c1 ^ k0).bitwise_and_(MASK)
        c2 = (p0 >> 32).bitwise_xor(c3 ^ k1).bitwise_and_(MASK)
        c1, c3 = p1 & MASK, p0 & MASK
        k0, k1 = (k0 + c.WEYL_0) & MASK, (k1 + c.WEYL_1) & MASK
    return c0, c1, c2, c3


def box_muller(wa: Tensor, wb: Tensor) -> tuple[Tensor, Tensor]:
    """Two words -> two float32 normals (r cos, r sin)."""
    u = wa.to(torch.float32).mul_(c.U_SCALE).add_(c.U_SHIFT)
    b = u.view(torch.int32) - c.SQRT_HALF_BITS
    e = (b >> 23).to(torch.float32)
    m = b.bitwise_and_(0x7FFFFF).add_(c.SQRT_HALF_BITS).view(torch.float32)
    f = 1.0 - m
    p = _horner(c.LN, f)
    square = p.mul_(f).add_(e * c.LN2_LO).add_(e.mul_(c.LN2_HI))
    # torch's own float32 sqrt may be vectorised by an approximation; double then float is exactly the IEEE root.
    r = square.to(torch.float64).sqrt_().to(torch.float32)

    t = (((wb + (1 << 29)) & ((1 << 30) - 1)) - (1 << 29)).to(torch.float32).mul_(2.0**-32)
    v = t * t
    sin, cos = _horner(c.SIN, v).mul_(t), _horner(c.COS, v)
    q = (wb + (1 << 29)) >> 30
    swap = (q & 1).to(torch.bool)
    z0 = torch.where(swap, sin, cos).mul_(1.0 - ((q + 1) & 2))
    z1 = torch.where(swap, cos, sin).mul_(1.0 - (q & 2))
    return z0.mul_(r), z1.mul_(r)


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    p = torch.full_like(x, coefficients[-1])
    for a in coefficients[-2::-1]:
        p.mul_(x).add_(a)
    return p


def _key(seeds: Tensor) -> tuple[Tensor, Tensor]:
    return (seeds & MASK)[:, None], ((seeds >> 32) & MASK)[:, None]


def _words4(seeds: Tensor, draw: Tensor | int, quads: Tensor, stream: int):
    """The four words of the counters (quads, draw, stream, 0): each [B, len(quads)]."""
    k0, k1 = _key(seeds)
    draw = torch.as_tensor(draw, dtype=torch.int64, device=seeds.device).bitwise_and(MASK).reshape(-1, 1)
    zero = torch.zeros(1, 1, dtype=torch.int64, device=seeds.device)
    return philox(quads[None, :], draw, zero + stream, zero, k0, k1)


def words(seeds: Tensor, draw: int, count: int, *, stream: int = c.STREAM_NORMAL) -> Tensor:
    """Raw words: word i of a sample is word i % 4 of counter i // 4. int64 [B, count], 0 … 2³²−1."""
    quads = torch.arange((count + 3) // 4, dtype=torch.int64, device=seeds.device)
    return torch.stack(_words4(seeds, draw, quads, stream), dim=-1).flatten(1)[:, :count].contiguous()


def normal(seeds: Tensor, draw: Tensor | int, numel: int, *, stream: int = c.STREAM_NORMAL) -> Tensor:
    """Standard normals, float32 [B, numel]; `draw` is one number, or an int64 tensor [B]."""
    batch, count = seeds.shape[0], (numel + 3) // 4
    out = torch.empty(batch, count, 4, dtype=torch.float32, device=seeds.device)
    rows = max(1, CHUNK // max(1, count))
    for i in range(0, batch, rows):
        draw_i = draw[i : i + rows] if isinstance(draw, Tensor) else draw
        for j in range(0, count, CHUNK):
            quads = torch.arange(j, min(j + CHUNK, count), dtype=torch.int64, device=seeds.device)
            w0, w1, w2, w3 = _words4(seeds[i : i + rows], draw_i, quads, stream)
            piece = out[i : i + rows, j : j + CHUNK]
            piece[..., 0], piece[..., 1] = box_muller(w0, w1)
            piece[..., 2], piece[..., 3] = box_muller(w2, w3)
    return out.view(batch, -1)[:, :numel].contiguous()
