"""What a network may return: wrong shapes and types are named at the first evaluation; gradients and dtypes."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.models.network_output import check, checked

SHAPE = (3, 4, 6)  # no two sizes alike, nor like the batch
PLAN = dict(steps=3)
Output = namedtuple("Output", ["sample"])


def shrink(x, sigma):
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)


WRONG = {
    "h_and_w_swapped": (lambda D: D.transpose(-1, -2), r"\[2, 3, 4, 6\] and returned \[2, 3, 6, 4\].*height and width"),
    "channels_last": (lambda D: D.movedim(1, -1), r"\[2, 3, 4, 6\] and returned \[2, 4, 6, 3\].*channels are last"),
    "batch_second": (lambda D: D.transpose(0, 1), r"returned \[3, 2, 4, 6\].*Batch and channels are swapped"),
    "flat": (lambda D: D.flatten(1), r"returned \[2, 72\]; both must have one shape"),
    "no_batch": (lambda D: D[0], r"returned \[3, 4, 6\].*batch is missing"),
    "one_sample": (lambda D: D[:1], r"returned \[1, 3, 4, 6\]"),
    "twice_the_batch": (lambda D: torch.cat([D, D]), r"returned \[4, 3, 4, 6\]"),
    "mean_of_channels": (lambda D: D.mean(1, keepdim=True), r"returned \[2, 1, 4, 6\]"),
    "learned_variance": (lambda D: torch.cat([D, D], 1), r"returned \[2, 6, 4, 6\].*learned variance.*output\[:, :3\]"),
    "none": (lambda D: None, "got None; does the function end with `return`"),
    "tuple": (lambda D: (D,), "got a tuple of 1; return its tensor alone"),
    "list": (lambda D: [D, D], "got a list of 2"),
    "output_object": (lambda D: Output(D), "got Output; return its tensor, `output.sample`"),
    "array": (lambda D: D.numpy(), "NumPy array"),
    "number": (lambda D: 3.0, "got float"),
    "integers": (lambda D: D.to(torch.int64), "got torch.int64"),
    "complex": (lambda D: D.to(torch.complex64), "got torch.complex64"),
    "fp8": (lambda D: D.to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
    "device": (lambda D: D.to("meta"), "on cpu and returned one on meta"),
}


class Module(torch.nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, net_in, c_noise, labels=None):
        return self.wrong((self.scale * net_in).detach())


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_output_is_named(name):
    wrong, message = WRONG[name]
    plan = rs.Plan.build(**PLAN)
    den = rs.Denoiser.from_function(lambda x, sigma: wrong(shrink(x, sigma)), shape=SHAPE)
    module = rs.Denoiser(Module(wrong), den.parameterization, SHAPE)
    exact = dict(register_dtype=torch.float64)
    for network, options in ((den, {}), (den, exact), (module, {})):
        with pytest.raises(rs.RestartError, match=message):
            rs.sample(network, plan, range(2), **options)


@pytest.mark.parametrize("name", ["h_and_w_swapped", "one_sample", "tuple"])
def test_guided_pairs_and_plain_calls_are_checked_too(name):
    wrong = WRONG[name][0]
    den = rs.Denoiser.from_function(lambda x, sigma, class_labels: wrong(x), shape=SHAPE, label_dim=3)
    guided = rs.Plan.build(**PLAN, guidance_scale=2.0)
    with pytest.raises(rs.RestartError, match=r"\[4, 3, 4, 6\]"):
        rs.sample(den, guided, range(2))
    with pytest.raises(rs.RestartError, match=r"\[2, 3, 4, 6\]"):
        rs.sample(den, rs.Plan.build(**PLAN), [(0, rs.Plan.build(**PLAN)), (1, rs.Plan.build(steps=4))])
    with pytest.raises(rs.RestartError, match=r"\[2, 3, 4, 6\]"):
        den(torch.zeros(2, *SHAPE), 1.0, torch.eye(3)[:2])


def test_parity_checks_the_other_network():
    den = rs.Denoiser(
        Module(lambda F: F.transpose(-1, -2)), rs.Denoiser.from_function(shrink, SHAPE).parameterization, SHAPE
    )
    with pytest.raises(rs.RestartError, match="height and width"):
        rs.parity(den, rs.Plan.build(**PLAN), seeds=range(2))


def test_the_check_costs_no_evaluation():
    calls = []

    def counted(x, sigma):
        calls.append(len(x))
        return shrink(x, sigma)

    plan = rs.Plan.build(**PLAN)
    sampler = rs.Sampler(rs.Denoiser.from_function(counted, SHAPE), plan, batch_size=2)
    assert calls == []
    sampler.run(range(4))
    assert calls == [2] * (2 * plan.nfe)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_other_floats_are_taken(dtype, backend):
    plan = rs.Plan.build(**PLAN)
    den = rs.Denoiser.from_function(lambda x, sigma: shrink(x, sigma).to(dtype), SHAPE)
    # The right value: the same numbers, rounded to that dtype and handed over in float32.
    same = rs.Denoiser.from_function(lambda x, sigma: shrink(x, sigma).to(dtype).float(), SHAPE)
    found = rs.sample(den, plan, range(2), backend=backend)
    assert torch.equal(found, rs.sample(same, plan, range(2), backend="reference"))
    assert found.dtype == torch.float32


class Convolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, net_in, c_noise, labels=None):
        return self.layer(net_in)


def test_weights_in_float8_run_in_the_dtype_of_the_sampler():
    plan, levels = rs.Plan.build(**PLAN), rs.Denoiser.from_function(shrink, SHAPE).parameterization
    stored = Convolution().to(torch.float8_e4m3fn)
    wide = Convolution()
    wide.load_state_dict({name: t.float() for name, t in stored.state_dict().items()})
    stored, wide = (rs.Denoiser(network, levels, SHAPE) for network in (stored, wide))
    for options in ({}, {"dtype": "bf16"}, {"batch_size": "auto"}):
        assert torch.equal(rs.sample(stored, plan, range(2), **options), rs.sample(wide, plan, range(2), **options))
    with pytest.raises(rs.RestartError, match=r"weights are torch.float8_e4m3fn; convert it with network.double\(\)"):
        rs.sample(stored, plan, range(2), register_dtype=torch.float64)


def test_sizes_that_are_alike_cannot_be_told():
    square = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    assert check(square.mT, square) is not square


def test_checked_keeps_a_good_output():
    x = torch.zeros(2, *SHAPE)
    F = torch.ones_like(x)
    assert checked(F, x) is F
    assert not checked(F.requires_grad_(), x).requires_grad
    assert check(F, x).requires_grad  # the plain denoiser is for training too
    wide = F.detach().double()
    assert checked(wide, x).dtype == torch.float32
    assert checked(wide, x.double()) is wide


def test_the_plain_denoiser_keeps_gradients():
    x = torch.ones(1, *SHAPE, requires_grad=True)
    rs.Denoiser.from_function(shrink, SHAPE)(x, 1.0).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.5))


# --- gradients inside a denoiser
# ----------------------------------------------------------------------------------------


def classifier_guidance(scale, target, grad):
    """D + σ²·scale·∇ log p(y|x) with log p(y|x) = −|D − target|²/2, by autograd or in closed form."""

    def fn(x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        if not grad:
            D = x / (1 + s**2)
            return D - scale * s**2 * (D - target) / (1 + s**2)
        with torch.enable_grad():
            x = x.requires_grad_()
            D = x / (1 + s**2)
            (g,) = torch.autograd.grad(-0.5 * ((D - target) ** 2).sum(), x)
        return D + scale * s**2 * g

    return rs.Denoiser.from_function(fn, SHAPE)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_classifier_guidance_by_autograd_is_the_closed_form(backend):
    plan = rs.Plan.build(steps=6, restart=[3, 2, 0.1, 0.5])
    found = rs.sample(classifier_guidance(0.3, 1.0, True), plan, range(3), backend=backend)
    expected = rs.sample(classifier_guidance(0.3, 1.0, False), plan, range(3), register_dtype=torch.float64)
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, rs.sample(classifier_guidance(0.0, 1.0, False), plan, range(3)), atol=0.1)


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_whatever_the_mode_of_the_caller(inference):
    den, plan = classifier_guidance(0.3, 1.0, True), rs.Plan.build(**PLAN)
    with torch.inference_mode(inference):
        sampler = rs.Sampler(den, plan, batch_size=2)
        inside = sampler.run(range(3))
    outside = sampler.run(range(3))  # the same buffers, the other mode
    mixed = sampler.run([(0, plan), (1, rs.Plan.build(steps=4)), (2, plan)])
    assert torch.equal(inside, outside)
    assert torch.equal(mixed[[0, 2]], outside[[0, 2]])
    assert not outside.is_inference()
    outside.requires_grad_().sum().backward()  # samples are ordinary tensors


def test_a_function_runs_without_recording():
    seen = []

    def fn(x, sigma):
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), x.is_inference(), x.requires_grad))
        x.requires_grad_()
        return shrink(x.detach(), sigma)

    with torch.enable_grad():
        rs.sample(rs.Denoiser.from_function(fn, SHAPE), rs.Plan.build(**PLAN), range(2))
    assert set(seen) == {(False, False, False, False)}  # requires_grad_ of one call is not seen by the next


def test_writing_to_the_input_changes_nothing():
    def fn(x, sigma):
        D = shrink(x, sigma)
        x.zero_()
        return D

    plan = rs.Plan.build(steps=4, restart=[3, 2, 0.1, 0.5])
    expected = rs.sample(rs.Denoiser.from_function(shrink, SHAPE), plan, range(2))
    assert torch.equal(rs.sample(rs.Denoiser.from_function(fn, SHAPE), plan, range(2)), expected)


def test_the_input_is_a_buffer_that_the_next_evaluation_overwrites():
    kept = []

    def fn(x, sigma):
        kept.append((x, x.clone()))
        return shrink(x, sigma)

    rs.sample(rs.Denoiser.from_function(fn, SHAPE), rs.Plan.build(**PLAN), range(2))
    assert len({x.data_ptr() for x, _ in kept}) == 1
    assert not any(torch.equal(kept[0][1], copy) for _, copy in kept[1:])
    np.testing.assert_array_equal(kept[0][0].numpy(), kept[-1][0].numpy())
