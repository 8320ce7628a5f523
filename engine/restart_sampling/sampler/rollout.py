r"""Rollouts: what training on samples needs of a run, as policy-gradient methods do it.

A step with noise is a policy: it draws x' ~ N(mean, std²·I) with mean = a·x + b·D(x), and the log-probability of what
it drew, as a mean over the n elements of a sample (DDPO, arXiv 2305.13301; Flow-GRPO, arXiv 2505.05470), is

    log p = −½·mean(ε²) − ln std − ½·ln 2π,   ε = (x' − mean)/std.

`Sampler.rollout` gives both for every step of the run, and `Rollout.log_prob` computes log p again for another D of the
same state, with gradients: its ratio to the first is 1 where D is the same.

Limiting cases: a step without noise has std 0 and log p 0, and takes no part. After a jump, ε is the sum of the
solver's noise and the jump's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.errors import RestartTypeError, RestartValueError
from ..plan.plan import Plan
from ..plan.start import beginning
from . import inputs
from .results import TracedRow

if TYPE_CHECKING:
    from .watched import Watched


@dataclass(frozen=True, repr=False)
class Rollout:
    """The states of a run and the probabilities of its steps. B samples, T steps.

    Attributes:
        latents: the state before each step and the one after the last, float32 [B, T + 1, *shape].
        means: the mean of each step, float32 [B, T, *shape].
        log_probs: log p of each step, float32 [B, T], as a mean over elements; 0 where std is 0.
        stds: the std of each step's noise, float64 [T].
        sigmas: the level at which each step asks the network, float64 [T].
        timesteps: c_noise, what the network is told there, float64 [T].
        a, b: mean = a·x + b·D, float64 [T] each.
        rows: the rows of the plan that the steps are, from 0.
        samples: the result of the whole run, float32 [B, *shape].
        seeds: int64 [B]. plan: as it ran.
    """

    latents: Tensor
    means: Tensor
    log_probs: Tensor
    stds: Tensor
    sigmas: Tensor
    timesteps: Tensor
    a: Tensor
    b: Tensor
    rows: tuple[int, ...]
    samples: Tensor
    seeds: Tensor
    plan: Plan

    def mean(self, step: int, D: Tensor) -> Tensor:
        """Return the mean of a step for another D of its state, [B, *shape], with the gradient of D."""
        return float(self.a[step]) * self.latents[:, step] + float(self.b[step]) * D

    def log_prob(self, step: int, D: Tensor) -> Tensor:
        """Return log p of what the step drew, [B], for another D of its state, with the gradient of D.

        Raises:
            RestartValueError: the step has no noise.
        """
        std = float(self.stds[step])
        if std == 0:
            raise RestartValueError(
                f"step {step} draws no noise, so it has no log-probability; steps with noise have std > 0"
            )
        return log_prob(self.latents[:, step + 1], self.mean(step, D), std)

    def __repr__(self) -> str:
        noisy = int((self.stds > 0).sum())
        return f"Rollout(latents={list(self.latents.shape)}, {noisy} of {len(self.rows)} steps with noise)"


def log_prob(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log-density of N(mean, std²·I) at x [B, ...] as a mean over elements, [B]."""
    epsilon = (x - mean) / std
    return -0.5 * (epsilon * epsilon).flatten(1).mean(1) - math.log(std) - 0.5 * math.log(2 * math.pi)


def rollout(sampler: Watched, seeds: Any, window: Iterable[int] | None, run: dict[str, Any]) -> Rollout:
    """Draw samples and return their rollout, see `Sampler.rollout`; `run` goes to `Sampler.trace`."""
    plan = sampler.plan
    check(plan)
    seeds = _of_one_plan(sampler, seeds, run)
    if run.get("start") is not None:
        plan = beginning(plan, run.get("strength"), run.get("sigma"))
    first, end = (0, plan.nfe) if window is None else _window(window, plan.nfe)
    wanted = [*range(first, min(end + 1, plan.nfe))]
    found: dict[int, list[TracedRow]] = {row: [] for row in wanted}
    trace = sampler.trace(seeds, rows=wanted, **run)
    while True:
        try:
            row = next(trace)
        except StopIteration as done:
            samples: Tensor = done.value
            break
        found[row.row].append(row)
    x = [_joined(found[row], "x") for row in wanted]
    if end == plan.nfe:
        x.append(samples)
    rows = tuple(range(first, end))
    steps = [plan.steps[row] for row in rows]
    a, b = ([float(v) for v in values] for values in zip(*((s.result.x, s.result.D[0]) for s in steps), strict=True))
    stds = [step.noise for step in steps]
    D = [_joined(found[row], "D") for row in rows]
    means = [a[k] * x[k] + b[k] * D[k] for k in range(len(rows))]
    zero = samples.new_zeros(len(samples))
    log_probs = [log_prob(x[k + 1], means[k], std) if std else zero for k, std in enumerate(stds)]
    sigmas = [step.stages[0].level for step in steps]
    c_noise = sampler.denoiser.parameterization.coefficients(torch.tensor(sigmas, dtype=torch.float64).numpy()).c_noise

    def numbers(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)

    return Rollout(
        latents=torch.stack(x, 1),
        means=torch.stack(means, 1),
        log_probs=torch.stack(log_probs, 1),
        stds=numbers(stds),
        sigmas=numbers(sigmas),
        timesteps=numbers(c_noise),
        a=numbers(a),
        b=numbers(b),
        rows=rows,
        samples=samples,
        seeds=torch.cat([row.seeds for row in found[rows[0]]]),
        plan=plan,
    )


def check(plan: Plan) -> None:
    """Raise RestartValueError unless each step of the plan is one evaluation whose result is a·x + b·D + noise."""
    for step in plan.steps:
        if len(step.stages) != 1 or step.keep or step.draws:
            raise RestartValueError(
                f"a rollout needs steps of one evaluation without history, and {plan.config.solver!r} has others; use "
                "euler, ddpm, flow-grpo or cps"
            )


def _of_one_plan(sampler: Watched, seeds: Any, run: dict[str, Any]) -> Tensor:
    """Return the seeds int64 [B], or raise for a run whose steps have no mean a·x + b·D and one std each."""
    numbers, plans, _ = inputs.split(seeds)
    if plans is not None:
        raise RestartTypeError("a rollout is of one plan; give seeds without plans, and conditions=")
    if not len(numbers):
        raise RestartValueError("a rollout needs a seed or more, got none")
    if sampler.denoiser.augmented_dim is not None:
        raise RestartValueError(
            "the noise of a PFGM++ network has a size for each sample; a rollout needs one std a step"
        )
    if run.get("known") is not None:
        raise RestartValueError("a known image changes the state after each step; a rollout is of runs without one")
    if "rows" in run:
        raise RestartTypeError("Sampler.rollout has no argument 'rows'; window=(first, end) are the rows it returns")
    return numbers


def _window(window: Iterable[int], nfe: int) -> tuple[int, int]:
    try:
        first, end = (int(v) for v in window)
    except (TypeError, ValueError):
        first, end = -1, -1
    if not 0 <= first < end <= nfe:
        raise RestartValueError(f"window must be two rows, 0 ≤ first < end ≤ {nfe}, got {window!r}")
    return first, end


def _joined(rows: list[TracedRow], name: str) -> Tensor:
    """Return x or D of one row for all samples, in the order of the request."""
    index = torch.cat([row.index for row in rows])
    values = torch.cat([getattr(row, name) for row in rows])
    return values[index.argsort().to(values.device)]
