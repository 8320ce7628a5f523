"""Levels and starts that pipelines ask of the schedulers: given levels, image-to-image, DDIM and Euler dropped in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
from diffusers.schedulers import AysSchedules
from support import diffusers_pipelines as tiny

from restart_sampling.common.errors import RestartError
from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler, SchedulerError

pytestmark = pytest.mark.usefixtures("one_thread")

diffusers.utils.logging.set_verbosity_error()
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PLAIN = dict(restart=None, solver="euler")


# Levels that a library gives


SCHEDULES = {
    "euler": diffusers.EulerDiscreteScheduler(**SD),
    "euler leading": diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading", steps_offset=1),
    "euler trailing": diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing"),
    "karras": diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True),
    "exponential": diffusers.EulerDiscreteScheduler(**SD, use_exponential_sigmas=True),
    "beta": diffusers.EulerDiscreteScheduler(**SD, use_beta_sigmas=True),
    "log linear": diffusers.EulerDiscreteScheduler(**SD, interpolation_type="log_linear"),
    "sigma_min": diffusers.EulerDiscreteScheduler(**SD, final_sigmas_type="sigma_min"),
    "lu": diffusers.DPMSolverMultistepScheduler(**SD, use_lu_lambdas=True),
    "dpm karras": diffusers.DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True),
    "unipc exponential": diffusers.UniPCMultistepScheduler(**SD, use_exponential_sigmas=True),
    "deis karras": diffusers.DEISMultistepScheduler(**SD, use_karras_sigmas=True),
    "sa beta": diffusers.SASolverScheduler(**SD, use_beta_sigmas=True),
    "lms": diffusers.LMSDiscreteScheduler(**SD),
    "ancestral": diffusers.EulerAncestralDiscreteScheduler(**SD),
}


@pytest.mark.parametrize("how", ["list", "numpy", "torch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_of_every_schedule_of_diffusers_are_taken(name, how):
    theirs = SCHEDULES[name]
    theirs.set_timesteps(12)
    given = theirs.sigmas if how == "torch" else theirs.sigmas.numpy() if how == "numpy" else theirs.sigmas.tolist()
    ours = RestartScheduler.from_config(diffusers.DDIMScheduler(**SD).config, **PLAIN)
    ours.set_timesteps(sigmas=given)
    want = np.unique(theirs.sigmas.numpy()[theirs.sigmas.numpy() > 0])[::-1]
    assert np.allclose(ours.sigmas[:-1], want, rtol=2e-5) and len(ours.timesteps) == len(want)
    low, high = float(ours._levels[0]), float(ours._levels[-1])
    assert low <= min(ours.plan.grid[:-1]) and max(ours.plan.grid) <= high


def test_all_thousand_levels_of_euler():
    theirs = diffusers.EulerDiscreteScheduler(**SD)
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    ours.set_timesteps(sigmas=theirs.sigmas.tolist())
    assert ours.plan.nfe == 1000 and any("moved by rounding" in note for note in ours.plan.notes)


@pytest.mark.parametrize("name", ["StableDiffusion", "StableDiffusionXL"])
def test_align_your_steps(name):
    """Tables of 10 steps; the levels are printed with three decimals, so the first is 2e-5 above the model's."""
    ours = RestartScheduler(**SD, **PLAIN)
    ours.set_timesteps(timesteps=AysSchedules[f"{name}Timesteps"])
    assert [round(t) for t in ours.timesteps.tolist()] == AysSchedules[f"{name}Timesteps"]
    exact = ours.plan.grid
    ours.set_timesteps(sigmas=AysSchedules[f"{name}Sigmas"])
    assert len(ours.timesteps) == 10 and "moved by rounding" in ours.plan.explain()
    assert ours.plan.grid[0] == ours._levels[-1]
    assert np.allclose(ours.plan.grid, exact, rtol=0.02)


def test_levels_outside_stay_an_error():
    ours = RestartScheduler(**SD, **PLAIN)
    with pytest.raises(RestartError, match="give levels inside that range"):
        ours.set_timesteps(sigmas=[15.0, 1.0, 0.0])


@pytest.mark.parametrize("how", [list, np.float32, torch.tensor])
def test_flow_levels_in_every_container(how):
    ours = FlowMatchRestartScheduler(shift=3.0, solver="euler")
    ours.set_timesteps(sigmas=how(np.array([1.0000001, 0.6, 0.2], dtype=np.float32)))
    assert ours.plan.grid[0] == 1.0 and len(ours.timesteps) == 3
    with pytest.raises(RestartError, match="4 steps were asked for and 3 levels given"):
        ours.set_timesteps(4, sigmas=[1.0, 0.6, 0.2])


@pytest.mark.parametrize("end, given", [("sigma_max", 20.0), ("sigma_min", 0.001)])
def test_an_end_outside_the_models_levels_is_cut_and_said(end, given):
    ours = RestartScheduler(**SD, **PLAIN, grid="karras", **{end: given})
    with pytest.warns(UserWarning, match=f"{end} = {given:g} is outside the model's levels"):
        ours.set_timesteps(10)
    assert ours.plan.grid[0] == ours._levels[-1] and ours.plan.grid[-2] == ours._levels[0]


# One step


@pytest.mark.parametrize(
    "options", [dict(timestep_spacing="trailing"), dict(timestep_spacing="linspace"), dict(grid="karras")]
)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_one_step_begins_at_the_highest_level(options, solver):
    ours = RestartScheduler(**SD, restart=None, solver=solver, **options)
    ours.set_timesteps(1)
    assert ours.timesteps.tolist() == [999.0] and ours.plan.nfe == 1
    flow = FlowMatchRestartScheduler(shift=3.0, solver=solver)
    flow.set_timesteps(1)
    assert flow.timesteps.tolist() == [1000.0] and flow.plan.nfe == 1


def test_one_step_of_leading_timesteps_says_that_two_are_the_least():
    with pytest.raises(RestartError, match="two steps are the least there, or use timestep_spacing='trailing'"):
        RestartScheduler(**SD, **PLAIN).set_timesteps(1)


# Dropped in


def network(x, t):
    """Something smooth of x and t."""
    return torch.tanh(x * (1 + 0.001 * float(t)) + 0.1) * 0.8


def walked(scheduler, n, latents):
    scheduler.set_timesteps(n)
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_euler_without_restart_is_ddim(prediction, spacing):
    """Not with linspace: DDIM steps down by T // N there, whatever its own timesteps are."""
    theirs = diffusers.DDIMScheduler(
        **SD, steps_offset=1, clip_sample=False, prediction_type=prediction, timestep_spacing=spacing
    )
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b = walked(theirs, 20, x), walked(ours, 20, x)
    assert ours.init_noise_sigma == theirs.init_noise_sigma == 1
    assert (a - b).abs().max() <= 2e-5 * a.abs().max()


def test_euler_without_restart_is_ddim_with_zero_snr():
    theirs = diffusers.DDIMScheduler(
        **SD,
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b = walked(theirs, 20, x), walked(ours, 20, x)
    assert (a - b).abs().max() <= 1e-3 * a.abs().max()  # ᾱ is 0 there, 2⁻²⁴ here: √ᾱ = 2.4e-4


@pytest.mark.parametrize("beta_end", [0.02, 0.03])
def test_zero_snr_of_betas_whose_other_levels_pass_the_last(beta_end):
    """DDPM's own betas: σ is 15,406 one below the last, which diffusers sets to 4,096. DDIM's ᾱ there is 0, ours
    nearly.
    """
    config = dict(beta_start=1e-4, beta_end=beta_end, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    theirs = diffusers.DDIMScheduler(**config, clip_sample=False, timestep_spacing="trailing")
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    below, last = ours._levels[-2:]
    assert last == pytest.approx(2 * below, rel=1e-6) and below > 4096
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b = walked(theirs, 20, x), walked(ours, 20, x)
    assert (a - b).abs().max() <= 1e-3 * a.abs().max()
    usual = RestartScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert usual._levels[-1] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_euler_without_restart_is_euler(spacing):
    theirs = diffusers.EulerDiscreteScheduler(**SD, steps_offset=1, timestep_spacing=spacing)
    ours = RestartScheduler.from_config(theirs.config, state="ve", timestep_spacing=spacing, **PLAIN)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b = walked(theirs, 10, x), walked(ours, 10, x)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=2e-5)
    assert (a - b).abs().max() <= 5e-5 * a.abs().max()


def test_the_engines_start_is_a_setting():
    ours = RestartScheduler(**SD, **PLAIN, initial_noise="engine", timestep_spacing="trailing")
    ours.set_timesteps(10)
    top = ours.plan.grid[0]
    assert ours.init_noise_sigma == pytest.approx(top / np.hypot(top, 1))


def test_alphas_cumprod():
    theirs, ours = diffusers.DDIMScheduler(**SD), RestartScheduler(**SD)
    assert ours.alphas_cumprod.dtype == torch.float32 and ours.alphas_cumprod.shape == (1000,)
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=2e-6)


# Image to image


STRENGTHS = [0.02, 0.03, 0.05, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.98, 1.0]


def begun(scheduler, pipe, strength, steps):
    """Level at which a pipeline's get_timesteps makes `scheduler` begin."""
    pipe.scheduler = scheduler
    scheduler.set_timesteps(steps)
    timesteps, _ = pipe.get_timesteps(steps, strength, "cpu")
    k = getattr(scheduler, "begin_index", 0) if not hasattr(scheduler, "plan") else 0
    return float(scheduler.sigmas[k]), timesteps


@pytest.fixture(scope="module")
def sd_pipe():
    return tiny.stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_strength_is_the_level_it_is_in_diffusers(sd_pipe, strength, spacing):
    config = dict(**SD, steps_offset=1, timestep_spacing=spacing)
    want, theirs = begun(diffusers.EulerDiscreteScheduler(**config), sd_pipe, strength, 50)
    for options in (dict(solver="euler"), dict(solver="heun", steps_are="main"), dict(solver="dpm++2m")):
        ours = RestartScheduler(**config, restart=None, **options)
        got, timesteps = begun(ours, sd_pipe, strength, 50)
        assert got == pytest.approx(want, rel=2e-5)
        calls = 2 * len(theirs) - 1 if options["solver"] == "heun" else len(theirs)
        assert len(timesteps) == ours.plan.nfe == calls


def test_the_smallest_strength_in_numbers(sd_pipe):
    config = dict(**SD, steps_offset=1)
    for options in (PLAIN, dict(restart=None), {}):
        scheduler = RestartScheduler(**config, **options)
        got, timesteps = begun(scheduler, sd_pipe, 0.02, 50)
        assert got == pytest.approx(0.0413, abs=1e-4) and len(timesteps) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [dict(restart=None), dict(restart="auto"), dict(restart="[3, 2, 0.3, 1.0]")])
def test_within_the_calls_it_is_the_nearest_point(sd_pipe, options):
    """Heun has half as many points for the same calls; the point nearest to diffusers' level is taken."""
    config = dict(**SD, steps_offset=1)
    for strength in STRENGTHS:
        want, _ = begun(diffusers.EulerDiscreteScheduler(**config, timestep_spacing="leading"), sd_pipe, strength, 50)
        ours = RestartScheduler(**config, **options)
        ours.set_timesteps(50)
        points = np.log(ours.plan.grid[:-1])
        got, _ = begun(ours, sd_pipe, strength, 50)
        assert abs(np.log(got / want)) <= np.abs(points - np.log(want)).min() + 1e-5


@pytest.mark.parametrize("strength", [0.01, *STRENGTHS])
def test_strength_of_flow_models(strength):
    pipe = tiny.stable_diffusion_3(diffusers.StableDiffusion3Img2ImgPipeline)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    want, timesteps = begun(theirs, pipe, strength, 50)
    for options in (dict(solver="euler"), dict(steps_are="main")):
        got, ours = begun(FlowMatchRestartScheduler(shift=3.0, **options), pipe, strength, 50)
        assert got == pytest.approx(want, rel=1e-5)
        assert len(ours) == len(timesteps) * (1 if "solver" in options else 2) - ("solver" not in options)


@pytest.mark.parametrize("strength", [0.0, 0.01, 0.019])
def test_a_strength_below_one_step_is_said_in_the_users_words(sd_pipe, strength):
    sd_pipe.scheduler = RestartScheduler(**SD, steps_offset=1, restart=None)
    with pytest.raises(SchedulerError, match=r"strength times the 5 steps .* raise strength to 0.2 or more"):
        sd_pipe(image=torch.rand(1, 3, 16, 16), **tiny.embeddings(1), strength=strength, num_inference_steps=5)


def test_an_image_at_the_smallest_strength(sd_pipe):
    sd_pipe.scheduler = RestartScheduler(**SD, steps_offset=1, restart=None)
    calls = tiny.counted(sd_pipe.unet)
    out = sd_pipe(
        image=torch.rand(1, 3, 16, 16), **tiny.embeddings(1), strength=0.2, num_inference_steps=5, output_type="pt"
    ).images
    assert len(calls) == 1 and out.isfinite().all()


# A loop written by hand


@pytest.mark.parametrize("as_list", [False, True])
def test_a_loop_from_an_entry_names_set_begin_index(as_list):
    ours, x = RestartScheduler(**SD, **PLAIN), torch.zeros(1, 1, 2, 2)
    ours.set_timesteps(50)
    later = list(ours.timesteps)[25:] if as_list else ours.timesteps[25:]
    with pytest.raises(SchedulerError, match=r"call set_begin_index\(25\) first and loop over timesteps\[25:\]"):
        ours.step(x, later[0], x)
    ours.set_begin_index(25)
    for t in ours.timesteps[25:]:
        x = ours.step(x, t, x).prev_sample
    assert ours.step_index == 25


# The engine around a pipeline's network reads the same config


def test_the_denoiser_of_a_pipeline_has_the_models_levels():
    from restart_sampling.integrations.diffusers import denoiser_of

    pipe = tiny.stable_diffusion()
    pipe.scheduler = diffusers.CogVideoXDDIMScheduler()
    known = denoiser_of(pipe, **tiny.embeddings(1)).parameterization
    top = float(pipe.scheduler.alphas_cumprod[-1].double())
    assert known.sigma_max == pytest.approx(np.sqrt((1 - top) / top), rel=1e-4)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(RestartError, match="use FlowMatchRestartScheduler"):
        denoiser_of(pipe, **tiny.embeddings(1))
    pipe = tiny.stable_diffusion_3()
    pipe.scheduler = diffusers.DDIMScheduler(**SD)
    with pytest.raises(RestartError, match="use RestartScheduler"):
        denoiser_of(pipe, **tiny.embeddings(1, pooled=True), height=16, width=16)
