"""The schedulers of diffusers, run in float64 on a second problem, and ours on the levels and the noise that they took.

Data 0.5·N(−1.5, 0.4²) + 0.2·N(0.3, 0.5²) + 0.3·N(1.2, 0.2²), eight samples at once, levels of Stable Diffusion's betas.
Their modules say `float32` where they make levels and where they step; here that name means float64, so that the two
sides can differ by nothing but their formulas.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from restart_sampling.models import parameterization

from . import rows

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
NUDGE = 1e-15  # of a level that a scheduler writes twice at its end, for a step that has no length there
START = np.array([1.3, -0.4, 0.1, 2.2, -1.7, 0.8, -0.9, 0.5])
DRAWS = np.random.default_rng(20).standard_normal((60, len(START)))
WEIGHTS, MEANS, STDS = np.array([[0.5, 0.2, 0.3], [-1.5, 0.3, 1.2], [0.4, 0.5, 0.2]])


class Wide:
    """A module in which float32 is float64."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, "float64" if name == "float32" else name)


def denoiser(x, t):
    """E[x₀ | x] for the state x₀ + t·ε, elementwise."""
    variances = STDS**2 + t * t
    logs = np.log(WEIGHTS) - (x[:, None] - MEANS) ** 2 / (2 * variances) - np.log(variances) / 2
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    posterior = MEANS + STDS**2 / variances * (x[:, None] - MEANS)
    return (shares * posterior).sum(axis=1) / shares.sum(axis=1)


def denoiser_of(process):
    """D(x, t), for a flow of the state (1 − t)·x₀ + t·ε; at t = 1 its limit, the mean."""
    if process == "ve":
        return denoiser
    mean = np.full_like(START, (WEIGHTS * MEANS).sum())
    return lambda x, t: denoiser(x / (1 - t), t / (1 - t)) if t < 1 else mean


@dataclass
class Theirs:
    """What a scheduler did.

    Attributes:
        levels: the levels of its steps, the last one where it ends.
        start, end: x₀ + σε, or the flow's state, at both ends.
        called: the levels that the network was asked at.
        draws: how many draws it took.
    """

    levels: list[float]
    start: np.ndarray
    end: np.ndarray
    called: list[float] = field(default_factory=list)
    draws: int = 0


def by_sigmas(scheduler, t):
    """The level that is next, for most schedulers."""
    return float(scheduler.sigmas[scheduler.step_index or 0])


def epsilon(scheduler, z, D, sigma):
    """ε, or a flow's velocity, of a network with this D."""
    return (z - D) / sigma


def edm_output(scheduler, z, D, sigma):
    """F of EDM's preconditioning with D = c_skip·z + c_out·F."""
    s = scheduler.config.sigma_data
    return (D - s * s / (sigma * sigma + s * s) * z) / (sigma * s / math.sqrt(sigma * sigma + s * s))


def cosine_v(scheduler, z, D, sigma):
    """α·ε − σ·x₀ in VP scale."""
    alpha = 1 / math.sqrt(1 + sigma * sigma)
    return alpha * (z - D) / sigma - alpha * sigma * D


@dataclass(frozen=True)
class Case:
    """A scheduler of diffusers and the solver that it is here.

    Attributes:
        scheduler: its class. config, step: what it and its `step` take. state: the scale of its sample, "vp", "ve" or
            "flow".
        solver: ours, with eta.
        output: what the network says, from its D.
        level: (scheduler, timestep) → the level at which it asks the network.
        levels: scheduler → the levels of its steps.
        past: 1 if it ends at a level above 0 and counts its steps as if one to 0 came after: ours is left out.
        steps: how many it is asked for.
        patch: called with the scheduler before it runs.
    """

    scheduler: str
    solver: str
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    state: str = "vp"
    eta: float = 1.0
    level: Any = by_sigmas
    output: Any = epsilon
    levels: Any = lambda scheduler: [float(v) for v in scheduler.sigmas]
    past: int = 0
    steps: int = 9
    patch: Any = None

    @property
    def process(self):
        return "flow" if self.state == "flow" else "ve"

    @property
    def id(self):
        said = [v for k, v in {**self.config, **self.step}.items() if k not in {*SD, *FLOW, "trained_betas"}]
        said = [getattr(v, "__name__", str(v)) for v in said]
        return "-".join([self.scheduler.removesuffix("Scheduler"), *said, self.state, str(self.steps)])


def scale(state, sigma):
    return 1 / math.sqrt(1 + sigma * sigma) if state == "vp" else 1.0


def theirs(case, monkeypatch):
    """Run the scheduler of a case; returns what it did."""
    import diffusers

    if case.scheduler == "DPMSolverSDEScheduler":  # its own noise is not used
        monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
        module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
        cls = module.DPMSolverSDEScheduler
    else:
        cls = getattr(diffusers, case.scheduler)
        module = importlib.import_module(cls.__module__)
    monkeypatch.setattr(module, "torch", Wide(torch))
    monkeypatch.setattr(module, "np", Wide(np), raising=False)
    took = [0]

    def randn(shape, **_):
        took[0] += 1
        return torch.from_numpy(DRAWS[took[0] - 1]).reshape(tuple(shape))

    monkeypatch.setattr(module, "randn_tensor", randn, raising=False)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        scheduler = cls(**case.config)
        scheduler.set_timesteps(case.steps)
        if case.patch:
            case.patch(scheduler)
        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = Tree(randn)
        return _run(case, scheduler, took)
    finally:
        torch.set_default_dtype(default)


def _run(case, scheduler, took):
    D, levels = denoiser_of(case.process), case.levels(scheduler)
    start = START * levels[0]
    x = torch.from_numpy(start * scale(case.state, levels[0]))[:, None]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    called = []
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        sigma = case.level(scheduler, t)
        called.append(sigma)
        z = x.numpy()[:, 0] / scale(case.state, sigma)
        output = case.output(scheduler, z, D(z, sigma), sigma)
        x = scheduler.step(torch.from_numpy(output)[:, None], t, x, return_dict=False, **case.step)[0]
    return Theirs(levels, start, x.numpy()[:, 0] / scale(case.state, levels[-1]), called, took[0])


class Tree:
    """The noise of a Brownian path in σ for one pair of calls: from t to m, then over the whole step from t to s."""

    def __init__(self, randn):
        self.randn, self.first = randn, None

    def __call__(self, t, s):
        shape = (len(START), 1)
        if self.first is None:
            self.first = (float(t), float(s), self.randn(shape))
            return self.first[2]
        (top, m, one), self.first = self.first, None
        kappa = math.sqrt((top - m) / (top - float(s)))
        return kappa * one + math.sqrt(1 - kappa * kappa) * self.randn(shape)


def ours(case, did):
    """Run our solver on the levels that a scheduler had, lowered to rows, in float64."""
    levels = list(did.levels)
    wasted = levels[-2] == levels[-1]
    levels[-1] -= wasted * NUDGE * levels[-1]
    levels += [0.0] * case.past
    network = parameterization.flow() if case.process == "flow" else parameterization.denoiser()
    steps = rows.trajectory(case.solver, levels, case.process, case.eta).steps()
    steps = steps[: len(steps) - case.past]
    if wasted:
        steps = (*steps[:-1], replace(steps[-1], noise=0.0))
    program = rows.Program(*rows.table(steps, network))
    draws = DRAWS
    if did.draws == len(steps) and not any(step.draws for step in steps):  # it draws where it adds none as well
        draws = DRAWS[[i for i, step in enumerate(steps) if step.noise]]
    return program.run(denoiser_of(case.process), did.start, draws), program
