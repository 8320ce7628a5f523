r"""The weights of two outputs in plain PyTorch: guidance that looks at a whole sample, by five sums.

Under guidance F = α_c·c + α_u·u, where c is the conditional output and u the other one. In classifier-free guidance
α_c = W and α_u = 1 − W. Three methods choose them for each sample from

    cc = Σc²    uu = Σu²    cu = Σc·u    sc = Σc    su = Σu              over its n elements

* RESCALE: rescaled guidance (arXiv 2305.08891, §3.4). It brings the std of F to that of c, by the share P = φ.
* ZERO_STAR: CFG-Zero* (arXiv 2503.18886, eq. 7). u is scaled to be as close to c as it can.
* APG: projected guidance (arXiv 2410.02416) without momentum. The difference c − u is clipped to the norm Q, and its
  part along c gets the weight P = η.

With V = 1 − W:

    RESCALE     v_c = cc − (sc·sc)/n    v_u = uu − (su·su)/n    v_cu = cu − (sc·su)/n
                v = ((W·W)·v_c + (V·V)·v_u) + (2·(W·V))·v_cu
                r = √(max(v_c, 0)/v) if v > 0, else 1        f = P·r + (1 − P)
                α_c = f·W            α_u = f·V
    ZERO_STAR   s = cu/uu if uu > 0, else 0                  α_c = W              α_u = s·V
    APG         d = √max((cc − 2·cu) + uu, 0)                k = Q/d if Q > 0 and d > Q, else 1
                p = k·((cc − cu)/cc) if cc > 0, else 0
                α_c = 1 − V·(k − (1 − P)·p)                  α_u = V·k

The order of the sums is part of the scheme, so that the weights have the same bits on every backend. Each of the five
has 1024 accumulators that begin at +0; element i is added to accumulator i mod 1024, in order of i; then neighbours are
added, 1024 → 512 → … → 1. Every operation is rounded on its own in the registers' type, in the order of the
parentheses; 2·x is exact.

Reads c, u, coef, code, cursor; writes mix. Limiting cases: φ = 0, and η = 1 without clipping, are plain guidance; W = 1
is c alone for all but RESCALE, which is c up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import layout as L
from ..machine import Machine
from ..registers import METHODS

ACCUMULATORS = 1024


class Sums(NamedTuple):
    """The five sums, each [B]."""

    cc: Tensor
    uu: Tensor
    cu: Tensor
    sc: Tensor
    su: Tensor


def weigh(m: Machine, F: Tensor, F_uncond: Tensor) -> None:
    """Write the weights of (F, F_uncond) to mix, for every sample whose row has a method."""
    assert m.mix is not None
    batch, dtype = m.x.shape[0], m.x.dtype
    row = m.cursor.clamp(min=0).to(torch.int64)
    flags = m.code[row, L.FLAGS].expand(batch)
    weighs = (m.cursor >= 0).expand(batch) & ((flags & L.GUIDE) != 0) & ((flags & METHODS) != 0)
    c, u = (f.view(batch, -1).to(dtype) for f in (F, F_uncond))
    coef = m.coef[row].to(dtype).expand(batch, -1)
    found = mixed(sums(c, u), coef[:, L.W], coef[:, L.P], coef[:, L.Q], flags, c.shape[1])
    m.mix.copy_(torch.where(weighs[:, None], found, m.mix))


def sums(c: Tensor, u: Tensor) -> Sums:
    """Return the five sums of c and u [B, n], in the order of the scheme."""
    return Sums(*(ordered_sum(v) for v in (c * c, u * u, c * u, c, u)))


def ordered_sum(v: Tensor) -> Tensor:
    """Return the sum of v [B, n] over n, [B]: 1024 accumulators, then neighbours."""
    missing = -v.shape[1] % ACCUMULATORS
    chunks = torch.nn.functional.pad(v, (0, missing)).view(len(v), -1, ACCUMULATORS)
    total = torch.zeros_like(chunks[:, 0])
    for chunk in chunks.unbind(1):
        total = total + chunk
    while total.shape[1] > 1:
        total = total[:, 0::2] + total[:, 1::2]
    return total[:, 0]


def mixed(s: Sums, w: Tensor, p: Tensor, q: Tensor, flags: Tensor, n: int) -> Tensor:
    """Return (α_c, α_u) of each sample [B, 2], by the method in its flags."""
    v = 1 - w
    zero, one = torch.zeros_like(w), torch.ones_like(w)
    count = torch.full_like(w, n)  # a tensor, since on a GPU torch divides by a number with its reciprocal
    v_c, v_u, v_cu = s.cc - s.sc * s.sc / count, s.uu - s.su * s.su / count, s.cu - s.sc * s.su / count
    var = (w * w * v_c + v * v * v_u) + 2 * (w * v) * v_cu
    f = p * torch.where(var > 0, _root(v_c.clamp(min=0) / var), one) + (1 - p)
    rescale = torch.stack((f * w, f * v), 1)

    star = torch.stack((w, torch.where(s.uu > 0, s.cu / s.uu, zero) * v), 1)

    d = _root(((s.cc - 2 * s.cu) + s.uu).clamp(min=0))
    k = torch.where((q > 0) & (d > q), q / d, one)
    along = torch.where(s.cc > 0, k * ((s.cc - s.cu) / s.cc), zero)
    apg = torch.stack((1 - v * (k - (1 - p) * along), v * k), 1)

    def has(bit: int) -> Tensor:
        return ((flags & bit) != 0)[:, None]

    return torch.where(has(L.RESCALE), rescale, torch.where(has(L.ZERO_STAR), star, apg))


def _root(v: Tensor) -> Tensor:
    """Return the root of float32 `v`, correctly rounded as from float64; torch's own on a CPU errs in the last bit."""
    return v.double().sqrt().to(v.dtype)
