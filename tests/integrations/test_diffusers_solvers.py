"""Our solvers against the schedulers of diffusers, step by step in float64 on a problem with an exact denoiser."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support import diffusers_runs as runs
from support.diffusers_runs import FLOW, SD, Case

from restart_sampling.plan.levels import sd_sigmas
from restart_sampling.solvers.integrals import phi3

pytest.importorskip("diffusers")

KARRAS = {**SD, "use_karras_sigmas": True}
FLOWS = {**FLOW, "num_train_timesteps": 1000}
PLAIN = {name: value for name, value in SD.items() if name != "steps_offset"}
VE = {**SD, "timestep_spacing": "linspace"}
BASES = {"vp": (SD, KARRAS), "flow": (FLOWS,)}


def multistep(name, solver, states=("vp", "flow"), eta=1.0, past=0, **config):
    """Cases of a scheduler with levels of Stable Diffusion, of Karras, and of a flow."""
    for state in states:
        for base in BASES[state]:
            yield Case(name, solver, {**base, **config}, state=state, eta=eta, past=past)


def dpm(solver, algorithm="dpmsolver++", order=2, kind="midpoint", **more):
    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}
    if "sigma_min" in more:
        config["final_sigmas_type"] = more.pop("sigma_min")
    return multistep("DPMSolverMultistepScheduler", solver, **config, **more)


def at_timestep(scheduler, t):
    """σ of a timestep, of a scheduler that works with ᾱ."""
    return sigmas_of(scheduler, [t])[0]


def sigmas_of(scheduler, timesteps):
    bar = [float(scheduler.alphas_cumprod[int(t)]) for t in timesteps]
    return [math.sqrt((1 - a) / a) for a in bar]


def to_zero(scheduler):
    return [*sigmas_of(scheduler, scheduler.timesteps), 0.0]


def to_first(scheduler):
    return sigmas_of(scheduler, [*scheduler.timesteps, 0])


def every_other(scheduler):
    """The levels of a scheduler that writes the inner ones twice, once for each evaluation."""
    return [float(v) for v in (scheduler.sigmas[0], *scheduler.sigmas[1:-1:2], 0.0)]


def pairs(scheduler):
    """The levels of DPM-Solver's single-step scheduler of order 2, whose steps cover two of its intervals."""
    return [float(v) for v in (*scheduler.sigmas[::2], 0.0)]


def midpoint(place):
    def level(scheduler, t):
        first = scheduler.state_in_first_order
        return float(scheduler.sigmas[scheduler.step_index] if first else place(scheduler))

    return level


def noisy(t):
    return 1


def quiet(t):
    return 0


def angles(scheduler):
    return [float(b / a) for b, a in zip(scheduler.betas, scheduler.alphas, strict=True)]


def at_angle(scheduler, t):
    i = scheduler.step_index or 0
    return float(scheduler.betas[i] / scheduler.alphas[i])


TO_FIRST = {"final_sigmas_type": "sigma_min"}  # ends at the lowest level of the model
NOISE_FORM = {**TO_FIRST, "states": ("vp",), "past": 1}
EDM = {"state": "ve", "output": runs.edm_output}
SIGMA_200, SIGMA_800 = sd_sigmas()[[200, 800]]  # between which SASolverScheduler adds noise by default
SA = "sa-solver:predictor=2,corrector=2,simple=true"
CASES = [
    # DPM-Solver
    *dpm("euler", order=1),
    *dpm("dpm++2m"),
    *dpm("dpm++2m", lower_order_final=False),
    *dpm("dpm++2m-sde:variant=heun", kind="heun", eta=0.0),
    *dpm("dpm++2m-sde", "sde-dpmsolver++"),
    *dpm("dpm++2m-sde:variant=heun", "sde-dpmsolver++", kind="heun"),
    *dpm("ddpm", "sde-dpmsolver++", order=1, states=("vp",)),
    *dpm("dpm++3m:variant=diffusers,lower_final=true", order=3),
    *dpm("dpm++3m:variant=diffusers", order=3, lower_order_final=False),
    *dpm("dpm++3m:variant=k-diffusion", order=3, kind="heun", lower_order_final=False),
    *dpm("dpm-solver:order=1", "dpmsolver", order=1, **NOISE_FORM),
    *dpm("dpm-solver:lower_final=true", "dpmsolver", **NOISE_FORM),
    *dpm("dpm-solver", "dpmsolver", lower_order_final=False, **NOISE_FORM),
    *dpm("dpm-solver:second=heun,lower_final=true", "dpmsolver", kind="heun", **NOISE_FORM),
    *dpm("dpm-solver:order=3,variant=diffusers,lower_final=true", "dpmsolver", order=3, **NOISE_FORM),
    *dpm("dpm-solver:sde=true,lower_final=true", "sde-dpmsolver", **NOISE_FORM),
    *dpm("dpm-solver:sde=true,second=heun,lower_final=true", "sde-dpmsolver", kind="heun", **NOISE_FORM),
    Case(
        "DPMSolverSinglestepScheduler",
        "dpm++2s-ancestral",
        {**PLAIN, "use_exponential_sigmas": True},
        eta=0.0,
        levels=pairs,
    ),
    # of EDM's networks
    *(
        Case("EDMDPMSolverMultistepScheduler", solver, {"sigma_schedule": schedule, **config}, eta=eta, **EDM)
        for schedule in ("karras", "exponential")
        for solver, eta, config in (
            ("dpm++2m", 1.0, {}),
            ("dpm++2m-sde:variant=heun", 0.0, {"solver_type": "heun"}),
            ("dpm++2m-sde", 1.0, {"algorithm_type": "sde-dpmsolver++"}),
            ("dpm++3m:variant=diffusers,lower_final=true", 1.0, {"solver_order": 3}),
        )
    ),
    Case("EDMEulerScheduler", "euler", **EDM),
    # UniPC, DEIS, SA
    *multistep("UniPCMultistepScheduler", "unipc:order=1", solver_order=1),
    *multistep("UniPCMultistepScheduler", "unipc:order=2", solver_order=2),
    *multistep("UniPCMultistepScheduler", "unipc", solver_order=3),
    *multistep("UniPCMultistepScheduler", "unipc:variant=bh1,order=2", solver_type="bh1", **TO_FIRST),
    *multistep("UniPCMultistepScheduler", "unipc:variant=bh1", solver_type="bh1", solver_order=3, **TO_FIRST),
    *multistep("DEISMultistepScheduler", "deis:order=2,variant=log-rho,lower_final=true", solver_order=2, past=1),
    *multistep("DEISMultistepScheduler", "deis:order=3,variant=log-rho,lower_final=true", solver_order=3, past=1),
    *multistep("SASolverScheduler", SA, eta=0.0, past=1, tau_func=quiet),
    *multistep("SASolverScheduler", SA, past=1, tau_func=noisy),
    *multistep("SASolverScheduler", f"{SA},tau_at=start,tau_min={SIGMA_200},tau_max={SIGMA_800}", ("vp",), past=1),
    # in x₀ + σε
    Case("EulerDiscreteScheduler", "euler", VE, state="ve"),
    Case("EulerAncestralDiscreteScheduler", "euler-ancestral", VE, state="ve"),
    Case("LMSDiscreteScheduler", "lms:to_zero=k-diffusion", VE, state="ve"),
    Case("LMSDiscreteScheduler", "lms:to_zero=k-diffusion,order=3", VE, {"order": 3}, state="ve"),
    Case("HeunDiscreteScheduler", "heun", VE, state="ve", levels=every_other),
    Case(
        "KDPM2DiscreteScheduler",
        "dpm2",
        VE,
        state="ve",
        levels=every_other,
        level=midpoint(lambda s: s.sigmas_interpol[s.step_index]),
    ),
    Case(
        "KDPM2AncestralDiscreteScheduler",
        "dpm2-ancestral",
        VE,
        state="ve",
        levels=every_other,
        level=midpoint(lambda s: s.sigmas_interpol[s.step_index - 1]),
    ),
    Case(
        "DPMSolverSDEScheduler",
        "dpm++sde",
        VE,
        state="ve",
        levels=every_other,
        level=midpoint(lambda s: s.mid_point_sigma),
    ),
    # of timesteps
    Case("DDIMScheduler", "euler", {**SD, "clip_sample": False}, level=at_timestep, levels=to_zero),
    Case(
        "DDIMScheduler", "ddpm", {**SD, "clip_sample": False}, {"eta": 0.5}, eta=0.5, level=at_timestep, levels=to_zero
    ),
    Case("LCMScheduler", "lcm:boundary=true", SD, level=at_timestep, levels=to_zero),
    *(
        Case("TCDScheduler", "tcd", SD, {"eta": eta}, eta=eta, level=at_timestep, levels=to_first, past=1)
        for eta in (0.0, 0.3, 1.0)
    ),
    Case(
        "IPNDMScheduler",
        "ipndm",
        {"trained_betas": list(np.sin(np.linspace(1.5, 0.05, 10)))},
        level=at_angle,
        levels=angles,
        output=runs.cosine_v,
        past=1,
    ),
    # of flows
    Case("FlowMatchEulerDiscreteScheduler", "euler", {"shift": 3.0}, state="flow"),
    Case("FlowMatchEulerDiscreteScheduler", "lcm", {"shift": 3.0, "stochastic_sampling": True}, state="flow"),
    Case("FlowMatchHeunDiscreteScheduler", "heun", {"shift": 3.0}, state="flow", levels=every_other),
    Case("LTXEulerAncestralRFScheduler", "euler-ancestral", {"eta": 0.6}, state="flow", eta=0.6),
]


CASES += [
    replace(case, steps=n)
    for case in CASES
    for n in (2, 3, 16)
    # Orders are lowered at the end below 15 steps there, and by these two at every number here; single steps pair up.
    if (n < 16 or not case.solver.startswith(("dpm-solver", "deis"))) and (n == 3 or case.levels is not pairs)
]


CASES += [replace(case, steps=n) for case in CASES for n in (14, 15) if case.steps == 16 and "lower" in case.solver]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_a_solver_does_what_the_scheduler_does(case, monkeypatch):
    did = runs.theirs(case, monkeypatch)
    end, program = runs.ours(case, did)
    assert program.sigma[1:] == pytest.approx(did.called, rel=1e-11)
    assert np.isfinite(did.end).all()
    assert end == pytest.approx(did.end, rel=1e-10, abs=1e-10)


# Where diffusers differs


def bend_of(scheduler, noisy):
    """Let steps of three values add `weight(β, z)` times their second difference D″ of D, z = ch."""

    def patch(weight):
        theirs = scheduler.multistep_dpm_solver_third_order_update

        def update(outputs, *args, **kwargs):
            i = scheduler.step_index
            alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[i - 2 : i + 2])
            lam = alpha.log() - sigma.log()
            h, h_0, h_1 = lam[3] - lam[2], lam[2] - lam[1], lam[1] - lam[0]
            first, second = (outputs[-1] - outputs[-2]) * h / h_0, (outputs[-2] - outputs[-3]) * h / h_1
            bend = (first - second) * h / (h_0 + h_1)
            return theirs(outputs, *args, **kwargs) + weight(float(alpha[3]), float(h) * (1 + noisy)) * bend

        scheduler.multistep_dpm_solver_third_order_update = update

    return patch


THIRD = {**SD, "solver_order": 3, "solver_type": "heun", "lower_order_final": False}
STOCHASTIC = {**THIRD, "algorithm_type": "sde-dpmsolver++"}


@pytest.mark.parametrize("config, noisy", [(THIRD, 0), (STOCHASTIC, 1)])
def test_third_order_has_twice_the_weight_of_the_second_difference(config, noisy, monkeypatch):
    # The stochastic one has, besides, the wrong sign of ½ in that weight, which is off by α.
    def missing(alpha, z):
        return -alpha * phi3(z) + noisy * alpha

    case = Case("DPMSolverMultistepScheduler", "dpm++3m-sde" if noisy else "dpm++3m", config)
    plain = runs.theirs(case, monkeypatch)
    patched = runs.theirs(replace(case, patch=lambda scheduler: bend_of(scheduler, noisy)(missing)), monkeypatch)
    end, _ = runs.ours(case, plain)
    assert end == pytest.approx(patched.end, rel=1e-10, abs=1e-10)
    assert np.abs(end - plain.end).max() > 1e-3


@pytest.mark.parametrize("noisy", [1])
def test_the_stochastic_third_order_of_k_diffusion_differs_by_the_sign_alone(noisy, monkeypatch):
    case = Case("DPMSolverMultistepScheduler", "dpm++3m-sde:variant=k-diffusion", STOCHASTIC)
    patched = replace(case, patch=lambda scheduler: bend_of(scheduler, noisy)(lambda alpha, z: alpha))
    did = runs.theirs(patched, monkeypatch)
    assert runs.ours(case, did)[0] == pytest.approx(did.end, rel=1e-10, abs=1e-10)


def test_bh1_of_unipc_is_not_finite_at_zero_there(monkeypatch):
    case = next(multistep("UniPCMultistepScheduler", "unipc:variant=bh1,order=2", solver_type="bh1"))
    did = runs.theirs(case, monkeypatch)
    assert np.isnan(did.end).all()
    assert np.isfinite(runs.ours(case, did)[0]).all()


@pytest.mark.parametrize("algorithm", ["dpmsolver", "sde-dpmsolver"])
def test_the_noise_form_of_dpm_solver_refuses_zero_there_and_ends_in_D_here(algorithm, monkeypatch):
    case = next(dpm("dpm-solver", algorithm))
    with pytest.raises(ValueError, match="final_sigmas_type"):
        runs.theirs(case, monkeypatch)
    did = replace(runs.theirs(next(dpm("dpm-solver")), monkeypatch))
    assert np.isfinite(runs.ours(case, did)[0]).all()


def test_the_last_step_of_lms_and_ipndm_returns_D_here(monkeypatch):
    case = Case("LMSDiscreteScheduler", "lms", VE, state="ve")
    did = runs.theirs(case, monkeypatch)
    end, program = runs.ours(case, did)
    last = runs.ours(replace(case, past=0), replace(did, levels=did.levels[:-1]))[0]
    assert end == pytest.approx(runs.denoiser(last, program.sigma[-1]), rel=1e-12)
    assert np.abs(end - did.end).max() > 1e-4
