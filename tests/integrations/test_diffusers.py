"""The diffusers schedulers against closed forms, the engine's sampler and diffusers' own schedulers; no network is
involved.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import problems

pytest.importorskip("diffusers")

import restart_sampling as rs
from restart_sampling.common.errors import RestartError
from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler, SchedulerError

pytestmark = pytest.mark.usefixtures("one_thread")

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
RANGE = dict(grid="karras", sigma_min=0.5, sigma_max=5.0, initial_noise="engine")
JUMPS = "[3, 2, 0.6, 2.0]"
SHAPE = (2, 4, 4)


def sd_levels() -> np.ndarray:
    """σ_t of Stable Diffusion from its definition, float64."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def network(D, prediction: str = "epsilon"):
    """What a Stable Diffusion network with the exact denoiser D would predict for its scaled input at timestep t."""
    log_levels = np.log(sd_levels())

    def F(net_in, t, _=None):
        sigma = math.exp(np.interp(float(t), np.arange(1000), log_levels))
        alpha = 1 / math.sqrt(1 + sigma**2)
        z = net_in / alpha
        x_0 = D(z, torch.tensor([sigma], dtype=torch.float64))
        eps = (z - x_0) / sigma
        return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - alpha * sigma * x_0}[prediction]

    return F


def velocity(D):
    """ε − x₀ of a flow model whose data have the denoiser D: x_t = (1 − t)x₀ + tε is (1 − t)·(x₀ + t/(1 − t)·ε)."""

    def F(x, t):
        u = min(float(t) / 1000, 1 - 1e-9)
        x_0 = D(x / (1 - u), torch.tensor([u / (1 - u)], dtype=torch.float64))
        return (x - x_0) / u

    return F


def run(scheduler, F, latents, generator=None, timesteps=None):
    """A pipeline's loop."""
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps if timesteps is None else timesteps:
        x = scheduler.step(F(scheduler.scale_model_input(x, t), t), t, x, generator=generator, return_dict=False)[0]
    return x


def latents(n: int = 3) -> torch.Tensor:
    return rs.noise.normal(range(n), 0, SHAPE)


# One sampler


@pytest.mark.parametrize("state", ["vp", "ve"])
@pytest.mark.parametrize("solver", ["heun", "euler", "dpm2", "dpm3", "dpm++2m", "ddpm"])
def test_equals_the_engine(solver, state):
    s = RestartScheduler(**SD, **RANGE, restart=JUMPS, solver=solver, state=state, steps_are="main", seeds=[0, 1, 2])
    s.set_timesteps(8)
    F = network(problems.mixture(SHAPE, c=0.8))
    got = run(s, F, latents())
    denoiser = rs.Denoiser(lambda z, c_noise, _: F(z, c_noise[0]), s.parameterization, SHAPE)
    want = rs.Sampler(denoiser, s.plan, 3).run(range(3))
    assert s.plan.draws >= 2
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_flow_equals_the_engine():
    s = FlowMatchRestartScheduler(shift=3.0, restart="[3, 2, 0.4, 0.8]", steps_are="main", seeds=[0, 1, 2])
    s.set_timesteps(6)
    F = velocity(problems.mixture(SHAPE, c=0.8))
    got = run(s, F, latents())
    denoiser = rs.Denoiser(lambda z, c_noise, _: F(z, c_noise[0]), s.parameterization, SHAPE)
    want = rs.Sampler(denoiser, s.plan, 3).run(range(3))
    assert s.plan.draws == 2
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("dpm++2m", 2)])
def test_converges_to_the_exact_ode_solution(solver, order):
    """Gaussian data: the state at sigma_min is known, and the last step returns D of it, c²/(c² + σ²) times it."""
    x, c = latents().double(), 0.5
    errors, sizes = [], [17, 33, 65]
    for n in sizes:
        s = RestartScheduler(**SD, **RANGE, restart=None, solver=solver, steps_are="main")
        s.set_timesteps(n)
        got = run(s, network(problems.gaussian(c)), x)
        want = c**2 / (c**2 + 0.25) * problems.gaussian_flow(5.0 * x, 5.0, 0.5, c)
        errors.append(float((got - want).abs().max()))
    slope = -np.polyfit(np.log(np.array(sizes) - 1), np.log(errors), 1)[0]
    assert abs(slope - order) <= 0.15


def test_predictions_agree():
    results = []
    for prediction in ("epsilon", "v_prediction", "sample"):
        s = RestartScheduler(
            **SD, **RANGE, restart=JUMPS, prediction_type=prediction, steps_are="main", seeds=[0, 1, 2]
        )
        s.set_timesteps(8)
        results.append(run(s, network(problems.mixture(SHAPE), prediction), latents()))
    for other in results[1:]:
        assert (other - results[0]).abs().max() <= 2e-5 * results[0].abs().max()


def test_states_are_one_run():
    results = []
    for state in ("vp", "ve"):
        s = RestartScheduler(**SD, **RANGE, restart=JUMPS, state=state, steps_are="main", seeds=[0, 1, 2])
        s.set_timesteps(8)
        results.append(run(s, network(problems.mixture(SHAPE)), latents()))
    assert (results[0] - results[1]).abs().max() <= 1e-5 * results[0].abs().max()


def variance_after_the_first_jump(s, F, data_variance, start):
    """(sample variance, expected variance) after the call that jumps, of many independent elements."""
    k = int((s.sigmas[1:-1] > s.sigmas[:-2]).nonzero()[0])
    generator = torch.Generator().manual_seed(0)
    x = start * s.init_noise_sigma
    for t in s.timesteps[: k + 1].tolist() if k == 0 else list(s.timesteps)[: k + 1]:
        x = s.step(F(s.scale_model_input(x, t), t), t, x, generator=generator, return_dict=False)[0]
    return float(x.var()), data_variance(float(s.sigmas[k + 1]))


@pytest.mark.parametrize("state", ["vp", "ve"])
def test_a_jump_gives_the_law_of_its_level(state):
    """x₀ ~ N(0, c²): after the jump the variance is c² + t_max², times ᾱ in VP scale; without noise half of that."""
    c = 0.5
    s = RestartScheduler(**SD, **RANGE, restart=JUMPS, state=state, steps_are="main")
    s.set_timesteps(30)
    start = torch.randn(1, 1, 400, 500, generator=torch.Generator().manual_seed(1)) * math.sqrt(1 + c**2 / 25)

    def want(t):
        return (c**2 + t**2) / (1 + t**2 if state == "vp" else 1)

    got, want = variance_after_the_first_jump(s, network(problems.gaussian(c)), want, start)
    assert got == pytest.approx(want, rel=0.015)


def test_a_flow_jump_gives_the_law_of_its_level():
    c = 0.5
    s = FlowMatchRestartScheduler(restart="[3, 2, 0.3, 0.7]", steps_are="main")
    s.set_timesteps(30)
    start = torch.randn(1, 1, 400, 500, generator=torch.Generator().manual_seed(1))
    got, want = variance_after_the_first_jump(
        s, velocity(problems.gaussian(c)), lambda t: (1 - t) ** 2 * c**2 + t**2, start
    )
    assert got == pytest.approx(want, rel=0.015)


# Against diffusers' own schedulers


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_euler_without_restart_is_diffusers_euler(spacing):
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(**SD, timestep_spacing=spacing)
    ours = RestartScheduler.from_config(
        theirs.config, timestep_spacing=spacing, restart=None, solver="euler", state="ve"
    )
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    assert np.abs(np.array(ours.timesteps.tolist()) - np.array(theirs.timesteps.tolist())).max() <= 0.5
    F, x = network(problems.mixture(SHAPE)), latents() * 10
    a = x.clone()
    for t in theirs.timesteps:
        a = theirs.step(F(theirs.scale_model_input(a, t), t), t, a).prev_sample
    b = run(ours, F, x / ours.init_noise_sigma)
    # linspace: diffusers interpolates sigma linearly between timesteps that it rounds nowhere, here ln sigma is
    #     interpolated
    assert (a - b).abs().max() <= (1e-3 if spacing == "linspace" else 2e-5) * a.abs().max()


def test_heun_without_restart_is_diffusers_heun():
    from diffusers import HeunDiscreteScheduler

    theirs = HeunDiscreteScheduler(**SD, use_karras_sigmas=True, timestep_spacing="linspace")
    ours = RestartScheduler.from_config(theirs.config, restart=None, state="ve", steps_are="main")
    theirs.set_timesteps(9)
    ours.set_timesteps(9)
    assert len(ours.timesteps) == len(theirs.timesteps) == 17
    F, x = network(problems.mixture(SHAPE)), latents() * 10
    a = x.clone()
    for t in theirs.timesteps:
        a = theirs.step(F(theirs.scale_model_input(a, t), t), t, a).prev_sample
    b = run(ours, F, x / ours.init_noise_sigma)
    assert (a - b).abs().max() <= 2e-3 * a.abs().max()  # theirs rounds the timesteps it tells the network


def test_flow_euler_without_restart_is_diffusers_flow_euler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = FlowMatchRestartScheduler.from_config(theirs.config, solver="euler")
    theirs.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    ours.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    F, x = velocity(problems.mixture(SHAPE)), latents()
    a = x.clone()
    for t in theirs.timesteps:
        a = theirs.step(F(a, t), t, a).prev_sample
    b = run(ours, F, x)
    assert (a - b).abs().max() <= 2e-5 * a.abs().max()


@pytest.mark.parametrize(
    "betas",
    [
        SD,
        {},
        dict(beta_schedule="squaredcos_cap_v2"),
        dict(trained_betas=np.linspace(0.001, 0.02, 1000).tolist()),
        dict(**SD, rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    ],
    ids=["sd", "linear", "cosine", "trained", "zero-snr"],
)
def test_levels_are_those_of_diffusers(betas):
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(**betas)
    ours = RestartScheduler.from_config(theirs.config)
    a = theirs.alphas_cumprod.double().numpy()
    b = 1 / (1 + ours._levels**2)
    assert np.abs(a - b).max() <= 2e-6  # theirs are float32 products of a thousand factors


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "HeunDiscreteScheduler",
    ],
)
def test_from_config_of_the_schedulers_models_come_with(name):
    import diffusers

    theirs = getattr(diffusers, name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ours = RestartScheduler.from_config(theirs.config, restart=JUMPS)
    assert ours.config.restart == JUMPS
    assert np.abs(ours._levels / sd_levels() - 1).max() <= 1e-9
    assert theirs.__class__ in ours.compatibles
    back = type(theirs).from_config(ours.config)
    assert back.config.beta_end == 0.012


# What was asked for, and what runs


@pytest.mark.parametrize("asked", [9, 21, 35, 50, 66, 100])
def test_num_inference_steps_is_the_number_of_calls(asked):
    """DDIM with Heun inside intervals always fits; Heun everywhere is odd, so even requests run one call less and say
    so.
    """
    s = RestartScheduler(**SD, solver="euler", restart_solver="heun", restart="[3, 1, 1.0, 2.0]")
    s.set_timesteps(asked)
    assert len(s.timesteps) == s.plan.nfe == s.num_inference_steps == asked
    s = RestartScheduler(**SD, restart="[3, 1, 1.0, 2.0]")
    if asked % 2:
        s.set_timesteps(asked)
        assert len(s.timesteps) == asked
    else:
        with pytest.warns(UserWarning, match=f"{asked} network calls were asked for and {asked - 1} will run"):
            s.set_timesteps(asked)
        assert len(s.timesteps) == asked - 1 == s.plan.nfe


def test_steps_are_main():
    s = RestartScheduler(**SD, restart="[3, 2, 1.0, 2.0]", steps_are="main")
    s.set_timesteps(12)
    assert len(s.timesteps) == 2 * 12 - 1 + 2 * 2 * 2


def test_too_few_calls_are_an_error():
    s = RestartScheduler(**SD, restart="[10, 2, 0.1, 2]")
    with pytest.raises(RestartError, match="20 network calls do not hold this plan"):
        s.set_timesteps(20)


@pytest.mark.parametrize("w", [2, 3, 5, 8])
def test_auto_is_the_paper(w):
    """66 calls are the published run: DDIM over 30 timesteps, Heun in the intervals of Table 10."""
    s = RestartScheduler(**SD, guidance_scale=w)
    s.set_timesteps(66)
    want = rs.preset(f"sd15-w{w}")
    assert [i.asked for i in s.plan.intervals] == [i.asked for i in want.intervals]
    assert s.plan.nfe == 66
    if w > 2:  # the formula gives 62 for w = 2, so there 66 calls hold 34 main steps
        assert s.plan.grid == pytest.approx(want.grid, rel=1e-12)
        assert [i.levels for i in s.plan.intervals] == [pytest.approx(i.levels) for i in want.intervals]


def test_auto_takes_the_nearest_published_guidance_scale_and_says_so():
    s = RestartScheduler(**SD)
    with pytest.warns(UserWarning, match="no intervals for guidance scale 4.2; those for 5 are used"):
        s.set_timesteps(66, guidance_scale=4.2)


def test_auto_below_66_calls_shrinks_and_says_so():
    s = RestartScheduler(**SD)
    with pytest.warns(UserWarning, match="20 network calls do not hold the paper's intervals"):
        s.set_timesteps(20)
    assert len(s.timesteps) == 20 and s.plan.draws == 2


def test_custom_sigmas_and_timesteps_are_the_main_grid():
    s = RestartScheduler(**SD, restart=None)
    s.set_timesteps(sigmas=[10.0, 3.0, 1.0, 0.1, 0.0])
    assert s.plan.grid == (10.0, 3.0, 1.0, 0.1, 0.0) and len(s.timesteps) == 7
    s.set_timesteps(timesteps=[900, 500, 100])
    assert s.plan.grid[:-1] == pytest.approx(sd_levels()[[900, 500, 100]])


# Image to image


@pytest.mark.filterwarnings("ignore:Restart interval")
@pytest.mark.parametrize("restart", [None, "[3, 2, 0.2, 1.0]"])
@pytest.mark.parametrize("steps_are, asked", [("nfe", 31), ("main", 12)])
def test_a_run_that_begins_later_begins_at_a_step_and_is_whole(restart, steps_are, asked):
    s = RestartScheduler(**SD, restart=restart, grid="karras", steps_are=steps_are)
    s.set_timesteps(asked)
    grid, calls, levels = s.plan.grid, [], []
    for begin in range(asked):
        cut = s.timesteps[begin:]
        s.set_begin_index(begin)
        levels.append(float(s.sigmas[0]))
        calls.append(len(cut))
        assert len(cut) == s.plan.nfe
        assert np.abs(np.array(grid) - levels[-1]).min() <= 1e-6 * levels[-1]  # a point of the whole run's grid
        assert s.sigmas.max() <= levels[-1] * (1 + 1e-6)  # nothing is lifted above the level where it begins
        assert s.plan.nfe == 2 * s.plan.config.steps - 1 + sum(2 * i.K * (i.N - 1) for i in s.plan.intervals)
    assert levels == sorted(levels, reverse=True) and calls == sorted(calls, reverse=True)
    begin = asked * 4 // 10  # strength 0.6: the level of this share of the main grid, or the one above
    assert levels[begin] >= grid[math.ceil(begin * (len(grid) - 1) / asked)] * (1 - 1e-6)


def test_a_jump_above_the_begin_is_left_out_and_said():
    s = RestartScheduler(**SD, restart="[3, 2, 0.1, 1.0]", grid="karras", steps_are="main")
    s.set_timesteps(18)
    with pytest.warns(UserWarning, match=r"Restart interval 0 .* is left out of a run that begins at"):
        s.timesteps[13:]
    s.set_begin_index(13)
    assert not s.plan.intervals and len(s.timesteps[13:]) == 2 * 5 - 1


def test_a_later_run_equals_the_engine():
    s = RestartScheduler(**SD, **RANGE, restart="[3, 2, 0.7, 1.5]", steps_are="main", seeds=[0, 1, 2])
    s.set_timesteps(10)
    cut = s.timesteps[4:]
    s.set_begin_index(4)
    D = problems.mixture(SHAPE)
    F, start = network(D), latents()
    got = run(s, F, start, timesteps=cut)
    denoiser = rs.Denoiser(lambda z, c_noise, _: F(z, c_noise[0]), s.parameterization, SHAPE)
    want = rs.Sampler(denoiser, s.plan, 3).run(range(3))
    assert s.plan.intervals and (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("state", ["vp", "ve"])
def test_add_noise(state):
    s = RestartScheduler(**SD, restart=JUMPS, state=state)
    x, eps = latents(), torch.randn(3, *SHAPE)
    sigma = torch.tensor(sd_levels()[[0, 500, 999]], dtype=torch.float32).view(3, 1, 1, 1)
    want = (x + sigma * eps) / (torch.sqrt(1 + sigma**2) if state == "vp" else 1)
    got = s.add_noise(x, eps, torch.tensor([0, 500, 999]))
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_scale_noise():
    s = FlowMatchRestartScheduler()
    x, eps = latents(), torch.randn(3, *SHAPE)
    got = s.scale_noise(x, torch.tensor([250.0]), eps)
    assert (got - (0.75 * x + 0.25 * eps)).abs().max() <= 1e-6


def test_masks_and_callbacks_are_followed():
    """What a pipeline puts into the sample between two solver steps is where the next step starts."""
    s = RestartScheduler(**SD, **RANGE, restart=None, solver="euler")
    s.set_timesteps(6)
    D = problems.gaussian(0.5)
    x = latents() * s.init_noise_sigma
    for k, t in enumerate(s.timesteps):
        x = s.step(network(D)(s.scale_model_input(x, t), t), t, x, return_dict=False)[0]
        if k == 2:
            x[:] = 0.0  # in place: the same object with another content
    assert x.abs().max() == 0


# Noise


def test_a_sample_does_not_depend_on_its_batch():
    F, x = network(problems.mixture(SHAPE)), latents(4)

    def sampled(rows, **how):
        s = RestartScheduler(**SD, **RANGE, restart=JUMPS, steps_are="main", seeds=how.get("seeds"))
        s.set_timesteps(6)
        return run(s, F, x[rows], how.get("generator"))

    def generators(rows):
        return [torch.Generator().manual_seed(100 + r) for r in rows]

    whole, one = sampled([0, 1, 2, 3], seeds=[5, 6, 7, 8]), sampled([2], seeds=[7])
    assert (whole[2] - one[0]).abs().max() <= 1e-6 * whole.abs().max()
    whole, one = (sampled(r, generator=generators(r)) for r in ([0, 1, 2, 3], [2]))
    assert (whole[2] - one[0]).abs().max() <= 1e-6 * whole.abs().max()


def test_seeds_must_fit_the_batch():
    s = RestartScheduler(**SD, **RANGE, restart=JUMPS, steps_are="main", seeds=[1, 2])
    s.set_timesteps(6)
    with pytest.raises(RestartError, match="2 seeds were set for a batch of 3"):
        run(s, network(problems.gaussian()), latents(3))


def test_half_precision_keeps_its_registers_in_float32():
    """With bfloat16 samples the result is that of float32 up to what the network's own rounding does."""
    F = network(problems.gaussian(0.5))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        s = RestartScheduler(**SD, **RANGE, restart=None, steps_are="main")
        s.set_timesteps(40)
        out = run(s, lambda z, t, d=dtype: F(z.float(), t).to(d), latents().to(dtype))
        assert out.dtype == dtype
        results.append(out.float())
    assert (results[0] - results[1]).abs().max() <= 0.02 * results[0].abs().max()


# State


def test_save_and_load(tmp_path):
    s = RestartScheduler(**SD, restart={0.1: [10, 2, 2]}, solver="euler", restart_solver="heun", s_noise=1.003)
    s.save_pretrained(tmp_path)
    again = RestartScheduler.from_pretrained(tmp_path)
    s.set_timesteps(66)
    again.set_timesteps(66)
    assert again.plan.digest == s.plan.digest and again.config.s_noise == 1.003
    f = FlowMatchRestartScheduler(shift=3.0, restart=rs.RestartConfig.parse("[3, 2, 0.3, 0.7]"))
    f.save_pretrained(tmp_path)
    again = FlowMatchRestartScheduler.from_pretrained(tmp_path)
    f.set_timesteps(29)
    again.set_timesteps(29)
    assert again.plan.digest == f.plan.digest


def test_a_copy_goes_on_by_itself():
    F = network(problems.mixture(SHAPE))
    s = RestartScheduler(**SD, **RANGE, restart=JUMPS, steps_are="main", seeds=[0, 1, 2])
    s.set_timesteps(6)
    x = latents() * s.init_noise_sigma
    steps = list(s.timesteps)
    for t in steps[:4]:
        x = s.step(F(s.scale_model_input(x, t), t), t, x, return_dict=False)[0]
    twin, y = copy.deepcopy(s), x.clone()
    for t in steps[4:]:
        x = s.step(F(x, t), t, x, return_dict=False)[0]
    for t in list(twin.timesteps)[4:]:
        y = twin.step(F(y, t), t, y, return_dict=False)[0]
    assert (x - y).abs().max() <= 1e-6 * x.abs().max()


def test_set_timesteps_begins_afresh():
    F = network(problems.mixture(SHAPE))
    s = RestartScheduler(**SD, **RANGE, restart=JUMPS, solver="dpm++2m", steps_are="main", seeds=[0, 1, 2])
    results = []
    for _ in range(2):
        s.set_timesteps(6)
        results.append(run(s, F, latents()))
    assert torch.equal(*results)


# Errors


def prepared(**options):
    s = RestartScheduler(**SD, restart=None, **options)
    s.set_timesteps(9)
    return s


def test_step_without_set_timesteps():
    s, x = RestartScheduler(**SD), latents()
    with pytest.raises(SchedulerError, match="call set_timesteps"):
        s.step(x, 10, x)


def test_a_repeated_and_a_skipped_call():
    s, x = prepared(), latents()
    t = s.timesteps
    s.step(x, t[0], x)
    with pytest.raises(SchedulerError, match="entry 0 of timesteps, but entry 1 is next"):
        s.step(x, t[0], x)
    with pytest.raises(SchedulerError, match="entry 3 of timesteps, but entry 1 is next"):
        s.step(x, t[3], x)
    with pytest.raises(SchedulerError, match="was called with timestep 3, but"):
        s.step(x, 3, x)


def test_one_call_too_many():
    s, x = prepared(), latents()
    for t in s.timesteps:
        x = s.step(x, t, x).prev_sample
    with pytest.raises(SchedulerError, match="all 9 network calls of this run were made"):
        s.step(x, 0, x)


def test_ve_without_scaling_is_refused():
    s, x = prepared(state="ve"), latents()
    with pytest.raises(SchedulerError, match="does not call scale_model_input"):
        s.step(x, s.timesteps[0], x)
    scaled = s.scale_model_input(x, s.timesteps[0])
    with pytest.raises(SchedulerError, match="given the scaled input"):
        s.step(x, s.timesteps[0], scaled)


def test_hand_over_is_refused():
    s = prepared()
    with pytest.raises(SchedulerError, match="denoising_end"):
        s.timesteps[:4]
    with pytest.raises(SchedulerError, match="denoising_start"):
        _ = s.timesteps < 300
    assert len(s.timesteps[:1]) == 1 and len(s.timesteps[2:4]) == 2 and len(s.timesteps[9:]) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prediction_type="score"), "prediction_type must be one of epsilon, v_prediction, sample"),
        (dict(prediction_type="flow_prediction"), "FlowMatchRestartScheduler"),
        (dict(beta_schedule="cubic"), "beta_schedule must be one of"),
        (dict(restart=[3, 2, 1.0]), "takes 4 numbers, got 3"),
        (dict(steps_are="calls"), "steps_are must be one of nfe, main"),
        (dict(state="edm"), "state must be one of vp, ve"),
        (dict(rescale_betas_zero_snr=True), "needs a model that predicts v"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(RestartError, match=message):
        RestartScheduler(**options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(sigmas=[1.0, 2.0, 3.0]), "strictly descending"),
        (dict(timesteps=[900, 1200]), "timesteps must lie between 0 and 999"),
        (dict(num_inference_steps=0), "must be an integer ≥ 1"),
        (dict(), "exactly one of"),
        (dict(num_inference_steps=5, sigmas=[3.0, 1.0]), "exactly one of"),
    ],
)
def test_wrong_set_timesteps(arguments, message):
    s = RestartScheduler(**SD, restart=None, solver="euler")
    with pytest.raises(RestartError, match=message):
        s.set_timesteps(**arguments)


def test_more_steps_than_the_model_has():
    with pytest.raises(RestartError, match="has 1000 levels"):
        RestartScheduler(**SD, restart=None, steps_are="main").set_timesteps(2000)


def test_models_of_another_kind_are_refused():
    from diffusers import EDMEulerScheduler, EulerDiscreteScheduler

    continuous = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    for config in (EDMEulerScheduler(sigma_data=0.6).config, continuous.config):
        with pytest.raises(RestartError, match="continuous EDM noise levels"):
            RestartScheduler.from_config(config)
    with pytest.raises(RestartError, match="invert_sigmas is not supported"):
        FlowMatchRestartScheduler(invert_sigmas=True)
    with pytest.raises(RestartError, match="give intervals"):
        FlowMatchRestartScheduler(restart="auto")
    with pytest.raises(RestartError, match="needs mu"):
        FlowMatchRestartScheduler(use_dynamic_shifting=True).set_timesteps(9)


# Imports

_BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "diffusers" or name.startswith("diffusers."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from restart_sampling.common.errors import BackendError
try:
    from restart_sampling.integrations.diffusers import RestartScheduler
except BackendError as error:
    print(error)
"""
_PLAIN = """
import sys
import restart_sampling, restart_sampling.integrations, restart_sampling.integrations.diffusers
print(sorted(m for m in ("diffusers", "transformers", "torch") if m in sys.modules))
"""


def output(code: str) -> str:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(os.path.join(root, d) for d in ("engine", "kernels", "bindings"))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    ).stdout.strip()


def test_without_diffusers_one_line_says_what_to_install():
    message = output(_BLOCKED)
    assert message.count("\n") == 0
    assert "RestartScheduler needs diffusers" in message
    assert "pip install 'restart-sampling[diffusers]'" in message


def test_importing_the_package_imports_no_diffusers():
    assert output(_PLAIN) == "[]"
