"""`solver="config"`: the steps of the scheduler that a config is of, by its settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import diffusers

from restart_sampling.common.errors import ConfigError
from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler
from restart_sampling.integrations.diffusers.kinds import BETAS, FLOW, KINDS
from restart_sampling.integrations.diffusers.solvers import PLAIN, RULES, solver_of
from restart_sampling.plan.levels import sd_sigmas
from restart_sampling.solvers import get_solver

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LOW, HIGH = sd_sigmas()[[200, 800]]
DPM, UNIPC, DEIS = (f"{name}MultistepScheduler" for name in ("DPMSolver", "UniPC", "DEIS"))
SA = "SASolverScheduler"


def dpm(order, algorithm="dpmsolver++", kind="midpoint", **more):
    return {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind, **more}


@pytest.mark.parametrize(
    "scheduler, settings, solver, eta",
    [
        (DPM, dpm(1), "euler", 1),
        (DPM, {}, "dpm++2m", 1),
        (DPM, dpm(2, kind="heun"), "dpm++2m-sde:variant=heun", 0),
        (DPM, dpm(2, kind="bh2"), "dpm++2m", 1),
        (DPM, dpm(3), "dpm++3m:lower_final=true,variant=diffusers", 1),
        (DPM, dpm(3, kind="heun", lower_order_final=False), "dpm++3m:variant=k-diffusion", 1),
        (DPM, dpm(1, "sde-dpmsolver++"), "sa-solver:corrector=0,predictor=1", 1),
        (DPM, dpm(2, "sde-dpmsolver++"), "dpm++2m-sde", 1),
        (DPM, dpm(2, "sde-dpmsolver++", "heun"), "dpm++2m-sde:variant=heun", 1),
        (DPM, dpm(2, "dpmsolver"), "dpm-solver:lower_final=true,variant=diffusers", 1),
        (DPM, dpm(3, "dpmsolver"), "dpm-solver:lower_final=true,order=3,variant=diffusers", 1),
        (DPM, dpm(2, "sde-dpmsolver", "heun"), "dpm-solver:lower_final=true,sde=true,second=heun,variant=diffusers", 1),
        (UNIPC, {}, "unipc:order=2", 1),
        (UNIPC, {"solver_order": 3, "solver_type": "bh1", "lower_order_final": False},
         "unipc:lower_final=false,variant=bh1", 1),
        (DEIS, {"solver_order": 1}, "euler", 1),
        (DEIS, {}, "deis:lower_final=true,order=2,variant=log-rho", 1),
        (SA, {}, f"sa-solver:corrector=2,predictor=2,simple=true,tau_at=start,tau_max={HIGH},tau_min={LOW}", 1),
        ("DDPMScheduler", {}, "ddpm", 1),
        ("DDIMScheduler", {}, "euler", 1),
        ("EulerDiscreteScheduler", {}, "euler", 1),
        ("EulerAncestralDiscreteScheduler", {}, "euler-ancestral", 1),
        ("HeunDiscreteScheduler", {}, "heun", 1),
        ("KDPM2DiscreteScheduler", {}, "dpm2", 1),
        ("KDPM2AncestralDiscreteScheduler", {}, "dpm2-ancestral", 1),
        ("LMSDiscreteScheduler", {}, "lms:to_zero=k-diffusion", 1),
        ("LCMScheduler", {}, "lcm:boundary=true", 1),
        ("TCDScheduler", {}, "tcd", 0.3),
    ],
)  # fmt: skip
def test_a_model_with_betas_gets_the_solver_of_its_scheduler(scheduler, settings, solver, eta):
    if (noise_form := settings.get("algorithm_type", "").endswith("dpmsolver")) and scheduler == DPM:
        settings = {**settings, "final_sigmas_type": "sigma_min"}
    theirs = getattr(diffusers, scheduler)(**SD, **settings)
    for config, name in ((theirs, "config"), ({**theirs.config, "_class_name": "PNDMScheduler"}, scheduler)):
        ours = RestartScheduler.from_config(config, solver=name, restart=None, steps_are="main")
        assert get_solver(ours.config.solver).spec == get_solver(solver).spec
        assert ours.config.eta == eta
        ours.set_timesteps(6)
        assert get_solver(ours.plan.config.solver, ours.plan.config.solver_options).spec == get_solver(solver).spec
        assert (ours.plan.steps[-1].s > 0) == noise_form


@pytest.mark.parametrize(
    "scheduler, settings, solver, eta",
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "euler", 1),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "lcm", 1),
        ("FlowMatchHeunDiscreteScheduler", {}, "heun", 1),
        ("FlowMatchLCMScheduler", {}, "lcm", 1),
        ("LTXEulerAncestralRFScheduler", {"eta": 0.6}, "euler-ancestral", 0.6),
        (UNIPC, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "unipc:order=2", 1),
        (SA, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
         "sa-solver:corrector=2,predictor=2,simple=true,tau_at=start,tau_max=0.8,tau_min=0.2", 1),
    ],
)  # fmt: skip
def test_a_flow_model_gets_the_solver_of_its_scheduler(scheduler, settings, solver, eta):
    theirs = getattr(diffusers, scheduler)(**settings)
    ours = FlowMatchRestartScheduler.from_config(theirs, solver="config", steps_are="main")
    assert (get_solver(ours.config.solver).spec, ours.config.eta) == (get_solver(solver).spec, eta)
    ours.set_timesteps(6)
    assert ours.plan.config.solver == get_solver(solver).name


def test_what_is_given_goes_before_what_the_scheduler_has():
    ours = RestartScheduler.from_config(diffusers.TCDScheduler(**SD), solver="config", eta=0.7)
    assert ours.config.eta == 0.7
    with_order = RestartScheduler.from_config(diffusers.DDIMScheduler(**SD).config, solver=UNIPC, solver_order=3)
    assert with_order.config.solver == "unipc"


def test_without_it_the_default_is_what_it_was():
    ours = RestartScheduler.from_config(diffusers.UniPCMultistepScheduler(**SD).config, restart=None)
    ours.set_timesteps(5)
    assert ours.plan.config.solver == "heun"


@pytest.mark.parametrize(
    "scheduler, settings, why",
    [
        (DPM, dpm(3, "sde-dpmsolver++"), "third order diverges.*dpm\\+\\+3m-sde"),
        (UNIPC, {"predict_x0": False}, "predict_x0=False"),
        (UNIPC, {"disable_corrector": [0]}, "disable_corrector=\\[0\\]"),
        (UNIPC, {"solver_order": 4}, "it may be 1, 2 or 3"),
        (SA, {"algorithm_type": "noise_prediction"}, "algorithm_type='noise_prediction'"),
        (SA, {"tau_func": abs}, "leave out tau_func"),
        ("DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type='fixed_large'"),
        ("PNDMScheduler", {}, "PNDMScheduler: name a solver"),
        ("DPMSolverSinglestepScheduler", {}, "DPMSolverSinglestepScheduler: name a solver"),
        ("LCMScheduler", {"timestep_scaling": 5.0}, "timestep_scaling=5.0"),
        ("LCMScheduler", {"beta_start": 0.0001}, "betas other than Stable Diffusion's"),
    ],
)
def test_steps_that_no_solver_here_makes_are_an_error(scheduler, settings, why):
    config = {**SD, **settings, "_class_name": scheduler}
    with pytest.raises(ConfigError, match=why):
        RestartScheduler.from_config(config, solver="config")


def test_the_config_of_no_scheduler_names_no_solver():
    with pytest.raises(ConfigError, match="_class_name"):
        RestartScheduler.from_config(SD, solver="config")
    with pytest.raises(ConfigError, match="read by from_config alone"):
        RestartScheduler(**SD, solver="config")
    with pytest.raises(ConfigError, match="is not known"):
        RestartScheduler(**SD, solver="unipic")


def test_each_scheduler_with_a_solver_is_of_a_model_that_is_driven():
    assert {KINDS[name] for name in (*PLAIN, *RULES)} == {BETAS, FLOW}
    assert not set(PLAIN) & set(RULES)
    for name in PLAIN:
        get_solver(PLAIN[name].solver)


@pytest.mark.parametrize(
    "scheduler, settings, ends",
    [
        (UNIPC, {"solver_order": 3}, "zero"),
        (DPM, dpm(2, "sde-dpmsolver++"), "zero"),
        (DPM, dpm(3), "zero"),
        ("KDPM2AncestralDiscreteScheduler", {}, "zero"),
        ("EulerAncestralDiscreteScheduler", {}, "zero"),
        ("HeunDiscreteScheduler", {}, "zero"),
        ("LMSDiscreteScheduler", {}, "zero"),
    ],
)
def test_a_pipeline_gets_the_image_of_the_scheduler(scheduler, settings, ends):
    """The swap alone, in float32 and with one generator for both: the same levels, steps and noise."""
    settings = {**SD, **settings, "timestep_spacing": "linspace"}
    theirs = getattr(diffusers, scheduler)(**settings)
    state = "ve" if theirs.init_noise_sigma > 1 else "vp"
    ours = RestartScheduler.from_config(theirs, solver="config", restart=None, steps_are="main", state=state)
    theirs.set_timesteps(8)
    levels = [float(v) for v in theirs.sigmas]
    levels = [v for i, v in enumerate(levels) if i == 0 or v != levels[i - 1]]
    ours.set_timesteps(sigmas=levels)
    log_levels, images = np.log(sd_sigmas()), []
    start = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for s in (theirs, ours):
        generator = torch.Generator().manual_seed(1)
        extra = {"generator": generator} if "generator" in type(s).step.__annotations__ or s is ours else {}
        x = start * ours.init_noise_sigma
        for t in s.timesteps:
            z = s.scale_model_input(x, t)
            x = s.step(network(z, level_of(s, t, log_levels)), t, x, return_dict=False, **extra)[0]
        images.append(x)
    assert (images[0] - images[1]).abs().max() <= 2e-4 * images[0].abs().max()


def level_of(scheduler, t, log_levels):
    """The level of a call: exact where diffusers rounds the timestep that it tells."""
    if isinstance(scheduler, RestartScheduler):
        return float(scheduler.sigmas[scheduler.step_index or 0])
    i = scheduler.step_index or 0
    if getattr(scheduler, "state_in_first_order", True) or not hasattr(scheduler, "sigmas_interpol"):
        return float(scheduler.sigmas[i])
    return float(scheduler.sigmas_interpol[i - 1])


def network(z, sigma):
    """ε for data N(0.3, 0.5²) and the scaled input z."""
    x = z * (1 + sigma * sigma) ** 0.5
    x_0 = (0.25 * x + sigma * sigma * 0.3) / (0.25 + sigma * sigma)
    return (x - x_0) / sigma


def test_solver_of_reads_a_config_without_its_defaults():
    assert solver_of({"_class_name": UNIPC, "solver_order": 3}).solver == "unipc"
