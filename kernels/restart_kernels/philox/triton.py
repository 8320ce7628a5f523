"""Scheme philox-v1 in Triton; the definition and its order of operations are in `coefficients.py`.

Three rewrites keep every bit. Of the 63 SASS instructions of a pair of normals (sm_90) each saves:

* tl.fma where the product is exact, so that one rounding and two are the same: one instruction in u, one in e·LN2_HI.
* e as an integer multiple of 2²³, with 2⁻²³ in its coefficients: one shift.
* Bit 31 of the quadrant flips the sign of r once instead of both results: two instructions.

Products of the rounds are 64-bit: one mul.wide.u32 for mul.lo and mul.hi saves 3.6 instructions a normal.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import coefficients as c

M0, M1 = tl.constexpr(c.MULTIPLIER_0), tl.constexpr(c.MULTIPLIER_1)
W0, W1 = tl.constexpr(c.WEYL_0), tl.constexpr(c.WEYL_1)
ROUNDS = tl.constexpr(c.ROUNDS)
U_SCALE, U_SHIFT, T_SCALE = tl.constexpr(c.U_SCALE), tl.constexpr(c.U_SHIFT), tl.constexpr(c.T_SCALE)
SQRT_HALF_BITS = tl.constexpr(c.SQRT_HALF_BITS)
EXPONENT = tl.constexpr(-(1 << 23))  # mask of the sign and exponent bits
HI23, LO23 = tl.constexpr(c.LN2_HI * 2.0**-23), tl.constexpr(c.LN2_LO * 2.0**-23)
# One name per coefficient: the compiler of Triton 3.6 and the interpreter differ in how they index a constexpr tuple.
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(a) for a in c.LN)
S0, S1, S2, S3 = (tl.constexpr(a) for a in c.SIN)
C0, C1, C2, C3, C4 = (tl.constexpr(a) for a in c.COS)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1, ROUNDS: tl.constexpr = ROUNDS):
    """Return the four words of Philox4x32 for counter (c0 … c3) and key (k0, k1), all uint32."""
    for _ in tl.static_range(ROUNDS):
        p0 = c0.to(tl.uint64) * M0
        p1 = c2.to(tl.uint64) * M1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        k0 = k0 + W0
        k1 = k1 + W1
    return c0, c1, c2, c3


@triton.jit
def box_muller(wa, wb):
    """Return the float32 normals (r cos, r sin) of two uint32 words."""
    u = tl.fma(wa.to(tl.float32), U_SCALE, U_SHIFT)
    bits = u.to(tl.int32, bitcast=True)
    e23 = (bits - SQRT_HALF_BITS) & EXPONENT
    f = 1.0 - (bits - e23).to(tl.float32, bitcast=True)
    e = e23.to(tl.float32)
    p = (((f * L8 + L7) * f + L6) * f + L5) * f + L4
    p = (((p * f + L3) * f + L2) * f + L1) * f + L0
    r = tl.sqrt_rn(tl.fma(e, HI23, f * p + e * LO23))

    t = (wb << 2).to(tl.int32, bitcast=True).to(tl.float32) * T_SCALE
    v = t * t
    sin = t * (((v * S3 + S2) * v + S1) * v + S0)
    cos = (((v * C4 + C3) * v + C2) * v + C1) * v + C0
    q = wb + 0x20000000  # bit 30: odd quadrant, bit 31: second half turn
    odd = (q & 0x40000000) != 0
    r = (r.to(tl.uint32, bitcast=True) ^ (q & 0x80000000)).to(tl.float32, bitcast=True)
    # Not -sin: Triton's negation is 0 − x, which makes +0 of +0.
    return r * tl.where(odd, sin * -1.0, cos), r * tl.where(odd, cos, sin)


@triton.jit
def normal_tile(quads, draw, stream, k0, k1):
    """Return the normals of the counters `quads` [Q, 1], float32 [Q, 4].

    One thread makes the four values of a counter and stores the four columns of [Q, 4], so the selection by column is a
    choice of registers: no instruction and no shared memory. (On one-dimensional tiles join and reshape cost 5 barriers
    and 4 KB.)
    """
    w0, w1, w2, w3 = philox(quads, draw, stream, tl.cast(0, tl.uint32), k0, k1)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    j = tl.arange(0, 4)[None, :]
    return tl.where(j < 2, tl.where(j == 0, z0, z1), tl.where(j == 2, z2, z3))


# Specialised, a draw or a stream of 1 would be a Python constant, which has no .to.
@triton.jit(do_not_specialize=["draw", "stream"])
def normal_kernel(
    out_ptr, seeds_ptr, draw, stream, E, QUADS: tl.constexpr, BATCH_AXIS: tl.constexpr, EVEN: tl.constexpr
):
    """Set out[b, :] to the first E normals of (seeds[b], draw, stream)."""
    b = tl.program_id(BATCH_AXIS)
    first = tl.program_id(1 - BATCH_AXIS) * QUADS
    local = tl.arange(0, QUADS)[:, None]
    i = local * 4 + tl.arange(0, 4)[None, :]
    seed = tl.load(seeds_ptr + b)
    z = normal_tile(
        (first + local).to(tl.uint32),
        draw.to(tl.uint32),
        stream.to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    out = out_ptr + b.to(tl.int64) * E + first.to(tl.int64) * 4 + i
    if EVEN:
        tl.store(out, z)
    else:
        tl.store(out, z, mask=i < E - first * 4)
