"""Norms in one launch: Triton's kernels, and what they are stated as, against float64; batches, layouts, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.operations import Operations

from restart_kernels import KernelError
from restart_kernels.norm import group_norm, pixel_norm, reference

triton = pytest.importorskip("triton")
from restart_kernels.norm import triton as kernels  # noqa: E402

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
ULP = {F32: 2.0**-23, BF16: 2.0**-7, F16: 2.0**-10}
EPS = 1e-5
BACKENDS = {"reference": reference, "triton": kernels}


@pytest.fixture(params=list(BACKENDS))
def backend(request):
    return BACKENDS[request.param]


def normal(*shape, seed=0, dtype=F32, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def exact(x, groups, weight, bias, add=None, scale=None, shift=None, silu=False):
    """PyTorch's own group norm in float64, on the numbers as they were given."""
    wide = [None if v is None else v.double()[:, :, None, None] for v in (add, scale, shift)]
    y = x.double() if wide[0] is None else x.double() + wide[0]
    y = F.group_norm(y, groups, weight.double(), bias.double(), EPS)
    y = y if wide[1] is None else y * (1 + wide[1])
    y = y if wide[2] is None else y + wide[2]
    return F.silu(y) if silu else y


def close(found, want, dtype, roundings):
    """Within so many roundings of float32 of the largest value, and half an ulp of the result's own dtype."""
    bound = roundings * ULP[F32] * want.abs().max() + 0.5 * ULP[dtype] * want.abs()
    worst = ((found.double() - want).abs() - bound).max().item()
    assert worst <= 0, f"{worst:.3g} beyond the bound"


def case(shape, groups, dtype, device, last=False, given="", seed=0):
    B, C, H, W = shape
    x = normal(B, C, H, W, seed=seed, dtype=dtype, device=device) * 3 + 0.5
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    weight, bias = normal(C, seed=seed + 1, device=device), normal(C, seed=seed + 2, device=device)
    rows = {"add": B, "scale": 1, "shift": B}
    vectors = {name: normal(rows[name], C, seed=seed + 3 + k, device=device) for k, name in enumerate(given.split())}
    return x, groups, weight, bias, vectors


SHAPES = [
    ((2, 16, 4, 4), 4),  # one program holds a group
    ((1, 128, 8, 8), 32),  # the CIFAR-10 DDPM++'s groups of 4 channels
    ((2, 12, 3, 5), 3),  # nothing is a power of two
    ((1, 6, 1, 1), 1),
    ((1, 8, 40, 56), 1),  # a group that is read in chunks
    ((2, 24, 29, 31), 2),  # in chunks, with a rest
]


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("given", "silu"), [("", False), ("add", True), ("scale shift", True), ("add scale shift", False)]
)
def test_equals_float64(backend, device, shape, groups, last, given, silu):
    x, groups, weight, bias, vectors = case(shape, groups, F32, device, last, given)
    y = backend.group_norm(x, groups, weight, bias, EPS, **vectors, silu=silu)
    assert y.stride() == x.stride() and y.dtype == x.dtype
    close(y, exact(x, groups, weight, bias, **vectors, silu=silu), F32, 24)


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize(("shape", "groups"), SHAPES[::3])
def test_half_precision_is_rounded_once(backend, device, shape, groups, dtype):
    """Statistics are float32, so what is lost is half an ulp of the result."""
    x, groups, weight, bias, vectors = case(shape, groups, dtype, device, given="add scale shift")
    y = backend.group_norm(x, groups, weight, bias, EPS, **vectors, silu=True)
    assert y.dtype == dtype
    close(y, exact(x, groups, weight, bias, **vectors, silu=True), dtype, 24)


@pytest.mark.parametrize(("shape", "groups"), [SHAPES[0], SHAPES[4]])
def test_a_large_mean_loses_no_digits(backend, device, shape, groups):
    """Mean 1000, deviation 1: with the mean of squares less the square of the mean half of the digits would be gone."""
    x = normal(*shape, device=device) + 1000
    weight, bias = torch.ones(shape[1], device=device), torch.zeros(shape[1], device=device)
    y = backend.group_norm(x, groups, weight, bias, EPS)
    want = exact(x, groups, weight, bias)
    # The mean itself is rounded, by up to 1000·2⁻²³, and that is all there is to lose.
    assert (y.double() - want).abs().max() <= 24 * ULP[F32] * want.abs().max() + 1000 * 2.0**-23


def test_chunks_that_differ_are_combined(device):
    """Half of a group at 50, half at −50: means of chunks are nothing like the group's."""
    x = normal(1, 4, 64, 64, device=device)
    x[:, :, :32] += 50
    x[:, :, 32:] -= 50
    assert kernels.configure(4, 4096, 4, False).loop
    y = kernels.group_norm(x, 1, torch.ones(4, device=device), torch.zeros(4, device=device), EPS)
    close(y, exact(x, 1, torch.ones(4, device=device), torch.zeros(4, device=device)), F32, 64)


@pytest.mark.parametrize(("shape", "groups"), [SHAPES[2], SHAPES[5]])
@pytest.mark.parametrize("last", [False, True])
def test_a_sample_does_not_depend_on_its_batch(device, shape, groups, last):
    x, groups, weight, bias, vectors = case((3, *shape[1:]), groups, F32, device, last, "add")
    every = kernels.group_norm(x, groups, weight, bias, EPS, add=vectors["add"], silu=True)
    alone = kernels.group_norm(x[2:], groups, weight, bias, EPS, add=vectors["add"][2:], silu=True)
    assert torch.equal(every[2:], alone)


def test_equal_values_are_the_bias(backend, device):
    x = torch.full((1, 8, 4, 4), 3.7, device=device)
    weight, bias = normal(8, device=device), normal(8, seed=1, device=device)
    assert torch.allclose(backend.group_norm(x, 2, weight, bias, EPS), bias[None, :, None, None], atol=1e-3)
    y, h = backend.pixel_norm(torch.zeros(1, 8, 2, 2, device=device), 1e-4)
    assert not y.any() and not h.any()


@pytest.mark.parametrize("shape", [(2, 32, 4, 4), (1, 96, 5, 7), (1, 3, 1, 1), (1, 130, 3, 3)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_pixel_norm_equals_float64(backend, device, shape, last, dtype):
    x = normal(*shape, dtype=dtype, device=device) * 4
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    y, h = backend.pixel_norm(x, 1e-4)
    want = x.double() / (x.double().square().mean(1, keepdim=True).sqrt() + 1e-4)
    close(y, want, dtype, 8)
    close(h, F.silu(want), dtype, 8)
    assert y.stride() == h.stride() == x.stride()


def test_halves_of_a_matrix_are_read_where_they_are(device):
    """ADM's scale and shift are two halves of what one linear layer gives: no copy is made of them."""
    x, groups, weight, bias, _ = case((2, 16, 4, 4), 4, F32, device)
    scale, shift = normal(2, 32, seed=5, device=device).chunk(2, dim=1)
    with Operations() as seen:
        y = kernels.group_norm(x, groups, weight, bias, EPS, scale=scale, shift=shift)
    assert not seen.count["clone"]  # what contiguous() does
    close(y, exact(x, groups, weight, bias, scale=scale, shift=shift), F32, 24)


def test_programs_keep_32_elements_in_a_thread():
    for channels in (3, 64, 192, 256, 768, 1792, 2048, 4096):
        for last in (False, True):
            elements = kernels.pixels_of(channels, last) * triton.next_power_of_2(channels)
            assert elements <= 32 * 32 * kernels.options(elements)["num_warps"]
    assert kernels.options(kernels.LARGEST)["num_warps"] == 8


def test_a_group_that_fits_is_read_once(device):
    """What the networks of the README ask for: DDPM++ and ADM at their resolutions, float32 and bfloat16."""
    for channels, pixels in ((4, 1024), (8, 1024), (8, 256), (16, 64), (12, 256), (24, 64)):
        for itemsize in (4, 2):
            for last in (False, True):
                assert not kernels.configure(channels, pixels, itemsize, last).loop
    assert kernels.configure(6, 4096, 2, False).loop  # ADM's largest, at 64 × 64: 24,576 values
    assert kernels.configure(4, 1024, 2, True) == (2, 1024, False)  # longer runs of channels would not fit
    assert kernels.configure(8, 256, 2, True) == (4, 256, False)  # runs of 64 bytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": 3}, r"groups must divide the 8 channels of x, got 3"),
        ({"eps": 0.0}, r"eps must be above 0, got 0.0"),
        ({"weight": torch.ones(4)}, r"weight must be \[8\], one number for each channel of x, got \[4\]"),
        ({"scale": torch.ones(3, 8)}, r"scale must be \[2, 8\] or \[1, 8\], got \[3, 8\]"),
        ({"add": torch.ones(1, 8, dtype=torch.int64)}, r"add must be floats on cpu, as x, got torch.int64 on cpu"),
        ({"shift": torch.ones(1, 8, device="meta")}, r"shift must be floats on cpu, as x, got torch.float32 on meta"),
        ({"x": torch.ones(2, 8, 4)}, r"x must be \[B, C, H, W\] in float32, bfloat16 or float16, got \[2, 8, 4\]"),
        ({"x": torch.ones(2, 8, 4, 4).double()}, r"got \[2, 8, 4, 4\] in torch.float64"),
    ],
)
def test_bad_input_is_one_sentence(change, said):
    given = {"x": torch.ones(2, 8, 4, 4), "groups": 2, "weight": torch.ones(8), "bias": torch.ones(8), "eps": EPS}
    with pytest.raises(KernelError, match=said):
        group_norm(**given | change)


def test_they_are_operators_that_a_compiler_knows(device):
    x, groups, weight, bias, vectors = case((2, 16, 4, 4), 4, F32, device, True, "add")
    operator = torch.ops.restart.group_norm.default
    torch.library.opcheck(operator, (x, groups, weight, bias, EPS, vectors["add"], None, None, True))
    torch.library.opcheck(torch.ops.restart.pixel_norm.default, (x, 1e-4))
    assert torch.equal(
        group_norm(x, groups, weight, bias, EPS, add=vectors["add"], silu=True),
        operator(x, groups, weight, bias, EPS, vectors["add"], None, None, True),
    )
    assert torch.equal(pixel_norm(x, 1e-4)[1], torch.ops.restart.pixel_norm(x, 1e-4)[1])


def test_nothing_is_launched_for_nothing(device):
    empty = torch.ones(0, 8, 4, 4, device=device)
    assert group_norm(empty, 2, torch.ones(8, device=device), torch.ones(8, device=device), EPS).shape == empty.shape
    assert pixel_norm(empty, 1e-4)[0].shape == empty.shape
