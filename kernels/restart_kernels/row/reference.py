"""The row in plain PyTorch: the one statement of what a row computes, and the oracle in float64.

A row of the table is what follows one network evaluation. Its coefficients and flags are columns of `coef` and `code`
(`layout.py`); x and h are the registers, F the network's output, ε the normals of (seed, DRAW) in scheme philox-v1:

    F  = F_uncond + W·(F_cond − F_uncond)             under guidance; else the network's output as it is
    y  = ((Y_X·x + Y_H·h) + Y_F·F) + S·ε
    g  = (G_X·x + G_H·h) + G_F·F
    x ← y if STORE_X        h ← g if STORE_H        net_in ← C_IN·y if STORE_NET (both halves under guidance)
    first_bad ← min(first_bad, row) if y is not finite somewhere in the sample

Reads x, h, F, coef, code, cursor, seeds; writes x, h, net_in, first_bad. `advance` moves cursor and writes c_noise.

x, h: [B, ...] in float32, or in float64 where they are the oracle. F: [B, ...] in any float type, widened first.
net_in: [B, ...] or [2B, ...], rounded to its own type last. Every product and sum is rounded on its own in the
registers' type, in the order of the parentheses: that order is part of the scheme, and the other backends mirror it.

Limiting cases:

* READ_X, READ_H or READ_F is clear: that operand is +0 and its memory is not read (it may hold NaN).
* S = 0: nothing is drawn, and nothing is added, so that −0 stays −0.
* W = 0 is the unconditional output, if both outputs are finite.
* A cursor below 0 (IDLE): the sample is left as it is.

There are two forms with the same arithmetic. On CPU tensors the host may look at the table, so each distinct row runs
on the samples that are at it, and what a row does not read, store or draw costs nothing. On other devices looking would
be a sync, so one masked form serves all samples.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import layout as L
from ..machine import Machine
from ..philox.reference import normal


def run_row(m: Machine, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
    """Run row cursor[b] of the table for every sample b, in place. Arguments as in `BoundMachine.run_row`."""
    if m.x.device.type != "cpu":
        run_row_masked(m, F, F_uncond)
        return
    at = m.cursor.tolist()
    if len(set(at)) == 1:
        if at[0] >= 0:
            _run_one_row(at[0], m, F, F_uncond)
        return
    halves = m.net_in.view(-1, len(m.x), *m.net_in.shape[1:])
    for row in sorted(r for r in set(at) if r >= 0):
        i = (m.cursor == row).nonzero().squeeze(1)
        net = halves[:, i]
        part = replace(
            m,
            x=m.x[i],
            h=m.h[i],
            net_in=net.view(-1, *m.net_in.shape[1:]),
            seeds=m.seeds[i],
            first_bad=m.first_bad[i],
            cursor=m.cursor[i],
            c_noise=None,
        )
        _run_one_row(row, part, *(None if f is None else f.view(m.x.shape)[i] for f in (F, F_uncond)))
        m.x[i], m.h[i], m.first_bad[i] = part.x, part.h, part.first_bad
        halves[:, i] = net


def advance(m: Machine) -> None:
    """Write c_noise of the next evaluation and move every cursor one row on. See `BoundMachine.advance`."""
    live, row = m.cursor >= 0, m.cursor.clamp(min=0).to(torch.int64)
    if m.c_noise is not None:
        m.c_noise.copy_(torch.where(live, m.coef[row, L.C_NOISE], m.c_noise))
    ends = (m.code[row, L.FLAGS] & L.END) != 0
    m.cursor.copy_(torch.where(live, torch.where(ends, L.IDLE, m.cursor + 1), m.cursor))


def _run_one_row(row: int, m: Machine, F: Tensor | None, F_uncond: Tensor | None) -> None:
    """Run one row on all samples; the host reads its scalars."""
    c = m.coef[row].tolist()
    flags, draw = m.code[row].tolist()[:2]
    x, h, net_in, first_bad = m.x, m.h, m.net_in, m.first_bad
    batch, dtype = x.shape[0], x.dtype
    xv, hv = x.view(batch, -1), h.view(batch, -1)
    xr = xv if flags & L.READ_X else 0.0
    hr = hv if flags & L.READ_H else 0.0
    Fr = _mixed(F, F_uncond, c[L.W], batch, dtype) if flags & L.READ_F and F is not None else 0.0
    y = _affine(c[L.Y_X], xr, c[L.Y_H], hr, c[L.Y_F], Fr)
    if c[L.S] != 0:
        y = normal(m.seeds, draw, xv.shape[1]).to(dtype).mul_(c[L.S]).add_(y)
    if not isinstance(y, Tensor):  # a row that reads nothing and draws nothing
        y = torch.full_like(xv, y)
    # A finite sum has finite terms, so each sample is looked at only when the sum of all is not finite.
    if not math.isfinite(y.sum().item()):
        first_bad.copy_(torch.where(_has_bad(y), first_bad.clamp(max=row), first_bad))
    if flags & L.STORE_H:  # before x, which g reads
        hv.copy_(torch.as_tensor(_affine(c[L.G_X], xr, c[L.G_H], hr, c[L.G_F], Fr)))
    if flags & L.STORE_X:
        xv.copy_(y)
    if flags & L.STORE_NET:
        net_in.view(-1, *xv.shape).copy_(y * c[L.C_IN])


def run_row_masked(m: Machine, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
    """Run every sample's own row with its scalars on the device: no sync, but everything is computed."""
    x, h, net_in, cursor, first_bad = m.x, m.h, m.net_in, m.cursor, m.first_bad
    batch, dtype = x.shape[0], x.dtype
    xv, hv = x.view(batch, -1), h.view(batch, -1)
    row = cursor.clamp(min=0).to(torch.int64)
    live = (cursor >= 0)[:, None]
    c = m.coef[row].to(dtype).unsqueeze(1).unbind(2)  # each [B or 1, 1]
    flags, draw = m.code[row, L.FLAGS][:, None], m.code[row, L.DRAW].to(torch.int64)

    def has(bit: int) -> Tensor:
        return (flags & bit) != 0

    zero = torch.zeros((), dtype=dtype, device=x.device)
    xr = torch.where(has(L.READ_X), xv, zero)
    hr = torch.where(has(L.READ_H), hv, zero)
    Fr = zero if F is None else torch.where(has(L.READ_F), _mixed(F, F_uncond, c[L.W], batch, dtype), zero)
    y = _affine(c[L.Y_X], xr, c[L.Y_H], hr, c[L.Y_F], Fr)
    eps = normal(m.seeds, draw, xv.shape[1]).to(dtype)
    y = torch.where(c[L.S] != 0, y + c[L.S] * eps, y)
    g = _affine(c[L.G_X], xr, c[L.G_H], hr, c[L.G_F], Fr)
    bad = _has_bad(y) & live[:, 0]
    first_bad.copy_(torch.where(bad, torch.minimum(first_bad, cursor), first_bad))
    xv.copy_(torch.where(has(L.STORE_X) & live, y, xv))
    hv.copy_(torch.where(has(L.STORE_H) & live, g, hv))
    net = net_in.view(-1, *xv.shape)
    net.copy_(torch.where(has(L.STORE_NET) & live, (c[L.C_IN] * y).to(net_in.dtype), net))


def _mixed(F: Tensor, F_uncond: Tensor | None, w: Any, batch: int, dtype: torch.dtype) -> Tensor:
    """Return F, or F_uncond + w·(F − F_uncond) under guidance, in the registers' dtype: [B, numel]."""
    cond = F.view(batch, -1).to(dtype)
    if F_uncond is None:
        return cond
    uncond = F_uncond.view(batch, -1).to(dtype)
    return uncond + w * (cond - uncond)


def _has_bad(y: Tensor) -> Tensor:
    """Return which samples hold a NaN or an infinity, bool [B]: y·0 is NaN there and 0 elsewhere."""
    return (y * 0).sum(1) != 0


def _affine(a: Any, x: Any, b: Any, h: Any, c: Any, F: Any) -> Any:
    """Return (a·x + b·h) + c·F, each operation rounded. Not addcmul or alpha=, which torch contracts."""
    return (x * a + h * b) + F * c


def step(m: Machine, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
    """Run a row; the old name of `run_row`, until release 0.2."""
    warnings.warn("step is run_row since 0.1; the old name is removed in 0.2", DeprecationWarning, stacklevel=2)
    run_row(m, F, F_uncond)
