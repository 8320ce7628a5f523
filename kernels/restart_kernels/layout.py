"""Layout of the device table that drives the fused step: one row per network evaluation.

A row of `coef` (floats) and of `code` (integers) says,

    y  = Y_X·x + Y_H·h + Y_F·F + S·ε(seed, DRAW)      ε only when S ≠ 0
    g  = G_X·x + G_H·h + G_F·F
    x ← y (STORE_X)    h ← g (STORE_H)    net_in ← C_IN·y (STORE_NET)

with F = F_uncond + W·(F_cond − F_uncond) under guidance. Which row a sample executes is in its cursor, on the device;
between two rows `advance` moves it on and hands the network its C_NOISE. Plans share a table: each has rows of its
own, one after the other, and the last of them says END. A register whose READ bit is clear counts as +0 and
is never touched in memory. The numbers here are shared by every backend and by the engine: change none alone.
"""

from __future__ import annotations

# Float columns of coef [R, NUM_COEF]: float32 (float64 on the reference backend).
Y_X = 0
Y_H = 1
Y_F = 2
S = 3  # noise standard deviation
G_X = 4
G_H = 5
G_F = 6
C_IN = 7  # c_in of the next evaluation
C_NOISE = 8  # c_noise of the next evaluation; for the network, the step does not read it
W = 9  # guidance weight
NUM_COEF = 12  # 10 and 11 are reserved and 0: a row is 48 bytes, a multiple of 16

# Integer columns of code [R, NUM_CODE] int32.
FLAGS = 0
DRAW = 1  # which injection of the trajectory this is: the counter word of the noise
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
IDLE = -1  # any negative cursor: the sample is not touched
