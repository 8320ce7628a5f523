"""Layout of the device table: one row for each network evaluation, as floats in `coef` and integers in `code`.

`row/reference.py` states what a row computes from them. Which row a sample is at is in its cursor, on the device;
between two rows `advance` moves the cursor on and gives the network its C_NOISE. Plans share a table: each has rows of
its own, one after the other, and the last of them has END. A register whose READ bit is clear counts as +0 and is never
touched in memory.

These numbers are shared by all backends and by the engine, and `bindings/csrc/generate_scheme.py` hands them to C++.
"""

from __future__ import annotations

# Float columns of coef [rows, NUM_COEF]: float32, or float64 where the registers are.
Y_X = 0
Y_H = 1
Y_F = 2
S = 3  # noise standard deviation
G_X = 4
G_H = 5
G_F = 6
C_IN = 7  # c_in of the next evaluation
C_NOISE = 8  # c_noise of the next evaluation: `advance` hands it to the network, the row itself does not read it
W = 9  # guidance weight
NUM_COEF = 12  # 10 and 11 are reserved and 0: a row is 48 bytes, a multiple of 16

# Integer columns of code [rows, NUM_CODE], int32.
FLAGS = 0
DRAW = 1  # the number of the noise draw along the trajectory: a counter word of Philox
NUM_CODE = 4  # 2 and 3 are reserved and 0

# Bits of FLAGS.
READ_X = 1
READ_H = 2
READ_F = 4
STORE_X = 8
STORE_H = 16
STORE_NET = 32
END = 64  # the last row of a plan: after it the sample is idle

NEVER = 2**31 - 1  # first_bad of a sample that stayed finite
IDLE = -1  # the cursor of a sample that is left alone; any negative one is
