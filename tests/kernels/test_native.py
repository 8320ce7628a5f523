"""The native library on the CPU: the reference's bits on every instruction set and any number of threads, in place."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from support.machines import (
    KINDS,
    METHOD_CASES,
    asking_for_everything,
    check_poisoned,
    kind_name,
    methods_batch,
    poisoned,
    weigh,
    weighed_rows,
    weights_of_outputs,
)
from support.row_batches import ALL, BF16, F16, F32, WRITTEN, Batch, assert_equal_bits, bits, table

import restart_bindings as rb
import restart_kernels as rk
from restart_kernels import layout as L

if not rb.available():
    pytest.skip(rb.reason(), allow_module_level=True)

SIMDS = rb.simds()
SIZES = [1, 3, 63, 64, 257, 784, 3 * 32 * 32]
HEUN = L.READ_X | L.READ_F | L.STORE_H | L.STORE_NET
LAST = L.READ_X | L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET
WIDE = (ALL & ~L.STORE_H) | L.READ_H2 | L.READ_H3 | L.STORE_H3 | L.PASTE | L.APG
WIDEST = dict(registers=3, noises=2, paste=True, weighed=True)


@pytest.fixture(params=SIMDS)
def simd(request):
    before = rb.simd()
    rb.set_simd(request.param)
    yield request.param
    rb.set_simd(before)


@pytest.fixture
def each_simd():
    """Return a function over the instruction sets, each of which is in use while it is the turn of its name."""

    def names():
        for name in SIMDS:
            rb.set_simd(name)
            yield name

    before = rb.simd()
    yield names
    rb.set_simd(before)


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def written(case):
    """Return the tensors of a batch that a row may write, in the order of `Batch.run_row`."""
    return [t for name in WRITTEN if (t := getattr(case, name)) is not None]


def assert_native_is_the_reference(case):
    found, expected = case.run_row("native"), case.run_row("reference")
    assert_equal_bits(found, expected)
    return found


# --- the row ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numel", SIZES)
def test_rows_at_awkward_sizes(simd, numel):
    for batch, guided in ((1, True), (3, False)):
        assert_native_is_the_reference(Batch(batch, numel, table([ALL], seed=numel), guided=guided, seed=numel))


@pytest.mark.parametrize("F_dtype", [F32, BF16, F16])
@pytest.mark.parametrize("net_dtype", [F32, BF16, F16])
def test_rows_for_every_dtype(simd, F_dtype, net_dtype):
    for guided in (False, True):
        assert_native_is_the_reference(Batch(2, 150, table([ALL]), F_dtype, net_dtype, guided))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("numel", [5, 131])
def test_every_combination_of_flags_in_one_batch(simd, guided, numel):
    """Sample b is at row b, and every register that its row does not read is full of NaN."""
    flags, s = [f | guide for guide in (0, L.GUIDE) for f in range(64)] * 2, [0.0] * 128 + [0.5] * 128
    case = Batch(256, numel, table(flags, s=s), BF16, F16, guided, cursor=range(256))
    for b, flag in enumerate(flags):
        unread = [(L.READ_X, case.x), (L.READ_H, case.h), (L.READ_F, case.F)]
        for bits_of_read, register in unread + [(L.READ_F | L.GUIDE, case.F_uncond)] * guided:
            if flag & bits_of_read != bits_of_read:
                register[b] = torch.nan
    x, h, net_in, first_bad = assert_native_is_the_reference(case)
    assert (first_bad == L.NEVER).all()
    assert net_in.isfinite().all()
    for b, flag in enumerate(flags):
        assert x[b].isfinite().all() == bool(flag & (L.READ_X | L.STORE_X))
        assert h[b].isfinite().all() == bool(flag & (L.READ_H | L.STORE_H))


@pytest.mark.parametrize("kind", KINDS, ids=kind_name)
def test_every_kind_of_machine(each_simd, kind):
    """In every instruction set, with rows that use all that they may and NaN in whatever they must not read."""
    for numel, dtypes in ((301, (BF16, F16)), (37, (F32, BF16))):
        case = poisoned(kind, numel, *dtypes, seed=numel)
        expected = case.run_row("reference")
        check_poisoned(case, expected)
        for _ in each_simd():
            assert_equal_bits(case.run_row("native"), expected)


def test_what_a_machine_does_not_have_is_not_looked_at(each_simd):
    for kind in KINDS[::5]:
        for case in asking_for_everything(kind, 70):
            expected = case.run_row("reference")
            for _ in each_simd():
                assert_equal_bits(case.run_row("native"), expected)


@pytest.mark.parametrize("numel", SIZES)
def test_wide_rows_at_awkward_sizes(simd, numel):
    for flags in (WIDE, WIDE & ~L.PASTE, WIDE & ~L.APG, ALL):
        case = Batch(2, numel, table([flags], numel, 0.5, s2=0.25), guided=True, seed=numel, **WIDEST)
        assert_native_is_the_reference(case)


def test_what_a_row_does_not_store_keeps_its_bits(simd):
    """Down to the payload of a NaN, which an idle store of the same value could change."""
    stored = {"x": L.STORE_X, "h": L.STORE_H, "h2": L.STORE_H2, "h3": L.STORE_H3, "net_in": L.STORE_NET}
    for flags in (0, HEUN & ~L.STORE_NET, L.READ_F | L.STORE_X, L.READ_H2 | L.STORE_H3, L.READ_H | L.STORE_H2):
        case = Batch(2, 300, table([flags]), registers=3)
        start = {}
        for name in stored:
            register = getattr(case, name)
            register.view(torch.int32)[:] = 0x7F812345
            start[name] = register.view(torch.int32).clone()
        rk.bind(case.machine(), "native").run_row(case.F)
        for name, bit in stored.items():
            same = torch.equal(getattr(case, name).view(torch.int32), start[name])
            assert same != bool(flags & bit), name


@pytest.mark.parametrize("flags", [ALL, HEUN, LAST])
@pytest.mark.parametrize("s", [0.0, 0.5])
def test_registers_that_a_table_does_not_use_change_no_bit(simd, flags, s):
    """On zeros of both signs too: the term of an unread h2 or h3 is −0."""
    zeros = torch.tensor([0.0, -0.0]).repeat(75)[:149]
    for zero in (False, True):
        found = []
        for registers in (1, 2, 3):
            case = Batch(3, 149, table([flags], s=s), registers=registers)
            if zero:
                case.x[:], case.h[:], case.F[:] = zeros, -zeros, zeros
            found.append(assert_native_is_the_reference(case)[:4])
        assert_equal_bits(found[1], found[0])
        assert_equal_bits(found[2], found[0])


def test_a_machine_without_registers_runs_as_one_that_reads_none(simd):
    flags = ALL & ~L.READ_H & ~L.STORE_H
    for numel in (5, 150):
        without, unread = (Batch(3, numel, table([flags], s=0.5), registers=R) for R in (0, 1))
        x, _, *others = unread.run_row("native")
        assert_equal_bits(assert_native_is_the_reference(without), (x, *others))


def test_both_halves_are_written_without_an_unconditional_output(simd):
    """And a row with GUIDE then takes the output as it is."""
    for flags in (ALL, ALL & ~L.GUIDE):
        case = Batch(3, 150, table([flags]), guided=True)
        case.F_uncond = None
        _, _, net_in, _ = assert_native_is_the_reference(case)
        assert torch.equal(net_in[:3], net_in[3:])


def test_a_mask_of_one_is_the_row_and_of_zero_the_known_image(simd):
    coef, code = table([ALL | L.PASTE], s=0.5)
    coef[:, [L.K, L.S_K]] = torch.tensor([1.0, 0.0])
    case = Batch(2, 150, (coef, code), paste=True)
    case.mask[:, ::2], case.mask[:, 1::2] = 1, 0
    without = Batch(2, 150, (coef, code))
    x = assert_native_is_the_reference(case)[0]
    assert torch.equal(x[:, ::2], without.run_row("native")[0][:, ::2])
    assert torch.equal(x[:, 1::2], case.known[:, 1::2])


def test_mixed_and_idle_cursors(simd):
    rows = table([ALL, ALL & ~L.READ_H, L.READ_F | L.STORE_X], s=[0.5, 0.0, 2.0])
    case = Batch(6, 150, rows, BF16, F16, guided=True, cursor=[2, -1, 0, 1, 0, -7])
    for t in (case.x, case.h, case.F, case.F_uncond, case.net_in):
        t[1::6] = torch.nan
    found = assert_native_is_the_reference(case)
    for after, before in zip(found, (case.x, case.h, case.net_in, case.first_bad), strict=True):
        assert torch.equal(bits(after[1::6]), bits(before[1::6]))
        assert torch.equal(bits(after[5::6]), bits(before[5::6]))


def test_idle_samples_of_a_wide_machine(simd):
    rows = table([WIDE, WIDE & ~L.READ_H3], s=0.5, s2=0.25)
    case = Batch(5, 150, rows, BF16, F16, True, [1, -1, 0, -3, 0], **WIDEST)
    for name in ("x", "h", "h2", "h3", "F", "F_uncond", "net_in", "known", "mask", "mix"):
        getattr(case, name)[1::5] = torch.nan
        getattr(case, name)[3::5] = torch.nan
    for after, before in zip(assert_native_is_the_reference(case), written(case), strict=True):
        for idle in (1, 3):
            assert torch.equal(bits(after[idle::5]), bits(before[idle::5]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("element", [0, 63, 64, 256])
def test_a_bad_value_flags_its_sample(simd, bad, element):
    case = Batch(4, 257, table([0, 0, 0, ALL]), cursor=[3] * 4)
    case.first_bad[1] = 2
    case.x[1:3, element] = bad
    assert assert_native_is_the_reference(case)[3].tolist() == [L.NEVER, 2, 3, L.NEVER]


def test_noise_beyond_the_end_of_a_sample_flags_nothing(simd):
    """s·ε overflows for most elements; the only one of the sample is below 1 in magnitude and stays finite."""
    eps = rk.normal(torch.arange(64), 0, 4, backend="reference")
    seed = int((eps[:, 1:].abs().amax(1) - eps[:, 0].abs()).argmax())
    case = Batch(1, 1, table([L.STORE_X], s=3e38))
    case.seeds[0] = seed
    assert assert_native_is_the_reference(case)[3].tolist() == [L.NEVER]


@pytest.mark.parametrize("numel", [4, 67])
def test_signed_zeros(simd, numel):
    coef, code = table([L.READ_X | L.STORE_X | L.STORE_NET, ALL & ~L.STORE_H], s=0.0)
    coef[:, [L.Y_X, L.Y_H, L.Y_F, L.C_IN]] = torch.tensor([1.0, -1.0, -1.0, -1.0])
    case = Batch(2, numel, (coef, code), cursor=[0, 1])
    zeros = torch.zeros(numel)
    zeros[1::2] = -0.0
    case.x, case.h, case.F = (t.expand(2, numel).contiguous() for t in (zeros, zeros.abs(), zeros.abs()))
    x, _, net_in, _ = assert_native_is_the_reference(case)
    assert x[1].signbit().tolist() == zeros.signbit().tolist()
    assert net_in[1].signbit().tolist() == (-zeros).signbit().tolist()


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_conversions_round_to_nearest_even(simd, dtype):
    """Every value of the 16-bit type, the ties between neighbours, and what lies just beside them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    finite = every[every.isfinite()].float().sort().values
    ties = (finite[1:] + finite[:-1]) / 2
    beside = [ties.nextafter(torch.tensor(end)) for end in (torch.inf, -torch.inf)]
    extreme = torch.tensor([3.4e38, -3.4e38, 65504.0, 65519.99, 65520.0, 1e-45, -1e-45, 1e-8, torch.inf])
    y = torch.cat((finite, ties, *beside, extreme))
    coef, code = table([L.READ_X | L.READ_F | L.STORE_X | L.STORE_NET], s=0.0)
    coef[:, [L.Y_X, L.Y_H, L.Y_F, L.C_IN]] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    case = Batch(1, len(y), (coef, code), dtype, dtype)
    case.x[0], case.F[:] = y, 0
    assert_native_is_the_reference(case)
    coef[:, [L.Y_X, L.Y_F]] = torch.tensor([0.0, 1.0])
    case = Batch(1, len(every), (coef, code), dtype, dtype)
    case.F[0] = every
    assert_native_is_the_reference(case)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_tensors_need_no_alignment(simd, dtype):
    for case in (
        Batch(2, 200, table([ALL]), dtype, dtype, guided=True),
        Batch(2, 200, table([WIDE], s=0.5, s2=0.25), dtype, dtype, guided=True, **WIDEST),
    ):
        expected, weights = case.run_row("reference"), weigh(case, "reference") if case.mix is not None else None
        for name in ("x", "h", "h2", "h3", "F", "F_uncond", "net_in", "known", "mask", "mix"):
            t = getattr(case, name)
            if t is not None:
                setattr(case, name, torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view_as(t).copy_(t))
        run = rk.bind(case.machine(), "native")
        run.run_row(case.F, case.F_uncond)
        assert_equal_bits(written(case), expected)
        if weights is not None:
            run.weigh(case.F, case.F_uncond)
            assert torch.equal(bits(case.mix), bits(weights))


def test_subnormals_are_kept_whatever_torch_was_told(simd, threads):
    case = Batch(8, 6000, table([LAST], s=0.0), F16, F16)
    for t in (case.x, case.h):
        t *= 1e-39
    case.F *= 0
    expected = case.run_row("reference")
    assert (expected[0] != 0).any()
    assert torch.set_flush_denormal(True)
    try:
        found = case.run_row("native")
    finally:
        torch.set_flush_denormal(False)
    assert_equal_bits(found, expected)


@pytest.mark.parametrize("batch, numel", [(1, 200_001), (40, 3 * 32 * 32), (3, 50_000)])
def test_the_number_of_threads_changes_no_bit(threads, batch, numel):
    for case in (
        Batch(batch, numel, table([ALL]), BF16, F16, guided=True),
        Batch(batch, numel, table([WIDE], s=0.5, s2=0.25), BF16, F16, guided=True, **WIDEST),
    ):
        case.x[-1, -1] = torch.nan
        expected, weights = case.run_row("reference"), weigh(case, "reference") if case.mix is not None else None
        for _ in range(3):
            assert_equal_bits(case.run_row("native"), expected)
            assert weights is None or torch.equal(bits(weigh(case, "native")), bits(weights))


def test_rows_from_several_python_threads():
    cases = [Batch(8, 20_000, table([ALL]), seed=seed) for seed in range(4)]
    expected = [case.run_row("reference") for case in cases]
    found = [[] for _ in cases]

    def work(i):
        for _ in range(10):
            found[i] = cases[i].run_row("native")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(found, expected, strict=True):
        assert_equal_bits(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_runs_rows_with_threads_of_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        case = Batch(8, 20_000, table([ALL]))
        expected = case.run_row("native")
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a hang is a failure
            run = rk.bind(case.machine(), "native")
            run.run_row(case.F)
            # Row by row: torch's own threads do not survive a fork, and it starts them for larger tensors.
            os._exit(17 if all(bool(row.isfinite().all()) for row in case.h) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        assert_equal_bits(case.run_row("native"), expected)
    finally:
        torch.set_num_threads(before)


def test_empty_batches():
    for batch, numel in ((0, 5), (3, 0)):
        case = Batch(batch, numel, table([ALL]), cursor=[0])
        run = bind(case)
        run.run_row(case.F)
        run.advance()
        assert case.cursor.tolist() == [1]
        assert case.first_bad.tolist() == [L.NEVER] * batch


# --- advance and the normals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", [[0], [0, 2, -1, 1, -5]])
@pytest.mark.parametrize("give", [False, True])
def test_advance(cursor, give):
    coef, code = table([ALL, ALL, ALL | L.END])
    case = Batch(5, 3, (coef, code), cursor=cursor)
    expected = Batch(5, 3, (coef, code), cursor=cursor)
    c_noise = [torch.full((len(cursor),), 7.0) if give else None for _ in range(2)]
    run = rk.bind(case.machine(c_noise=c_noise[0]), "native")
    reference = rk.bind(expected.machine(c_noise=c_noise[1]), "reference")
    for _ in range(4):
        run.advance()
        reference.advance()
        assert torch.equal(case.cursor, expected.cursor)
        assert not give or torch.equal(*c_noise)
    assert (case.cursor < 0).all()


@pytest.mark.parametrize("numel", [1, 3, 4, 63, 65, 257, 784, 70_001])
def test_normals(simd, threads, numel):
    seeds = torch.tensor([0, 1, 2**32, 2**63 - 1])
    for draw, stream in ((0, 0), (5, 1), (2**32 - 1, 2)):
        found = torch.full((4, numel), torch.nan)
        rb.normal(found, seeds, draw, stream)
        assert torch.equal(bits(found), bits(rk.normal(seeds, draw, numel, stream=stream, backend="reference")))


# --- the weights of two outputs --------------------------------------------------------------------------------

WEIGHED_SIZES = [1, 3, 15, 17, 784, 1023, 1024, 1025, 3072, 4096, 5000, 8191, 12289]


@pytest.mark.parametrize("numel", WEIGHED_SIZES)
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_weights(each_simd, numel, dtype):
    """Every method on ordinary and on degenerate outputs; the weights of other rows keep their bits."""
    case = methods_batch(numel, dtype, seed=numel)
    expected, others = weigh(case, "reference"), ~weighed_rows(case)
    assert others.any()
    for _ in each_simd():
        found = weigh(case, "native")
        assert torch.equal(bits(found), bits(expected))
        assert torch.equal(found[others].view(torch.int32), case.mix[others].view(torch.int32))


@pytest.mark.parametrize("numel", [257, 3072, 65_536])
def test_weights_are_those_of_the_outputs_in_float64(numel):
    """They err by no more than four times what plain PyTorch in float32 errs by, or the last bit."""
    for method, w, p, q in METHOD_CASES:
        coef, code = table([L.READ_F | L.GUIDE | method])
        coef[:, [L.W, L.P, L.Q]] = torch.tensor([w, p, q])
        case = Batch(4, numel, (coef, code), guided=True, weighed=True)
        case.F_uncond = (case.F + case.F_uncond) / 2
        found = weigh(case, "native")
        error, plain_error = 0.0, 2.0**-23
        for b in range(4):
            c, u = case.F[b], case.F_uncond[b]
            exact = weights_of_outputs(method, w, p, q, c.double(), u.double())
            plain = weights_of_outputs(method, w, p, q, c, u)
            error = max(error, *(abs(float(found[b, k]) - float(exact[k])) for k in (0, 1)))
            plain_error = max(plain_error, *(abs(float(plain[k]) - float(exact[k])) for k in (0, 1)))
        assert error <= 4 * plain_error, (method, w, p, q)


def test_weights_do_not_depend_on_what_torch_does_with_subnormals(simd):
    case = methods_batch(3000)
    case.F *= 1e-20
    case.F_uncond *= 1e-20
    expected = weigh(case, "reference")
    assert torch.set_flush_denormal(True)
    try:
        found = weigh(case, "native")
        assert not torch.equal(bits(weigh(case, "reference")), bits(expected))  # so that it matters
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(bits(found), bits(expected))


def test_a_row_takes_the_weights_that_were_written_for_it(simd):
    case = Batch(3, 1500, table([ALL | L.RESCALE], s=0.5), BF16, F16, guided=True, weighed=True)
    machines = [case.machine(x=case.x.clone(), h=case.h.clone(), mix=case.mix.clone()) for _ in range(2)]
    for machine, backend in zip(machines, ("native", "reference"), strict=True):
        bound = rk.bind(machine, backend)
        bound.weigh(case.F, case.F_uncond)
        bound.run_row(case.F, case.F_uncond)
    for name in ("x", "h", "net_in", "mix"):
        assert torch.equal(bits(getattr(machines[0], name)), bits(getattr(machines[1], name))), name


# --- what does not fit -----------------------------------------------------------------------------------------

NAMES = ("x", "h", "net_in", "coef", "code", "cursor", "seeds", "first_bad")
OTHERS = ("h2", "h3", "known", "mask", "mix", "noises")


def bind(case, **replaced):
    """Return a batch bound to the library itself, without the checks of `Machine`."""
    return rb.BoundMachine(**({name: getattr(case, name) for name in (*NAMES, *OTHERS)} | replaced))


@pytest.mark.parametrize("name", NAMES + OTHERS[:-1])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.double(),
        lambda t: t.to(torch.int16),
        lambda t: t.flatten()[:-1],
        lambda t: torch.stack((t, t), -1)[..., 0],
        lambda t: t.to("meta"),
        lambda t: t.tolist(),
    ],
    ids=["float64", "int16", "too few", "strided", "no memory", "list"],
)
def test_a_tensor_that_does_not_fit_is_refused(name, change):
    case = Batch(3, 9, table([ALL] * 2), cursor=[0, 1, 0], **WIDEST)
    bind(case)
    with pytest.raises((TypeError, RuntimeError, BufferError, AttributeError)):
        bind(case, **{name: change(getattr(case, name))})


def test_tensors_that_do_not_go_together_are_refused():
    case = Batch(3, 9, table([ALL]), **WIDEST)
    first = "the history registers must be the first ones"
    for text, absent in (
        (first, ("h",)),
        (first, ("h2",)),
        (first, ("h", "h2")),
        ("known and mask go together", ("known",)),
        ("known and mask go together", ("mask",)),
    ):
        with pytest.raises(ValueError, match=text):
            bind(case, **dict.fromkeys(absent))
    for noises in (0, 3, -1):
        with pytest.raises(ValueError, match="noises must be 1 or 2"):
            bind(case, noises=noises)
    for name in NAMES:
        if name != "h":
            with pytest.raises((TypeError, AttributeError)):
                bind(case, **{name: None})
    bind(case, **dict.fromkeys(("h", "h2", "h3", "known", "mask", "mix")))


def test_an_output_that_does_not_fit_is_refused():
    case = Batch(3, 9, table([ALL]), guided=True)
    run = bind(case)
    before = [getattr(case, name).clone() for name in NAMES]
    for F, F_uncond in (
        (case.F.double(), None),
        (case.F[:2], None),
        (case.F.T, None),
        (case.F, case.F_uncond.bfloat16()),
        (case.F, case.F_uncond[1:]),
        (case.F.int(), None),
        (3.0, None),
    ):
        with pytest.raises((TypeError, AttributeError)):
            run.run_row(F, F_uncond)
    with pytest.raises(TypeError, match="F_uncond needs a net_in of twice the size of x"):
        bind(case, net_in=case.net_in[:3]).run_row(case.F, case.F_uncond)
    for name, tensor in zip(NAMES, before, strict=True):
        assert torch.equal(getattr(case, name), tensor)


def test_a_cursor_beyond_the_table_is_refused_before_it_is_read():
    case = Batch(3, 9, table([ALL] * 2), guided=True, cursor=[0, 2, 1], weighed=True)
    run = bind(case)
    x, mix = case.x.clone(), case.mix.clone()
    for call in (run.advance, lambda: run.run_row(case.F), lambda: run.weigh(case.F, case.F_uncond)):
        with pytest.raises(IndexError, match=r"cursor 2 is beyond the table's 2 rows"):
            call()
    assert torch.equal(case.x, x)
    assert torch.equal(case.mix, mix)
    assert case.cursor.tolist() == [0, 2, 1]


def test_weights_that_do_not_fit_are_refused():
    case = Batch(3, 9, table([ALL | L.APG]), guided=True, weighed=True)
    run, mix = bind(case), case.mix.clone()
    for F, F_uncond in ((case.F, None), (None, case.F), (case.F.double(), case.F), (case.F, case.F_uncond[1:])):
        with pytest.raises(TypeError):
            run.weigh(F, F_uncond)
    with pytest.raises(TypeError, match="F_uncond needs"):
        bind(case, net_in=case.net_in[:3]).weigh(case.F, case.F_uncond)
    with pytest.raises(TypeError, match="this machine has no mix"):
        bind(case, mix=None).weigh(case.F, case.F_uncond)
    assert torch.equal(case.mix, mix)
    run.weigh(case.F, case.F_uncond)
    assert not torch.equal(case.mix, mix)


def test_a_library_of_older_sources_is_explained(monkeypatch):
    monkeypatch.setattr(rb.importlib, "import_module", lambda *_: SimpleNamespace(Step=None))
    module, why = rb._load.__wrapped__("cpu")
    assert module is None
    assert why == "the native library was built from older sources: build it again"


def test_instruction_sets_are_named():
    assert rb.simd() in SIMDS
    assert SIMDS[-1] == "portable"
    with pytest.raises(ValueError, match="no instruction set sse9"):
        rb.set_simd("sse9")


def test_other_devices_are_explained():
    assert rb.reason("cpu") == ""
    assert not rb.available("mps")
    assert "mps" in rb.reason("mps")
