"""Scheme philox-v1: published words, frozen normals, and that nothing matters but (seed, draw, stream, element)."""

from __future__ import annotations

import math

import pytest
import torch

import restart_kernels as rk
from restart_kernels.dispatch import BACKENDS
from restart_kernels.philox import coefficients, reference

try:
    import triton
    import triton.language as tl

    from restart_kernels.philox import triton as fast
except ImportError:
    triton = None

# Random123, tests/kat_vectors (github.com/DEShawResearch/random123): rounds, counter, key, words.
PI = ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0")
KNOWN_WORDS = [
    (10, "00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, *PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    (7, "00000000 " * 4, "00000000 " * 2, "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff " * 4, "ffffffff " * 2, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, *PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
]

# Words (wa, wb), the normals of the exact formula on the same float32 u (40 digits, rounded to double), and the
# float32 bits that the scheme makes of them. The bits are frozen: a change of them is a new scheme.
KNOWN_NORMALS = [
    (0x00000000, 0x00000000, 6.763705635001895, 0.0, 0x40D87047, 0x00000000),
    (0x00000001, 0x20000000, 4.666395254348916, 4.666395254348916, 0x4095531C, 0x4095531C),
    (0xFFFFFFFF, 0x1FFFFFFF, 0.0, 0.0, 0x00000000, 0x00000000),
    (0xFFFFFF7F, 0xE169C58D, 0.0002524599713952015, -0.00023552761185608175, 0x39845C9A, 0xB976F7F5),
    (0x80000000, 0x40000000, 2.4337443229709093e-43, 1.1774100225154747, 0x80000000, 0x3F96B55F),
    (0x7FFFFFFF, 0x9B00DBD8, -0.9281473415690603, -0.7244562605555815, 0xBF6D9B10, 0xBF3975F7),
    (0x6627E8D5, 0x41C83B0E, -0.059271025535418485, 1.3541941136865698, 0xBD72C62D, 0x3FAD563B),
    (0xBC57AC4C, 0xC0000001, 1.1461578027118401e-09, -0.7834736742647962, 0x309D86D7, 0xBF4891BB),
    (0x408F276D, 0x6D5451FD, -1.4886266045322198, 0.7342891568758579, 0xBFBE8B51, 0x3F3BFA60),
    (0xA20BC7C6, 0x94FDCCEB, -0.8322019944971576, -0.47120482289175675, 0xBF550B31, 0xBEF141C3),
    (0xD16CFE09, 0x24126EA1, 0.40116905443222745, 0.49059122413157663, 0x3ECD6608, 0x3EFB2EC6),
    (0x5001E420, 0xFFFFFFFF, 1.525161301890841, -2.2311860423347497e-09, 0x3FC3387C, 0xB1195370),
]
SEEDS = [0, 1, 2**32, 2**63 - 1]


if triton is not None:

    @triton.jit
    def _philox_kernel(in_ptr, out_ptr, ROUNDS: tl.constexpr):
        i = tl.program_id(0)
        c0 = tl.load(in_ptr + 6 * i).to(tl.uint32)
        c1 = tl.load(in_ptr + 6 * i + 1).to(tl.uint32)
        c2 = tl.load(in_ptr + 6 * i + 2).to(tl.uint32)
        c3 = tl.load(in_ptr + 6 * i + 3).to(tl.uint32)
        k0 = tl.load(in_ptr + 6 * i + 4).to(tl.uint32)
        k1 = tl.load(in_ptr + 6 * i + 5).to(tl.uint32)
        w0, w1, w2, w3 = fast.philox(c0, c1, c2, c3, k0, k1, ROUNDS)
        tl.store(out_ptr + 4 * i, w0.to(tl.int64))
        tl.store(out_ptr + 4 * i + 1, w1.to(tl.int64))
        tl.store(out_ptr + 4 * i + 2, w2.to(tl.int64))
        tl.store(out_ptr + 4 * i + 3, w3.to(tl.int64))

    @triton.jit
    def _box_muller_kernel(wa_ptr, wb_ptr, z0_ptr, z1_ptr, N: tl.constexpr):
        i = tl.arange(0, N)
        z0, z1 = fast.box_muller(tl.load(wa_ptr + i).to(tl.uint32), tl.load(wb_ptr + i).to(tl.uint32))
        tl.store(z0_ptr + i, z0)
        tl.store(z1_ptr + i, z1)


def available(name, device):
    """Return the name of a backend; skip the test if it does not run on the device."""
    if name not in rk.available_backends(device):
        pytest.skip(f"no {name} backend on {device}")
    return name


@pytest.fixture(params=BACKENDS)
def backend(request, device):
    return available(request.param, device)


@pytest.fixture(params=["reference", "triton"])
def written(request, device):
    """The languages in which the words and the formula can be called by themselves."""
    return available(request.param, device)


def box_muller(wa, wb, written):
    if written == "reference":
        return reference.box_muller(wa, wb)
    n = triton.next_power_of_2(len(wa))
    wa, wb = (torch.nn.functional.pad(w, (0, n - len(w))) for w in (wa, wb))
    z0, z1 = (torch.empty(n, dtype=torch.float32, device=w.device) for w in (wa, wb))
    _box_muller_kernel[(1,)](wa, wb, z0, z1, n, enable_fp_fusion=False)
    return z0, z1


def bits(x):
    return x.view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def plain_philox(counter, key):
    """The algorithm of the paper in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("rounds", [10, 7])
def test_words_are_the_published_ones(written, device, rounds):
    vectors = [v for v in KNOWN_WORDS if v[0] == rounds]
    rows = [[int(w, 16) for w in (counter + " " + key).split()] for _, counter, key, _ in vectors]
    expected = torch.tensor([[int(w, 16) for w in words.split()] for *_, words in vectors], device=device)
    given = torch.tensor(rows, device=device)
    if written == "reference":
        found = torch.stack(reference.philox(*given.unbind(1), rounds=rounds), dim=1)
    else:
        found = torch.empty_like(expected)
        _philox_kernel[(len(rows),)](given, found, rounds)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("draw, stream", [(0, 0), (7, 1), (2**32 - 1, 2)])
def test_the_counter_is_element_draw_stream_and_the_key_is_the_seed(device, draw, stream):
    found = rk.words(torch.tensor(SEEDS), draw, 11, stream=stream, device=device).tolist()
    for seed, row in zip(SEEDS, found, strict=True):
        key = (seed & 0xFFFFFFFF, seed >> 32)
        expected = [word for quad in range(3) for word in plain_philox((quad, draw, stream, 0), key)]
        assert row == expected[:11]


def test_normals_of_known_words(written, device):
    wa, wb, e0, e1, b0, b1 = (list(column) for column in zip(*KNOWN_NORMALS, strict=True))
    words = (torch.tensor(wa, device=device), torch.tensor(wb, device=device))
    for z, exact, frozen in zip(box_muller(*words, written), (e0, e1), (b0, b1), strict=True):
        z = z[: len(exact)].cpu()
        assert (z.double() - torch.tensor(exact, dtype=torch.float64)).abs().max() < 1e-6
        assert bits(z).tolist() == frozen


def test_normals_are_within_1e_6_of_float64_in_body_and_tail(written, device):
    generator = torch.Generator().manual_seed(1)
    n = 1 << 13
    any_word = torch.randint(0, 2**32, (n,), generator=generator)
    tail = torch.randint(0, 256, (n,), generator=generator)
    near_one = 2**32 - 1 - torch.randint(0, 2**16, (n,), generator=generator)
    for wa in (any_word, tail, near_one):
        wb = torch.randint(0, 2**32, (n,), generator=generator)
        u = (wa.to(torch.float32) * coefficients.U_SCALE + coefficients.U_SHIFT).double()
        r = torch.sqrt(-2 * torch.log(u))
        turn = 2 * math.pi * wb.double() * 2.0**-32
        z0, z1 = box_muller(wa.to(device), wb.to(device), written)
        assert (z0[:n].cpu() - r * turn.cos()).abs().max() < 1e-6
        assert (z1[:n].cpu() - r * turn.sin()).abs().max() < 1e-6


def test_conversion_of_words_rounds_to_nearest_even(written, device):
    """Words whose float32 rounding is a tie, down and up: a truncating conversion would shift the tail."""
    wa = torch.tensor([2**24 + 1, 2**24 + 3, 2**31 + 128, 2**31 + 384, 2**32 - 128, 2**32 - 129])
    wb = torch.tensor([2**24 + 1, 2**24 + 3, 2**29 - 16, 2**29 - 48, 2**30 + 2**28 + 16, 2**32 - 2**25 - 1])
    expected = reference.box_muller(wa, wb)
    found = box_muller(wa.to(device), wb.to(device), written)
    assert [bits(z[:6].cpu()).tolist() for z in found] == [bits(z).tolist() for z in expected]


# fmt: off
FROZEN = {
    (0, 0): [
        [0x3F7DBB31, 0xBF6CB6AF, 0xBF1E1B9F, 0xBEF6D1B2, 0xBE1D5353, 0x3E392A68],
        [0x3EC2C3E4, 0xBE97B1BE, 0xBE7F370C, 0xBF807DBD, 0x3F207FA8, 0xBF224CC3],
        [0x3E03389F, 0xBC8EBEC9, 0x3F833901, 0xBFBBF304, 0xBF015C4F, 0x3EDEDFAE],
        [0xBFCB1AC4, 0xBF581E83, 0x3E6528E6, 0x3D9E6364, 0x3EAC20E4, 0xC0268708],
    ],
    (3, 0): [
        [0x3E9EE0DE, 0xBF0E098A, 0xBF902E1C, 0xBF56DAF3, 0x3F2BE00C, 0x3F775C88],
        [0xBEAB5F43, 0xBE858FB6, 0xBFA3C720, 0x3EAE7476, 0xBE913B74, 0xBF872AE8],
        [0x3DE52ECC, 0xBF69C677, 0xBFC9D455, 0xBF3DEE8E, 0x3EA8EE2E, 0xBF332C2D],
        [0x3F18557C, 0xBF98CE16, 0x3EAD9265, 0xBF3DE3B4, 0x3F387300, 0x3EAD7064],
    ],
    (2**32 - 1, 2): [
        [0xBD9D02BD, 0xBD886E6F, 0x3FAC8A62, 0xBF6779DD, 0xBF00C724, 0xBE2FA706],
        [0xBE138C94, 0x3E41ABCA, 0x3EB4FA2E, 0xBE82997E, 0x3FC61047, 0xBF98E2C9],
        [0xBE7E71C1, 0x3F25B487, 0xBF74B94D, 0xBF978346, 0xBFABF5FC, 0xC02347D4],
        [0xBE53B9E3, 0xBFD2112C, 0xBFBA40BB, 0x3F416961, 0x3EAEF0E5, 0xBE97E104],
    ],
}
# fmt: on


@pytest.mark.parametrize("draw, stream", list(FROZEN))
def test_normals_are_frozen(backend, device, draw, stream):
    z = rk.normal(torch.tensor(SEEDS), draw, 6, stream=stream, device=device, backend=backend)
    assert bits(z.cpu()).tolist() == FROZEN[draw, stream]


@pytest.mark.parametrize("numel", [1, 3, 4, 63, 255, 257, 784, 20_001])  # the last has 50 beyond 3 sigma
def test_backends_give_the_same_bits(backend, device, numel):
    seeds = torch.tensor(SEEDS[:3] if numel < 257 else SEEDS[3:])
    z = rk.normal(seeds, 5, numel, device=device, backend=backend)
    assert z.shape == (len(seeds), numel)
    assert z.dtype == torch.float32
    assert torch.equal(bits(z.cpu()), bits(rk.normal(seeds, 5, numel, backend="reference")))


def test_a_sample_does_not_depend_on_the_batch(backend, device):
    seeds = torch.tensor([*range(5), 2**32, 2**63 - 1], device=device)
    whole = rk.normal(seeds, 2, 33, backend=backend)
    order = torch.tensor([4, 2, 6, 0, 5, 1, 3], device=device)
    assert torch.equal(rk.normal(seeds[order], 2, 33, backend=backend), whole[order])
    parts = [rk.normal(part, 2, 33, backend=backend) for part in (seeds[:1], seeds[1:4], seeds[4:])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(rk.normal(seeds, 2, 6, backend=backend), whole[:, :6])
    assert len({tuple(row) for row in whole.tolist()}) == len(seeds)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_reference_does_not_depend_on_its_chunks(device, monkeypatch, chunk):
    seeds = torch.arange(7, device=device)
    whole = rk.normal(seeds, 1, 90, backend="reference")
    monkeypatch.setattr(reference, "CHUNK", chunk)
    assert torch.equal(rk.normal(seeds, 1, 90, backend="reference"), whole)


def test_draws_and_streams_differ_and_torch_is_left_alone(device):
    state = torch.random.get_rng_state()
    seeds = torch.arange(3, device=device)
    made = [rk.normal(seeds, draw, 8, stream=s) for draw in range(3) for s in range(3)]
    assert len({tuple(z.flatten().tolist()) for z in made}) == 9
    assert torch.equal(torch.random.get_rng_state(), state)


def test_empty_requests(backend, device):
    assert rk.normal(torch.arange(3, device=device), 0, 0, backend=backend).shape == (3, 0)
    assert rk.normal(torch.arange(0, device=device), 0, 5, backend=backend).shape == (0, 5)
    assert rk.words(torch.arange(2, device=device), 0, 0).shape == (2, 0)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((torch.tensor([-1]), 0, 4), "seeds"),
        ((torch.tensor([1], dtype=torch.int32), 0, 4), "seeds"),
        ((torch.tensor(1), 0, 4), "seeds"),
        ((torch.tensor([1]), -1, 4), "draw"),
        ((torch.tensor([1]), 2**32, 4), "draw"),
        ((torch.tensor([1]), 0, -4), "count"),
    ],
)
def test_what_cannot_be_a_seed_or_a_draw_is_refused(arguments, named):
    for make in (rk.normal, rk.words):
        with pytest.raises(rk.KernelError, match=named):
            make(*arguments)


# --- statistics at fixed seeds: two million normals ------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(device):
    """[seeds 0..63, element 0..32767], the seeds that people pass."""
    return rk.normal(torch.arange(64, device=device), 0, 1 << 15).double().cpu()


@pytest.fixture
def stats():
    return pytest.importorskip("scipy.stats")


def test_the_law_is_normal(sample, stats):
    z = sample.flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 0.01
    counts = torch.histc(torch.special.ndtr(sample), bins=256, min=0, max=1).numpy()
    assert stats.chisquare(counts).pvalue > 0.01


def test_moments_are_within_five_sigma(sample):
    z, n = sample.flatten(), sample.numel()
    assert abs(z.mean()) < 5 * math.sqrt(1 / n)
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("sigma", [3, 4, 5])
def test_tails_are_neither_thin_nor_cut(sample, sigma, stats):
    count, n = int((sample.abs() > sigma).sum()), sample.numel()
    assert stats.binomtest(count, n, 2 * stats.norm.sf(sigma)).pvalue > 1e-6


@pytest.mark.parametrize("function", [lambda z: z, lambda z: z**2 - 1, torch.sign], ids=["z", "z^2", "sign"])
def test_neighbours_are_uncorrelated(sample, device, function):
    """The cosine and the sine of a pair, neighbouring elements, counters, seeds and draws."""
    next_draw = rk.normal(torch.arange(64, device=device), 1, 1 << 15).double().cpu()
    pairs = {
        "cosine and sine": (sample[:, 0::2], sample[:, 1::2]),
        "elements": (sample[:, :-1], sample[:, 1:]),
        "counters": (sample[:, :-4], sample[:, 4:]),
        "seeds": (sample[:-1], sample[1:]),
        "draws": (sample, next_draw),
    }
    for name, (a, b) in pairs.items():
        a, b = function(a), function(b)
        correlation = (a * b).mean() / (a.std() * b.std())
        assert abs(correlation) < 5 / math.sqrt(a.numel()), name


def test_words_are_uniform(device, stats):
    w = rk.words(torch.arange(64, device=device), 0, 1 << 14, stream=1).cpu()
    assert int(w.min()) >= 0 and int(w.max()) < 2**32
    for shift in (0, 8, 16, 24):
        assert stats.chisquare(torch.bincount((w >> shift).flatten() & 255, minlength=256).numpy()).pvalue > 0.01
