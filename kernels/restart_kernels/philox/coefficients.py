"""The constants of scheme philox-v1: the one table that every backend reads.

A normal is a pure function ε(seed, draw, stream, element).

Words: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the key (seed low 32
bits, seed high 32 bits) and the counter (element // 4, draw, stream, 0). Of the four words w0 … w3 of a counter,
(w_a, w_b) = (w0, w1) give the normals of elements 4i and 4i + 1, and (w2, w3) those of 4i + 2 and 4i + 3.

Normals: Box–Muller, with ln, sin and cos as polynomials. All operations are float32, each rounded on its own, in
exactly this order (Horner from the highest coefficient; + and × only, so nothing depends on a libm):

    u  = fp32(w_a)·2⁻³² + 2⁻³³                                   in [2⁻³³, 1], never 0
    b  = bits(u) − SQRT_HALF_BITS;  e = fp32(b >> 23);  m = float((b & 0x7fffff) + SQRT_HALF_BITS)
    f  = 1 − m                                                   exact; m in [√½, √2), u = m·2ᵉ
    r  = sqrt(e·LN2_HI + (f·LN(f) + e·LN2_LO))                   −2 ln u;  f·LN(f) = −2 ln(1 − f)
    t  = fp32(int32(w_b << 2))·2⁻³⁴                              signed turns in [−⅛, ⅛), low 30 bits of w_b
    q  = (w_b + 2²⁹) >> 30                                       quadrant, mod 4
    v  = t·t;  s = t·SIN(v);  c = COS(v)                         sin 2πt, cos 2πt
    z0 = r·(c, −s, −c, s)[q]      z1 = r·(s, c, −s, −c)[q]

Near u = 1 the exponent e is 0 and f is exact, so r keeps its relative accuracy down to u = 1, where r = +0. The
coefficients are minimax fits, rounded to float32 one by one from the lowest power, the rest refitted after each:
`benchmarks/fit_philox_v1.py` makes them and measures the accuracy quoted in `reference.py`.

The scheme is frozen: another value in this file is another scheme, with a name of its own.
"""

from __future__ import annotations

# Philox4x32: multipliers and key increments (Weyl sequence).
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
WEYL_1 = 0xBB67AE85
ROUNDS = 10

# Streams: the third word of the counter.
STREAM_NORMAL = 0  # Gaussian noise
STREAM_LABEL = 1  # class labels
STREAM_PFGM = 2  # PFGM++

U_SCALE = 2.0**-32
U_SHIFT = 2.0**-33
T_SCALE = 2.0**-34
SQRT_HALF_BITS = 0x3F3504F3  # the float32 nearest to sqrt(1/2)

# −2 ln 2 = LN2_HI + LN2_LO. HI has 18 bits, so e·HI is exact: the worst error of a normal falls from 1.06e-6 to 0.94e-6
# for two instructions in a hundred.
LN2_HI = -1.386291503906250
LN2_LO = -2.857213530660374e-06
# -2 ln(1 - f) / f on [1 - sqrt 2, 1 - sqrt 1/2]; lowest power first
LN = (
    2.0,
    0.9999986290931702,
    0.6666838526725769,
    0.5000995993614197,
    0.3991234600543976,
    0.3302907943725586,
    0.29852235317230225,
    0.2925053536891937,
    0.18107953667640686,
)
# sin(2 pi t) / t in powers of t^2, |t| <= 1/8
SIN = (6.283185005187988, -41.34150695800781, 81.57170104980469, -74.61544799804688)
# cos(2 pi t) in powers of t^2
COS = (1.0, -19.739208221435547, 64.93914031982422, -85.42311096191406, 58.5601921081543)
