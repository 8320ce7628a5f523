"""The baselines are right: each draws what rs.Sampler draws from the same noise, at the NFE the plan states.

So a benchmark compares two ways of computing the same thing. The sampler has float64 registers here; the analytic
denoiser is exact, and only the bundled network runs in float32."""

from __future__ import annotations

import importlib

import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_sampling.experiments.measure import loops, timing

SHAPE, SEEDS = (1, 4, 4), range(3)
INTERVALS = {
    "one": [(3, 2, 0.14, 0.30)],
    "five": [(10, 1, 19.35, 40.79), (6, 1, 1.09, 1.92), (4, 2, 0.59, 1.09), (4, 3, 0.30, 0.59), (3, 2, 0.06, 0.30)],
    "two at one point": [(3, 2, 0.14, 0.30), (4, 1, 0.13, 0.59)],
    "none": [],
}


class EngineNoise:
    """The engine's draws 1, 2, … for `noise`, draw 0 for the latents; counts calls."""

    def __init__(self, shape=SHAPE, seeds=SEEDS):
        self.shape, self.seeds, self.draws = shape, seeds, 0

    def latents(self):
        return rs.noise.normal(self.seeds, 0, self.shape)

    def __call__(self, x):
        self.draws += 1
        return rs.noise.normal(self.seeds, self.draws, self.shape).to(x.dtype)


class Counted:
    def __init__(self, D):
        self.D, self.calls = D, 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.D(x, sigma)


def exact():
    """(D of the baselines, the same D for the sampler)."""
    mixture = problems.mixture(SHAPE)
    return Counted(lambda x, sigma: mixture(x, sigma.reshape(-1).expand(len(x)))), rs.Denoiser.from_function(
        mixture, shape=SHAPE
    )


def engine(denoiser, plan):
    return rs.Sampler(denoiser, plan, register_dtype=torch.float64).run(SEEDS)


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are small: on busy cores a second thread only waits."""
    with timing.threads(1):
        yield


def difference(got, want):
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", INTERVALS)
def test_restart_fp64(name):
    D, denoiser = exact()
    plan = rs.Plan.build(restart=[list(i) for i in INTERVALS[name]] or None, s_noise=1.003)
    noise = EngineNoise()
    x = loops.restart_loop_fp64(
        D, noise.latents(), loops.edm_grid(), INTERVALS[name], noise, s_noise=1.003, unused_draws=False
    )
    assert x.dtype == torch.float64
    assert difference(x, engine(denoiser, plan)) < 1e-6
    assert D.calls == plan.nfe
    assert noise.draws == plan.draws
    assert loops.intervals_of(plan) == INTERVALS[name]


@pytest.mark.parametrize("name", INTERVALS)
def test_heun_fp32(name):
    """Restart in the float32 style; with no interval it is k-diffusion's Heun.

    Float64 input shows the algorithm exactly.
    """
    plan = rs.Plan.build(restart=[list(i) for i in INTERVALS[name]] or None)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        D, denoiser = exact()
        noise = EngineNoise()
        sigmas = loops.edm_grid().to(dtype)
        start = noise.latents().to(dtype) * sigmas[0]
        x = loops.heun_loop_fp32(D, start, sigmas, INTERVALS[name], noise, unused_draws=False)
        assert x.dtype == dtype
        assert difference(x, engine(denoiser, plan)) < tolerance
        assert D.calls == plan.nfe
        assert noise.draws == plan.draws


@pytest.mark.parametrize("loop", ["fp64", "fp32"])
def test_edm_stochastic(loop):
    churn = dict(s_churn=20.0, s_noise=1.003, s_min=0.05)
    plan = rs.Plan.build(solver="edm-stochastic", **churn, s_max=50.0)
    D, denoiser = exact()
    noise = EngineNoise()
    latents, t = noise.latents(), loops.edm_grid()
    if loop == "fp64":
        x = loops.edm_stochastic_loop_fp64(D, latents, t, noise, **churn, s_max=50.0, unused_draws=False)
    else:
        churn["s_tmin"] = churn.pop("s_min")
        x = loops.heun_loop_fp32(D, latents * t[0], t, (), noise, **churn, s_tmax=50.0, unused_draws=False)
    assert difference(x, engine(denoiser, plan)) < 1e-6
    assert D.calls == plan.nfe
    assert noise.draws == plan.draws > 5


def test_restart_gamma_is_churn_inside_the_intervals():
    """The engine merges a jump and the churn right after it into one draw of the summed variance; here they are two."""
    options = dict(restart_gamma=0.05, s_min=0.01, s_max=0.25)  # the jump's first step, from 0.30, is not churned
    plan = rs.Plan.build(restart=[4, 2, 0.14, 0.30], **options)
    D, denoiser = exact()
    noise = EngineNoise()
    x = loops.restart_loop_fp64(
        D, noise.latents(), loops.edm_grid(), [(4, 2, 0.14, 0.30)], noise, **options, unused_draws=False
    )
    assert difference(x, engine(denoiser, plan)) < 1e-6
    assert noise.draws == plan.draws


def test_draws_as_in_public_code():
    """N_main + Σ K·N draws after the latents, most of them times zero; the images are those of the lean loop."""
    intervals = [(4, 2, 0.14, 0.30), (4, 3, 0.59, 1.09)]
    images = {}
    for unused in (True, False):
        D, _ = exact()
        noise = EngineNoise()
        fixed = rs.noise.normal(SEEDS, 9, SHAPE)

        def same(x, noise=noise, fixed=fixed):
            noise(x)
            return fixed.to(x.dtype)

        images[unused] = loops.restart_loop_fp64(
            D, noise.latents(), loops.edm_grid(), intervals, same, unused_draws=unused
        )
        assert noise.draws == (38 if unused else 5)
        assert D.calls == 35 + 2 * 6 + 3 * 6
    assert torch.equal(images[True], images[False])


def test_generators_make_noise_of_the_seed_alone():
    one = loops.SampleGenerators([3, 7]).latents(SHAPE)
    other = loops.SampleGenerators([7]).latents(SHAPE)
    assert one.dtype == torch.float32
    assert torch.equal(one[1:], other)


def test_the_bundled_network_with_edm_preconditioning():
    """With the same noise and labels, the engine and both loops draw the same images up to float32 rounding."""
    denoiser = rs.load("fashion-mnist")
    plan = rs.Plan.build(steps=4, restart=[3, 1, 0.30, 1.0], sigma_max=20.0)
    labels = torch.tensor([0, 5, 8])
    want = rs.Sampler(denoiser, plan, backend="reference", compile="off").run(SEEDS, labels).double()
    D, t = Counted(loops.edm_denoiser_of(denoiser, labels)), loops.edm_grid(4, high=20.0)
    intervals = loops.intervals_of(plan)
    noise = EngineNoise(denoiser.shape)
    x = loops.restart_loop_fp64(D, noise.latents(), t, intervals, noise, unused_draws=False)
    assert difference(x, want) < 1e-4
    noise = EngineNoise(denoiser.shape)
    t32 = t.float()
    y = loops.heun_loop_fp32(D, noise.latents() * t32[0], t32, intervals, noise, unused_draws=False)
    assert difference(y.double(), want) < 1e-4
    assert D.calls == 2 * plan.nfe


def test_other_preconditionings_are_refused():
    with pytest.raises(ValueError, match="not 'edm'"):
        loops.edm_denoiser_of(rs.Denoiser.from_function(problems.gaussian(), shape=SHAPE))


@pytest.mark.parametrize("name", ["overhead_cpu", "images_per_second_cpu"])
def test_benchmarks_of_the_baselines_run(name, capsys):
    threads = torch.get_num_threads()
    assert importlib.import_module(name).main(["--quick"]) == 0
    shown = capsys.readouterr().out
    for sampler in ("engine", "fp64 loop", "fp32 loop"):
        assert sampler in shown
    assert torch.get_num_threads() == threads
