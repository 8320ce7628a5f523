"""The fused row: equal to its statement, equal on every backend, and touching only what the row says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.row_batches import (
    ALL,
    BF16,
    F16,
    F32,
    READS,
    REGISTERS,
    STORES,
    Batch,
    assert_equal_bits,
    bits,
    rows_of_all_kinds,
    stated,
    table,
)
from torch.utils._python_dispatch import TorchDispatchMode

import restart_kernels as rk
from restart_kernels import layout as L
from restart_kernels.backends import triton as launch
from restart_kernels.dispatch import BACKENDS
from restart_kernels.philox import reference as noise
from restart_kernels.row import reference


@pytest.fixture(params=["masked", *BACKENDS])
def backend(request, device):
    """Every backend; "masked" is the form of the reference for devices where looking at the table would be a sync."""
    name = "reference" if request.param == "masked" else request.param
    if name not in rk.available_backends(device):
        pytest.skip(f"no {name} backend on {device}")
    return request.param


@pytest.mark.parametrize("numel", [1, 3, 63, 255, 257, 784, 3 * 32 * 32])
def test_equals_its_statement_at_awkward_sizes(backend, device, numel):
    for batch, guided in ((1, True), (3, False)):
        rows = table([ALL], seed=numel, device=device)
        case = Batch(batch, numel, rows, guided=guided, seed=numel, device=device)
        assert_equal_bits(case.run_row(backend), stated(case))


@pytest.mark.parametrize("F_dtype", [F32, BF16, F16])
@pytest.mark.parametrize("net_dtype", [F32, BF16, F16])
def test_equals_its_statement_for_every_dtype(backend, device, F_dtype, net_dtype):
    for guided in (False, True):
        case = Batch(2, 63, table([ALL], device=device), F_dtype, net_dtype, guided, device=device)
        assert_equal_bits(case.run_row(backend), stated(case))


@pytest.mark.parametrize("guided", [False, True])
def test_every_combination_of_flags_in_one_batch(backend, device, guided):
    """Sample b is at row b, and every register its row does not read is full of NaN."""
    flags = [flag | L.GUIDE for flag in range(64)] if guided else list(range(0, 64, 3))
    n = len(flags)
    s = torch.where(torch.arange(n) % 3 == 0, 0.0, 0.5)
    rows = table(flags, s=s, device=device)
    case = Batch(n, 5, rows, BF16, BF16, guided, cursor=range(n), device=device)
    case.poison()
    found = case.run_row(backend)
    assert_equal_bits(found, stated(case))
    x, h, net_in, first_bad = found
    assert (first_bad == L.NEVER).all()
    for b, flag in enumerate(flags):
        assert x[b].isfinite().all() == bool(flag & (L.READ_X | L.STORE_X))
        assert h[b].isfinite().all() == bool(flag & (L.READ_H | L.STORE_H))
        assert net_in[b::n].isfinite().all()


# What a machine has for guidance: F alone, two halves of net_in and F alone, F_uncond, and F_uncond with mix.
FORMS = {
    "plain": {},
    "halves": {"guided": True},
    "guided": {"guided": True},
    "weighed": {"guided": True, "weighed": True},
}


@pytest.mark.parametrize("registers", range(4))
@pytest.mark.parametrize("noises", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_all_kinds_on_every_machine(backend, device, registers, noises, form):
    """In one batch, idle samples among them; NaN is in all that a sample does not read."""
    for paste in (False, True):
        seed = 8 * registers + 4 * noises + 2 * len(form) + paste
        rows = rows_of_all_kinds(8, registers, seed, device)
        F_dtype, net_dtype = ((F32, BF16), (BF16, F16), (F16, F32))[seed % 3]
        case = Batch(
            10,
            (63, 128)[registers % 2],
            rows,
            F_dtype,
            net_dtype,
            cursor=[-1, *range(8), -3],
            seed=seed,
            device=device,
            registers=registers,
            noises=noises,
            paste=paste,
            **FORMS[form],
        )
        if form == "halves":
            case.F_uncond = None
        case.poison()
        found = case.run_row(backend)
        assert_equal_bits(found, stated(case))
        after = case.by_name(found)
        assert (after["first_bad"] == L.NEVER).all()
        touched = {"x": L.READ_X | L.STORE_X} | {n: r | s for n, r, s in zip(REGISTERS, READS, STORES, strict=True)}
        for name in ("x", *REGISTERS[:registers]):
            for b, flags in enumerate(rows[1][:, L.FLAGS].tolist(), start=1):
                assert after[name][b].isfinite().all() == bool(flags & touched[name]), (name, b)
            assert after[name][[0, -1]].isnan().all()


def test_every_combination_of_the_history(backend, device):
    """All reads with all stores of three registers; each has NaN where it is not read."""
    flags = [
        L.READ_X | L.READ_F | L.STORE_NET | sum(bit for k, bit in enumerate(READS) if reads >> k & 1) | store
        for reads in range(8)
        for store in (0, *STORES)
    ]
    n = len(flags)
    case = Batch(n, 5, table(flags, s=0.0, device=device), cursor=range(n), device=device, registers=3)
    case.poison()
    _, h, _, first_bad, h2, h3 = found = case.run_row(backend)
    assert_equal_bits(found, stated(case))
    assert (first_bad == L.NEVER).all()
    for register, read, store in zip((h, h2, h3), READS, STORES, strict=True):
        assert register.isfinite().all(1).tolist() == [bool(flag & (read | store)) for flag in flags]


@pytest.mark.parametrize("registers", range(4))
def test_what_a_machine_does_not_have_is_not_looked_at(backend, device, registers):
    """A row that asks for everything: a store of a register that is not there stores nothing."""
    asked = L.READ_X | L.READ_F | sum(READS) | L.STORE_X | L.STORE_NET | L.PASTE | L.GUIDE | L.RESCALE
    rows = table([asked | store for store in STORES], device=device, s2=0.5)
    case = Batch(3, 9, rows, cursor=range(3), device=device, registers=registers)
    assert_equal_bits(case.run_row(backend), stated(case))


@pytest.mark.parametrize("number", range(3))
def test_g_reads_the_registers_before_they_are_overwritten(backend, device, number):
    """A row can swap x with each of the history registers."""
    rows = table([L.READ_X | READS[number] | L.STORE_X | STORES[number]], s=0.0, device=device)
    rows[0][:] = -0.0
    rows[0][0, [(L.Y_H, L.Y_H2, L.Y_H3)[number], L.G_X]] = 1.0
    case = Batch(2, 9, rows, device=device, registers=3)
    x, h, _, _, h2, h3 = case.run_row(backend)
    register = REGISTERS[number]
    assert torch.equal(x, getattr(case, register))
    assert torch.equal((h, h2, h3)[number], case.x)


@pytest.mark.parametrize("reads_h", [False, True])
def test_a_register_that_no_row_reads_changes_no_bit(backend, device, reads_h):
    """Signed zeros included: a table runs with the same bits on every machine that has what it reads and stores."""
    flags = L.READ_X | L.READ_F | L.STORE_X | L.STORE_NET | (L.READ_H | L.STORE_H if reads_h else 0)
    coef, code = table([flags] * 8, s=0.0, device=device)
    for r in range(8):  # all signs of the terms of y and g
        signs = torch.tensor([1.0 - 2 * (r >> k & 1) for k in range(3)], device=device)
        coef[r, [L.Y_X, L.Y_H, L.Y_F]] = coef[r, [L.G_X, L.G_H, L.G_F]] = signs
    zeros = torch.tensor([0.0, -0.0], device=device)
    results = []
    for registers in range(int(reads_h), 4):
        case = Batch(8, 9, (coef, code), cursor=range(8), device=device, registers=registers)
        case.x[:, :8], case.F[:, :8] = zeros.repeat_interleave(4), zeros.repeat_interleave(2).repeat(2)
        if reads_h:
            case.h[:, :8] = zeros.repeat(4)
        case.poison()
        found = case.run_row(backend)
        assert_equal_bits(found, stated(case))
        found = case.by_name(found)
        results.append([found[name] for name in ("x", "net_in", *(["h"] if reads_h else []))])
    for other in results[1:]:
        assert_equal_bits(other, results[0])
    assert results[0][0][:, :8].signbit().any()


@pytest.mark.parametrize("free", [0.0, 1.0])
def test_a_mask_of_1_is_y_and_a_mask_of_0_is_the_known_image(backend, device, free):
    flags = L.READ_X | L.READ_F | L.STORE_X | L.STORE_NET
    coef, code = table([flags | L.PASTE, flags], device=device)
    coef[0, [L.K, L.S_K]] = torch.tensor([1.0, 0.0], device=device)
    coef[1, : L.K], code[1, L.DRAW] = coef[0, : L.K], code[0, L.DRAW]
    case = Batch(3, 63, (coef, code), device=device, paste=True)
    case.mask[:] = free
    x, _, net_in, _ = case.run_row(backend)
    expected = case.known
    if free:
        case.cursor[:] = 1
        expected = case.run_row(backend)[0]
    assert torch.equal(x, expected)
    assert torch.equal(net_in, coef[0, L.C_IN] * expected)


def test_a_known_image_gets_the_noise_of_its_own_draw(backend, device):
    """Where nothing is free x ← K·k + S_K·ε(DRAW_K), whatever y is, but a y that is not finite is found there too."""
    coef, code = table([L.READ_X | L.STORE_X | L.PASTE], s=[0.5], device=device)
    case = Batch(2, 63, (coef, code), device=device, paste=True)
    case.mask.zero_()
    eps = rk.normal(case.seeds, code[0, L.DRAW_K].item(), 63, backend="reference")
    assert torch.equal(case.run_row(backend)[0], coef[0, L.K] * case.known + coef[0, L.S_K] * eps)
    case.x[1, 7] = torch.nan
    assert case.run_row(backend)[3].tolist() == [L.NEVER, 0]


def test_a_second_noise_term_with_std_0_is_not_drawn(backend, device):
    """And a machine with one noise term does not look at it; −0 stays −0."""
    flags = L.READ_X | L.STORE_X
    coef, code = table([flags, flags], s=[0.5, 0.0], device=device, s2=0.0)
    coef[:, [L.Y_X, L.Y_H, L.Y_F]] = torch.tensor([1.0, -1.0, -1.0], device=device)
    one = Batch(2, 63, (coef, code), cursor=[0, 1], device=device, noises=1)
    two = Batch(2, 63, (coef, code), cursor=[0, 1], device=device, noises=2)
    one.x[:, :9], two.x[:, :9] = -0.0, -0.0
    expected = one.run_row(backend)
    assert expected[0][1, :9].signbit().all()
    assert_equal_bits(two.run_row(backend), expected)
    coef[:, L.S2] = 3.0
    assert_equal_bits(one.run_row(backend), expected)


def test_two_noise_terms_of_one_draw_are_two_terms(backend, device):
    """Each is rounded and added on its own: (y + S·ε) + S2·ε. The second may stand alone."""
    coef, code = table([L.READ_X | L.STORE_X] * 2, s=[0.3, 0.0], device=device, s2=[0.7, 0.7])
    code[:, L.DRAW2] = code[0, L.DRAW]
    case = Batch(2, 63, (coef, code), cursor=[0, 1], device=device, noises=2)
    found = case.run_row(backend)
    assert_equal_bits(found, stated(case))
    eps = rk.normal(case.seeds, code[0, L.DRAW].item(), 63, backend="reference")
    y = coef[:, L.Y_X, None] * case.x + coef[:, L.Y_H, None] * 0.0 + coef[:, L.Y_F, None] * 0.0
    y[0] = y[0] + coef[0, L.S] * eps[0]
    assert torch.equal(found[0], y + coef[:, L.S2, None] * eps)


def test_a_row_without_guide_takes_the_first_output(backend, device):
    """F_uncond may be full of NaN there, or absent: the bits are those of no F_uncond, and both halves are written."""
    rows = table([ALL & ~L.GUIDE], device=device)
    case = Batch(3, 63, rows, BF16, BF16, guided=True, device=device)
    case.F_uncond[:] = torch.nan
    with_nan = case.run_row(backend)
    case.F_uncond = None
    assert_equal_bits(case.run_row(backend), with_nan)
    plain = Batch(3, 63, rows, BF16, BF16, device=device)
    for name in ("x", "h", "F"):
        setattr(plain, name, getattr(case, name))
    x, h, net_in, first_bad = plain.run_row(backend)
    assert_equal_bits(with_nan, (x, h, net_in.repeat(2, 1), first_bad))


def test_a_row_with_guide_takes_the_only_output_as_it_is(backend, device):
    rows = table([ALL, ALL & ~L.GUIDE, ALL | L.APG], device=device)
    rows[0][1:], rows[1][1:, L.DRAW] = rows[0][0], 0
    case = Batch(3, 63, rows, guided=True, device=device, weighed=True)
    case.F_uncond = None
    results = []
    for row in range(3):
        case.cursor[:] = row
        results.append(case.run_row(backend))
    for other in results[1:]:
        assert_equal_bits(other, results[0])


def test_mixed_cursors_and_idle_samples(backend, device):
    rows = table([ALL, ALL & ~L.READ_H, L.READ_F | L.STORE_X], s=[0.5, 0.0, 2.0], device=device)
    case = Batch(6, 9, rows, BF16, F16, guided=True, cursor=[2, -1, 0, 1, 0, -7], device=device)
    for t in (case.x, case.h, case.F, case.F_uncond, case.net_in):
        t[1::6] = torch.nan
    found = case.run_row(backend)
    assert_equal_bits(found, stated(case))
    for after, before in zip(found, (case.x, case.h, case.net_in, case.first_bad), strict=True):
        assert torch.equal(bits(after[1::6]), bits(before[1::6]))
        assert torch.equal(bits(after[5::6]), bits(before[5::6]))


def test_one_cursor_for_the_batch_is_that_cursor_for_each(backend, device):
    rows = table([ALL, ALL], device=device)
    one = Batch(3, 9, rows, cursor=[1], device=device).run_row(backend)
    assert_equal_bits(one, Batch(3, 9, rows, cursor=[1, 1, 1], device=device).run_row(backend))


def test_a_batch_that_is_all_idle_is_left_alone(backend, device):
    case = Batch(2, 9, table([ALL], device=device), cursor=[-1], device=device)
    assert_equal_bits(case.run_row(backend), (case.x, case.h, case.net_in, case.first_bad))


def test_a_sample_does_not_depend_on_its_batch(backend, device):
    case = Batch(4, 9, table([ALL], device=device), guided=True, device=device)
    x, h, net_in, first_bad = case.run_row(backend)
    order = torch.tensor([2, 0, 3, 1], device=device)
    for name in ("x", "h", "F", "F_uncond", "seeds"):
        setattr(case, name, getattr(case, name)[order])
    case.net_in = case.net_in[torch.cat((order, order + 4))]
    assert_equal_bits(case.run_row(backend), (x[order], h[order], net_in[torch.cat((order, order + 4))], first_bad))


def test_signed_zeros(backend, device):
    """−0 survives a row without noise, and an unread register counts as +0, which makes +0 of −0."""
    coef, code = table([L.READ_X | L.STORE_X | L.STORE_NET, ALL & ~L.STORE_H], s=0.0, device=device)
    coef[:, [L.Y_X, L.Y_H, L.Y_F, L.C_IN]] = torch.tensor([1.0, -1.0, -1.0, -1.0], device=device)
    case = Batch(2, 4, (coef, code), cursor=[0, 1], device=device)
    zeros = torch.tensor([0.0, -0.0, 0.0, -0.0], device=device)
    case.x, case.h, case.F = (t.expand(2, 4).contiguous() for t in (zeros, zeros.abs(), zeros.abs()))
    x, h, net_in, first_bad = case.run_row(backend)
    assert_equal_bits((x, h, net_in, first_bad), stated(case))
    assert x[1].signbit().tolist() == [False, True, False, True]
    assert net_in[1].signbit().tolist() == [True, False, True, False]


def test_a_guidance_weight_of_0_is_the_unconditional_output(backend, device):
    coef, code = table([ALL], device=device)
    coef[:, L.W] = 0
    guided = Batch(3, 63, (coef, code), guided=True, device=device)
    plain = Batch(3, 63, (coef, code), device=device)
    plain.x, plain.h, plain.F, plain.net_in = guided.x, guided.h, guided.F_uncond, guided.net_in[:3].clone()
    x, h, net_in, first_bad = guided.run_row(backend)
    assert_equal_bits((x, h, net_in[:3], first_bad), plain.run_row(backend))
    assert torch.equal(bits(net_in[3:]), bits(net_in[:3]))


@pytest.mark.parametrize("bad, element", [(torch.nan, 0), (torch.inf, 256), (-torch.inf, 130)])
def test_a_bad_value_flags_its_sample_and_changes_no_other(backend, device, bad, element):
    case = Batch(4, 257, table([0, 0, 0, ALL], device=device), guided=True, cursor=[3] * 4, device=device)
    expected = case.run_row("reference")
    case.x[2, element] = bad
    found = case.run_row(backend)
    assert found[3].tolist() == [L.NEVER, L.NEVER, 3, L.NEVER]
    for i in (0, 1, 3):
        for a, b in zip(found[:3], expected[:3], strict=True):
            assert torch.equal(a[i::4], b[i::4])


def test_first_bad_keeps_its_minimum(backend, device):
    rows = table([ALL] * 6, device=device)
    case = Batch(4, 9, rows, cursor=[5, 5, 5, 5], device=device)
    case.x[:3] = torch.nan
    case.first_bad[:] = torch.tensor([2, L.NEVER, 5, 4], dtype=torch.int32)
    assert case.run_row(backend)[3].tolist() == [2, 5, 5, 4]


def test_a_finite_value_however_large_is_not_bad(backend, device):
    """The sum of the sample overflows, none of its values does."""
    coef, code = table([L.READ_X | L.STORE_X], s=0.0, device=device)
    coef[:, L.Y_X] = 1
    case = Batch(1, 9, (coef, code), device=device)
    case.x[:] = 3e38
    assert case.run_row(backend)[3].tolist() == [L.NEVER]


def test_no_network_output_is_needed_by_a_row_that_reads_none(backend, device):
    case = Batch(2, 9, table([ALL & ~L.READ_F], device=device), device=device)
    expected = case.run_row(backend)
    case.F = None
    assert_equal_bits(case.run_row(backend), expected)


def test_batches_beyond_the_second_grid_axis_use_the_first(device, monkeypatch):
    if "triton" not in rk.available_backends(device):
        pytest.skip(f"no triton on {device}")
    case = Batch(3, 130, table([ALL], device=device), guided=True, device=device)
    monkeypatch.setattr(launch, "GRID_Y", 2)
    assert launch.configure(130, 3).batch_axis == 0
    assert_equal_bits(case.run_row("triton"), case.run_row("reference"))
    z = rk.normal(case.seeds, 0, 130, backend="triton")
    assert torch.equal(z, rk.normal(case.seeds, 0, 130, backend="reference"))


def test_registers_need_no_alignment(backend, device):
    """Contiguous views that begin 4 or 2 bytes past an aligned address."""
    case = Batch(2, 64, table([ALL], device=device), BF16, BF16, device=device)
    expected = case.run_row("reference")
    for name in ("x", "h", "F", "net_in"):
        t = getattr(case, name)
        shifted = torch.empty(t.numel() + 1, dtype=t.dtype, device=device)[1:].view_as(t)
        setattr(case, name, shifted.copy_(t))
    x, h, net_in = (torch.empty(129, dtype=t.dtype, device=device)[1:].view_as(t) for t in expected[:3])
    for t, start in zip((x, h, net_in), (case.x, case.h, case.net_in), strict=True):
        t.copy_(start)
    if backend != "masked":
        rk.bind(case.machine(x=x, h=h, net_in=net_in), backend).run_row(case.F)
        assert_equal_bits((x, h, net_in, case.first_bad), expected)


def test_float64_reference_is_the_oracle(device):
    """The float64 form against numpy's float64, and float32 within its rounding of it: 8 operations of 2⁻²⁴."""
    case = Batch(3, 257, table([ALL], device=device), guided=True, device=device)
    fast = case.run_row("reference")
    exact = Batch(3, 257, table([ALL], device=device), guided=True, device=device)
    exact.x, exact.h, exact.net_in = exact.x.double(), exact.h.double(), exact.net_in.double()
    exact.coef = exact.coef.double()
    oracle = exact.run_row("reference")
    for a, b, c in zip(oracle[:3], stated(exact, np.float64)[:3], fast[:3], strict=True):
        assert a.dtype == torch.float64
        assert torch.equal(a.cpu(), b)
        assert (a - c).abs().max() < 8 * 2.0**-24 * a.abs().max()


# --- what the host does ----------------------------------------------------------------------------------------


class NoTorchOps(TorchDispatchMode):
    """Fails on any tensor operation, which could allocate, copy or wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"the launch ran {func}")


def test_the_launch_runs_no_tensor_operation(device, monkeypatch):
    """So it allocates nothing and waits for nothing. It also forbids contraction."""
    module = pytest.importorskip("restart_kernels.row.triton")
    weights_module = pytest.importorskip("restart_kernels.row.weights_triton")
    launched = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **options: launched.append((grid, args, options))

    monkeypatch.setattr(module, "row_kernel", Recorder())
    case = Batch(3, 9, table([ALL]), guided=True, weighed=True)
    monkeypatch.setattr(module, "advance_kernel", Recorder())
    monkeypatch.setattr(weights_module, "weigh_kernel", Recorder())
    bound = rk.bind(case.machine(), "triton")
    with NoTorchOps():
        bound.weigh(case.F, case.F_uncond)
        bound.run_row(case.F, case.F_uncond)
        bound.advance()
        bound.run_row(None)
    (weigh_grid, weigh_args, weigh_options), (grid, args, options), (advance_grid, _, _), (_, without, _) = launched
    assert (weigh_grid, grid, advance_grid) == ((3,), (1, 3), (1,))
    assert options["enable_fp_fusion"] is weigh_options["enable_fp_fusion"] is False
    assert args[0].data_ptr() == case.x.data_ptr()
    assert weigh_args[2].data_ptr() == case.mix.data_ptr()
    assert [a is None for a in without] == [a is None for a in args], "a row without F needs no kernel of its own"


def test_no_sync_and_no_allocation_on_the_gpu(device):
    if device.type != "cuda":
        pytest.skip("syncs and allocations of a GPU")
    case = Batch(3, 3072, table([ALL | L.APG], device=device), BF16, BF16, guided=True, device=device, weighed=True)
    for name in rk.available_backends(device):
        bound = rk.bind(case.machine(), name)
        bound.weigh(case.F, case.F_uncond)
        bound.run_row(case.F, case.F_uncond)
        bound.advance()
        case.cursor.zero_()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            bound.weigh(case.F, case.F_uncond)
            bound.run_row(case.F, case.F_uncond)
            bound.advance()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if name != "reference":
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_offsets_beyond_two_billion_elements(device):
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GB of GPU memory")
    numel, batch = 3 * 2**28, 3
    coef, code = table([L.READ_X | L.READ_F | L.STORE_X | L.STORE_NET], device=device)
    x = torch.ones(batch, numel, device=device)
    F, net_in = (torch.ones(batch, numel, dtype=BF16, device=device) for _ in range(2))
    seeds = torch.arange(batch, device=device)
    first_bad = torch.full((batch,), L.NEVER, dtype=torch.int32, device=device)
    cursor = torch.zeros(1, dtype=torch.int32, device=device)
    machine = rk.Machine(x, x, net_in, coef, code, cursor, seeds, first_bad)
    rk.bind(machine).run_row(F)
    c = coef[0]
    quads = torch.arange(numel // 4 - 256, numel // 4, device=device)
    words = noise._words4(seeds[2:], 0, quads, 0)
    z = [noise.box_muller(*words[i : i + 2]) for i in (0, 2)]
    eps = torch.stack([*z[0], *z[1]], dim=-1).flatten()
    y = (c[L.Y_X] * 1 + c[L.Y_F] * 1) + c[L.S] * eps
    assert torch.equal(x[2, -1024:], y)
    assert torch.equal(net_in[2, -1024:], (c[L.C_IN] * y).to(BF16))


@pytest.mark.parametrize(
    "numel, batch",
    [(1, 1), (4, 1), (784, 3), (3072, 64), (3072, 100_000), (12288, 256), (16384, 256), (2**30, 2), (2, 10**6)],
)
def test_the_grid_covers_each_sample_once(numel, batch):
    config = launch.configure(numel, batch)
    blocks, samples = config.grid if config.batch_axis else config.grid[::-1]
    assert samples == batch
    assert config.grid[1] <= 65535
    assert (blocks - 1) * 4 * config.quads < numel <= blocks * 4 * config.quads
    assert config.even == (numel == blocks * 4 * config.quads)
    assert config.quads & (config.quads - 1) == 0
    assert config.quads % (32 * config.warps) == 0
    assert config == launch.configure(numel, batch)


def test_a_grid_that_cannot_be_is_refused():
    for numel, batch in ((2**31, 1), (2**30, 70_000)):
        with pytest.raises(rk.KernelError, match="reference"):
            launch.configure(numel, batch)


# --- backends and bad arguments --------------------------------------------------------------------------------


def test_the_old_name_of_a_row_warns(device):
    case = Batch(2, 9, table([ALL], device=device), device=device)
    expected = case.run_row("auto")
    with pytest.warns(
        DeprecationWarning, match=r"step is run_row since 0\.1; the old name is removed in 0\.2"
    ) as caught:
        rk.bind(case.machine()).step(case.F)
    assert [w.filename for w in caught] == [__file__]
    assert_equal_bits((case.x, case.h, case.net_in, case.first_bad), expected)


def test_backends_are_named_and_explained(device):
    assert rk.resolve_backend("auto", device) in rk.available_backends(device)
    assert "reference" in rk.available_backends(device)
    with pytest.raises(rk.KernelError, match="auto, native, reference, triton"):
        rk.resolve_backend("cudnn", device)
    if "native" not in rk.available_backends(device):
        with pytest.raises(rk.KernelError, match=r"native.*is not available: .*use one of auto"):
            rk.resolve_backend("native", device)
    with pytest.raises(rk.KernelError, match="meta"):
        rk.resolve_backend("triton", "meta")


def test_triton_is_not_imported_before_it_is_used():
    """On CPU tensors outside its interpreter it is refused with the reason."""
    script = """
import sys, torch, restart_kernels as rk
z = rk.normal(torch.arange(2), 0, 8)
assert "triton" not in sys.modules, "importing or running the reference imported triton"
assert set(rk.available_backends("cpu")) <= {"native", "reference"}
try:
    rk.resolve_backend("triton", "cpu")
except rk.KernelError as error:
    print(error)
else:
    raise SystemExit("triton was accepted")
try:
    import triton
except ImportError:
    raise SystemExit
from restart_kernels.philox.triton import normal_kernel
assert {"draw", "stream"} <= {p.name for p in normal_kernel.params if p.do_not_specialize}, "a draw of 1 fails"
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(rk.__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(str(root / folder) for folder in ("kernels", "bindings"))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TRITON_INTERPRET=1" in done.stdout or "not installed" in done.stdout


BAD_ARGUMENTS = {
    "x": lambda c: {"x": c.x.to(BF16)},
    "h": lambda c: {"h": c.h[:, :-1].contiguous()},
    "F": lambda c: {"F": c.F.long()},
    "F_uncond": lambda c: {"F_uncond": c.F.to(BF16), "net_in": c.net_in.repeat(2, 1)},
    "net_in": lambda c: {"F_uncond": c.F},
    "c_noise": lambda c: {"c_noise": c.x[0, :3].contiguous()},
    "h2": lambda c: {"h2": c.x[:, :-1].contiguous()},
    "h3": lambda c: {"h2": c.x.clone(), "h3": c.x.to(BF16)},
    "h before h2": lambda c: {"h": None, "h2": c.x.clone()},
    "h2 before h3": lambda c: {"h3": c.x.clone()},
    "known": lambda c: {"known": c.x.long(), "mask": c.x.clone()},
    "mask": lambda c: {"known": c.x.clone(), "mask": c.x[:1].clone()},
    "known and mask": lambda c: {"known": c.x.clone()},
    "mask go together": lambda c: {"mask": c.x.clone()},
    "mix": lambda c: {"mix": torch.zeros(2, 3)},
    "mix must be": lambda c: {"mix": torch.zeros(2, 2, dtype=torch.float64)},
    "noises": lambda c: {"noises": 3},
    "coef": lambda c: {"coef": c.coef[:, :10].contiguous()},
    "code": lambda c: {"code": c.code.long()},
    "cursor": lambda c: {"cursor": c.cursor.long()},
    "seeds": lambda c: {"seeds": c.seeds[:1]},
    "first_bad": lambda c: {"first_bad": c.first_bad.long()},
    "contiguous": lambda c: {"x": c.x.T.contiguous().T},
}


@pytest.mark.parametrize("named", list(BAD_ARGUMENTS))
def test_arguments_that_do_not_fit_are_refused(named):
    case = Batch(2, 9, table([ALL]))
    names = ("x", "h", "F", "net_in", "coef", "code", "cursor", "seeds", "first_bad")
    before = {name: getattr(case, name).clone() for name in names}
    changed = BAD_ARGUMENTS[named](case)
    output = changed.pop("F", case.F), changed.pop("F_uncond", None)
    with pytest.raises(rk.KernelError, match=rf"\b{named}\b"):
        rk.bind(case.machine(**changed)).run_row(*output)
    assert all(torch.equal(getattr(case, name), before[name]) for name in names)


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_advance_moves_the_cursor_and_hands_out_c_noise(backend, device, shared, halves):
    """Rows 0, 1, 2 of one plan and 3, 4 of another; 2 and 4 are last. Idle samples stay as they are, in both halves."""
    if backend == "masked":
        pytest.skip("advance has one form in the reference")
    last = ALL | L.END
    coef, code = table([ALL, ALL, last, ALL, last], device=device)
    cursor = [1] if shared else [0, L.IDLE, 2, 3, 4, *[1] * 200]
    case = Batch(1 if shared else len(cursor), 9, (coef, code), cursor=cursor, device=device)
    c_noise = torch.full((halves * len(cursor),), 7.0, device=device)
    bound = rk.bind(case.machine(c_noise=c_noise), backend)
    bound.advance()
    after = {0: 1, L.IDLE: L.IDLE, 1: 2, 2: L.IDLE, 3: 4, 4: L.IDLE}
    assert case.cursor.tolist() == [after[row] for row in cursor]
    given = halves * [coef[row, L.C_NOISE].item() if row >= 0 else 7.0 for row in cursor]
    assert c_noise.tolist() == given
    rk.bind(case.machine(), backend).advance()  # without c_noise only the cursor moves
    assert case.cursor.tolist() == [after[after[row]] for row in cursor]
    assert c_noise.tolist() == given


def test_float64_registers_are_for_the_backends_that_have_them(device):
    """The others refuse, and say which have them; "auto" takes one that has."""
    case = Batch(1, 4, table([ALL], device=device), device=device)
    case.x, case.h, case.coef = case.x.double(), case.h.double(), case.coef.double()
    expected = [t.clone() for t in case.run_row("reference")]
    for name in rk.available_backends(device):
        if rk.get_backend(name).float64:
            assert all(torch.equal(a, b) for a, b in zip(case.run_row(name), expected, strict=True))
            continue
        with pytest.raises(rk.KernelError, match=r"float32 registers, not float64; use one of auto, reference"):
            case.run_row(name)
    assert all(torch.equal(a, b) for a, b in zip(case.run_row("auto"), expected, strict=True))
    assert rk.get_backend(rk.bind(case.machine()).backend).float64


def test_empty_batches_do_nothing(device):
    case = Batch(0, 9, table([ALL], device=device), device=device)
    assert all(t.numel() == 0 for t in case.run_row("auto"))
    case = Batch(3, 0, table([ALL], device=device), device=device)
    assert case.run_row("auto")[3].tolist() == [L.NEVER] * 3


@pytest.mark.parametrize("batch, numel", [(21, 3072), (22, 3072), (64, 3072), (3, 4 * noise.CHUNK + 4)])
def test_a_shared_cursor_serves_batches_beyond_one_chunk_of_normals(batch, numel):
    """The masked form passes the shared draw as a tensor of one element, whatever the batch."""
    case = Batch(batch, numel, table([ALL, ALL], s=[0.5, 2.0]), cursor=[1])
    assert_equal_bits(case.run_row("masked"), case.run_row("reference"))
    shared = noise.normal(case.seeds, torch.tensor([7]), numel)
    assert torch.equal(shared, noise.normal(case.seeds, 7, numel))
    assert torch.equal(shared, noise.normal(case.seeds, torch.full((batch,), 7), numel))


def test_a_float64_machine_of_64_samples_takes_the_masked_form():
    case = Batch(64, 3072, table([ALL], s=[0.5]))
    wide = {name: getattr(case, name).double() for name in ("x", "h", "coef")}
    machines = [case.machine(**{k: v.clone() for k, v in wide.items()}, net_in=case.net_in.clone()) for _ in range(2)]
    reference.run_row_masked(machines[0], case.F)
    rk.bind(machines[1], "reference").run_row(case.F)
    for name in ("x", "h"):
        assert torch.equal(getattr(machines[0], name), getattr(machines[1], name)), name
