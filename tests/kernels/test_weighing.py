"""The weights of two outputs: equal to their statement on every backend, and the guidance that the papers describe."""

from __future__ import annotations

import pytest
import torch
from support.row_batches import BF16, F16, F32, METHODS, Batch, assert_equal_bits, bits, stated_weights, table

import restart_kernels as rk
from restart_kernels import layout as L
from restart_kernels.dispatch import BACKENDS

GUIDED = L.READ_F | L.GUIDE | L.STORE_X
RESCALE, ZERO_STAR, APG = (GUIDED | method for method in METHODS)


@pytest.fixture(params=list(BACKENDS))
def backend(request, device):
    if request.param not in rk.available_backends(device):
        pytest.skip(f"no {request.param} backend on {device}")
    return request.param


def assert_as_stated(case, backend):
    assert_equal_bits([case.weigh(backend)], [stated_weights(case)])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy in the interpreter
@pytest.mark.parametrize("numel", [1, 3, 63, 1023, 1024, 1025, 3 * 1024, 4 * 1024 + 1, 9000])
def test_equals_its_statement_at_awkward_sizes(backend, device, numel):
    """The three methods, twice; a sample that is idle, one that is not guided and one without a method."""
    rows = table([RESCALE, ZERO_STAR, APG, RESCALE, ZERO_STAR, APG, APG & ~L.GUIDE, GUIDED], seed=numel, device=device)
    cursor = [0, 1, L.IDLE, 2, 3, 4, 6, 5, 7]
    case = Batch(9, numel, rows, (F32, BF16, F16)[numel % 3], F32, True, cursor, numel, device, weighed=True)
    for b in (2, 6, 8):
        case.F[b], case.F_uncond[b] = torch.nan, torch.nan
    found = case.weigh(backend)
    assert_equal_bits([found], [stated_weights(case)])
    assert torch.equal(found[[2, 6, 8]], case.mix[[2, 6, 8]])
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_equals_its_statement_for_every_dtype(backend, device, dtype):
    case = Batch(3, 1500, table([RESCALE, ZERO_STAR, APG], device=device), dtype, BF16, True, [0, 1, 2], weighed=True)
    assert_as_stated(case, backend)


def test_every_operation_is_rounded_where_it_is_stated(backend, device):
    """Enough random coefficients that each other order of the operations gives other bits in one of them."""
    rows = table([RESCALE, ZERO_STAR, APG] * 20, device=device)
    rows[0][::2, L.Q] = 0
    rows[0][:, [L.W, L.P]] = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)).to(device)
    case = Batch(60, 24, rows, guided=True, cursor=range(60), device=device, weighed=True)
    assert_as_stated(case, backend)


@pytest.mark.parametrize("row", range(3))
def test_one_cursor_for_the_batch_is_that_cursor_for_each(backend, device, row):
    rows = table([RESCALE, ZERO_STAR, APG], device=device)
    one = Batch(3, 63, rows, guided=True, cursor=[row], device=device, weighed=True)
    each = Batch(3, 63, rows, guided=True, cursor=[row] * 3, device=device, weighed=True)
    assert torch.equal(one.weigh(backend), each.weigh(backend))


def test_a_sample_does_not_depend_on_its_batch(backend, device):
    """Batches of every length: vectors of a library may round differently from what is left over."""
    rows = table([RESCALE, APG, RESCALE], device=device)
    whole = Batch(19, 63, rows, guided=True, cursor=[k % 3 for k in range(19)], device=device, weighed=True)
    expected = whole.weigh(backend)
    for n in (1, 7, 8, 17):
        part = Batch(n, 63, rows, guided=True, cursor=[k % 3 for k in range(n)], device=device, weighed=True)
        part.F, part.F_uncond, part.mix = whole.F[:n], whole.F_uncond[:n], whole.mix[:n]
        assert torch.equal(part.weigh(backend), expected[:n])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy in the interpreter
def test_outputs_for_which_a_quotient_does_not_exist(backend, device):
    """Outputs that are 0, constant, equal, huge, or not finite; whatever happens to one sample happens to it alone."""
    for flags in (RESCALE, ZERO_STAR, APG):
        rows = table([flags], device=device)
        case = Batch(11, 40, rows, guided=True, device=device, weighed=True)
        good = case.weigh(backend)
        c, u = case.F, case.F_uncond
        c[0], u[1] = 0, 0
        c[2], u[2] = 0, 0
        c[3], u[3] = 1.5, 1.5
        c[4] = u[4]
        c[5, 7], u[6, 8] = torch.inf, torch.nan
        c[7], u[7] = 3e38, -3e38
        c[8], c[9] = 1e-30, 0.7  # in float32 the variance of forty times 0.7 is below 0
        found = case.weigh(backend)
        assert_equal_bits([found], [stated_weights(case)])
        assert torch.equal(found[10], good[10])
        assert found[[0, 1, 2, 3, 4, 9]].isfinite().all()


def test_a_row_takes_the_weights_that_were_weighed(backend, device):
    rows = table([RESCALE, ZERO_STAR, APG], s=0.0, device=device)
    rows[0][:] = 0
    rows[0][:, [L.W, L.P, L.Q, L.Y_F]] = torch.tensor([3.0, 0.7, 5.0, 1.0], device=device)
    case = Batch(3, 63, rows, BF16, guided=True, cursor=[0, 1, 2], device=device, weighed=True)
    case.mix = case.weigh(backend)
    x = case.run_row(backend)[0]
    mix = case.mix[:, :, None]
    assert torch.equal(x, mix[:, 0] * case.F.float() + mix[:, 1] * case.F_uncond.float())


# --- limiting cases ------------------------------------------------------------------------------------------------


def weights_of(backend, device, flags, w, p=0.0, q=0.0):
    """Return α_c and α_u, each [4], of a row with these coefficients."""
    rows = table([flags], device=device)
    rows[0][0, [L.W, L.P, L.Q]] = torch.tensor([w, p, q], device=device)
    return Batch(4, 300, rows, guided=True, device=device, weighed=True).weigh(backend).unbind(1)


def test_rescaling_by_0_is_plain_guidance(backend, device):
    a_c, a_u = weights_of(backend, device, RESCALE, 3.7)
    w = torch.tensor(3.7, device=device)
    assert (a_c == w).all()
    assert (a_u == 1 - w).all()


def test_projection_with_eta_1_and_no_clipping_is_plain_guidance(backend, device):
    a_c, a_u = weights_of(backend, device, APG, 3.5, p=1.0)
    assert (a_c == 3.5).all()
    assert (a_u == -2.5).all()


def test_a_norm_that_is_not_reached_does_not_clip(backend, device):
    free, clipped = (weights_of(backend, device, APG, 3.5, p=0.3, q=q) for q in (1e3, 1.0))
    for a, b in zip(free, weights_of(backend, device, APG, 3.5, p=0.3), strict=True):
        assert torch.equal(a, b)
    assert (clipped[1].abs() < free[1].abs()).all()


def test_a_weight_of_1_is_the_conditional_output(backend, device):
    for flags in (ZERO_STAR, APG):
        a_c, a_u = weights_of(backend, device, flags, 1.0, p=0.3, q=1.0)
        assert (a_c == 1).all()
        assert (a_u == 0).all()
    a_c, a_u = weights_of(backend, device, RESCALE, 1.0, p=0.3)
    assert (a_c - 1).abs().max() <= 2 * torch.finfo(F32).eps
    assert (a_u == 0).all()


# --- the guiders of diffusers --------------------------------------------------------------------------------------

# (flags, W, P, Q); Q clips some of the samples of a norm around √(2·192).
GUIDANCE = {
    "rescale": (RESCALE, 7.5, 0.7, 0.0),
    "zero star": (ZERO_STAR, 5.0, 0.0, 0.0),
    "apg": (APG, 6.0, 0.0, 0.0),
    "apg, clipped": (APG, 6.0, 0.3, 19.5),
}


def guided_by_diffusers(flags, w, p, q, c, u):
    """Return what the guider of diffusers makes of the outputs."""
    guiders = pytest.importorskip("diffusers.guiders")
    if flags & L.RESCALE:
        from diffusers.guiders.guider_utils import rescale_noise_cfg

        return rescale_noise_cfg(u + w * (c - u), c, p)
    if flags & L.ZERO_STAR:
        guider = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=w, zero_init_steps=0)
    else:
        guider = guiders.AdaptiveProjectedGuidance(
            guidance_scale=w - 1, adaptive_projected_guidance_rescale=q, eta=p, use_original_formulation=True
        )
    guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor(1))
    return guider.forward(c, u).pred


def guided_case(name, device, near):
    """Return a batch whose row makes x of the guided output and nothing else, and what diffusers makes in float64.

    The outputs are independent, or, as those of a network, near each other.
    """
    flags, w, p, q = GUIDANCE[name]
    rows = table([flags], s=0.0, device=device)
    rows[0][:] = 0
    rows[0][0, [L.W, L.P, L.Q, L.Y_F]] = torch.tensor([w, p, q, 1.0], device=device)
    case = Batch(16, 192, rows, guided=True, device=device, weighed=True)
    if near:
        case.F_uncond = 0.9 * case.F + 0.2 * case.F_uncond
    shape = (16, 3, 8, 8)
    c, u = (f.double().view(shape).cpu() for f in (case.F, case.F_uncond))
    return case, guided_by_diffusers(flags, w, p, q, c, u).view(16, 192)


@pytest.mark.parametrize("name", GUIDANCE)
@pytest.mark.parametrize("near", [False, True])
def test_float32_rounds_the_guiders_of_diffusers(backend, device, name, near):
    """Within what rounding does to two products of the size that they have, and to the square of a difference."""
    case, expected = guided_case(name, device, near)
    case.mix = case.weigh(backend)
    x = case.run_row(backend)[0].cpu()
    terms = case.mix.abs()[:, :, None].cpu() * torch.stack((case.F.abs(), case.F_uncond.abs()), 1).cpu()
    error = (x - expected).abs().amax(1) / terms.sum(1).amax(1)
    assert error.max() < 4 * 2.0**-24


@pytest.mark.parametrize("name", ["rescale", "apg", "apg, clipped"])
@pytest.mark.parametrize("near", [False, True])
def test_float64_is_the_guiders_of_diffusers(device, name, near):
    """The guider of CFG-Zero* goes through float32 and is left out."""
    case, expected = guided_case(name, device, near)
    for part in ("x", "h", "net_in", "F", "F_uncond", "mix"):
        setattr(case, part, getattr(case, part).double())
    case.coef = case.coef.double()
    case.coef[0, [L.W, L.P, L.Q]] = torch.tensor(GUIDANCE[name][1:], dtype=torch.float64, device=device)
    case.mix = case.weigh("reference")
    x = case.run_row("reference")[0].cpu()
    assert (x - expected).abs().max() < 1e-12 * expected.abs().max()


# --- what cannot be weighed ----------------------------------------------------------------------------------------


def test_a_machine_without_mix_refuses(device):
    case = Batch(2, 9, table([APG], device=device), guided=True, device=device)
    with pytest.raises(rk.KernelError, match="no mix to write the weights to"):
        rk.bind(case.machine(), "reference").weigh(case.F, case.F_uncond)


@pytest.mark.parametrize("name", ["F", "F_uncond", "net_in"])
def test_outputs_that_do_not_fit_are_refused(device, name):
    case = Batch(2, 9, table([APG], device=device), guided=name != "net_in", device=device, weighed=True)
    outputs = {"F": case.F, "F_uncond": case.F.clone() if name == "net_in" else case.F_uncond}
    if name != "net_in":
        outputs[name] = outputs[name][:, :-1].contiguous()
    before = case.mix.clone()
    with pytest.raises(rk.KernelError, match=rf"\b{name}\b"):
        rk.bind(case.machine(), "reference").weigh(**outputs)
    assert torch.equal(case.mix, before)


def test_empty_batches_do_nothing(backend, device):
    for size in ((0, 9), (3, 0)):
        case = Batch(*size, table([APG], device=device), guided=True, device=device, weighed=True)
        assert torch.equal(bits(case.weigh(backend)), bits(case.mix))
