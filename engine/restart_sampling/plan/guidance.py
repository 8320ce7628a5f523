r"""Guidance: the weight W of each row, and which rows need a second evaluation.

Classifier-free guidance (arXiv 2207.12598) mixes two outputs of a network, F = F_u + W·(F_c − F_u), where c has the
condition and u the null. Autoguidance (arXiv 2406.02507) has the output of a weaker network for u. A row with W = 1 is
F_c alone, so it needs no second evaluation: that is how guidance in an interval of levels (arXiv 2404.07724) costs only
where it acts.

| guidance    | W of a row inside the interval | source |
|-------------|--------------------------------|--------|
| `cfg`       | w, the guidance scale           | arXiv 2207.12598 |
| `cfg++`     | w·α(s)/b                        | CFG++, arXiv 2406.08070 |
| `zero-star` | w, and F_u is scaled            | CFG-Zero*, arXiv 2503.18886; the kernels' `row/weights.py` |
| `apg`       | w, and F_c − F_u is projected   | arXiv 2410.02416; likewise |

`guidance_interval` = (low, high) says where guidance acts, in one of two ways:

| guidance_interval_rounding | an evaluation is guided if |
|---|---|
| `none` | its own level is in [low, high] |
| `grid` | its step begins in (lo, hi], the points of the main grid that are nearest to low and high |

The second is how the paper's results were computed (arXiv 2404.07724): the ends are points of the grid, and W is the
same in both evaluations of a Heun step. A step inside a Restart interval counts by the level at which it begins, and
one that churn lifts by the level before. On EDM's grid of 32 points (0.28, 2.90] stands for the steps 15 to 21, counted
from 0; unrounded ends would take 16 to 22 instead, since σ_15 = 2.9015 and σ_22 = 0.2830.

CFG++ takes the direction back to the noise from D_u instead of the guided D: x' = a·x + (b − α_s)·D_u + α_s·D_w, for a
step x' = a·x + b·D of Euler or ancestral sampling. With D_w = D_u + w·(D_c − D_u) that is the same step with the weight
W = w·α_s/b. For Euler on a VE state b = 1 − s/t, so W = w/(1 − s/t), and w at s = 0.

CFG-Zero* also leaves out the network in its first evaluations (`zero_init`): F is 0 there.

Limiting cases: w = 1 is no guidance (not for CFG++, where w = 1 − s/t is none); φ = 0 rescales nothing; η = 1 without
clipping projects nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import ConfigError
from ..solvers.process import alpha
from ..solvers.trace import Solver
from .notation import snap

if TYPE_CHECKING:
    from .plan import Plan

METHODS = ("cfg", "cfg++", "zero-star", "apg")
ROUNDINGS = ("none", "grid")
NONE, ONE, BOTH = 0, 1, 2  # the kind of a row: how many network calls its evaluation makes


def weights(plan: Plan) -> np.ndarray:
    """Return W of each row of the plan, float64 [NFE]; 1 where guidance does not act."""
    config = plan.config
    if not config.guided:
        return np.ones(plan.nfe)
    low, high = config.guidance_interval
    if config.guidance_interval_rounding == "grid":
        low, high = rounded(plan)
        inside = np.repeat([low < t <= high for t in _begins(plan)], [len(step.stages) for step in plan.steps])
    else:
        sigma = np.array([row.sigma for row in plan.rows])
        inside = (sigma >= low) & (sigma <= high)
    return np.where(inside, _plus_plus(plan) if config.guidance == "cfg++" else config.guidance_scale, 1.0)


def rounded(plan: Plan) -> tuple[float, float]:
    """Return the ends of the guidance interval as points of the main grid; infinity stays."""
    low, high = (t if math.isinf(t) else plan.grid[snap(plan.grid, t)] for t in plan.config.guidance_interval)
    return low, high


def _begins(plan: Plan) -> Iterator[float]:
    """Yield the level at which each step begins, before churn lifts it: that at which the step before it ended."""
    tops = {interval.number: interval.t_max for interval in plan.intervals}
    level = plan.grid[0]
    leg: tuple[int | None, int] = (None, 0)
    for step in plan.steps:
        if step.interval is not None and (step.interval, step.iteration) != leg:
            level = tops[step.interval]  # raised by a jump
        yield level
        level, leg = step.s, (step.interval, step.iteration)


def silent(plan: Plan) -> np.ndarray:
    """Return which rows leave out the network, bool [NFE]: the first `zero_init` evaluations."""
    return np.arange(plan.nfe) < plan.config.zero_init


def unread(plan: Plan) -> np.ndarray:
    """Return which rows have an output that nothing uses, bool [NFE]: those before a jump of a flow to pure noise."""
    found = []
    for step in plan.steps:
        for k in range(len(step.stages)):
            forms = (*(stage.z for stage in step.stages[k + 1 :]), step.result, *step.keep)
            found.append(not any(form.D[k : k + 1] != () and form.D[k] for form in forms))
    return np.array(found, dtype=bool)


def kinds(plan: Plan) -> np.ndarray:
    """Return what each row asks of the network, int8 [NFE]: NONE, ONE, or BOTH where guidance acts."""
    none = silent(plan) | unread(plan)
    return np.where(none, NONE, np.where(weights(plan) != 1, BOTH, ONE)).astype(np.int8)


def _plus_plus(plan: Plan) -> np.ndarray:
    """Return W of each row for CFG++. The result of a step may be scaled by a jump: then so is α_s.

    It is 1 before a jump to pure noise, where b = α_s = 0.
    """
    w, process = plan.config.guidance_scale, plan.process
    b = [step.result.D[0] for step in plan.steps]
    return np.array([w * alpha(process, s.lift_to) / b_i if b_i else 1.0 for s, b_i in zip(plan.steps, b, strict=True)])


def check_method(method: str, scale: float, rescale: float, zero_init: int, solvers: tuple[Solver, ...]) -> None:
    """Raise ConfigError unless the options of guidance go together."""
    if rescale > 0 and method != "cfg":
        raise ConfigError(f"guidance_rescale goes with guidance='cfg', not {method!r}; set guidance_rescale to 0")
    if zero_init and method != "zero-star":
        raise ConfigError(f"zero_init goes with guidance='zero-star', not {method!r}; set zero_init to 0")
    if scale == 0 and method == "cfg++":
        raise ConfigError("guidance_scale must be above 0 with guidance='cfg++'; for no condition use guidance='cfg'")
    for solver in solvers:
        if method == "cfg++" and (solver.evaluations != 1 or solver.multistep):
            raise ConfigError(
                f"guidance='cfg++' needs a solver of one evaluation that keeps no history, not {solver.name!r}; use "
                "euler or ddpm"
            )
