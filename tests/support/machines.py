"""Machines of every kind, with NaN in whatever a row must not read, and batches for the weights of two outputs."""

from __future__ import annotations

import itertools

import numpy as np
import torch

import restart_kernels as rk
from restart_kernels import layout as L

from .row_batches import BF16, F16, F32, METHODS, READS, STORES, Batch, table

KINDS = [
    dict(registers=registers, noises=noises, guided=guided, paste=paste, weighed=weighed)
    for registers, noises, guided, paste, weighed in itertools.product(range(4), (1, 2), *[(False, True)] * 3)
]


def kind_name(kind):
    """Return a short name of a kind, for the name of a test."""
    return f"R{kind['registers']}-noises{kind['noises']}" + "".join(f"-{k}" for k, on in kind.items() if on is True)


def poisoned(kind, numel, F_dtype=BF16, net_dtype=F16, seed=0, device="cpu"):
    """Return a batch of this kind whose sample b is at row b, with every combination of what a row may read.

    What a row must not read is NaN: registers, outputs, known image, mask, weights, and columns of the table.
    """
    random = np.random.default_rng(seed)
    R = kind["registers"]
    bits = [L.READ_X, L.READ_F, L.GUIDE, *READS[:R], *[L.PASTE] * kind["paste"]]
    flags = [sum(chosen) for chosen in itertools.product(*((0, bit) for bit in bits))]
    for i in range(len(flags)):
        flags[i] |= int(random.choice((0, L.STORE_X))) | int(random.choice((0, L.STORE_NET)))
        flags[i] |= int(random.choice((0, *STORES[:R])))
        flags[i] |= int(random.choice((0, *METHODS))) if kind["weighed"] else 0
    n = len(flags)
    s, s2 = (torch.as_tensor(random.choice((0.0, std), n)) for std in (0.5, 0.25))
    coef, code = table(flags, seed, s, s2=s2)
    coef[:, L.S_K] *= torch.as_tensor(random.choice((0.0, 1.0), n))
    coef, code = coef.to(device), code.to(device)
    case = Batch(n, numel, (coef, code), F_dtype, net_dtype, cursor=range(n), seed=seed, device=device, **kind)
    for b, flag in enumerate(flags):
        guided = kind["guided"] and flag & L.GUIDE and flag & L.READ_F
        weighed = guided and flag & sum(METHODS)
        reads = {"x": flag & L.READ_X, "F": flag & L.READ_F, "F_uncond": guided, "mix": weighed}
        reads |= {name: flag & read for name, read in zip(("h", "h2", "h3"), READS, strict=True)}
        reads |= dict.fromkeys(("known", "mask"), flag & L.PASTE)
        for name, read in reads.items():
            if getattr(case, name) is not None and not read:
                getattr(case, name)[b] = torch.nan
        unread = {
            (L.C_NOISE, L.P, L.Q): True,
            (L.W,): not guided or weighed,
            (L.S2,): kind["noises"] == 1,
            (L.K, L.S_K): not flag & L.PASTE,
            (L.Y_H2, L.G_H2): R < 2,
            (L.Y_H3, L.G_H3): R < 3,
        }
        for columns, poison in unread.items():
            if poison:
                coef[b, list(columns)] = torch.nan
    return case


def asking_for_everything(kind, numel, F_dtype=BF16, net_dtype=F16):
    """Yield batches of this kind at a row with every flag, with all outputs, without F_uncond, and without F.

    What the machine does not have must not be looked at. A row stores one history register, so there are three rows.
    """
    flags = L.READ_X | L.READ_F | sum(READS) | L.PASTE | L.GUIDE | L.APG | L.STORE_X | L.STORE_NET
    for store, absent in itertools.product(STORES, ((), ("F_uncond",), ("F", "F_uncond"))):
        case = Batch(2, numel, table([flags | store], 0, 0.5, s2=0.25), F_dtype, net_dtype, **kind)
        for name in absent:
            setattr(case, name, None)
        yield case


def check_poisoned(case, result):
    """Raise AssertionError unless NaN stayed where it was: what `Batch.run_row` returned for a poisoned batch."""
    names = [name for name in ("x", "h", "net_in", "first_bad", "h2", "h3") if getattr(case, name) is not None]
    found = dict(zip(names, result, strict=True))
    assert (found["first_bad"] == L.NEVER).all()
    assert found["net_in"].isfinite().all()
    for b, flag in enumerate(case.code[:, L.FLAGS].tolist()):
        kept = {"x": L.READ_X | L.STORE_X}
        kept |= {name: r | s for name, r, s in zip(("h", "h2", "h3"), READS, STORES, strict=True)}
        for name, finite in kept.items():
            if name in found:
                assert bool(found[name][b].isfinite().all()) == bool(flag & finite), (name, b)


# --- the weights of two outputs --------------------------------------------------------------------------------

# (method, W, P, Q): limiting cases and what lies between.
METHOD_CASES = [
    *[(L.RESCALE, w, p, 0.0) for w, p in ((3.0, 0.7), (3.0, 0.0), (1.0, 1.0), (-0.5, 1.0))],
    *[(L.ZERO_STAR, w, 0.0, 0.0) for w in (2.5, 1.0)],
    *[(L.APG, w, p, q) for w, p, q in ((4.0, 0.3, 0.0), (4.0, 0.0, 2.0), (4.0, 1.0, 1e9), (1.0, 0.5, 2.0))],
]
CONTENTS = ("random", "c is 0", "u is 0", "c is u", "c is -u", "offset", "tiny", "one NaN", "one infinity", "unread")


def methods_batch(numel, F_dtype=F32, seed=0, device="cpu"):
    """Return a batch with a sample for each method case and content, and the weights NaN.

    Every fifth row has no GUIDE or no method, and samples with the content "unread" are idle.
    """
    cases = list(itertools.product(METHOD_CASES, CONTENTS))
    flags = [L.READ_F | method | (0 if i % 5 == 4 else L.GUIDE) for i, ((method, *_), _) in enumerate(cases)]
    flags = [f & ~sum(METHODS) if i % 10 == 9 else f for i, f in enumerate(flags)]
    coef, code = table(flags, seed, device=device)
    coef[:, [L.W, L.P, L.Q]] = torch.tensor([values for (_, *values), _ in cases], device=device)
    cursor = [L.IDLE if content == "unread" else i for i, (_, content) in enumerate(cases)]
    case = Batch(len(cases), numel, (coef, code), F_dtype, F32, True, cursor, seed, device, weighed=True)
    for b, (_, content) in enumerate(cases):
        c, u = case.F[b], case.F_uncond[b]
        if content == "c is 0":
            c[:] = 0
        elif content == "u is 0":
            u[:] = 0
        elif content == "c is u":
            u.copy_(c)
        elif content == "c is -u":
            u.copy_(-c)
        elif content == "offset":
            u.copy_(0.3 * u + 0.5 * c + 2)
        elif content == "tiny":
            c *= 1e-20
            u *= 1e-20
        elif content == "one NaN":
            c[-1] = torch.nan
        elif content == "one infinity":
            u[0] = torch.inf
        elif content == "unread":
            c[:], u[:] = torch.nan, torch.nan
    case.mix.view(torch.int32)[:] = 0x7FC12345
    return case


def weighed_rows(case):
    """Return which samples of a batch are at a row that `weigh` is for, bool [B]."""
    cursor = case.cursor.cpu().expand(len(case.x))
    flags = case.code.cpu()[cursor.clamp(min=0).long(), L.FLAGS]
    return (cursor >= 0) & ((flags & L.GUIDE) != 0) & ((flags & sum(METHODS)) != 0)


def weigh(case, backend):
    """Return the weights after `weigh` on this backend; the batch itself is left as it is."""
    machine = case.machine(mix=case.mix.clone())
    rk.bind(machine, backend).weigh(case.F, case.F_uncond)
    return machine.mix


def weights_of_outputs(method, w, p, q, c, u):
    """Return (α_c, α_u) in the dtype of c and u, as the papers have them: from outputs and not from the five sums."""
    v = 1 - w
    if method == L.RESCALE:
        f = p * (c.std() / (u + w * (c - u)).std()) + (1 - p)
        return f * w, f * v
    if method == L.ZERO_STAR:
        return w, torch.dot(c, u) / torch.dot(u, u) * v
    k = (q / (c - u).norm()).clamp(max=1).item() if q > 0 else 1.0
    parallel = torch.dot(k * (c - u), c) / torch.dot(c, c)  # the share of c in the difference
    return 1 - v * (k - (1 - p) * parallel), v * k
