r"""The table: a plan folded onto a network, one row per evaluation, ready for the fused step.

A plan speaks of D. The machine (restart_kernels.row) has two registers x, h and the raw network output F, and one row
does

    y = Y_X·x + Y_H·h + Y_F·F + S·ε,   g = G_X·x + G_H·h + G_F·F,   x ← y,  h ← g,  net_in ← C_IN·y.

Folding is linear algebra. Within one solver step every quantity is a vector over (x, P, F_0, F_1, …), x being the state
at the start of the step and P the kept register of the step before; with D_k = c_skip(t_k)·z_k + c_out(t_k)·F_k each
stage input and the result becomes such a vector. After evaluation k the machine may keep one vector in h, so what the
later stages need of the F's known so far must be a multiple of one direction. That holds for every solver here. We keep
the known part of the result (everything but the F's still to come), so a step's last row is y = h + Y_F·F and need not
read x at all: Heun moves 24 bytes per element and step with a bf16 network instead of 28.

Row 0 of a table makes the initial latent, y = S·ε(draw 0); row i ≥ 1 follows network evaluation i. A row also holds
c_in and c_noise of the evaluation that comes after it, and w of the evaluation before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from restart_kernels import layout

from ..common.errors import ConfigError
from ..models.parameterization import Coefficients, Parameterization
from ..plan.plan import Plan
from ..plan.trajectory import Step
from ..solvers.trace import Form

_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Table:
    """Coefficients of a bound plan on the host.

    `coef` float64 [NFE + 1, NUM_COEF] and `code` int32 [NFE + 1, NUM_CODE] in the layout of restart_kernels.layout;
    `sigma` float64 [NFE + 1], the level of the evaluation that precedes each row (row 0: the initial level); `plan` is the
    plan after clipping and rounding to the network's levels.
    """

    plan: Plan
    coef: np.ndarray
    code: np.ndarray
    sigma: np.ndarray

    @property
    def nfe(self) -> int:
        return len(self.coef) - 1


def bind(plan: Plan, parameterization: Parameterization) -> Table:
    """Fold `plan` onto a network's parameterization.

    Raises ConfigError when the plan walks another process than the network's, or needs levels it does not know.
    """
    if plan.process != parameterization.process:
        raise ConfigError(
            f"the plan walks {plan.process!r} states but the network is {parameterization.process!r}; "
            f"build the plan with schedule={'flow' if parameterization.process == 'flow' else 'edm'!r}"
        )
    plan = plan.for_network(parameterization.sigma_min, parameterization.sigma_max, parameterization.round_sigma)
    rows = plan.rows
    sigma = np.array([rows[0].sigma, *(r.sigma for r in rows)])
    top = parameterization.sigma_max * (1 + 1e-9)
    if sigma.max() > top:
        raise ConfigError(
            f"churn lifts the state to sigma {sigma.max():g}, above the network's largest, {parameterization.sigma_max:g}; "
            f"lower s_churn, restart_gamma or s_max"
        )
    coefficients = parameterization.coefficients(sigma[1:])
    coef = np.zeros((len(sigma), layout.NUM_COEF))
    code = np.zeros((len(sigma), layout.NUM_CODE), dtype=np.int32)
    coef[0, layout.S] = plan.initial_noise
    code[0, layout.FLAGS] = layout.STORE_X
    at = 1
    for step in plan.steps:
        stop = at + len(step.stages)
        part = Coefficients(*(c[at - 1 : stop - 1] for c in coefficients))
        _fold(step, part, coef[at:stop], code[at:stop])
        at = stop
    coef[:-1, layout.C_IN] = coefficients.c_in
    coef[:-1, layout.C_NOISE] = coefficients.c_noise
    code[:-1, layout.FLAGS] |= layout.STORE_NET
    code[-1, layout.FLAGS] |= layout.END
    low, high = plan.config.guidance_interval
    coef[1:, layout.W] = np.where((sigma[1:] >= low) & (sigma[1:] <= high), plan.config.guidance_scale, 1.0)
    return Table(plan, coef, code, sigma)


def _fold(step: Step, c: Coefficients, coef: np.ndarray, code: np.ndarray) -> None:
    """Write the rows of one step into `coef` and `code` (views of its rows)."""
    S = len(step.stages)
    basis = np.eye(2 + S)  # x, P, F_0 .. F_{S−1}
    x, P, F = basis[0], basis[1], basis[2:]
    D: list[np.ndarray] = []

    def vector(form: Form) -> np.ndarray:
        total = form.x * x + form.previous * P
        for weight, d in zip(form.D, D, strict=False):
            total = total + weight * d
        return total

    z: list[np.ndarray] = []
    for k, stage in enumerate(step.stages):
        z.append(vector(stage.z))
        D.append(c.c_skip[k] * z[k] + c.c_out[k] * F[k])
    result = vector(step.result)
    kept = None if step.keep is None else vector(step.keep)

    h: np.ndarray | None = P
    for k in range(S):
        last = k == S - 1
        y = result if last else z[k + 1]
        coef[k, layout.Y_X : layout.Y_F + 1] = _express(y, h, k)
        g = kept if last else _to_keep([*z[k + 2 :], result], k)
        flags = layout.STORE_X if last else 0
        if g is not None:
            coef[k, layout.G_X : layout.G_F + 1] = _express(g, h, k)
            flags |= layout.STORE_H
        used = np.abs(coef[k, layout.Y_X : layout.Y_F + 1]) + np.abs(coef[k, layout.G_X : layout.G_F + 1])
        for weight, flag in zip(used, (layout.READ_X, layout.READ_H, layout.READ_F), strict=True):
            flags |= flag if weight else 0
        code[k, layout.FLAGS] = flags
        h = g
    coef[S - 1, layout.S] = step.noise
    code[S - 1, layout.DRAW] = step.draw


def _to_keep(needs: list[np.ndarray], k: int) -> np.ndarray | None:
    """What h must hold after evaluation k: the known part of the need that weighs the known F's most."""
    known = [np.where(np.arange(len(v)) < 3 + k, v, 0.0) for v in needs]
    best = max(known, key=lambda v: np.abs(v[1:]).max())
    return best if np.abs(best[1:]).max() > 0 else None


def _express(v: np.ndarray, h: np.ndarray | None, k: int) -> tuple[float, float, float]:
    """(a, b, c) with v = a·x + b·h + c·F_k."""
    old = [i for i in range(1, len(v)) if i != 2 + k]  # P and the F's other than F_k: only h can supply these
    b = 0.0
    if h is not None and np.abs(v[old]).max(initial=0.0) > 0:
        i = max(old, key=lambda j: abs(h[j]))
        b = v[i] / h[i] if h[i] else 0.0
    rest = v - b * h if b and h is not None else v
    if np.abs(rest[old]).max(initial=0.0) > _TOLERANCE * max(np.abs(v).max(), 1e-300):
        raise ConfigError("this solver needs more than two registers; it cannot be lowered to the machine")
    return float(rest[0]), float(b), float(rest[2 + k])
