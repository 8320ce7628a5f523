"""sample_restart: the k-diffusion contract, an honest budget, the engine's numbers, noise that belongs to its row."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, ConfigError, RestartTypeError, RestartValueError, SeedError
from restart_sampling.integrations.k_diffusion import (
    RestartWarning,
    restart_plan,
    row_seeds,
    sample_plan,
    sample_restart,
    steps,
)
from restart_sampling.plan.schedule import karras

SD15 = (0.0292, 14.6146)  # sigmas of Stable Diffusion 1.5, ends
SHAPE = (4, 4, 4)
MIXTURE = problems.mixture(SHAPE)


def grid(n, low=SD15[0], high=SD15[1], zero=True):
    return torch.tensor([*karras(n, low, high, 7.0), *([0.0] if zero else [])], dtype=torch.float32)


def model(x, sigma, **kwargs):
    assert sigma.shape == (len(x),) and sigma.dtype == torch.float32
    return MIXTURE(x, sigma)


def start(sigmas, batch=3, shape=SHAPE, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)) * sigmas[0]


# --- the numbers -------------------------------------------------------------------------------------------------


def test_the_ode_is_solved_to_second_order():
    """Gaussian data, no jumps: the exact solution, with an error that falls with the square of the steps."""
    D, errors = problems.gaussian(), []
    for n in (12, 24, 48):
        sigmas = grid(n, zero=False)
        x = start(sigmas).double()
        found = sample_restart(lambda x, s: D(x, s), x, sigmas, restart=None, disable=True)
        want = problems.gaussian_flow(x, float(sigmas[0]), float(sigmas[-1]))
        errors.append(float((found - want).abs().max()))
    assert errors[2] < 0.01 * 0.5  # a hundredth of the data's std
    assert 3 < errors[0] / errors[1] < 6 and 3 < errors[1] / errors[2] < 6


@pytest.mark.parametrize("solver", ["heun", "euler", "dpm2", "dpm3", "dpm++2m", "ddpm"])
@pytest.mark.parametrize("restart", [None, "[3, 2, 0.3, 1]", "[3,2,0.06,0.30],[3,1,0.30,0.59]"])
def test_equals_the_engine(solver, restart):
    """The same plan, latents, noise and denoiser through rs.Sampler."""
    sigmas, seeds = grid(24), [7, 2**62, 0]
    plan = restart_plan(sigmas, restart, solver=solver)
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(3))
    denoiser = rs.Denoiser.from_function(lambda x, s: MIXTURE(x, s), SHAPE)
    want = rs.Sampler(denoiser, plan, 3).run(seeds, latents=z)
    found = sample_restart(model, z * sigmas[0], sigmas, restart=restart, solver=solver, seeds=seeds, disable=True)
    torch.testing.assert_close(found, want, rtol=0, atol=2e-6)
    torch.testing.assert_close(
        sample_plan(model, z * sigmas[0], plan, seeds=seeds, disable=True), found, rtol=0, atol=0
    )


def test_flow_equals_the_engine():
    t = torch.tensor([*np.linspace(1, 0.05, 14), 0.0], dtype=torch.float32)

    def D(x, s):  # data N(0, 1/4): E[x0 | (1−t)x0 + tε = x]
        s = s.to(x.dtype).view(-1, 1, 1, 1)
        return 0.25 * (1 - s) / (0.25 * (1 - s) ** 2 + s * s) * x

    plan = restart_plan(t, "[3, 2, 0.3, 0.6]", process="flow")
    assert len(plan.intervals) == 1
    z = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    denoiser = rs.Denoiser.from_function(D, SHAPE, process="flow", sigma_max=1.0)
    want = rs.Sampler(denoiser, plan, 2).run([5, 6], latents=z)
    found = sample_restart(D, z, t, restart="[3, 2, 0.3, 0.6]", process="flow", seeds=[5, 6], disable=True)
    torch.testing.assert_close(found, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("one", [1.0000001192092896, 0.9999998807907104])
def test_what_float32_makes_of_one_is_one(one):
    """shift·t/(1 + (shift − 1)·t) at t = 1 in float32, as hosts compute a flow model's first level."""
    assert float(torch.tensor([1.32, 1.47]).mul(torch.ones(2)).div(1 + torch.tensor([0.32, 0.47])).max()) > 1
    with pytest.warns(RestartWarning, match="at t = 1 a flow model's state is noise alone"):
        plan = restart_plan([one, 0.7, 0.4, 0.1, 0.0], "[3, 1, 0.4, 2]", process="flow")
    assert plan.grid == (1.0, 0.7, 0.4, 0.1, 0.0)


def test_a_jump_gives_the_law_of_its_level():
    """Gaussian data: after a jump from s to t the state has variance c² + t², seen by the model's first call there."""
    sigmas, D, seen = grid(12), problems.gaussian(0.5), []

    def watched(x, sigma):
        seen.append((float(sigma[0]), float(x.double().var())))
        return D(x, sigma)

    x = start(sigmas, batch=4000, shape=(2, 4, 4))
    x = x / sigmas[0] * (0.25 + sigmas[0] ** 2).sqrt()  # the law at the top, data included
    sample_restart(watched, x, sigmas, restart="[3, 2, 0.3, 2.0]", budget="extra", seeds=range(4000), disable=True)
    jumps = [now for last, now in itertools.pairwise(seen) if now[0] > last[0]]
    assert [level for level, _ in jumps] == pytest.approx([2.0, 2.0])
    for level, variance in jumps:
        assert variance == pytest.approx(0.25 + level**2, rel=0.02)


# --- the budget --------------------------------------------------------------------------------------------------

NOTATIONS = [
    "default",
    "none",
    "a1111",
    "[3, 2, 0.06, 0.3]",
    '{"0": [5, 4, 0.1, 2.0], "1": [4, 3, 2.0, 9.0]}',
    "[10,30,0.06,0.20],[3,1,0.30,0.59]",
    {0.1: [10, 2, 2]},
    '18 {"0": [3, 2, 0.14, 0.30]}',
]


@pytest.mark.parametrize("restart", NOTATIONS, ids=str)
def test_never_more_calls_than_heun_takes_on_these_sigmas(restart):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RestartWarning)
        for n in range(1, 60):
            plan = restart_plan(grid(max(n, 2))[-n - 1 :], restart)
            assert plan.nfe <= 2 * n - 1, n


@pytest.mark.parametrize("budget, restart, nfe", [("steps", "default", 39), ("extra", "[3, 2, 0.3, 1]", 39 + 8)])
def test_the_calls_are_those_of_the_plan(budget, restart, nfe):
    sigmas, calls = grid(20), []

    def counted(x, s):
        calls.append(float(s[0]))
        return x * 0

    options = dict(restart=restart, budget=budget)
    sample_restart(counted, start(sigmas), sigmas, disable=True, **options)
    plan = restart_plan(sigmas, **options)
    assert len(calls) == plan.nfe <= nfe
    assert budget == "steps" or len(plan.grid) == 21  # the given grid is whole


@pytest.mark.parametrize("n", [1, 2, 3, 7, 37])
@pytest.mark.parametrize("zero", [True, False])
def test_calls_and_callbacks_counted_in_a_run(n, zero):
    """A host sees at most the model calls that Heun takes without Restart, and one callback for every step."""
    sigmas, x = grid(n + 1, zero=False)[: n + (not zero)].tolist() + [0.0] * zero, torch.ones(1, 1)
    for restart in NOTATIONS:
        calls, told = [], []

        def counted(x, s, calls=calls):
            calls.append(s)
            return 0 * x

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RestartWarning)
            sample_restart(counted, x, sigmas, None, told.append, True, restart=restart)
            assert len(told) == steps(sigmas, restart) <= n
        assert len(calls) <= 2 * n - zero, restart


@pytest.mark.parametrize(
    "n, main, R, K, t_min, t_max",
    [
        (20, 11, 9, 1, 0.0744, 2.2322),
        (25, 16, 9, 1, 0.0990, 2.2322),
        (30, 21, 9, 1, 0.1137, 2.2322),
        (36, 18, 9, 2, 0.0867, 2.0944),
        (40, 20, 10, 2, 0.1213, 1.9909),
        (50, 26, 12, 2, 0.0884, 1.7933),
    ],
)
def test_a1111s_rule(n, main, R, K, t_min, t_max):
    """Its table for Stable Diffusion 1.5: R intervals and K jumps by step count, both ends at grid points, n steps in
    all.
    """
    plan = restart_plan(grid(n), "a1111")
    (interval,) = plan.intervals
    assert (len(plan.grid) - 1, interval.N - 1, interval.K) == (main, R, K)
    assert (interval.t_min, interval.t_max) == (pytest.approx(t_min, rel=2e-3), pytest.approx(t_max, rel=2e-3))
    assert plan.nfe == 2 * n - 1 and len(plan.steps) == n


def test_a1111_drops_an_interval_whose_ends_meet():
    """Both ends of [0.1, 2] are nearest to the lowest point, 1.95: no jump, and the given sigmas run whole."""
    with pytest.warns(RestartWarning, match=r"does not run: both its ends are nearest to grid point 1\.95"):
        plan = restart_plan(grid(20, 1.95), "a1111")
    assert not plan.intervals and plan.nfe == 39
    assert plan.grid == pytest.approx(grid(20, 1.95).tolist())


def test_a1111_restarts_nothing_below_20_steps():
    plan = restart_plan(grid(19), "a1111")
    assert not plan.intervals and plan.nfe == 37
    assert plan.grid == pytest.approx(grid(19).tolist())


def test_the_first_segment_wins_in_comfyuis_notation_only():
    """Two segments at one grid point."""
    sigmas = grid(30)
    with pytest.warns(RestartWarning, match="shares its grid point"):
        first = restart_plan(sigmas, "[3,2,0.3,1.0],[4,1,0.301,2.0]")
    assert [(i.N, i.K) for i in first.intervals] == [(3, 2)]
    both = restart_plan(sigmas, '{"0": [3, 2, 0.3, 1.0], "1": [4, 1, 0.301, 2.0]}')
    assert [(i.N, i.K) for i in both.intervals] == [(3, 2), (4, 1)]


def test_a_budget_that_is_too_small_says_what_it_does():
    with pytest.warns(RestartWarning, match=r"\[3, 10, 0.06, 0.3\]: runs with K = \d to keep to 39 evaluations"):
        plan = restart_plan(grid(20), "[3, 10, 0.06, 0.3]")
    assert plan.nfe <= 39 and plan.intervals[0].K < 10
    assert any("to keep to 39" in note for note in plan.notes)


def test_sliced_sigmas():
    """Denoise 0.5: the run begins at 1.1. One interval lies above it, one reaches above it."""
    sigmas = grid(40)[20:]
    with pytest.warns(RestartWarning) as said:
        plan = restart_plan(sigmas, "[3, 1, 2, 5], [3, 2, 0.2, 9]")
    text = str(said[0].message)
    assert "[3, 1, 2, 5]: does not run" in text and "t_max lowered to" in text
    (interval,) = plan.intervals
    assert interval.t_max == pytest.approx(float(sigmas[0]))
    assert plan.nfe <= 2 * 20 - 1


def test_a_run_that_does_not_go_to_zero():
    """The rest is another sampler's: it ends at the last level, with the state of that level."""
    sigmas, levels = grid(20)[:12], []
    sample_restart(
        lambda x, s: levels.append(float(s[0])) or model(x, s),
        start(sigmas),
        sigmas,
        restart="[3, 1, 2, 5]",
        disable=True,
    )
    plan = restart_plan(sigmas, "[3, 1, 2, 5]")
    assert min(levels) == levels[-1] == pytest.approx(float(sigmas[-1]))
    assert plan.nfe <= 22 and any("no step to 0" in note for note in plan.notes)


# --- what a host relies on ---------------------------------------------------------------------------------------


def test_the_callback():
    sigmas, got, calls = grid(20), [], []

    def watched(x, s):
        calls.append((float(s[0]), x.clone()))
        return model(x, s)

    x = start(sigmas)
    sample_restart(watched, x, sigmas, None, got.append, True, restart="[3, 2, 0.3, 1]", seeds=[1, 2, 3])
    assert [g["i"] for g in got] == list(range(steps(sigmas, "[3, 2, 0.3, 1]")))
    assert len(got) <= len(sigmas) - 1  # the host's bar has so many
    assert set(got[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}
    torch.testing.assert_close(got[0]["x"], x, rtol=0, atol=0)
    ups = sum(b["sigma"] > a["sigma"] for a, b in itertools.pairwise(got))
    assert ups == 2
    for g in got:  # each is the state of a call of the model and what the model made of it
        (same,) = [c for c in calls if c[0] == float(g["sigma"]) and torch.equal(c[1], g["x"])]
        torch.testing.assert_close(g["denoised"], model(same[1], g["sigma"].expand(3)), rtol=0, atol=0)


def test_an_interrupt_passes_through():
    class Interrupted(Exception):
        pass

    def stop(info):
        if info["i"] == 3:
            raise Interrupted

    sigmas = grid(10)
    x = start(sigmas)
    before = x.clone()
    with pytest.raises(Interrupted):
        sample_restart(model, x, sigmas, callback=stop, disable=True)
    assert torch.equal(x, before)


def test_a_host_may_keep_what_it_is_given():
    """Caches of model inputs, previews drawn later: no tensor that a host has seen changes afterwards."""
    sigmas, kept = grid(12), []

    def keep(*tensors):
        kept.extend((t, t.clone()) for t in tensors)

    def identity(x, s):
        keep(x, s)
        return x

    told = lambda info: keep(info["x"], info["denoised"], info["sigma"])  # noqa: E731
    sample_restart(identity, start(sigmas), sigmas, callback=told, disable=True, seeds=[1, 2, 3])
    assert len(kept) > 3 * 12 and all(torch.equal(now, then) for now, then in kept)


def test_a_model_may_write_into_its_input():
    sigmas = grid(12)
    x = start(sigmas)

    def rude(x, s):
        D = model(x, s)
        x.fill_(float("nan"))
        return D

    run = lambda model: sample_restart(model, x, sigmas, disable=True, seeds=[1, 2, 3])  # noqa: E731
    assert torch.equal(run(rude), run(model))


def test_under_inference_mode():
    sigmas = grid(12)
    x = start(sigmas)
    want = sample_restart(model, x, sigmas, disable=True, seeds=[1, 2, 3])
    with torch.inference_mode():
        assert torch.equal(sample_restart(model, x.clone(), sigmas, disable=True, seeds=[1, 2, 3]), want)


def test_arguments_of_the_model_and_video_latents():
    sigmas, shape, seen = grid(8), (2, 3, 4, 4), []

    def conditioned(x, sigma, cond, scale, seed):
        assert x.shape == (2, *shape) and cond.shape == (2, 7) and seed == 5
        seen.append(scale)
        return 0.5 * x

    arguments = {"cond": torch.zeros(2, 7), "scale": 3.0, "seed": 5}
    found = sample_restart(conditioned, start(sigmas, 2, shape), sigmas, arguments, disable=True)
    assert found.shape == (2, *shape) and set(seen) == {3.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_registers_are_at_least_float32(dtype):
    """A half-precision host sees half-precision inputs, but the state does not lose its bits from step to step."""
    sigmas, D = grid(30), problems.gaussian()

    def host(x, s):
        assert x.dtype == dtype
        return D(x.float(), s).to(dtype)

    x = start(sigmas)
    exact = sample_restart(lambda x, s: D(x, s), x.to(dtype).double(), sigmas, restart=None, disable=True)
    found = sample_restart(host, x.to(dtype), sigmas, restart=None, disable=True)
    assert found.dtype == dtype
    ulp = torch.finfo(dtype).eps
    assert float((found.double() - exact).abs().max()) < max(4 * ulp, 2e-6)


# --- noise -------------------------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_batch():
    sigmas, D = grid(16), problems.gaussian()
    x, seeds = start(sigmas, 4), [9, 8, 7, 6]
    run = lambda x, seeds: sample_restart(lambda x, s: D(x, s), x, sigmas, seeds=seeds, disable=True)  # noqa: E731
    together = run(x, seeds)
    for b in range(4):
        assert torch.equal(run(x[b : b + 1], seeds[b : b + 1])[0], together[b])
    assert not torch.equal(run(x, [9, 8, 7, 5])[3], together[3])


def test_a_hosts_seed_is_seed_plus_row():
    sigmas = grid(16)
    x = start(sigmas)
    run = lambda **options: sample_restart(model, x, sigmas, disable=True, **options)  # noqa: E731
    assert torch.equal(run(extra_args={"seed": 41}), run(seeds=[41, 42, 43]))
    assert row_seeds(2**64 - 1, 2) == [2**63 - 1, 0]


def test_noise_samplers_are_asked_for_ascending_pairs_and_used():
    """One that gives what the seeds would give: the same image."""
    sigmas, pairs = grid(20), []
    x, seeds = start(sigmas), [1, 2, 3]

    def noise_sampler(sigma, sigma_next):
        pairs.append((float(sigma), float(sigma_next)))
        return rs.noise.normal(seeds, len(pairs), SHAPE)

    options = dict(restart="[3, 2, 0.3, 1.0]", s_noise=1.003, disable=True)
    found = sample_restart(model, x, sigmas, noise_sampler=noise_sampler, **options)
    (interval,) = restart_plan(sigmas, "[3, 2, 0.3, 1.0]").intervals
    assert pairs == [pytest.approx((interval.t_min, interval.t_max))] * 2
    torch.testing.assert_close(found, sample_restart(model, x, sigmas, seeds=seeds, **options), rtol=0, atol=3e-6)


def test_without_seeds_torch_makes_the_noise():
    sigmas = grid(16)
    x = start(sigmas)

    def run(seed):
        torch.manual_seed(seed)
        return sample_restart(model, x, sigmas, disable=True)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_samples_that_break_are_counted():
    sigmas = grid(8)

    def broken(x, s):
        D = model(x, s)
        D[1] = float("nan")
        return D

    with pytest.warns(RestartWarning, match="1 of 3 samples became NaN or infinite"):
        sample_restart(broken, start(sigmas), sigmas, disable=True)


def test_the_extension_for_a1111(monkeypatch):
    """The page's own code against what A1111 and Forge have: a list of samplers, and `torch` replaced in one module
    only.
    """
    page = Path(__file__).resolve().parents[2] / "docs" / "k_diffusion.md"
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S) if "modules" in c)
    sigmas, seeds, draws = grid(20), [4, 5, 6], []
    x = start(sigmas)

    class Hijack:
        def randn_like(self, like):
            draws.append(like)
            return rs.noise.normal(seeds, len(draws), like.shape[1:])

    class KDiffusionSampler:
        def __init__(self, function, sd_model):
            self.function = function

        def sample(self, x):
            k_diffusion.sampling.torch = Hijack()
            given = {"cond": 1, "uncond": 2, "cond_scale": 7.0, "image_cond": None, "s_min_uncond": 0.0}
            return self.function(
                lambda x, s, **kwargs: model(x, s),
                x,
                extra_args=given,
                disable=True,
                callback=lambda d: None,
                sigmas=sigmas,
            )

    k_diffusion = types.SimpleNamespace(sampling=types.SimpleNamespace(torch=torch))
    samplers = types.SimpleNamespace(all_samplers=[], all_samplers_map={}, set_samplers=lambda: None)
    common = types.SimpleNamespace(
        SamplerData=lambda *fields: types.SimpleNamespace(name=fields[0], constructor=fields[1])
    )
    host = types.SimpleNamespace(sd_samplers=samplers, sd_samplers_common=common)
    for name, module in {
        "k_diffusion": k_diffusion,
        "k_diffusion.sampling": k_diffusion.sampling,
        "modules": host,
        "modules.sd_samplers_kdiffusion": types.SimpleNamespace(KDiffusionSampler=KDiffusionSampler),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for _ in range(2):  # scripts are loaded again when the interface reloads
        exec(code, {})
    (added,) = samplers.all_samplers
    assert samplers.all_samplers_map == {added.name: added}
    found = added.constructor(None).sample(x)
    assert len(draws) == 2
    want = sample_restart(model, x, sigmas, restart="[3, 2, 0.3, 1.0]", seeds=seeds, disable=True)
    torch.testing.assert_close(found, want, rtol=0, atol=3e-6)


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sigmas, options, error, message",
    [
        ([1.0, 2.0, 0.0], {}, ConfigError, "must not ascend, got 1 then 2 at place 0"),
        ([1.0, float("nan"), 0.0], {}, ConfigError, "finite and ≥ 0, got nan at place 1"),
        ([1.0, None, 0.0], {}, ConfigError, "must be numbers, got None at place 1"),
        ([1.0, "a", 0.0], {}, ConfigError, "must be numbers, got 'a' at place 1"),
        ([1.0, 0.5, 0.0], {"backend": "cuda"}, BackendError, "unknown backend 'cuda'; the backends are"),
        ([[1.0, 0.5]], {}, ConfigError, "must be 1-d"),
        ("karras", {}, ConfigError, "1-d tensor or a list of levels, got str"),
        ([1.0, 0.5, 0.0], {"budget": "some"}, ConfigError, "budget must be one of steps, extra, got 'some'"),
        ([1.0, 0.5, 0.0], {"restart": "[3, 2]"}, ConfigError, "N, K, t_min, t_max"),
        ([1.0, 0.5, 0.0], {"solver": "heunn"}, ConfigError, "did you mean 'heun'"),
        ([2.0, 0.5, 0.0], {"process": "flow"}, ConfigError, r"levels of a flow model are in \(0, 1\], got 2"),
        ([1.0, 0.5, 0.0], {"seeds": [1, 2]}, SeedError, "2 seeds were given for a batch of 3"),
        ([1.0, 0.5, 0.0], {"seeds": [1, 2, -3]}, SeedError, "seed must be ≥ 0"),
        ([1.0, 0.5, 0.0], {"extra_args": {"seed": -1}}, SeedError, "seed in extra_args"),
        ([1.0, 0.5, 0.0], {"seeds": [1, 2, 3], "noise_sampler": len}, SeedError, "two sources of noise"),
    ],
)
def test_mistakes_are_named(sigmas, options, error, message):
    with pytest.raises(error, match=message):
        sample_restart(lambda x, s, **k: x, torch.zeros(3, 4), sigmas, disable=True, **options)


def test_what_is_no_state_and_no_denoised_image():
    with pytest.raises(RestartTypeError, match=r"x must be a floating tensor \[B, ...\]"):
        sample_restart(model, torch.zeros(3, 4, dtype=torch.int32), [1.0, 0.0])
    with pytest.raises(
        RestartValueError, match=r"the model must return a tensor of the shape of x, \[3, 4\], got \[3\]"
    ):
        sample_restart(lambda x, s: x[:, 0], torch.zeros(3, 4), [1.0, 0.0], disable=True)


def test_sigmas_in_every_container():
    levels = [4.0, 2.0, 1.0, 0.0]
    for given in (
        levels,
        tuple(levels),
        np.array(levels),
        torch.tensor(levels),
        list(torch.tensor(levels)),
        [4, 2, 1, 0],
    ):
        assert restart_plan(given, None).grid == (4, 2, 1, 0)


def test_nothing_to_do():
    x = torch.ones(2, 4)
    for sigmas in ([], [1.0], [0.0]):
        assert sample_restart(model, x, sigmas) is x
    assert steps([1.0]) == 0


def test_no_host_is_imported():
    """Neither k-diffusion nor ComfyUI, and the plan alone needs no torch."""
    code = (
        "import sys; from restart_sampling.integrations.k_diffusion import restart_plan, steps\n"
        "assert steps([10.0, 5.0, 1.0, 0.3, 0.1, 0.0], None) == 5\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "from restart_sampling.integrations.k_diffusion import sample_restart\n"
        "import restart_sampling.integrations.comfy\n"
        "assert not {'k_diffusion', 'comfy', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("process", ["ve", "flow"])
@pytest.mark.parametrize("to_zero", [True, False])
def test_one_level_is_one_step_of_its_own_process(process, to_zero):
    plan = restart_plan([0.6, 0.0] if to_zero else [0.6, 0.3], None, process=process)
    assert plan.process == process and plan.nfe == (1 if to_zero else 2)
    assert plan.grid[0] == plan.initial_noise == 0.6 and len(plan.steps) == 1


def test_a_first_level_above_one_by_rounding_is_noted_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = restart_plan([1.00005, 0.6, 0.3, 0.0], None, process="flow")
    assert plan.grid[0] == 1.0 and any("moved by rounding to 1" in note for note in plan.notes)
    with pytest.raises(ConfigError, match=r"levels of a flow model are in \(0, 1\]"):
        restart_plan([1.0002, 0.6, 0.3, 0.0], None, process="flow")


def test_an_interval_that_ends_at_the_first_level_in_float32():
    """The host's top is float32(14.6146), which is below the number that the user wrote."""
    sigmas = torch.tensor(np.append(np.geomspace(14.6146, 0.03, 19), 0.0), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = restart_plan(sigmas, "[3, 1, 0.3, 14.6147]", budget="extra")
    assert plan.intervals[0].t_max == float(sigmas[0])


def test_restart_list_is_restart():
    sigmas = np.append(np.geomspace(14.0, 0.03, 19), 0.0)
    want = restart_plan(sigmas, {0.1: [10, 2, 2]}, budget="extra")
    assert restart_plan(sigmas, restart_list={0.1: [10, 2, 2]}, budget="extra") == want
    calls = []
    x = torch.zeros(1, 1, 2, 2)
    sample_restart(lambda x, sigma: calls.append(1) or x * 0.5, x, sigmas, restart_list="[3, 1, 0.3, 1.0]")
    assert len(calls) == restart_plan(sigmas, "[3, 1, 0.3, 1.0]").nfe
    with pytest.raises(ConfigError, match="two names of one setting"):
        restart_plan(sigmas, None, restart_list="[3, 1, 0.3, 1.0]")
