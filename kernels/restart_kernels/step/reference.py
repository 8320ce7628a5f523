"""The fused step in plain PyTorch: the readable statement, the oracle in float64, and today's CPU backend.

On CPU tensors the host may look at the table, so each distinct row is run on the samples that are at it, and
what a row does not read, store or draw costs nothing. On other devices looking would be a sync, so one masked
statement serves all samples. Both use the same arithmetic: float32 (float64 when x is), every operation rounded.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import layout as L
from ..philox.reference import normal


def step(
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    *,
    coef: Tensor,
    code: Tensor,
    cursor: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None = None,
) -> None:
    """Execute row cursor[b] of the table for every sample b, in place. See `restart_kernels.step`."""
    if x.device.type != "cpu":
        _step_masked(x, h, F, net_in, coef, code, cursor, seeds, first_bad, F_uncond)
        return
    batch = x.shape[0]
    at = cursor.tolist()
    if len(set(at)) == 1:
        if at[0] >= 0:
            _step_row(at[0], x, h, F, net_in, coef, code, seeds, first_bad, F_uncond)
        return
    halves = net_in.view(-1, batch, *net_in.shape[1:])
    for row in sorted(r for r in set(at) if r >= 0):
        i = (cursor == row).nonzero().squeeze(1)
        part = [t[i] for t in (x, h, first_bad)]
        net = halves[:, i]
        _step_row(
            row,
            part[0],
            part[1],
            None if F is None else F[i],
            net.view(-1, *net_in.shape[1:]),
            coef,
            code,
            seeds[i],
            part[2],
            None if F_uncond is None else F_uncond[i],
        )
        x[i], h[i], first_bad[i] = part
        halves[:, i] = net


def _step_row(
    row: int,
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    coef: Tensor,
    code: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None,
) -> None:
    """All samples at one row, its scalars read by the host."""
    c = coef[row].tolist()
    flags, draw = code[row].tolist()[:2]
    batch, dtype = x.shape[0], x.dtype
    xv, hv = x.view(batch, -1), h.view(batch, -1)
    xr = xv if flags & L.READ_X else 0.0
    hr = hv if flags & L.READ_H else 0.0
    Fr = _mixed(F, F_uncond, c[L.W], batch, dtype) if flags & L.READ_F and F is not None else 0.0
    y = _affine(c[L.Y_X], xr, c[L.Y_H], hr, c[L.Y_F], Fr)
    if c[L.S] != 0:
        y = normal(seeds, draw, xv.shape[1]).to(dtype).mul_(c[L.S]).add_(y)
    if not isinstance(y, Tensor):  # a row that reads nothing and draws nothing
        y = torch.full_like(xv, y)
    # A finite sum has finite terms: one pass, and the look at each sample only when it is not finite.
    if not math.isfinite(y.sum().item()):
        first_bad.copy_(torch.where(_has_bad(y), first_bad.clamp(max=row), first_bad))
    if flags & L.STORE_H:  # before x, which g reads
        hv.copy_(torch.as_tensor(_affine(c[L.G_X], xr, c[L.G_H], hr, c[L.G_F], Fr)))
    if flags & L.STORE_X:
        xv.copy_(y)
    if flags & L.STORE_NET:
        net_in.view(-1, *xv.shape).copy_(y * c[L.C_IN])


def _step_masked(
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    coef: Tensor,
    code: Tensor,
    cursor: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None,
) -> None:
    """Every sample at its own row, its scalars kept on the device: no sync, but everything is computed."""
    batch, dtype = x.shape[0], x.dtype
    xv, hv = x.view(batch, -1), h.view(batch, -1)
    row = cursor.clamp(min=0).to(torch.int64)
    live = (cursor >= 0)[:, None]
    c = coef[row].to(dtype).unsqueeze(1).unbind(2)  # each [B or 1, 1]
    flags, draw = code[row, L.FLAGS][:, None], code[row, L.DRAW].to(torch.int64)

    def has(bit: int) -> Tensor:
        return (flags & bit) != 0

    zero = torch.zeros((), dtype=dtype, device=x.device)
    xr = torch.where(has(L.READ_X), xv, zero)
    hr = torch.where(has(L.READ_H), hv, zero)
    Fr = zero if F is None else torch.where(has(L.READ_F), _mixed(F, F_uncond, c[L.W], batch, dtype), zero)
    y = _affine(c[L.Y_X], xr, c[L.Y_H], hr, c[L.Y_F], Fr)
    eps = normal(seeds, draw, xv.shape[1]).to(dtype)
    y = torch.where(c[L.S] != 0, y + c[L.S] * eps, y)
    g = _affine(c[L.G_X], xr, c[L.G_H], hr, c[L.G_F], Fr)
    bad = _has_bad(y) & live[:, 0]
    first_bad.copy_(torch.where(bad, torch.minimum(first_bad, cursor), first_bad))
    xv.copy_(torch.where(has(L.STORE_X) & live, y, xv))
    hv.copy_(torch.where(has(L.STORE_H) & live, g, hv))
    net = net_in.view(-1, *xv.shape)
    net.copy_(torch.where(has(L.STORE_NET) & live, (c[L.C_IN] * y).to(net_in.dtype), net))


def _mixed(F: Tensor, F_uncond: Tensor | None, w: Any, batch: int, dtype: torch.dtype) -> Tensor:
    """F, or F_uncond + w·(F − F_uncond), in the registers' dtype."""
    cond = F.view(batch, -1).to(dtype)
    if F_uncond is None:
        return cond
    uncond = F_uncond.view(batch, -1).to(dtype)
    return uncond + w * (cond - uncond)


def _has_bad(y: Tensor) -> Tensor:
    """Which samples hold a NaN or an infinity: y·0 is NaN there and 0 elsewhere. bool [B]"""
    return (y * 0).sum(1) != 0


def _affine(a: Any, x: Any, b: Any, h: Any, c: Any, F: Any) -> Any:
    """(a·x + b·h) + c·F, each operation rounded. No addcmul and no alpha=: torch contracts those."""
    return (x * a + h * b) + F * c
