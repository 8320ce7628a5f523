"""Random rows and batches for the tests of the kernels, the statement of a row in numpy, and comparison by bits."""

from __future__ import annotations

import numpy as np
import torch

import restart_kernels as rk
from restart_kernels import layout as L
from restart_kernels.row import reference

ALL = L.READ_X | L.READ_H | L.READ_F | L.STORE_X | L.STORE_H | L.STORE_NET | L.GUIDE
READS = (L.READ_H, L.READ_H2, L.READ_H3)
STORES = (L.STORE_H, L.STORE_H2, L.STORE_H3)
METHODS = (L.RESCALE, L.ZERO_STAR, L.APG)
REGISTERS = ("h", "h2", "h3")
WRITTEN = ("x", "h", "net_in", "first_bad", "h2", "h3")  # in the order of the results
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def table(flags, seed=0, s=None, device="cpu", s2=0.0):
    """Return a table with one random row for each flag word; row r has the draws r, 100 + r and 200 + r.

    As in a table of the engine, h2 and h3 have the coefficient −0 where they are not read.
    """
    generator = torch.Generator().manual_seed(seed)
    coef, code = torch.zeros(len(flags), L.NUM_COEF), torch.zeros(len(flags), L.NUM_CODE, dtype=torch.int32)
    coef[:, :10] = torch.randn(len(flags), 10, generator=generator)
    coef[:, 10:19] = torch.randn(len(flags), 9, generator=generator)
    if s is not None:
        coef[:, L.S] = torch.as_tensor(s)
    coef[:, L.S2] = torch.as_tensor(s2)
    coef[:, [L.P, L.Q]] = coef[:, [L.P, L.Q]].abs()
    code[:, L.FLAGS] = torch.tensor(flags)
    for column, first in ((L.DRAW, 0), (L.DRAW2, 100), (L.DRAW_K, 200)):
        code[:, column] = first + torch.arange(len(flags))
    for columns, read in (([L.Y_H2, L.G_H2], L.READ_H2), ([L.Y_H3, L.G_H3], L.READ_H3)):
        unread = (code[:, L.FLAGS] & read) == 0
        coef[unread.nonzero(), torch.tensor(columns)] = -0.0
    return coef.to(device), code.to(device)


def rows_of_all_kinds(count, registers, seed, device):
    """Return a table of random rows for a machine: any bits, at most one store of the history and one method."""
    generator = torch.Generator().manual_seed(seed)

    def one_of(values):
        return values[torch.randint(len(values), (), generator=generator)]

    any_of = (L.READ_X, L.READ_F, L.STORE_X, L.STORE_NET, L.GUIDE, L.PASTE, *READS[:registers])
    flags = [
        sum(bit * one_of((0, 1)) for bit in any_of) + one_of((0, *STORES[:registers])) + one_of((0, *METHODS))
        for _ in range(count)
    ]
    k = torch.arange(count)
    s, s2 = torch.where(k % 3 == 0, 0.0, 0.5), torch.where(k % 2 == 0, 0.0, 0.75)
    coef, code = table(flags, seed, s, device, s2)
    coef[k % 4 == 1, L.S_K] = 0
    return coef, code


class Batch:
    """The tensors of a machine with random contents, and a network output.

    Args:
        registers: R, how many history registers the machine has.
        noises: noise terms of its rows.
        paste: whether it has a known image; a third of its mask is 0, a third 1, and the rest between.
        weighed: whether it has `mix`, with random weights.
    """

    def __init__(
        self,
        batch,
        numel,
        rows,
        F_dtype=F32,
        net_dtype=F32,
        guided=False,
        cursor=None,
        seed=0,
        device="cpu",
        registers=1,
        noises=1,
        paste=False,
        weighed=False,
    ):
        generator = torch.Generator().manual_seed(seed)

        def random(n=batch, numel=numel):
            return torch.randn(n, numel, generator=generator).to(device)

        self.coef, self.code = rows
        self.x, self.h, self.F = random(), random(), random().to(F_dtype)
        self.F_uncond = random().to(F_dtype) if guided else None
        self.net_in = random(2 * batch if guided else batch).to(net_dtype)
        self.cursor = torch.tensor([0] if cursor is None else cursor, dtype=torch.int32, device=device)
        seeds = [2**63 - 1, 2**32, *range(2, batch)][:batch]
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=device)
        self.first_bad = torch.full((batch,), L.NEVER, dtype=torch.int32, device=device)
        self.h2, self.h3 = random(), random()
        for name in REGISTERS[registers:]:
            setattr(self, name, None)
        self.known = random() if paste else None
        self.mask = (1.5 * random().sigmoid() - 0.25).clamp(0, 1) if paste else None
        if paste:
            self.mask[:, ::3] = self.mask[:, ::3].round()
        self.mix = random(numel=2) if weighed else None
        self.noises = noises

    def machine(self, **replaced):
        """Return the machine of this batch, on its own tensors unless others are given."""
        names = ("coef", "code", "cursor", "seeds", "known", "mask", "mix", "noises", *WRITTEN)
        return rk.Machine(**({name: getattr(self, name) for name in names} | replaced))

    def run_row(self, backend):
        """Return what WRITTEN names after a row on this backend; the batch itself is left as it is.

        "masked" is the form of the reference for devices where looking at the table would be a sync.
        """
        own = {name: getattr(self, name) for name in WRITTEN}
        machine = self.machine(**{name: None if t is None else t.clone() for name, t in own.items()})
        if backend == "masked":
            reference.run_row_masked(machine, self.F, self.F_uncond)
        else:
            rk.bind(machine, backend).run_row(self.F, self.F_uncond)
        return tuple(getattr(machine, name) for name in WRITTEN if own[name] is not None)

    def by_name(self, found):
        """Return a result of `run_row` by the names of its tensors."""
        return dict(zip((name for name in WRITTEN if getattr(self, name) is not None), found, strict=True))

    def weigh(self, backend):
        """Return mix after `weigh` on this backend; the batch itself is left as it is."""
        machine = self.machine(mix=self.mix.clone())
        rk.bind(machine, backend).weigh(self.F, self.F_uncond)
        return machine.mix

    def poison(self):
        """Fill with NaN all that the row of a sample does not read, and all of an idle sample."""
        for b, row in enumerate(self.cursor.expand(len(self.x)).tolist()):
            flags = self.code[row, L.FLAGS].item() if row >= 0 else 0
            guided = flags & L.READ_F and flags & L.GUIDE
            read = {"x": flags & L.READ_X, "F": flags & L.READ_F, "F_uncond": guided}
            read |= {name: flags & bit for name, bit in zip(REGISTERS, READS, strict=True)}
            read |= {"known": flags & L.PASTE, "mask": flags & L.PASTE, "mix": guided and flags & sum(METHODS)}
            for name, bit in read.items():
                if not bit and getattr(self, name) is not None:
                    getattr(self, name)[b] = torch.nan


def bits(x):
    """Return the bit pattern, with one pattern for all NaNs: their payload is not part of the scheme."""
    size = {4: torch.int32, 2: torch.int16}[x.element_size()]
    return torch.where(x.isnan(), -1, x.view(size)) if x.is_floating_point() else x


def assert_equal_bits(found, expected):
    """Compare two results of `Batch.run_row`."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(bits(a).cpu(), bits(b).cpu()), f"result {i}"


def stated(batch, dtype=np.float32):
    """Return what a row makes of the batch, in numpy, sample by sample; every operation is rounded to `dtype`."""
    own = {name: getattr(batch, name) for name in WRITTEN}
    new = {name: None if t is None else t.clone().cpu() for name, t in own.items()}
    x, net_in, first_bad = new["x"], new["net_in"], new["first_bad"]
    history = [new[name] for name in REGISTERS if new[name] is not None]
    cursor = batch.cursor.cpu().expand(len(x)).tolist()

    def values(tensor, b):
        return tensor[b].cpu().float().numpy().astype(dtype)

    for b, row in enumerate(cursor):
        if row < 0:
            continue
        c = batch.coef[row].cpu().numpy().astype(dtype)
        flags, *draws = batch.code[row].tolist()
        zero = np.zeros(x.shape[1], dtype)

        def noise(draw, b=b):
            return rk.normal(batch.seeds[b : b + 1].cpu(), draw, x.shape[1])[0].numpy().astype(dtype)

        xr = values(x, b) if flags & L.READ_X else zero
        hr = [values(h, b) if flags & read else zero for h, read in zip(history, READS, strict=False)] or [zero]
        Fr = values(batch.F, b) if flags & L.READ_F else zero
        if batch.F_uncond is not None and flags & L.READ_F and flags & L.GUIDE:
            Fu = values(batch.F_uncond, b)
            if batch.mix is not None and flags & sum(METHODS):
                Fr = values(batch.mix, b)[0] * Fr + values(batch.mix, b)[1] * Fu
            else:
                Fr = Fu + c[L.W] * (Fr - Fu)
        y, g = c[L.Y_X] * xr, c[L.G_X] * xr
        for h, in_y, in_g in zip(hr, (L.Y_H, L.Y_H2, L.Y_H3), (L.G_H, L.G_H2, L.G_H3), strict=False):
            y, g = y + c[in_y] * h, g + c[in_g] * h
        y, g = y + c[L.Y_F] * Fr, g + c[L.G_F] * Fr
        if c[L.S] != 0:
            y = y + c[L.S] * noise(draws[0])
        if c[L.S2] != 0 and batch.noises == 2:
            y = y + c[L.S2] * noise(draws[1])
        if flags & L.PASTE and batch.known is not None:
            k, M = c[L.K] * values(batch.known, b), values(batch.mask, b)
            if c[L.S_K] != 0:
                k = k + c[L.S_K] * noise(draws[2])
            y = M * y + (1 - M) * k
        if not np.isfinite(y).all():
            first_bad[b] = min(row, first_bad[b].item())
        if flags & L.STORE_X:
            x[b] = torch.from_numpy(y)
        for h, store in zip(history, STORES, strict=False):
            if flags & store:
                h[b] = torch.from_numpy(g)
        if flags & L.STORE_NET:
            net_in[b :: len(x)] = torch.from_numpy(c[L.C_IN] * y).to(net_in.dtype)
    return tuple(t for t in new.values() if t is not None)


def stated_weights(batch, dtype=np.float32):
    """Return the weights that `weigh` writes to mix, in numpy, sample by sample; every operation is rounded."""
    mix = batch.mix.clone().cpu()
    n = batch.x.shape[1]
    for b, row in enumerate(batch.cursor.cpu().expand(len(mix)).tolist()):
        flags = batch.code[row, L.FLAGS].item() if row >= 0 else 0
        if not (flags & L.GUIDE and flags & sum(METHODS)):
            continue
        c, u = (f[b].cpu().double().numpy().astype(dtype) for f in (batch.F, batch.F_uncond))
        w, p, q = batch.coef[row, [L.W, L.P, L.Q]].cpu().numpy().astype(dtype)
        v, one, count = 1 - w, dtype(1), dtype(n)
        with np.errstate(all="ignore"):
            cc, uu, cu, sc, su = (_sum(f) for f in (c * c, u * u, c * u, c, u))
            if flags & L.RESCALE:
                v_c, v_u, v_cu = cc - sc * sc / count, uu - su * su / count, cu - sc * su / count
                var = (w * w * v_c + v * v * v_u) + 2 * (w * v) * v_cu
                f = p * (np.sqrt(np.maximum(v_c, 0) / var) if var > 0 else one) + (1 - p)
                found = f * w, f * v
            elif flags & L.ZERO_STAR:
                found = w, (cu / uu if uu > 0 else 0 * one) * v
            else:
                d = np.sqrt(np.maximum((cc - 2 * cu) + uu, 0))
                k = q / d if q > 0 and d > q else one
                along = k * ((cc - cu) / cc) if cc > 0 else 0 * one
                found = 1 - v * (k - (1 - p) * along), v * k
        mix[b] = torch.from_numpy(np.array(found))
    return mix


def _sum(v):
    """Return the sum of v: element i goes to accumulator i mod 1024, in order, and then neighbours are added."""
    total = np.zeros(1024, v.dtype)
    for i in range(0, len(v), 1024):
        total[: len(v) - i] += v[i : i + 1024]
    while len(total) > 1:
        total = np.array([total[k] + total[k + 1] for k in range(0, len(total), 2)])
    return total[0]
