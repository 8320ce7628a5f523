"""Random rows and batches for the tests of the kernels, the statement of a row in numpy, and comparison by bits."""

from __future__ import annotations

import numpy as np
import torch

import restart_kernels as rk
from restart_kernels import layout as L
from restart_kernels.row import reference

ALL = L.READ_X | L.READ_H | L.READ_F | L.STORE_X | L.STORE_H | L.STORE_NET
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def table(flags, seed=0, s=None, device="cpu"):
    """Return a table with one random row for each flag word; row r has draw r."""
    generator = torch.Generator().manual_seed(seed)
    coef, code = torch.zeros(len(flags), L.NUM_COEF), torch.zeros(len(flags), L.NUM_CODE, dtype=torch.int32)
    coef[:, :10] = torch.randn(len(flags), 10, generator=generator)
    if s is not None:
        coef[:, L.S] = torch.as_tensor(s)
    code[:, L.FLAGS] = torch.tensor(flags)
    code[:, L.DRAW] = torch.arange(len(flags))
    return coef.to(device), code.to(device)


class Batch:
    """The tensors of a machine with random contents, and a network output."""

    def __init__(self, batch, numel, rows, F_dtype=F32, net_dtype=F32, guided=False, cursor=None, seed=0, device="cpu"):
        generator = torch.Generator().manual_seed(seed)

        def random(n=batch):
            return torch.randn(n, numel, generator=generator).to(device)

        self.coef, self.code = rows
        self.x, self.h, self.F = random(), random(), random().to(F_dtype)
        self.F_uncond = random().to(F_dtype) if guided else None
        self.net_in = random(2 * batch if guided else batch).to(net_dtype)
        self.cursor = torch.tensor([0] if cursor is None else cursor, dtype=torch.int32, device=device)
        seeds = [2**63 - 1, 2**32, *range(2, batch)][:batch]
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=device)
        self.first_bad = torch.full((batch,), L.NEVER, dtype=torch.int32, device=device)

    def machine(self, **replaced):
        """Return the machine of this batch, on its own tensors unless others are given."""
        names = ("x", "h", "net_in", "coef", "code", "cursor", "seeds", "first_bad")
        return rk.Machine(**({name: getattr(self, name) for name in names} | replaced))

    def run_row(self, backend):
        """Return x, h, net_in and first_bad after a row on this backend; the batch itself is left as it is.

        "masked" is the form of the reference for devices where looking at the table would be a sync.
        """
        names = ("x", "h", "net_in", "first_bad")
        machine = self.machine(**{name: getattr(self, name).clone() for name in names})
        if backend == "masked":
            reference.run_row_masked(machine, self.F, self.F_uncond)
        else:
            rk.bind(machine, backend).run_row(self.F, self.F_uncond)
        return machine.x, machine.h, machine.net_in, machine.first_bad


def bits(x):
    """Return the bit pattern, with one pattern for all NaNs: their payload is not part of the scheme."""
    size = {4: torch.int32, 2: torch.int16}[x.element_size()]
    return torch.where(x.isnan(), -1, x.view(size)) if x.is_floating_point() else x


def assert_equal_bits(found, expected):
    """Compare two results of `Batch.run_row`."""
    for name, a, b in zip(("x", "h", "net_in", "first_bad"), found, expected, strict=True):
        assert torch.equal(bits(a).cpu(), bits(b).cpu()), name


def stated(batch, dtype=np.float32):
    """Return what a row makes of the batch, in numpy, sample by sample; every operation is rounded to `dtype`."""
    x, h, net_in, first_bad = (t.clone().cpu() for t in (batch.x, batch.h, batch.net_in, batch.first_bad))
    cursor = batch.cursor.cpu().expand(len(x)).tolist()
    for b, row in enumerate(cursor):
        if row < 0:
            continue
        c = batch.coef[row].cpu().numpy().astype(dtype)
        flags, draw = batch.code[row, L.FLAGS].item(), batch.code[row, L.DRAW].item()
        zero = np.zeros(x.shape[1], dtype)
        xr = x[b].numpy().astype(dtype) if flags & L.READ_X else zero
        hr = h[b].numpy().astype(dtype) if flags & L.READ_H else zero
        Fr = batch.F[b].cpu().float().numpy().astype(dtype) if flags & L.READ_F else zero
        if batch.F_uncond is not None and flags & L.READ_F:
            Fu = batch.F_uncond[b].cpu().float().numpy().astype(dtype)
            Fr = Fu + c[L.W] * (Fr - Fu)
        y = (c[L.Y_X] * xr + c[L.Y_H] * hr) + c[L.Y_F] * Fr
        if c[L.S] != 0:
            eps = rk.normal(batch.seeds[b : b + 1].cpu(), draw, x.shape[1])[0].numpy().astype(dtype)
            y = y + c[L.S] * eps
        g = (c[L.G_X] * xr + c[L.G_H] * hr) + c[L.G_F] * Fr
        if not np.isfinite(y).all():
            first_bad[b] = min(row, first_bad[b].item())
        if flags & L.STORE_X:
            x[b] = torch.from_numpy(y)
        if flags & L.STORE_H:
            h[b] = torch.from_numpy(g)
        if flags & L.STORE_NET:
            net_in[b :: len(x)] = torch.from_numpy(c[L.C_IN] * y).to(net_in.dtype)
    return x, h, net_in, first_bad
