"""The weights of two outputs in Triton: one launch, one program for each sample.

A program whose row has no method stops at once. The others hold the accumulators as tiles: [1024, 2, 2] for c², u², c
and u, and [1024] for c·u. A pass adds 1024 elements, one to each accumulator; what is masked beyond the end of a sample
adds +0. Four passes are one turn of the loop: their loads are issued together, which hides the latency of three.

The tree adds over an axis of two elements, whose sum does not depend on how `tl.sum` orders it. With 8 warps a thread
holds four neighbours, and a warp the 32 next to each other, so two levels are additions within a thread, five are
shuffles, and three go through 128 bytes of shared memory; the four sums of a tile share the barriers of these.

Mirrors `weights.py` bit for bit: every product, sum, quotient and root is rounded (launched with
enable_fp_fusion=False).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import layout as L
from .. import registers
from . import weights

ACCUMULATORS = tl.constexpr(weights.ACCUMULATORS)
LEVELS = tl.constexpr(weights.ACCUMULATORS.bit_length() - 1)
PASSES = tl.constexpr(4)  # that one turn of the loop makes
METHODS, GUIDE = tl.constexpr(registers.METHODS), tl.constexpr(L.GUIDE)
RESCALE, ZERO_STAR = tl.constexpr(L.RESCALE), tl.constexpr(L.ZERO_STAR)
NUM_COEF, NUM_CODE, FLAGS = tl.constexpr(L.NUM_COEF), tl.constexpr(L.NUM_CODE), tl.constexpr(L.FLAGS)
W, P, Q = tl.constexpr(L.W), tl.constexpr(L.P), tl.constexpr(L.Q)


@triton.jit
def weigh_kernel(F_ptr, F_uncond_ptr, mix_ptr, coef_ptr, code_ptr, cursor_ptr, E, CURSOR_STRIDE: tl.constexpr):
    """Write (α_c, α_u) of sample b to mix[b], if its row has a method."""
    b = tl.program_id(0)
    row = tl.load(cursor_ptr + b * CURSOR_STRIDE)
    flags = tl.load(code_ptr + row * NUM_CODE + FLAGS, mask=row >= 0, other=0)
    if ((flags & GUIDE) != 0) & ((flags & METHODS) != 0):
        base = b.to(tl.int64) * E
        j = tl.arange(0, ACCUMULATORS)
        tile = tl.zeros([ACCUMULATORS, 2, 2], tl.float32)
        cross = tl.zeros([ACCUMULATORS], tl.float32)
        start = 0
        while start < E:  # not tl.range: with numpy 2.4 the interpreter of 3.6 cannot count with it
            for _ in tl.static_range(PASSES):
                inside = j < E - start
                c = tl.load(F_ptr + base + start + j, mask=inside, other=0.0).to(tl.float32)
                u = tl.load(F_uncond_ptr + base + start + j, mask=inside, other=0.0).to(tl.float32)
                both = tl.join(c, u)
                tile += tl.join(both * both, both)
                cross += c * u
                start += ACCUMULATORS
        for level in tl.static_range(LEVELS):
            tile = tl.sum(tl.reshape(tile, [ACCUMULATORS >> (level + 1), 2, 2, 2]), axis=1)
            cross = tl.sum(tl.reshape(cross, [ACCUMULATORS >> (level + 1), 2]), axis=1)
        squares, sums = tl.split(tl.reshape(tile, [2, 2]))
        cc, uu = tl.split(squares)
        sc, su = tl.split(sums)
        cu = tl.sum(cross, axis=0)  # of one element

        coef = coef_ptr + row * NUM_COEF
        w = tl.load(coef + W)
        p = tl.load(coef + P)
        v = 1.0 - w
        if flags & RESCALE:
            n = tl.cast(E, tl.float32)
            v_c = cc - tl.div_rn(sc * sc, n)
            v_u = uu - tl.div_rn(su * su, n)
            v_cu = cu - tl.div_rn(sc * su, n)
            var = ((w * w) * v_c + (v * v) * v_u) + 2.0 * (w * v) * v_cu
            r = tl.sqrt_rn(tl.div_rn(tl.where(v_c < 0, 0.0, v_c), var))
            f = p * tl.where(var > 0, r, 1.0) + (1.0 - p)
            a_c = f * w
            a_u = f * v
        elif flags & ZERO_STAR:
            a_c = w
            a_u = tl.where(uu > 0, tl.div_rn(cu, uu), 0.0) * v
        else:
            q = tl.load(coef + Q)
            square = (cc - 2.0 * cu) + uu
            d = tl.sqrt_rn(tl.where(square < 0, 0.0, square))
            k = tl.where((q > 0) & (d > q), tl.div_rn(q, d), 1.0)
            along = tl.where(cc > 0, k * tl.div_rn(cc - cu, cc), 0.0)
            a_c = 1.0 - v * (k - (1.0 - p) * along)
            a_u = v * k
        tl.store(mix_ptr + 2 * b, a_c)
        tl.store(mix_ptr + 2 * b + 1, a_u)
