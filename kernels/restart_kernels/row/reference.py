"""The row in plain PyTorch: the one statement of what a row computes, and the oracle in float64.

A row of the table is what follows one network evaluation. Its coefficients and flags are columns of `coef` and `code`
(`layout.py`); x and h are the registers, F the network's output, ε the normals of (seed, DRAW) in scheme philox-v1:

    F  = F_uncond + W·(F_cond − F_uncond)                         with GUIDE, if there is an F_uncond; else F_cond
       = α_c·F_cond + α_u·F_uncond                                with GUIDE and a method of weights.py, from mix
    y  = (((Y_X·x + Y_H·h) + Y_H2·h2) + Y_H3·h3) + Y_F·F
    y  = (y + S·ε(DRAW)) + S2·ε(DRAW2)                            a term with std 0 is left out
    y  = M·y + (1 − M)·(K·k + S_K·ε(DRAW_K))                      with PASTE: mask M, known image k; likewise
    g  = (((G_X·x + G_H·h) + G_H2·h2) + G_H3·h3) + G_F·F
    x ← y if STORE_X        h, h2 or h3 ← g if STORE_H, STORE_H2 or STORE_H3
    net_in ← C_IN·y if STORE_NET (both halves under guidance)
    first_bad ← min(first_bad, row) if y is not finite somewhere in the sample

Reads x, the history, F, known, mask, mix, coef, code, cursor, seeds; writes x, the history, net_in, first_bad.
`advance` moves cursor and writes c_noise.

x and the history: [B, ...] in float32, or in float64 where they are the oracle. F: [B, ...] in any float type, widened
first.
net_in: [B, ...] or [2B, ...], rounded to its own type last. Every product and sum is rounded on its own in the
registers' type, in the order of the parentheses: that order is part of the scheme, and the other backends mirror it.

Limiting cases:

* A READ bit is clear: that operand is +0 and its memory is not read (it may hold NaN). The terms of h2 and h3 are then
  −0 by their coefficients (`layout.py`), and a machine without these registers leaves the terms out.
* S = 0: nothing is drawn, and nothing is added, so that −0 stays −0.
* W = 0 is the unconditional output, if both outputs are finite. GUIDE is clear: F_uncond is not read.
* M = 1 is y and M = 0 is the known image, if both are finite.
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
from ..registers import HISTORY, METHODS

WRITTEN = ("x", "h", "h2", "h3", "first_bad")
PER_SAMPLE = (*WRITTEN, "seeds", "known", "mask", "mix")


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
        own: dict[str, Any] = {name: getattr(m, name) for name in PER_SAMPLE}
        taken: dict[str, Any] = {name: None if t is None else t[i] for name, t in own.items()}
        part = replace(m, net_in=net.view(-1, *m.net_in.shape[1:]), cursor=m.cursor[i], c_noise=None, **taken)
        _run_one_row(row, part, *(None if f is None else f.view(m.x.shape)[i] for f in (F, F_uncond)))
        for name in WRITTEN:
            if own[name] is not None:
                own[name][i] = taken[name]
        halves[:, i] = net


def advance(m: Machine) -> None:
    """Write c_noise of the next evaluation and move every cursor one row on. See `BoundMachine.advance`."""
    live, row = m.cursor >= 0, m.cursor.clamp(min=0).to(torch.int64)
    if m.c_noise is not None:
        for half in m.c_noise.split(len(row)):
            half.copy_(torch.where(live, m.coef[row, L.C_NOISE], half))
    ends = (m.code[row, L.FLAGS] & L.END) != 0
    m.cursor.copy_(torch.where(live, torch.where(ends, L.IDLE, m.cursor + 1), m.cursor))


def _run_one_row(row: int, m: Machine, F: Tensor | None, F_uncond: Tensor | None) -> None:
    """Run one row on all samples; the host reads its scalars."""
    c = m.coef[row].tolist()
    flags, *draws = m.code[row].tolist()
    net_in, first_bad = m.net_in, m.first_bad
    batch, dtype = m.x.shape[0], m.x.dtype
    xv = m.x.view(batch, -1)
    hv = [h.view(batch, -1) for h in m.history]
    xr = xv if flags & L.READ_X else 0.0
    hr = [h if flags & read else 0.0 for h, (_, _, read, _) in zip(hv, HISTORY, strict=False)]
    Fr: Any = 0.0
    if flags & L.READ_F and F is not None:
        if not flags & L.GUIDE:
            F_uncond = None
        mix = m.mix.unsqueeze(2).unbind(1) if flags & METHODS and m.mix is not None else None
        Fr = _guided(F, F_uncond, c[L.W], mix, batch, dtype)

    def noise(std: float, draw: int) -> Tensor:
        return normal(m.seeds, draw, xv.shape[1]).to(dtype).mul_(std)

    y = _affine(c[L.Y_X], xr, [c[column] for column, *_ in HISTORY], hr, c[L.Y_F], Fr)
    for std, draw in ((c[L.S], draws[0]), (c[L.S2], draws[1]))[: m.noises]:
        if std != 0:
            y = noise(std, draw).add_(y)
    if not isinstance(y, Tensor):  # a row that reads nothing and draws nothing
        y = torch.full_like(xv, y)
    if flags & L.PASTE and m.known is not None and m.mask is not None:
        k, M = m.known.view(batch, -1), m.mask.view(batch, -1)
        pasted = k * c[L.K]
        if c[L.S_K] != 0:
            pasted = pasted + noise(c[L.S_K], draws[2])
        y = M * y + (1 - M) * pasted
    # A finite sum has finite terms, so each sample is looked at only when the sum of all is not finite.
    if not math.isfinite(y.sum().item()):
        first_bad.copy_(torch.where(_has_bad(y), first_bad.clamp(max=row), first_bad))
    for h, (_, _, _, store) in zip(hv, HISTORY, strict=False):
        if flags & store:  # before x, which g reads
            h.copy_(torch.as_tensor(_affine(c[L.G_X], xr, [c[column] for _, column, *_ in HISTORY], hr, c[L.G_F], Fr)))
    if flags & L.STORE_X:
        xv.copy_(y)
    if flags & L.STORE_NET:
        net_in.view(-1, *xv.shape).copy_(y * c[L.C_IN])


def run_row_masked(m: Machine, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
    """Run every sample's own row with its scalars on the device: no sync, but everything is computed."""
    net_in, cursor, first_bad = m.net_in, m.cursor, m.first_bad
    batch, dtype = m.x.shape[0], m.x.dtype
    xv = m.x.view(batch, -1)
    hv = [h.view(batch, -1) for h in m.history]
    row = cursor.clamp(min=0).to(torch.int64)
    live = (cursor >= 0)[:, None]
    c = m.coef[row].to(dtype).unsqueeze(1).unbind(2)  # each [B or 1, 1]
    flags = m.code[row, L.FLAGS][:, None]
    draws = m.code[row].to(torch.int64)

    def has(bits: int) -> Tensor:
        return (flags & bits) != 0

    def noise(std: Tensor, draw: int) -> Tensor:
        return std * normal(m.seeds, draws[:, draw], xv.shape[1]).to(dtype)

    zero = torch.zeros((), dtype=dtype, device=m.x.device)
    xr = torch.where(has(L.READ_X), xv, zero)
    hr = [torch.where(has(read), h, zero) for h, (_, _, read, _) in zip(hv, HISTORY, strict=False)]
    Fr = zero
    if F is not None:
        Fr = _guided(F, None, zero, None, batch, dtype)
        if F_uncond is not None:
            mixed = _guided(F, F_uncond, c[L.W], None, batch, dtype)
            if m.mix is not None:
                weighed = _guided(F, F_uncond, zero, m.mix.unsqueeze(2).unbind(1), batch, dtype)
                mixed = torch.where(has(METHODS), weighed, mixed)
            Fr = torch.where(has(L.GUIDE), mixed, Fr)
        Fr = torch.where(has(L.READ_F), Fr, zero)
    y = _affine(c[L.Y_X], xr, [c[column] for column, *_ in HISTORY], hr, c[L.Y_F], Fr)
    for std, draw in ((c[L.S], L.DRAW), (c[L.S2], L.DRAW2))[: m.noises]:
        y = torch.where(std != 0, y + noise(std, draw), y)
    if m.known is not None and m.mask is not None:
        M = m.mask.view(batch, -1)
        pasted = m.known.view(batch, -1) * c[L.K]
        pasted = torch.where(c[L.S_K] != 0, pasted + noise(c[L.S_K], L.DRAW_K), pasted)
        y = torch.where(has(L.PASTE), M * y + (1 - M) * pasted, y)
    g = _affine(c[L.G_X], xr, [c[column] for _, column, *_ in HISTORY], hr, c[L.G_F], Fr)
    bad = _has_bad(y) & live[:, 0]
    first_bad.copy_(torch.where(bad, torch.minimum(first_bad, cursor), first_bad))
    xv.copy_(torch.where(has(L.STORE_X) & live, y, xv))
    for h, (_, _, _, store) in zip(hv, HISTORY, strict=False):
        h.copy_(torch.where(has(store) & live, g, h))
    net = net_in.view(-1, *xv.shape)
    net.copy_(torch.where(has(L.STORE_NET) & live, (c[L.C_IN] * y).to(net_in.dtype), net))


def _guided(F: Tensor, F_uncond: Tensor | None, w: Any, mix: Any, batch: int, dtype: torch.dtype) -> Tensor:
    """Return F, guided if there is an F_uncond, by the weight w or by mix; in the registers' dtype, [B, numel]."""
    cond = F.view(batch, -1).to(dtype)
    if F_uncond is None:
        return cond
    uncond = F_uncond.view(batch, -1).to(dtype)
    return uncond + w * (cond - uncond) if mix is None else mix[0] * cond + mix[1] * uncond


def _has_bad(y: Tensor) -> Tensor:
    """Return which samples hold a NaN or an infinity, bool [B]: y·0 is NaN there and 0 elsewhere."""
    return (y * 0).sum(1) != 0


def _affine(a: Any, x: Any, b: Any, h: Any, c: Any, F: Any) -> Any:
    """Return ((a·x + b₀·h) + b₁·h2 …) + c·F, each operation rounded. Not addcmul or alpha=, which torch contracts.

    The first history term is always there: a machine without registers adds it as one that does not read h.
    """
    y = x * a + (h[0] if h else 0.0) * b[0]
    for weight, register in zip(b[1:], h[1:], strict=False):
        y = y + register * weight
    return y + F * c


def step(m: Machine, F: Tensor | None, F_uncond: Tensor | None = None) -> None:
    """Run a row; the old name of `run_row`, until release 0.2."""
    warnings.warn("step is run_row since 0.1; the old name is removed in 0.2", DeprecationWarning, stacklevel=2)
    run_row(m, F, F_uncond)
