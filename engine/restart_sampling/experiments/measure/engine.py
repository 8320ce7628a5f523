r"""The engine's candidates: every solver, alone and with Restart, and every preset.

What a budget of evaluations buys:

* without Restart the main grid with the most points (`steps`) that fits;
* with Restart one interval [N, K, t_min, t_max]: of all (steps, K ≥ 1) the ones that use the most of the budget, and of
  these the one whose main grid is nearest to MAIN_SHARE of what is used. At 43 evaluations with Heun that is 18 steps
  and K = 2, the shape of the paper's CIFAR-10 rows (arXiv 2306.14878, Table 3), and t_min and t_max are those of its VP
  rows. For another interval give `restart=`, then only `steps` is chosen.

A solver runs with the options of its `study` at every number of steps. So the stochastic sampler has the churn of the
Restart paper's "Improved SDE" on CIFAR-10, and its Restart form churns on the main grid and not inside the interval.

Candidates are those whose solver handles the network's process; on a flow the grid is that of flows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ...common.errors import NonFiniteError
from ...models.denoiser import Denoiser
from ...plan.budget import most_points
from ...plan.notation import RestartConfig
from ...plan.options import family
from ...plan.plan import Plan
from ...plan.presets import Preset
from ...plan.presets import presets as published
from ...sampler.executors import Observer
from ...sampler.sampler import Sampler, describe_failures
from ...solvers import SOLVERS, Solver
from ...solvers.registry import handling
from .candidate import Candidate, Runner

INTERVAL = (3, 0.06, 0.30)  # N, t_min, t_max
MAIN_SHARE = 0.8  # of the evaluations, on the main grid
RESTART = "with Restart, arXiv 2306.14878, Algorithm 2"

Options = tuple[tuple[str, Any], ...]


def candidates(process: str = "ve") -> tuple[Candidate, ...]:
    """Return the candidates of the solvers that handle a process: each alone, then each with Restart."""
    solvers = [SOLVERS[name] for name in handling(process)]
    alone = [Candidate(k.name, k.family, "engine", k.label, k.source, partial(_make, k, False)) for k in solvers]
    jumping = [
        Candidate(
            f"{k.name}+restart",
            "restart",
            "engine",
            f"{k.label} + Restart",
            f"{k.source}; {RESTART}",
            partial(_make, k, True),
        )
        for k in solvers
    ]
    return (*alone, *jumping)


def presets() -> tuple[Candidate, ...]:
    """Return the published configurations. Each has one NFE and fits every budget from there on."""
    return tuple(
        Candidate(
            f"preset:{p.name}",
            family(
                p.plan_options.get("solver", "heun"),
                p.plan_options.get("s_churn", 0.0),
                bool(p.plan_options.get("restart")),
            ),
            "engine",
            f"preset {p.name}",
            p.source,
            partial(_make_preset, p),
            p.group,
        )
        for p in published()
    )


class EngineRunner:
    """Draws through `Sampler`."""

    def __init__(self, denoiser: Denoiser, plan: Plan, batch_size: int, dtype: str) -> None:
        self.plan: Plan | None = plan
        self.sampler = Sampler(denoiser, plan, batch_size, dtype=dtype)
        self.nfe, self.network_calls = self.sampler.plan.nfe, self.sampler.plan.network_calls
        self.key = f"{plan.digest}-{dtype}"

    @property
    def network(self) -> Any:
        """F as the sampler calls it."""
        return self.sampler.network

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Observe as `Runner.observed` says."""
        return self.sampler.observed(observer)

    def draw(
        self, seeds: Sequence[int], class_labels: Any = None, conditions: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw as `Runner.draw` says.

        Raises NonFiniteError if samples are NaN or infinite; its `samples` holds all x.
        """
        parts: list[Tensor] = []
        labels: list[Tensor | None] = []
        failures: list[dict[str, Any]] = []
        for batch in self.sampler.iterate(seeds, class_labels, conditions=conditions):
            parts.append(batch.x)
            labels.append(batch.labels)
            failures += batch.failures
        x = torch.cat(parts) if parts else torch.empty(0, *self.sampler.denoiser.shape)
        if failures:
            raise NonFiniteError(describe_failures(failures), failures, x)
        if not labels or labels[0] is None:
            return x, None
        return x, torch.cat([part for part in labels if part is not None])


def _make(
    solver: Solver, jumping: bool, denoiser: Denoiser, nfe: int, batch_size: int, dtype: str, restart: Any
) -> Runner | None:
    plan = plan_for(solver.name, nfe, jumping, restart, _options(solver, denoiser.parameterization.process))
    return None if plan is None else EngineRunner(denoiser, plan, batch_size, dtype)


def _make_preset(
    preset: Preset, denoiser: Denoiser, nfe: int, batch_size: int, dtype: str, restart: Any
) -> Runner | None:
    options = {**preset.plan_options} if restart is None else {**preset.plan_options, "restart": restart}
    plan = Plan.build(**options)
    return EngineRunner(denoiser, plan, batch_size, dtype) if plan.nfe <= nfe else None


def plan_of(candidate: Candidate, nfe: int, restart: Any = None, process: str = "ve") -> Plan | None:
    """Return the plan that a candidate of the engine runs at a budget on a process, or None if none fits."""
    solver = SOLVERS.get(candidate.name.removesuffix("+restart"))
    if solver is None:
        preset = next(p for p in published() if candidate.name == f"preset:{p.name}")
        plan = Plan.build(**preset.plan_options)
        return plan if plan.nfe <= nfe else None
    jumping = candidate.family == "restart"
    return plan_for(solver.name, nfe, jumping, restart if jumping else None, _options(solver, process))


def _options(solver: Solver, process: str) -> Options:
    """Return what a solver is studied with, on the grid of a process: EDM's, or that of flows."""
    return solver.study if process == "ve" else (*solver.study, ("schedule", process))


def plan_for(solver: str, nfe: int, jumping: bool = False, restart: Any = None, options: Options = ()) -> Plan | None:
    """Return the plan of at most `nfe` evaluations by the rule of the module, or None if not even the smallest fits.

    >>> plan_for("heun", 43, jumping=True).config.steps
    18
    """
    fixed = dict(options)
    if not jumping:
        steps = _most_steps(solver, options, nfe)
        return None if steps is None else Plan.build(solver=solver, steps=steps, **fixed)
    N, t_min, t_max = INTERVAL
    if restart is None:
        chosen = _split(solver, options, nfe)
        if chosen is None:
            return None
        steps, K = chosen
        return Plan.build(solver=solver, steps=steps, restart=[N, K, t_min, t_max], **fixed)
    config = RestartConfig.parse(restart)
    steps = _most_steps(solver, (*options, ("restart", config)), nfe)
    return None if steps is None else Plan.build(solver=solver, steps=steps, restart=config, **fixed)


@lru_cache(maxsize=256)
def _cost(solver: str, options: Options) -> tuple[int, int]:
    """Return (a, b) of NFE = a + b·steps: a solver costs the same at each grid point but for the last ones."""
    few, more = (Plan.build(solver=solver, steps=steps, **dict(options)).nfe for steps in (18, 19))
    return few - 18 * (more - few), more - few


def _most_steps(solver: str, options: Options, nfe: int) -> int | None:
    """Return the most points of the main grid, at least 2, whose plan takes at most `nfe` evaluations."""
    a, b = _cost(solver, options)
    return most_points(lambda steps: a + b * steps, nfe, b, start=max(nfe, 0), least=2)


def _split(solver: str, options: Options, nfe: int) -> tuple[int, int] | None:
    """Return (steps, K) by the rule of the module."""
    N, t_min, t_max = INTERVAL
    a, b = _cost(solver, options)
    jump = _cost(solver, (*options, ("restart", RestartConfig.parse([N, 1, t_min, t_max]))))[0] - a
    best, best_score = None, (-1, 0.0)
    K = 1
    while (steps := _most_steps(solver, options, nfe - K * jump)) is not None:
        main = a + b * steps
        score = (main + K * jump, -abs(main / (main + K * jump) - MAIN_SHARE))
        if score > best_score:
            best, best_score = (steps, K), score
        K += 1
    return best
