"""Layout of the device table: one row for each network evaluation, as floats in `coef` and integers in `code`.

`row/reference.py` states what a row computes from them. Which row a sample is at is in its cursor, on the device;
between two rows `advance` moves the cursor on and gives the network its C_NOISE. Plans share a table: each has rows of
its own, one after the other, and the last of them has END. A register whose READ bit is clear counts as +0 and is never
touched in memory.

The history registers are h, h2 and h3. A machine has the first R of them, R = 0 … 3, and runs every table that reads
and stores no others. For that to change no bit, a table has −0 in the columns of h2 and h3 where it does not read them:
the term is then −0, and adding it does nothing.

These numbers are shared by all backends and by the engine, and `bindings/csrc/generate_scheme.py` hands them to C++.
"""

from __future__ import annotations

# Float columns of coef [rows, NUM_COEF]: float32, or float64 where the registers are.
Y_X = 0
Y_H = 1
Y_F = 2
S = 3  # std of the first noise term
G_X = 4
G_H = 5
G_F = 6
C_IN = 7  # c_in of the next evaluation
C_NOISE = 8  # c_noise of the next evaluation: `advance` hands it to the network, the row itself does not read it
W = 9  # guidance weight
Y_H2 = 10
Y_H3 = 11
G_H2 = 12
G_H3 = 13
S2 = 14  # std of the second noise term
K = 15  # factor of the known image under PASTE
S_K = 16  # std of the noise on it
P = 17  # of the guidance methods: φ under RESCALE; η, the weight of the parallel part, under APG
Q = 18  # the norm that APG clips the difference to; 0 is no clipping
NUM_COEF = 20  # 19 is reserved and 0: a row is 80 bytes, a multiple of 16

# Integer columns of code [rows, NUM_CODE], int32.
FLAGS = 0
DRAW = 1  # the number of the noise draw along the trajectory: a counter word of Philox
DRAW2 = 2  # that of the second noise term
DRAW_K = 3  # that of the noise on the known image
NUM_CODE = 4

# Bits of FLAGS.
READ_X = 1
READ_H = 2
READ_F = 4
STORE_X = 8
STORE_H = 16  # at most one of STORE_H, STORE_H2 and STORE_H3
STORE_NET = 32
END = 64  # the last row of a plan: after it the sample is idle
READ_H2 = 128
READ_H3 = 256
STORE_H2 = 512
STORE_H3 = 1024
PASTE = 2048  # y is mixed with the known image by the mask
GUIDE = 4096  # F is the guided output of two evaluations; without it F is the first output, and the other is not read
RESCALE = 8192  # with GUIDE, at most one of these three: the weights of the outputs come from their sums (`weigh`)
ZERO_STAR = 16384
APG = 32768

NEVER = 2**31 - 1  # first_bad of a sample that stayed finite
IDLE = -1  # the cursor of a sample that is left alone; any negative one is
