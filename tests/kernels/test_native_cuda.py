"""The CUDA library, shown in three ways.

* The host twin: the same source compiled for the host, run thread by thread on the same grid. Words, normals and whole
  rows must equal the reference bit for bit, so only the compiler for the GPU could still change a bit. Needs g++.
* The machine code for every architecture that cuda.cmake names: registers, spills, accesses, contraction. Needs nvcc.
* With `--device cuda`, the library itself against Triton and the reference.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.machines import (
    KINDS,
    asking_for_everything,
    check_poisoned,
    kind_name,
    methods_batch,
    poisoned,
    weigh,
    weighed_rows,
)
from support.row_batches import ALL, BF16, F16, F32, STORES, WRITTEN, Batch, assert_equal_bits, bits, table

import restart_bindings
import restart_kernels as rk
from restart_kernels import aot
from restart_kernels import layout as L
from restart_kernels.backends import triton as launch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "bindings" / "csrc" / "cuda"
CMAKE = (SOURCES / "cuda.cmake").read_text(encoding="utf-8")
DTYPES = [F32, BF16, F16]
WIDE = (ALL & ~L.STORE_H) | L.READ_H2 | L.READ_H3 | L.STORE_H3 | L.PASTE | L.APG
WIDEST = dict(registers=3, noises=2, paste=True, weighed=True)
BUDGET = 86  # SASS instructions an H200 issues for each element while it moves its 14 bytes


@pytest.fixture(scope="module")
def scheme(tmp_path_factory):
    """Return a folder with restart_scheme.h."""
    folder = tmp_path_factory.mktemp("scheme")
    script = ROOT / "bindings" / "csrc" / "generate_scheme.py"
    subprocess.run([sys.executable, str(script), str(folder / "restart_scheme.h")], check=True)
    return folder


# --- the host twin ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin_path(scheme):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the host twin needs g++")
    library = scheme / "twin.so"
    options = [
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        f"-I{scheme}",
        f"-I{SOURCES.parent}",
    ]
    source = str(SOURCES / "host_twin.cpp")
    done = subprocess.run([compiler, *options, source, "-o", str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture(scope="module")
def twin(twin_path):
    library = ctypes.CDLL(str(twin_path))
    for name in ("twin_row", "twin_weigh", "twin_advance", "twin_normal"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def address(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def int64(n):
    return ctypes.c_int64(n)


def run_row(twin, m, F, F_uncond):
    """Run a row of a machine on the twin, in place; return the name of the kernel that ran."""
    batch = m.x.shape[0]
    dtypes = (DTYPES.index(m.net_in.dtype if F is None else F.dtype), DTYPES.index(m.net_in.dtype))
    pointers = (m.x, m.h, m.h2, m.h3, F, F_uncond, m.net_in, m.coef, m.code, m.cursor, m.seeds, m.first_bad)
    name = twin.twin_row(
        *map(address, (*pointers, m.known, m.mask, m.mix)),
        int64(batch),
        int64(m.x.numel() // batch),
        len(m.coef),
        int(m.cursor.shape[0] > 1),
        *dtypes,
        1 + m.guided,
        m.noises,
    )
    return name.decode()


def run_weigh(twin, m, F, F_uncond):
    """Run `weigh` of a machine on the twin, in place; return the name of the kernel that ran."""
    batch = m.x.shape[0]
    name = twin.twin_weigh(
        *map(address, (m.mix, F, F_uncond, m.coef, m.code, m.cursor)),
        int64(batch),
        int64(m.x.numel() // batch),
        len(m.coef),
        int(m.cursor.shape[0] > 1),
        DTYPES.index(F.dtype),
    )
    return name.decode()


def row_of_the_twin(twin, case, kernel=""):
    """Return what the row writes, by WRITTEN, on a copy of the batch; the twin runs the kernel of this name."""
    own = {name: getattr(case, name) for name in WRITTEN}
    m = case.machine(**{name: None if t is None else t.clone() for name, t in own.items()})
    assert kernel in run_row(twin, m, case.F, case.F_uncond)
    return tuple(getattr(m, name) for name in WRITTEN if own[name] is not None)


def assert_row_equal(twin, case, kernel=""):
    assert_equal_bits(row_of_the_twin(twin, case, kernel), case.run_row("reference"))


def assert_weights_equal(twin, case, kernel=""):
    m = case.machine(mix=case.mix.clone())
    assert kernel in run_weigh(twin, m, case.F, case.F_uncond)
    assert torch.equal(bits(m.mix), bits(weigh(case, "reference")))
    others = ~weighed_rows(case)
    assert torch.equal(m.mix[others].view(torch.int32), case.mix[others].view(torch.int32))


@pytest.mark.parametrize("seed, draw, stream", [(0, 0, 0), (2**63 - 1, 2**32 - 1, 2), (2**32, 7, 1)])
def test_words_of_the_twin(twin, seed, draw, stream):
    out = np.zeros(4000, np.uint32)
    arguments = (int64(seed), ctypes.c_uint32(draw), ctypes.c_uint32(stream), ctypes.c_uint32(1000))
    twin.twin_words(out.ctypes.data_as(ctypes.c_void_p), *arguments)
    expected = rk.words(torch.tensor([seed]), draw, 4000, stream=stream)[0]
    assert np.array_equal(out, expected.numpy().astype(np.uint32))


@pytest.mark.parametrize("batch, numel", [(1, 1), (3, 63), (2, 1028), (65536 + 3, 5), (1, 3 * 2**17), (4, 2**18)])
def test_normals_of_the_twin(twin, batch, numel):
    seeds = torch.arange(batch) + 2**40
    for draw, stream in ((0, 0), (2**32 - 1, 1)):
        out = torch.full((batch * numel + 1,), torch.nan)
        arguments = (ctypes.c_uint32(draw), ctypes.c_uint32(stream), int64(batch), int64(numel))
        twin.twin_normal(address(out), address(seeds), *arguments)
        expected = rk.normal(seeds, draw, numel, stream=stream, backend="reference")
        assert torch.equal(bits(out[:-1]), bits(expected.flatten()))
        assert out[-1].isnan()


@pytest.mark.parametrize("numel", [1, 3, 4, 63, 64, 255, 257, 784, 3 * 32 * 32])
def test_rows_of_the_twin_at_awkward_sizes(twin, numel):
    kernel = "RowVectorsIf" if numel % 4 == 0 else "RowElements"
    for batch, guided in ((1, True), (3, False)):
        assert_row_equal(twin, Batch(batch, numel, table([ALL], seed=numel), guided=guided, seed=numel), kernel)


@pytest.mark.parametrize("F_dtype", DTYPES)
@pytest.mark.parametrize("net_dtype", DTYPES)
@pytest.mark.parametrize("numel", [63, 64])
def test_rows_of_the_twin_for_every_dtype(twin, numel, F_dtype, net_dtype):
    """Vectors where the network has one dtype and the samples are whole counters."""
    vectors = numel == 64 and F_dtype == net_dtype
    name = {F32: "If", BF16: "INS0_8BFloat16", F16: "INS0_7Float16"}[F_dtype]
    for guided in (False, True):
        kernel = (f"RowVectors{name}" if vectors else "RowElementsI", f"Lb{guided:d}E")
        case = Batch(2, numel, table([ALL]), F_dtype, net_dtype, guided)
        case.F[0, :4] = torch.tensor([65504.0, 6e-8, -1e-6, 3e38])
        for part in kernel:
            assert_row_equal(twin, case, part)


@pytest.mark.parametrize(
    "batch, numel, quads", [(1, 2**18, 1), (1, 2**19, 2), (64, 3 * 32 * 32 * 4, 2), (86, 12288, 4)]
)
@pytest.mark.parametrize("dtype, guided", [(F32, True), (BF16, False)])
def test_rows_of_the_twin_with_one_two_and_four_counters_a_thread(twin, batch, numel, quads, dtype, guided):
    case = Batch(batch, numel, table([ALL]), dtype, dtype, guided)
    case.x[-1, -1] = torch.nan
    assert_row_equal(twin, case, f"Lb{guided:d}ELi{quads}E")


@pytest.mark.parametrize("numel", [5, 8])
@pytest.mark.parametrize("guided", [False, True])
def test_every_combination_of_flags_in_the_twin(twin, numel, guided):
    """Sample b is at row b, and every register its row does not read is full of NaN."""
    n = 128
    flags = [f | guide for guide in (0, L.GUIDE) for f in range(64)]
    rows = table(flags, s=torch.where(torch.arange(n) % 3 == 0, 0.0, 0.5))
    case = Batch(n, numel, rows, BF16, BF16, guided, cursor=range(n))
    for b, flag in enumerate(flags):
        reads = [(L.READ_X, case.x), (L.READ_H, case.h), (L.READ_F, case.F), (L.READ_F | L.GUIDE, case.F_uncond)]
        for read, register in reads:
            if register is not None and flag & read != read:
                register[b] = torch.nan
    assert_row_equal(twin, case)


@pytest.mark.parametrize("kind", KINDS, ids=kind_name)
def test_every_kind_of_machine_in_the_twin(twin, kind):
    """By vectors and by elements, with NaN in whatever a row must not read; a kind has wide kernels only if it must."""
    wide = kind["registers"] > 1 or kind["noises"] == 2 or kind["paste"] or kind["weighed"]
    for numel, dtypes, kernel in ((40, (BF16, BF16), "Vectors"), (37, (BF16, F32), "Elements")):
        case = poisoned(kind, numel, *dtypes, seed=numel)
        found = row_of_the_twin(twin, case, ("Wide" if wide else "Row") + kernel)
        check_poisoned(case, found)
        assert_equal_bits(found, case.run_row("reference"))


def test_what_a_machine_does_not_have_is_not_looked_at_in_the_twin(twin):
    for kind in KINDS[::5]:
        for numel, dtypes in ((40, (BF16, BF16)), (37, (BF16, F16))):
            for case in asking_for_everything(kind, numel, *dtypes):
                assert_row_equal(twin, case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, numel, quads", [(1, 2**18, 1), (1, 2**19, 2), (86, 12288, 2)])
def test_wide_rows_of_the_twin_have_at_most_two_counters_a_thread(twin, batch, numel, quads, dtype):
    case = Batch(batch, numel, table([WIDE], s=0.5, s2=0.25), dtype, dtype, guided=True, **WIDEST)
    case.x[-1, -1] = torch.nan
    assert_row_equal(twin, case, f"ELi{quads}E" if dtype != F32 else f"WideVectorsIfLi{quads}E")


def test_both_halves_are_written_without_an_unconditional_output_in_the_twin(twin):
    for kind in ({}, WIDEST):
        for numel in (8, 9):
            case = Batch(3, numel, table([WIDE if kind else ALL]), guided=True, **kind)
            case.F_uncond = None
            assert_row_equal(twin, case)


@pytest.mark.parametrize("numel", [8, 9])
def test_registers_that_a_table_does_not_use_change_no_bit_in_the_twin(twin, numel):
    zeros = torch.tensor([0.0, -0.0, 0.0, -0.0] * 3)[:numel]
    found = []
    for registers in (1, 2, 3):
        case = Batch(2, numel, table([ALL]), registers=registers)
        case.x[:], case.h[:], case.F[:] = zeros, -zeros, zeros
        found.append(row_of_the_twin(twin, case)[:4])
    assert_equal_bits(found[1], found[0])
    assert_equal_bits(found[2], found[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [1, 3, 4, 63, 1023, 1024, 1028, 3072, 4096, 4100, 5001, 12288])
def test_weights_of_the_twin(twin, numel, dtype):
    name = {F32: "If", BF16: "INS0_8BFloat16", F16: "INS0_7Float16"}[dtype]
    kernel = f"Vectors{name}" if numel % 4 == 0 else "Elements"
    assert_weights_equal(twin, methods_batch(numel, dtype, seed=numel), kernel)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_outputs_that_are_not_aligned_in_the_twin(twin, dtype):
    for name in ("F", "F_uncond"):
        case = methods_batch(2048, dtype)
        t = getattr(case, name)
        setattr(case, name, torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view_as(t).copy_(t))
        assert_weights_equal(twin, case, "Elements")


def test_weights_with_one_cursor_in_the_twin(twin):
    for cursor in ([0], [1], [-1], [2]):
        case = Batch(3, 100, table([ALL | L.RESCALE, ALL]), guided=True, cursor=cursor, weighed=True)
        m = case.machine(mix=case.mix.clone())
        run_weigh(twin, m, case.F, case.F_uncond)
        assert torch.equal(m.mix, weigh(case, "reference") if cursor == [0] else case.mix)


def test_mixed_and_idle_cursors_in_the_twin(twin):
    rows = table([ALL, ALL & ~L.READ_H, L.READ_F | L.STORE_X], s=[0.5, 0.0, 2.0])
    for numel in (8, 9):
        assert_row_equal(twin, Batch(6, numel, rows, BF16, F16, guided=True, cursor=[2, -1, 0, 1, 0, -7]))
        assert_row_equal(twin, Batch(6, numel, rows, cursor=[1]))
        wide = table([WIDE, WIDE & ~L.READ_H3], s=0.5, s2=0.25)
        case = Batch(5, numel, wide, BF16, F16, True, [1, -1, 0, -3, 0], **WIDEST)
        for name in ("x", "h", "h2", "h3", "F", "F_uncond", "net_in", "known", "mask", "mix"):
            getattr(case, name)[1::5] = torch.nan
            getattr(case, name)[3::5] = torch.nan
        assert_row_equal(twin, case)


def test_a_cursor_beyond_the_table_touches_nothing(twin):
    """On a GPU it cannot be an error unless the host waits for it, so it is idle."""
    for kind in ({}, WIDEST):
        case = Batch(2, 8, table([WIDE, WIDE]), guided=True, cursor=[2, 2**31 - 1], **kind)
        names = [name for name in (*WRITTEN, "cursor", "mix") if getattr(case, name) is not None]
        before = [getattr(case, name).clone() for name in names]
        run_row(twin, case.machine(), case.F, case.F_uncond)
        twin.twin_advance(address(case.coef), address(case.code), address(case.cursor), None, int64(2), 2)
        if kind:
            run_weigh(twin, case.machine(), case.F, case.F_uncond)
        for name, tensor in zip(names, before, strict=True):
            assert torch.equal(getattr(case, name), tensor), name


@pytest.mark.parametrize("guided", [False, True])
def test_a_row_that_reads_no_output_needs_none_in_the_twin(twin, guided):
    for numel in (8, 9):
        case = Batch(2, numel, table([ALL & ~L.READ_F]), guided=guided)
        case.F = case.F_uncond = None
        assert_row_equal(twin, case, f"Lb{guided:d}E")


@pytest.mark.parametrize("numel", [4, 5])
def test_signed_zeros_in_the_twin(twin, numel):
    coef, code = table([L.READ_X | L.STORE_X | L.STORE_NET, ALL & ~L.STORE_H], s=0.0)
    coef[:, [L.Y_X, L.Y_H, L.Y_F, L.C_IN]] = torch.tensor([1.0, -1.0, -1.0, -1.0])
    case = Batch(2, numel, (coef, code), cursor=[0, 1])
    zeros = torch.tensor([0.0, -0.0, 0.0, -0.0, -0.0])[:numel]
    case.x, case.h, case.F = (t.expand(2, numel).contiguous() for t in (zeros, zeros.abs(), zeros.abs()))
    assert_row_equal(twin, case)


@pytest.mark.parametrize("bad, element", [(torch.nan, 0), (torch.inf, 259), (-torch.inf, 130)])
@pytest.mark.parametrize("numel", [260, 261])
def test_bad_values_in_the_twin(twin, numel, bad, element):
    case = Batch(4, numel, table([0, 0, 0, ALL]), guided=True, cursor=[3] * 4)
    case.first_bad[1] = 2
    case.x[1:3, element] = bad
    assert_row_equal(twin, case)
    large = Batch(1, numel, table([L.READ_X | L.STORE_X], s=0.0))
    large.coef[:, L.Y_X] = 1
    large.x[:] = 3e38
    assert_row_equal(twin, large)


def test_addresses_that_are_not_aligned_take_the_other_kernel(twin):
    plain, wide = ("x", "h", "F", "net_in"), ("h2", "h3", "known", "mask", "F_uncond")
    for kind, flags, kernel, names in (({}, ALL, "Row", plain), (WIDEST, WIDE, "Wide", plain + wide)):
        for name in names:
            case = Batch(2, 64, table([flags], s=0.5, s2=0.25), BF16, BF16, bool(kind), **kind)
            t = getattr(case, name)
            setattr(case, name, torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view_as(t).copy_(t))
            before, expected = getattr(case, name).clone(), case.run_row("reference")
            assert f"{kernel}Elements" in run_row(twin, case.machine(), case.F, case.F_uncond)
            assert_equal_bits([t for n in WRITTEN if (t := getattr(case, n)) is not None], expected)
            unwritten = name in ("F", "F_uncond", "known", "mask") or (kind and name in ("h", "h2"))
            assert torch.equal(before, getattr(case, name)) == bool(unwritten), name


@pytest.mark.parametrize("batch", [65535, 65536, 2 * 65535 + 1])
def test_the_twin_has_batches_beyond_an_axis_of_the_grid(twin, batch):
    assert_row_equal(twin, Batch(batch, 4, table([ALL]), cursor=[0] * batch))


@pytest.mark.parametrize("cursor", [[1], [0, L.IDLE, 2, 3, 4, *[1] * 300], [0] * 70_000])
def test_advance_in_the_twin(twin, cursor):
    last = ALL | L.END
    case = Batch(len(cursor), 1, table([ALL, ALL, last, ALL, last]), cursor=cursor)
    m, other = (case.machine(cursor=case.cursor.clone(), c_noise=torch.full((len(cursor),), 7.0)) for _ in range(2))
    rk.bind(other, "reference").advance()
    pointers = map(address, (m.coef, m.code, m.cursor, m.c_noise))
    twin.twin_advance(*pointers, int64(len(cursor)), len(m.coef))
    assert torch.equal(m.cursor, other.cursor)
    assert torch.equal(m.c_noise, other.c_noise)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_conversions_of_the_twin(twin, dtype):
    """All 2¹⁶ halves, what lies between each two of them, and floats of every exponent."""
    half = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    wide = torch.empty(2**16)
    twin.twin_widen(DTYPES.index(dtype), address(half), address(wide), int64(2**16))
    assert torch.equal(bits(wide), bits(half.view(dtype).float()))
    finite = wide[wide.isfinite()].sort().values
    between = (finite[1:].double() + finite[:-1].double()).div(2).float()
    inf = torch.tensor(math.inf)
    near = torch.cat([between, torch.nextafter(between, inf), torch.nextafter(between, -inf)])
    random = torch.randint(-(2**31), 2**31, (10**6,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    x = torch.cat([wide, near, random.view(F32)])
    narrow, back = torch.empty(len(x), dtype=dtype), torch.empty(len(x))
    twin.twin_convert(DTYPES.index(dtype), address(x), address(narrow), address(back), int64(len(x)))
    assert torch.equal(bits(narrow), bits(x.to(dtype)))
    assert torch.equal(bits(back), bits(x.to(dtype).float()))


def test_the_configuration_is_that_of_triton(twin):
    """The same block, counters and grid wherever Triton's grid exists."""
    out = (ctypes.c_int64 * 5)()
    for numel in (1, 4, 63, 784, 3072, 12288, 16384, 196_608, 2**20, 2**30, 2**31 - 1):
        for batch in (1, 3, 64, 256, 65535, 65536, 10**6):
            assert twin.twin_configure(int64(numel), int64(batch), 4, out)
            quads, threads, x, y, z = out
            assert (x - 1) * threads * quads * 4 < numel <= x * threads * quads * 4
            assert y <= 65535
            assert z <= 65535
            assert y * (z - 1) < batch <= y * z
            try:
                config = launch.configure(numel, batch)
            except rk.KernelError:
                continue
            assert (threads, threads * quads) == (32 * config.warps, config.quads)
            assert x == config.grid[1 - config.batch_axis]
    for numel, batch in ((2**31, 1), (1, 2**31)):
        assert not twin.twin_configure(int64(numel), int64(batch), 4, out)


# Buffers that end where a page without access rights begins: reading or writing one byte too far ends the process.
GUARDED = """
import ctypes, mmap, sys
import numpy as np

twin, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
PAGE = mmap.PAGESIZE

def guarded(dtype, *shape):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = -(-size // PAGE) * PAGE
    area = mmap.mmap(-1, room + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(PAGE), 0) == 0
    count, first = size // np.dtype(dtype).itemsize, room - size
    return ctypes.c_void_p(start + first), np.frombuffer(area, dtype, count, first)

i64 = ctypes.c_int64
FLAGS = [int(flags) for flags in sys.argv[3:]]
for numel in (1, 3, 4, 63, 64, 255, 257, 2**19 + 4, 2**20 + 4, 2**20 + 1):
    for batch in (1, 3):
        if batch * numel > 2**21:
            continue
        for dtypes in ((0, 0), (1, 1)) if numel > 2**18 else ((0, 0), (1, 1), (2, 1)):
            for guided in (0, 1):
                n = batch * numel
                kinds = [np.float32 if d == 0 else np.uint16 for d in dtypes]
                x, h, h2, h3, known, mask = (guarded(np.float32, n) for _ in range(6))
                F, F_uncond = (guarded(kinds[0], n) for _ in range(2))
                net, mix = guarded(kinds[1], (1 + guided) * n), guarded(np.float32, 2 * batch)
                coef, code, cursor = guarded(np.float32, 20), guarded(np.int32, 4), guarded(np.int32, batch)
                seeds, first_bad = guarded(np.int64, batch), guarded(np.int32, batch)
                coef[1][:] = 1
                if not guided:
                    F_uncond = (None,)
                for wide in (0, 1):
                    code[1][0] = FLAGS[wide]
                    others = (h2, h3) if wide else ((None,), (None,))
                    pasted = (known, mask, mix) if wide else ((None,),) * 3
                    tensors = (x, h, *others, F, F_uncond, net, coef, code, cursor, seeds, first_bad, *pasted)
                    sizes = (i64(batch), i64(numel), 1, 1)
                    twin.twin_row(*[t[0] for t in tensors], *sizes, *dtypes, 1 + guided, 1 + wide)
                    assert x[1].all() and net[1].all()
                if guided:
                    assert h[1].all() and h2[1].all() and h3[1].all()
                    weighed = (mix, F, F_uncond, coef, code, cursor)
                    twin.twin_weigh(*[t[0] for t in weighed], *sizes, dtypes[0])
                    assert not np.isnan(mix[1]).any() and mix[1].any()
                c_noise = guarded(np.float32, batch)
                twin.twin_advance(coef[0], code[0], cursor[0], c_noise[0], i64(batch), 1)
                assert (cursor[1] == 1).all() and (c_noise[1] == 1).all()
                twin.twin_normal(x[0], seeds[0], 0, 0, i64(batch), i64(numel))
print("inside")
if sys.argv[2] == "beyond":
    twin.twin_normal(x[0], seeds[0], 0, 0, i64(batch), i64(numel + 1))
"""


def test_the_twin_touches_nothing_beyond_its_tensors(twin_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("guard pages by mprotect")
    for mode in ("within", "beyond"):  # the second shows that the guard works
        flags = (ALL, ALL | WIDE | sum(STORES))
        command = [sys.executable, "-c", GUARDED, str(twin_path), mode, *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("inside") or mode == "beyond", done.stderr
        assert (done.returncode == 0) == (mode == "within"), done.stderr


# --- the machine code ------------------------------------------------------------------------------------------


def cmake_list(name):
    return re.search(rf"set\({name} (.*?)\)", CMAKE)[1].split()


def tool(name):
    """Return the path of a program that comes with nvcc and with triton."""
    if path := shutil.which(name):
        return path
    spec = importlib.util.find_spec("triton")
    bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name if spec and spec.origin else None
    if bundled is None or not bundled.exists():
        pytest.skip(f"no {name}, neither on the PATH nor in triton")
    return str(bundled)


def output(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def kernel_name(mangled):
    """Return a short name: `row-float-4`, `row-BFloat16-4-guided`, `row-any`, `wide-float-2`, `wide-any`,
    `weigh-float`, `weigh-any`, `normal-4`, `normal-any`, `advance`.
    """
    if m := re.search(r"RowVectorsI(f|NS0_\d+(\w+?)E)Lb([01])ELi(\d)E", mangled):
        return f"row-{m[2] or 'float'}-{m[4]}" + "-guided" * int(m[3])
    if m := re.search(r"RowElementsILb([01])E", mangled):
        return "row-any" + "-guided" * int(m[1])
    if m := re.search(r"WideVectorsI(f|NS0_\d+(\w+?)E)Li(\d)E", mangled):
        return f"wide-{m[2] or 'float'}-{m[3]}"
    if "WideElements" in mangled:
        return "wide-any"
    if m := re.search(r"WeighINS0_(8Elements|7VectorsI(f|NS0_\d+(\w+?)E))", mangled):
        return f"weigh-{'any' if m[1] == '8Elements' else m[3] or 'float'}"
    if m := re.search(r"NormalILi(\d)ENS0_(8Elements|7Vectors)", mangled):
        return "normal-any" if "Elements" in m[2] else f"normal-{m[1]}"
    assert "Advance" in mangled
    return "advance"


@pytest.fixture(scope="module")
def compiled(scheme):
    """Return the object that cuda.cmake makes of gpu.cu, and the architectures in it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("the machine code needs nvcc")
    known = output(nvcc, "--list-gpu-code").split()
    architectures = [a for a in cmake_list("RESTART_CUDA_ARCHITECTURES") if f"sm_{a}" in known]
    assert architectures, known
    generate = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    generate.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    options = ["-std=c++17", *cmake_list("RESTART_CUDA_FLAGS"), *generate, "--threads=0", "-Werror=all-warnings"]
    out = scheme / "gpu.o"
    command = [nvcc, *options, f"-I{scheme}", f"-I{SOURCES.parent}", "-c", str(SOURCES / "gpu.cu"), "-o", str(out)]
    output(*command)
    return out, architectures


@pytest.fixture(scope="module")
def code(compiled):
    """Return {(kernel, architecture): its basic blocks}."""
    out, architectures = compiled
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    output(cuobjdump, "-xelf", "all", str(out), cwd=out.parent)
    found = {}
    for a in architectures:
        (cubin,) = out.parent.glob(f"*.sm_{a}.cubin")
        for section in re.split(r"\.section\s+\.text\.", output(nvdisasm, "-c", str(cubin)))[1:]:
            found[kernel_name(section.split(",")[0]), a] = aot.basic_blocks(section)
    return found


def hot(blocks):
    """Return the opcodes without those of the slow path of a square root."""
    labels = [label for label, _ in blocks]
    end = next((i for i, label in enumerate(labels) if label.startswith("$")), len(blocks))
    return [aot._opcode(line) for _, lines in blocks[:end] for line in lines]


ROWS = [f"row-{t}-{q}{g}" for t in ("float", "BFloat16", "Float16") for q in (1, 2, 4) for g in ("", "-guided")]
WIDE_ROWS = [f"wide-{t}-{q}" for t in ("float", "BFloat16", "Float16") for q in (1, 2)]
WEIGHS = [f"weigh-{t}" for t in ("float", "BFloat16", "Float16", "any")]
NORMALS = ["normal-1", "normal-2", "normal-4", "normal-any"]
KERNELS = [*ROWS, "row-any", "row-any-guided", *WIDE_ROWS, "wide-any", *WEIGHS, *NORMALS, "advance"]


def quads_of(name):
    """Return how many counters a thread owns, times how often it draws their normals: a wide row has three terms."""
    quads = int(digits[0]) if (digits := re.findall(r"-(\d)", name)) else 1
    return quads * (3 if "wide" in name else 0 if "weigh" in name or name == "advance" else 1)


@pytest.mark.slow
def test_the_object_holds_every_architecture_and_ptx(compiled, code):
    out, architectures = compiled
    elves = output(tool("cuobjdump"), "--list-elf", str(out))
    assert sorted(set(re.findall(r"sm_(\d+)", elves))) == sorted(architectures)
    assert f"sm_{architectures[-1]}" in output(tool("cuobjdump"), "--list-ptx", str(out))
    assert set(code) == {(name, a) for name in KERNELS for a in architectures}


@pytest.mark.slow
def test_nothing_spills_and_only_the_weights_use_shared_memory(compiled, code):
    out, architectures = compiled
    usage = output(tool("cuobjdump"), "-res-usage", str(out))
    rows = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert len(rows) == len(KERNELS) * len(architectures)
    for mangled, registers, stack, shared, local in rows:
        name = kernel_name(mangled)
        assert (int(stack), int(local)) == (0, 0), name
        reserved = 1024 if "weigh" in name and int(shared) > 5120 else 0  # by the system, since sm_90
        assert int(shared) == (5 * 256 * 4 if "weigh" in name else 0) + reserved, (name, shared)
        assert int(registers) <= 128, (name, registers)
    for (name, _), blocks in code.items():
        found = Counter(opcode.split(".")[0] for opcode in hot(blocks))
        assert not {"LDL", "STL", "ATOMS"} & set(found), name
        assert bool({"LDS", "STS", "BAR"} & set(found)) == ("weigh" in name), name


@pytest.mark.slow
def test_no_product_is_contracted(compiled):
    """In PTX, where each operation names its rounding; ptxas does not contract operations that do."""
    out, architectures = compiled
    output(tool("cuobjdump"), "-xptx", "all", str(out), cwd=out.parent)
    (ptx,) = out.parent.glob(f"*.sm_{architectures[-1]}.ptx")
    text = ptx.read_text(encoding="utf-8")
    assert aot.contracted(text) == []
    fmas = len(re.findall(r"fma\.rn\.f32", text))
    quads = sum(map(quads_of, KERNELS))
    assert fmas == 4 * quads, "the two exact ones of each pair of words"
    roots, divisions = (len(re.findall(rf"{op}\.rn\.f32", text)) for op in ("sqrt", "div"))
    assert roots == 2 * quads + 2 * len(WEIGHS)
    assert divisions == len(re.findall(r"\bdiv\.\w+", text)) == 7 * len(WEIGHS)


@pytest.mark.slow
def test_fused_instructions_are_the_exact_ones_and_those_of_the_root(code):
    """For each pair of words: u, e·LN2_HI, and two of the root that ptxas writes for sqrt.rn. Each root has one call,
    of its slow path, which the scheme takes only where u = 1 and so r = 0.
    """
    for (name, architecture), blocks in code.items():
        if "weigh" in name or name == "advance":  # the weights have roots and divisions of their own, counted in PTX
            continue
        pairs = 2 * quads_of(name)
        found = Counter(opcode.split(".")[0] for opcode in hot(blocks))
        assert found["FFMA"] == 4 * pairs, (name, architecture)
        assert (found["MUFU"], found["CALL"]) == (pairs, pairs), (name, architecture)
        assert not {"FFMA2", "FMUL2", "FADD2", "DFMA"} & set(found), (name, architecture)
        calls = {line for _, lines in blocks for line in lines if "CALL" in line}
        assert all("sqrt_rn_f32_slowpath" in line for line in calls), calls


@pytest.mark.slow
def test_vectors_move_in_full_width(code):
    """Four elements an access: 128 bits of float32, 64 of a 16-bit type. Besides, the row and the seed are read."""
    for name in ROWS + WIDE_ROWS:
        quads, wide = int(name.split("-")[2]), "wide" in name
        network = 2 if wide or "guided" in name else 1
        # Wide: x, h, h2, h3, known and mask are read, the first four written.
        loads, stores, scalars = (6, 4, 23) if wide else (2, 2, 11 + (network == 2))
        for (_, architecture), blocks in ((key, b) for key, b in code.items() if key[0] == name):
            found = Counter((o[:3], ".128" in o, ".64" in o) for o in hot(blocks) if o[:3] in ("LDG", "STG"))
            full, half = (network, 0) if "float" in name else (0, network)
            assert found["LDG", True, False] == (loads + full) * quads, (name, architecture)
            assert found["STG", True, False] == (stores + full) * quads, (name, architecture)
            assert found["LDG", False, True] == half * quads + 1, (name, architecture)
            assert found["STG", False, True] == half * quads, (name, architecture)
            assert found["STG", False, False] == 0, (name, architecture)
            assert found["LDG", False, False] == scalars, (name, architecture)


@pytest.mark.slow
def test_instructions_per_element_stay_below_the_issue_limit(code):
    """On the longest path through the kernels that fill a GPU, with noise and a stored h, by `aot.path_lengths`:
    predicated instructions count, the slow path of the root and the atomic of first_bad do not.
    """
    for (name, architecture), blocks in code.items():
        if re.search(r"-4", name):
            longest = aot.path_lengths(blocks)[0] / 16
            assert longest <= (BUDGET if "guided" in name else 78), (name, architecture, longest)
        if re.search(r"wide-\w+-2", name):  # the same, with three noise terms, and the 40 bytes of such a row
            longest = aot.path_lengths(blocks)[0] / 8
            assert longest <= BUDGET * 40 / 14, (name, architecture, longest)


# --- the module, without a GPU ---------------------------------------------------------------------------------


@pytest.fixture
def module():
    try:
        return importlib.import_module("restart_bindings._native_cuda")
    except ImportError as error:
        pytest.skip(f"the CUDA module was not built: {error}")


class Pretended:
    """A CPU tensor that claims to be on a GPU; only its description is read."""

    def __init__(self, tensor, device=0):
        self.tensor, self.device = tensor, device

    def __dlpack__(self, **_):
        capsule = self.tensor.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        where = ctypes.cast(get(capsule, b"dltensor") + 8, ctypes.POINTER(ctypes.c_int32))
        where[0], where[1] = 2, self.device  # DLDevice of DLTensor: type, id
        return capsule

    def __dlpack_device__(self):
        return 2, self.device


NAMES = ("x", "h", "net_in", "coef", "code", "cursor", "seeds", "first_bad", "h2", "h3", "known", "mask", "mix")


def pretended(case):
    """Return the arguments of the module for a batch whose tensors claim to be on a GPU."""
    return {name: Pretended(getattr(case, name)) for name in NAMES} | {"noises": case.noises}


def test_the_module_refuses_what_does_not_fit(module):
    case = Batch(2, 9, table([ALL]), guided=True, **WIDEST)
    good = pretended(case)
    bad = {
        "x": Pretended(case.x.double()),
        "h": Pretended(case.h[:, :-1].contiguous()),
        "h2": Pretended(case.h2.bfloat16()),
        "h3": Pretended(case.h3, device=1),
        "net_in": Pretended(case.net_in.long()),
        "coef": Pretended(case.coef[:, :11].contiguous()),
        "code": Pretended(case.code.long()),
        "cursor": Pretended(torch.zeros(3, dtype=torch.int32)),
        "seeds": Pretended(case.seeds, device=1),
        "first_bad": Pretended(case.first_bad[:1]),
        "c_noise": Pretended(torch.zeros(3)),
        "known": Pretended(case.known[:1]),
        "mask": Pretended(case.mask.half()),
        "mix": Pretended(case.mix[:, 0].contiguous()),
    }
    for name, value in bad.items():
        with pytest.raises(TypeError, match=name):
            module.BoundMachine(**(good | {name: value}))
    with pytest.raises(TypeError, match="x is on the wrong device"):
        module.BoundMachine(**(good | {"x": case.x}))
    for absent, text in (("h", "first ones"), ("h2", "first ones"), ("known", "go together"), ("mask", "go together")):
        with pytest.raises(ValueError, match=text):
            module.BoundMachine(**(good | {absent: None}))
    with pytest.raises(ValueError, match="noises must be 1 or 2"):
        module.BoundMachine(**(good | {"noises": 3}))
    bound = module.BoundMachine(**good)
    F = Pretended(case.F)
    for wrong in (case.F, Pretended(case.F[:1]), Pretended(case.F.long()), Pretended(case.F, device=1)):
        for call in (bound.run_row, bound.weigh):
            with pytest.raises(TypeError, match=r"\bF\b"):
                call(wrong, F, 0)
            with pytest.raises(TypeError, match="F_uncond"):
                call(F, wrong, 0)
    with pytest.raises(TypeError):
        bound.weigh(F, None, 0)
    one_half = module.BoundMachine(**(good | {"net_in": Pretended(case.net_in[:2])}))
    for call in (one_half.run_row, one_half.weigh):
        with pytest.raises(TypeError, match="F_uncond needs a net_in of twice the size of x"):
            call(F, F, 0)
    with pytest.raises(TypeError, match="this machine has no mix"):
        module.BoundMachine(**(good | {"mix": None})).weigh(F, F, 0)
    with pytest.raises(TypeError, match="out"):
        module.normal(Pretended(torch.zeros(3)), Pretended(case.seeds), 0, 0, 0)


def test_what_cuda_reports_is_an_error(module):
    """Without a GPU every launch fails with an error."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    case = Batch(2, 9, table([ALL]), guided=True, **WIDEST)
    bound = module.BoundMachine(**pretended(case))
    for call in (
        lambda: bound.run_row(Pretended(case.F), None, 0),
        lambda: bound.weigh(Pretended(case.F), Pretended(case.F_uncond), 0),
        lambda: bound.advance(0),
        lambda: module.normal(Pretended(case.x), Pretended(case.seeds), 0, 0, 0),
    ):
        with pytest.raises(RuntimeError, match="CUDA: "):
            call()
    assert "no CUDA device" in restart_bindings.reason("cuda")


# --- on a GPU --------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(device):
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    if "native" not in rk.available_backends(device):
        pytest.skip(restart_bindings.reason("cuda"))
    return device


GPU_SIZES = [(1, 1), (3, 63), (2, 257), (5, 784), (64, 3072), (65537, 5), (1, 2**19), (1, 2**20 + 4), (86, 12288)]


@pytest.mark.parametrize("batch, numel", GPU_SIZES)
@pytest.mark.parametrize("F_dtype, net_dtype", [(F32, F32), (BF16, BF16), (F16, F16), (BF16, F32)])
@pytest.mark.parametrize("guided", [False, True])
def test_native_triton_and_reference_are_equal_on_a_gpu(gpu, batch, numel, F_dtype, net_dtype, guided):
    flags = [ALL, ALL & ~L.READ_H, L.READ_X | L.STORE_NET]
    rows = table(flags, s=[0.5, 0.0, 2.0], device=gpu)
    cursor = [b % 4 - 1 for b in range(batch)] if batch > 1 else [0]
    case = Batch(batch, numel, rows, F_dtype, net_dtype, guided, cursor, device=gpu)
    case.x[-1, -1] = torch.inf
    found = case.run_row("native")
    for other in rk.available_backends(gpu):
        assert_equal_bits(found, case.run_row(other))
    z = rk.normal(case.seeds, 3, numel, backend="native")
    assert torch.equal(z.cpu(), rk.normal(case.seeds.cpu(), 3, numel, backend="reference"))


@pytest.mark.parametrize(
    "numel, dtypes", [(37, (BF16, F32)), (2048, (F32, F32)), (40, (BF16, BF16)), (301, (F16, F16))]
)
def test_every_kind_of_machine_on_a_gpu(gpu, numel, dtypes):
    for kind in KINDS:
        case = poisoned(kind, numel, *dtypes, seed=numel, device=gpu)
        found = case.run_row("native")
        check_poisoned(case, found)
        assert_equal_bits(found, case.run_row("reference"))


@pytest.mark.parametrize("batch, numel", [(1, 2**19), (86, 12288), (65537, 8), (3, 2**20 + 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows_on_a_gpu(gpu, batch, numel, dtype):
    rows = table([WIDE], s=0.5, s2=0.25, device=gpu)
    case = Batch(batch, numel, rows, dtype, dtype, guided=True, device=gpu, **WIDEST)
    case.x[-1, -1] = torch.inf
    assert_equal_bits(case.run_row("native"), case.run_row("reference"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [1, 3, 1024, 3072, 4100, 5001, 196_608])
def test_weights_on_a_gpu(gpu, numel, dtype):
    """Of native, of Triton, and of the reference on the CPU: all the same bits."""
    on_cpu = weigh(methods_batch(numel, dtype, seed=numel), "reference")
    case = methods_batch(numel, dtype, seed=numel, device=gpu)
    for backend in rk.available_backends(gpu):
        assert torch.equal(bits(weigh(case, backend)).cpu(), bits(on_cpu)), backend


def test_native_in_a_captured_graph(gpu):
    """A graph of a row and an advance, replayed, equals as many rows of the reference."""
    coef, code = table([ALL, ALL, ALL, ALL | L.END], device=gpu)
    coef[:, :10] *= 0.5
    case = Batch(4, 3072, (coef, code), BF16, BF16, cursor=[0, 1, 2, 3], device=gpu)
    names = ("x", "h", "net_in", "first_bad", "cursor")
    machines = [
        case.machine(**{name: getattr(case, name).clone() for name in names}, c_noise=torch.zeros(4, device=gpu))
        for _ in range(2)
    ]
    native, reference = (rk.bind(m, backend) for m, backend in zip(machines, ("native", "reference"), strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        native.run_row(case.F)
        native.advance()
    for _ in range(5):
        graph.replay()
        reference.run_row(case.F)
        reference.advance()
    for name in (*names, "c_noise"):
        assert torch.equal(bits(getattr(machines[0], name)), bits(getattr(machines[1], name))), name


def test_native_runs_in_the_current_stream(gpu):
    """It sees what that stream wrote before, however late that was written."""
    case = Batch(64, 12288, table([ALL], device=gpu), device=gpu)
    written = case.h.clone()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**8)
        case.x.copy_(written)
        found = case.run_row("native")
        torch.cuda.current_stream().synchronize()
    assert_equal_bits(found, case.run_row("reference"))


def test_native_on_a_device_that_is_not_current(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    case = Batch(3, 257, table([ALL], device="cuda:1"), device="cuda:1")
    with torch.cuda.device(0):
        found = case.run_row("native")
        assert torch.cuda.current_device() == 0
    assert_equal_bits(found, case.run_row("reference"))


@pytest.mark.slow
def test_the_sanitizer_finds_nothing(gpu):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("no compute-sanitizer")
    script = ROOT / "benchmarks" / "gpu" / "sanitize.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
