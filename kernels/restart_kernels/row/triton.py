"""The fused row in Triton: one launch, one pass over memory.

A program owns 4·QUADS consecutive elements of one sample. All of them are at the same row, so everything that depends
on the row (what is read, what is stored, whether there is noise, guidance or a known image) is uniform: memory is
masked by a scalar, and what takes many instructions sits behind a real branch. Tiles are [QUADS, 4] with the four
columns of a Philox counter in one thread: float32 moves in 128-bit accesses, 16-bit types in 64-bit ones, and no layout
ever changes, so there is no shared memory and no barrier. `python -m restart_kernels.aot` prints the figures.

What a machine does not have is None, and is not compiled: history registers (R is the number of those that are there),
F_uncond, the known image with its mask, mix.

Mirrors `reference.py` bit for bit: every product and sum is rounded (launched with enable_fp_fusion=False).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import layout as L
from .. import registers
from ..philox.coefficients import STREAM_NORMAL
from ..philox.triton import normal_tile

READ_X, READ_F = tl.constexpr(L.READ_X), tl.constexpr(L.READ_F)
READ_H, READ_H2, READ_H3 = tl.constexpr(L.READ_H), tl.constexpr(L.READ_H2), tl.constexpr(L.READ_H3)
STORE_X, STORE_NET, END = tl.constexpr(L.STORE_X), tl.constexpr(L.STORE_NET), tl.constexpr(L.END)
STORE_H, STORE_H2, STORE_H3 = tl.constexpr(L.STORE_H), tl.constexpr(L.STORE_H2), tl.constexpr(L.STORE_H3)
# The stores of a machine with one, two and three history registers.
STORES1, STORES2 = tl.constexpr(L.STORE_H), tl.constexpr(L.STORE_H | L.STORE_H2)
STORES3 = tl.constexpr(L.STORE_H | L.STORE_H2 | L.STORE_H3)
GUIDED_F = tl.constexpr(L.READ_F | L.GUIDE)  # both bits: F is read, and it is guided
METHODS = tl.constexpr(registers.METHODS)
PASTE = tl.constexpr(L.PASTE)
NUM_COEF, NUM_CODE = tl.constexpr(L.NUM_COEF), tl.constexpr(L.NUM_CODE)
FLAGS, DRAW, DRAW2, DRAW_K = (tl.constexpr(column) for column in (L.FLAGS, L.DRAW, L.DRAW2, L.DRAW_K))
Y_X, Y_H, Y_H2, Y_H3, Y_F = (tl.constexpr(column) for column in (L.Y_X, L.Y_H, L.Y_H2, L.Y_H3, L.Y_F))
G_X, G_H, G_H2, G_H3, G_F = (tl.constexpr(column) for column in (L.G_X, L.G_H, L.G_H2, L.G_H3, L.G_F))
S, S2, K, S_K = tl.constexpr(L.S), tl.constexpr(L.S2), tl.constexpr(L.K), tl.constexpr(L.S_K)
C_IN, W, C_NOISE = tl.constexpr(L.C_IN), tl.constexpr(L.W), tl.constexpr(L.C_NOISE)
IDLE = tl.constexpr(L.IDLE)
NOISE = tl.constexpr(STREAM_NORMAL)


@triton.jit
def to_bfloat16(x):
    """Round to nearest even by hand: the interpreter of 3.9 truncates. On a GPU the cast is one instruction."""
    u = x.to(tl.uint32, bitcast=True)
    u = tl.where(x == x, (u + 0x7FFF + ((u >> 16) & 1)) >> 16, 0x7FC0)
    return u.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _noise(std, draw, seed_ptr, quads):
    """Return std·ε of the counters `quads` [Q, 1], float32 [Q, 4]."""
    seed = tl.load(seed_ptr)
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    return std * normal_tile(quads, draw.to(tl.uint32), tl.cast(NOISE, tl.uint32), k0, k1)


@triton.jit
def row_kernel(
    x_ptr,
    h_ptr,
    h2_ptr,
    h3_ptr,
    F_ptr,
    F_uncond_ptr,
    net_ptr,
    known_ptr,
    mask_ptr,
    mix_ptr,
    coef_ptr,
    code_ptr,
    cursor_ptr,
    seeds_ptr,
    first_bad_ptr,
    E,  # elements per sample, below 2**31
    half,  # B·E: where the second half of net_in begins
    CURSOR_STRIDE: tl.constexpr,
    HALVES: tl.constexpr,  # net_in has two, and both are written; F_uncond may still be None
    NOISES: tl.constexpr,
    QUADS: tl.constexpr,
    BATCH_AXIS: tl.constexpr,
    EVEN: tl.constexpr,  # E is a multiple of 4·QUADS: no tail, 4 instructions per element less
    INTERPRETED: tl.constexpr,
):
    """Run row cursor[b] on 4·QUADS elements of sample b."""
    b = tl.program_id(BATCH_AXIS)
    row = tl.load(cursor_ptr + b * CURSOR_STRIDE)
    # An idle sample has flags and coefficients 0: it loads, draws and stores nothing.
    live = row >= 0
    code = code_ptr + row * NUM_CODE
    flags = tl.load(code + FLAGS, mask=live, other=0)
    draw = tl.load(code + DRAW, mask=live, other=0)
    c = coef_ptr + row * NUM_COEF
    y_x = tl.load(c + Y_X, mask=live, other=0.0)
    y_h = tl.load(c + Y_H, mask=live, other=0.0)
    y_F = tl.load(c + Y_F, mask=live, other=0.0)
    s = tl.load(c + S, mask=live, other=0.0)
    c_in = tl.load(c + C_IN, mask=live, other=0.0)

    # One 64-bit offset per program (B·E may exceed 2**31); inside it offsets are constants of the thread, which
    # become immediates of the loads: 3 instructions per element less than with one sum per access.
    first = tl.program_id(1 - BATCH_AXIS) * QUADS
    base = b.to(tl.int64) * E + first.to(tl.int64) * 4
    local = tl.arange(0, QUADS)[:, None]
    i = local * 4 + tl.arange(0, 4)[None, :]
    quads = (first + local).to(tl.uint32)
    # Flags as a [1, 1] tile: the interpreter makes integers of a scalar comparison that is broadcast.
    bits = flags + tl.zeros([1, 1], tl.int32)
    inside = bits >= 0 if EVEN else i < E - first * 4

    # The loads are issued before the noise is computed, which hides their latency.
    x = tl.load(x_ptr + base + i, mask=inside & ((bits & READ_X) != 0), other=0.0)
    h = tl.zeros([QUADS, 4], tl.float32)  # a machine without registers adds the first term all the same
    if h_ptr is not None:
        h = tl.load(h_ptr + base + i, mask=inside & ((bits & READ_H) != 0), other=0.0)
    if h2_ptr is not None:
        h2 = tl.load(h2_ptr + base + i, mask=inside & ((bits & READ_H2) != 0), other=0.0)
    if h3_ptr is not None:
        h3 = tl.load(h3_ptr + base + i, mask=inside & ((bits & READ_H3) != 0), other=0.0)
    F = tl.load(F_ptr + base + i, mask=inside & ((bits & READ_F) != 0), other=0.0).to(tl.float32)
    if F_uncond_ptr is not None:
        guided = (bits & GUIDED_F) == GUIDED_F
        F_uncond = tl.load(F_uncond_ptr + base + i, mask=inside & guided, other=0.0).to(tl.float32)
        if (flags & GUIDED_F) == GUIDED_F:
            if mix_ptr is not None and flags & METHODS:
                F = tl.load(mix_ptr + 2 * b) * F + tl.load(mix_ptr + 2 * b + 1) * F_uncond
            else:
                F = F_uncond + tl.load(c + W) * (F - F_uncond)

    if s != 0:
        noise = _noise(s, draw, seeds_ptr + b, quads)
    else:
        # -0, since y + (-0) is y also where y is -0; by its bits, since tl.full of 3.6 makes +0 of -0.0.
        noise = tl.full([QUADS, 4], -(1 << 31), tl.int32).to(tl.float32, bitcast=True)

    y = y_x * x + y_h * h
    if h2_ptr is not None:
        y += tl.load(c + Y_H2, mask=live, other=0.0) * h2
    if h3_ptr is not None:
        y += tl.load(c + Y_H3, mask=live, other=0.0) * h3
    y = (y + y_F * F) + noise
    STORES: tl.constexpr = STORES3 if h3_ptr is not None else STORES2 if h2_ptr is not None else STORES1
    if h_ptr is not None and flags & STORES:
        g = tl.load(c + G_X) * x + tl.load(c + G_H) * h
        if h2_ptr is not None:
            g += tl.load(c + G_H2) * h2
        if h3_ptr is not None:
            g += tl.load(c + G_H3) * h3
        g += tl.load(c + G_F) * F
        slot = h_ptr  # a row stores at most one of them
        if h2_ptr is not None:
            slot = tl.where((flags & STORE_H2) != 0, h2_ptr, slot)
        if h3_ptr is not None:
            slot = tl.where((flags & STORE_H3) != 0, h3_ptr, slot)
        tl.store(slot + base + i, g, mask=inside)
    # After g: x, the history and F need not be kept while there is more noise to make.
    if NOISES == 2:
        s2 = tl.load(c + S2, mask=live, other=0.0)
        if s2 != 0:
            y += _noise(s2, tl.load(code + DRAW2), seeds_ptr + b, quads)
    if known_ptr is not None and flags & PASTE:
        M = tl.load(mask_ptr + base + i, mask=inside, other=0.0)
        known = tl.load(c + K) * tl.load(known_ptr + base + i, mask=inside, other=0.0)
        s_k = tl.load(c + S_K)
        if s_k != 0:
            known += _noise(s_k, tl.load(code + DRAW_K), seeds_ptr + b, quads)
        y = M * y + (1.0 - M) * known

    tl.store(x_ptr + base + i, y, mask=inside & ((bits & STORE_X) != 0))
    net = c_in * y
    if INTERPRETED and net_ptr.dtype.element_ty == tl.bfloat16:
        net = to_bfloat16(net)
    else:
        net = net.to(net_ptr.dtype.element_ty)
    store_net = inside & ((bits & STORE_NET) != 0)
    tl.store(net_ptr + base + i, net, mask=store_net)
    if HALVES:
        tl.store(net_ptr + half + base + i, net, mask=store_net)

    # Largest |y| of each counter, NaN if there is one: one instruction per element where a test of each takes four.
    # The atomic is executed only by threads that saw a bad value; no reduction over the block, so no barrier.
    pair0, pair1 = tl.split(tl.reshape(tl.abs(y), [QUADS, 2, 2]))
    m0, m1 = tl.split(tl.maximum(pair0, pair1, propagate_nan=tl.PropagateNan.ALL))
    largest = tl.maximum(m0, m1, propagate_nan=tl.PropagateNan.ALL)
    zero = tl.zeros([QUADS], tl.int32)
    finite = largest < float("inf")
    tl.atomic_min(first_bad_ptr + b + zero, row + zero, mask=finite == 0, sem="relaxed")


# n is 1 for a batch with one cursor, and a specialised 1 would be a kernel of its own.
@triton.jit(do_not_specialize=["n"])
def advance_kernel(coef_ptr, code_ptr, cursor_ptr, c_noise_ptr, n, GIVE: tl.constexpr, BLOCK: tl.constexpr):
    """Move every live cursor one row on, or to IDLE after a row with END; write c_noise of the next evaluation.

    GIVE is how often it is written: not at all, once, or for both halves.
    """
    b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(cursor_ptr + b, mask=b < n, other=IDLE)
    live = row >= 0
    flags = tl.load(code_ptr + row * NUM_CODE + FLAGS, mask=live, other=0)
    if GIVE:
        c_noise = tl.load(coef_ptr + row * NUM_COEF + C_NOISE, mask=live, other=0.0)
        tl.store(c_noise_ptr + b, c_noise, mask=live)
        if GIVE == 2:
            tl.store(c_noise_ptr + n + b, c_noise, mask=live)
    tl.store(cursor_ptr + b, tl.where((flags & END) != 0, IDLE, row + 1), mask=live)
