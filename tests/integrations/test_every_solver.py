"""Every solver in every library's face: the image that the engine draws, with the evaluations that the plan says."""

from __future__ import annotations

import math
import types
from itertools import pairwise

import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError
from restart_sampling.integrations import comfy as comfyui
from restart_sampling.integrations.comfy import sampler as comfy_sampler
from restart_sampling.integrations.k_diffusion import restart_plan, sample_plan, sample_restart
from restart_sampling.models import parameterization as parameterizations
from restart_sampling.plan.levels import sd_sigmas
from restart_sampling.solvers import SOLVERS, get_solver
from restart_sampling.solvers.registry import handling

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE, SEEDS = (1, 4, 4), [3, 8]
WITH_OPTIONS = {get_solver(alias).spec for s in SOLVERS.values() for alias in s.aliases if ":" in alias}
SPECS = [*SOLVERS, *sorted(WITH_OPTIONS)]
FROM_BELOW_1 = {("dpm-solver:sde=true", "flow")}
CASES = [(spec, process) for spec in SPECS for process in get_solver(spec).processes]
CASES = [case for case in CASES if case not in FROM_BELOW_1]
RESTART = {"ve": "[3, 2, 0.5, 2.0]", "flow": "[3, 2, 0.3, 0.6]"}
GRIDS = {"ve": [10.0, 5.0, 2.2, 1.0, 0.5, 0.2, 0.0], "flow": [1.0, 0.85, 0.6, 0.45, 0.3, 0.1, 0.0]}


def D(x, t, **_):
    """The denoiser of data 0.4·N(−1, 0.3²) + 0.6·N(0.8, 0.3²), elementwise; t [B] or a number."""
    t = torch.as_tensor(t, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
    variance = 0.09 + t * t
    share = torch.sigmoid(math.log(1.5) + ((x + 1) ** 2 - (x - 0.8) ** 2) / (2 * variance))
    mean = 1.8 * share - 1
    return mean + 0.09 / variance * (x - mean)


def D_flow(x, t, **_):
    t = torch.as_tensor(t, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1)).clamp(max=1 - 1e-6)
    return D(x / (1 - t), t / (1 - t))


DENOISERS = {"ve": D, "flow": D_flow}


def levels_of(process):
    return parameterizations.flow() if process == "flow" else parameterizations.denoiser()


def engine(plan, process, latents):
    denoiser = rs.Denoiser.from_function(
        DENOISERS[process], SHAPE, process=process, sigma_max=1.0 if process == "flow" else float("inf")
    )
    return rs.Sampler(denoiser, plan, len(SEEDS)).run(SEEDS, latents=latents)


def latents():
    return rs.noise.normal(SEEDS, 0, SHAPE)


def close(found, want):
    assert torch.isfinite(want).all()
    assert (found - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("mode", ["plain", "restart", "later"])
@pytest.mark.parametrize("spec, process", CASES)
def test_in_diffusers(spec, process, mode):
    pytest.importorskip("diffusers")
    from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler

    options = dict(solver=spec, restart=RESTART[process] if mode != "plain" else None, steps_are="main", eta=0.8)
    options |= dict(eta=1.0) if "sde=true" in spec and "dpm-solver" in spec else {}
    if process == "ve":
        betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        s = RestartScheduler(**betas, timestep_spacing="linspace", initial_noise="engine", seeds=SEEDS, **options)
    else:
        s = FlowMatchRestartScheduler(shift=2.0, seeds=SEEDS, **options)
    s.set_timesteps(6)
    timesteps = s.timesteps
    if mode == "later":  # as image-to-image pipelines ask
        timesteps = s.timesteps[2:]
        s.set_begin_index(2)
    log_levels, calls = torch.from_numpy(sd_sigmas()).log(), 0

    def F(z, t):
        if process == "flow":
            u = max(float(t) / 1000, 1e-9)
            return (z - D_flow(z, u)) / u
        i = min(int(t), 998)
        sigma = math.exp(float(log_levels[i] + (float(t) - i) * (log_levels[i + 1] - log_levels[i])))
        x = z * math.sqrt(1 + sigma * sigma)
        return (x - D(x, sigma)) / sigma

    x = latents() * s.init_noise_sigma
    for t in timesteps:
        x, calls = s.step(F(s.scale_model_input(x, t), t), t, x, return_dict=False)[0], calls + 1
    assert calls == s.plan.nfe == len(timesteps)
    network = rs.Denoiser(lambda z, c_noise, _: F(z, c_noise[0]), s.parameterization, SHAPE)
    close(x, rs.Sampler(network, s.plan, len(SEEDS)).run(SEEDS, latents=latents()))


@pytest.mark.parametrize("spec, process", CASES)
def test_noise_of_a_generator_is_shared_as_that_of_seeds(spec, process):
    """A draw that two rows have is taken once, so a generator that gives the noise of the seeds gives their image."""
    pytest.importorskip("diffusers")
    from restart_sampling.integrations.diffusers import adapter
    from restart_sampling.integrations.diffusers.tape import Tape

    plan = restart_plan(GRIDS[process], RESTART[process], solver=spec, process=process, budget="extra")
    tape = Tape.build(plan, levels_of(process), False)
    asked = []

    class Scheduler(adapter.TapeScheduler):
        config = types.SimpleNamespace(steps_are="main")
        parameterization = levels_of(process)
        _main_levels = None

    def noise_like(sample, draw, seeds, generator):
        asked.append(draw)
        return rs.noise.normal(SEEDS, draw, SHAPE)

    results = []
    for seeds in (SEEDS, None):
        s = Scheduler()
        s._reset()
        s.set_seeds(seeds)
        s._load(plan, "cpu", None)
        x = latents() * plan.initial_noise
        asked.clear()
        with pytest.MonkeyPatch.context() as patch:
            if seeds is None:
                patch.setattr(adapter, "noise_like", noise_like)
            for k, t in enumerate(s.timesteps):
                sigma = float(tape.sigma[k])
                z = s.scale_model_input(x, t)
                D_0 = DENOISERS[process](x, sigma)
                F = (x - D_0) / sigma if process == "flow" else D_0
                assert z.shape == x.shape
                x = s.step(F, t, x, return_dict=False)[0]
        results.append(x)
    assert asked == sorted(set(asked)) and len(asked) == plan.draws
    close(results[1], results[0])


@pytest.mark.parametrize("restart", [True, False], ids=["restart", "plain"])
@pytest.mark.parametrize("spec, process", CASES)
def test_in_k_diffusion(spec, process, restart):
    options = dict(restart=RESTART[process] if restart else None, solver=spec, process=process, budget="extra")
    plan, calls = restart_plan(GRIDS[process], **options), []

    def model(x, sigma):
        calls.append(float(sigma[0]))
        return DENOISERS[process](x, sigma)

    x = latents() * GRIDS[process][0]
    found = sample_restart(model, x, GRIDS[process], seeds=SEEDS, disable=True, **options)
    assert len(calls) == plan.nfe
    close(found, engine(plan, process, latents()))
    pairs = []

    def noise_sampler(sigma, sigma_next):
        pairs.append((float(sigma), float(sigma_next)))
        return rs.noise.normal(SEEDS, len(pairs), SHAPE)

    close(sample_plan(model, x, plan, noise_sampler=noise_sampler, disable=True), found)
    assert len(pairs) == plan.draws
    down = [pair for pair in pairs if pair[0] > pair[1]]
    assert all(a[1] >= b[0] for a, b in pairwise(down)) or restart  # parts that do not overlap


@pytest.mark.parametrize("spec, process", CASES)
def test_in_comfyui(spec, process, monkeypatch):
    sampling = type("CONST" if process == "flow" else "EPS", (), {})()
    name, _, options = spec.partition(":")
    node, made = comfyui.RestartSamplerNode(), []
    monkeypatch.setattr(comfyui.nodes, "_ksampler", lambda: lambda function, extra_options: made.append(extra_options))
    assert name in node.INPUT_TYPES()["required"]["solver"][0]
    assert node.VALIDATE_INPUTS(RESTART[process], name, options) is True
    node.get_sampler(RESTART[process], name, 1.0, "extra", solver_options=options)

    def model(x, sigma, seed):
        return DENOISERS[process](x, sigma)

    monkeypatch.setattr(comfy_sampler, "model_sampling", lambda model: sampling)
    x, extra = latents() * GRIDS[process][0], {"seed": SEEDS[0]}
    found = comfy_sampler.sample_restart_in_comfyui(model, x, GRIDS[process], extra, disable=True, **made[0])
    plan = restart_plan(GRIDS[process], RESTART[process], solver=spec, process=process, budget="extra")
    want = sample_plan(model, x, plan, extra, seeds=[SEEDS[0], SEEDS[0] + 1], disable=True)
    assert torch.equal(found, want) and torch.isfinite(found).all()


def test_the_parts_of_a_step_are_those_of_a_brownian_path():
    """A tree of increments serves dpm++sde: the mix of two parts is the increment over the whole step."""
    path = {}

    def increment(a, b):
        key = tuple(sorted((round(float(a), 4), round(float(b), 4))))
        return path.setdefault(key, torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(len(path))))

    plan = restart_plan(GRIDS["ve"], None, solver="dpm++sde")
    x = latents() * 10
    found = sample_plan(D, x, plan, noise_sampler=increment, disable=True)
    state = x.double()
    for t, s in zip(GRIDS["ve"][:-2], GRIDS["ve"][1:-1], strict=True):
        m = math.sqrt(t * s)
        one, two = increment(t, m).double(), increment(m, s).double()
        whole = (math.sqrt(t - m) * one + math.sqrt(m - s) * two) / math.sqrt(t - s)
        D_0 = D(state, t)

        def ancestral(end, mean, noise, state=state, t=t):
            up = end * math.sqrt(1 - (end / t) ** 2)
            down = math.sqrt(end**2 - up**2)
            return (down / t) * state + (1 - down / t) * mean + up * noise

        state = ancestral(s, D(ancestral(m, D_0, one), m), whole)
    close(found.double(), D(state, GRIDS["ve"][-2]))


def test_a_solver_of_another_process_is_refused_with_those_that_handle_it():
    with pytest.raises(ConfigError, match="does not handle"):
        restart_plan(GRIDS["flow"], None, solver="tcd", process="flow")
    assert "cps" in handling("flow") and "cps" not in handling("ve")


def test_a_noise_form_with_noise_has_no_step_from_pure_noise():
    with pytest.raises(ConfigError, match="no step from pure noise"):
        restart_plan(GRIDS["flow"], None, solver="dpm-solver:sde=true", process="flow")
    plan = restart_plan([0.9, *GRIDS["flow"][2:]], None, solver="dpm-solver:sde=true", process="flow")
    found = sample_plan(D_flow, latents() * 0.9, plan, seeds=SEEDS, disable=True)
    close(found, engine(plan, "flow", latents()))


@pytest.mark.parametrize("t", [1.0, 1 - 6e-8])  # and what float32 has below 1
@pytest.mark.parametrize("spec", [spec for spec in SPECS if "flow" in get_solver(spec).processes])
def test_a_flow_model_that_says_one_image_is_followed_from_pure_noise(spec, t):
    """With D constant and without noise the state at s is s·ε + (1 − s)·D, on a step from t = 1 too."""
    if spec.startswith("lcm"):
        pytest.skip("draws its noise anew whatever eta is")
    plan = restart_plan([t, 0.8, 0.5, 0.2, 0.0], None, solver=spec, process="flow", eta=0.0)
    first = plan.steps[0].result
    assert first.x == pytest.approx(0.8, abs=1e-5)
    assert sum(first.D) == pytest.approx(0.2, abs=1e-5)
