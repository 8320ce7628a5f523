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

CFG++ takes the direction back to the noise from D_u instead of the guided D: x' = a·x + (b − α_s)·D_u + α_s·D_w, for a
step x' = a·x + b·D of Euler or ancestral sampling. With D_w = D_u + w·(D_c − D_u) that is the same step with the weight
W = w·α_s/b. For Euler on a VE state b = 1 − s/t, so W = w/(1 − s/t), and w at s = 0.

CFG-Zero* also leaves out the network in its first evaluations (`zero_init`): F is 0 there.

Limiting cases: w = 1 is no guidance (not for CFG++, where w = 1 − s/t is none); φ = 0 rescales nothing; η = 1 without
clipping projects nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import ConfigError
from ..solvers.process import alpha
from ..solvers.trace import Solver

if TYPE_CHECKING:
    from .plan import Plan

METHODS = ("cfg", "cfg++", "zero-star", "apg")
NONE, ONE, BOTH = 0, 1, 2  # the kind of a row: how many network calls its evaluation makes


def weights(plan: Plan) -> np.ndarray:
    """Return W of each row of the plan, float64 [NFE]; 1 where guidance does not act."""
    config = plan.config
    if not config.guided:
        return np.ones(plan.nfe)
    low, high = config.guidance_interval
    sigma = np.array([row.sigma for row in plan.rows])
    inside = (sigma >= low) & (sigma <= high)
    return np.where(inside, _plus_plus(plan) if config.guidance == "cfg++" else config.guidance_scale, 1.0)


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
