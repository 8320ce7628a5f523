r"""The table: a plan folded onto a network, one row per evaluation, for the machine in restart_kernels.

A plan speaks of D. The machine has registers x and h and the network's raw output F, and a row is

    y = Y_X·x + Y_H·h + Y_F·F + S·ε(DRAW)
    g = G_X·x + G_H·h + G_F·F
    x ← y (STORE_X)    h ← g (STORE_H)    net_in ← C_IN·y (STORE_NET)

Folding is linear algebra. Within one solver step every quantity is a vector over (x, P, F_0, F_1, …), where x is the
state at the start of the step and P what h holds there. With D_k = c_skip(t_k)·z_k + c_out(t_k)·F_k each stage's
input z_k and the step's result are such vectors. After evaluation k the machine can store one vector in h, so the parts
of all later quantities that depend on the F's known so far must be multiples of one direction; a solver for which they
are not is refused. h gets the known part of the step's result, so the last row of a step is y = h + Y_F·F and does not
read x: Heun moves 24 bytes per element and step with a bf16 network instead of 28.

Row 0 of a table makes the initial latent, y = S·ε(0). Row i + 1 follows evaluation i, which is row i of the plan, so a
table has NFE + 1 rows. A row also holds c_in and c_noise of the evaluation after it, and the guidance weight w of the
one before it.
"""

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
    """The coefficients of a bound plan, on the host.

    Attributes:
        plan: the plan, clipped and rounded to the network's levels.
        coef: float64 [NFE + 1, NUM_COEF], see restart_kernels.layout.
        code: int32 [NFE + 1, NUM_CODE], likewise.
        sigma: float64 [NFE + 1], the level of the evaluation before each row; for row 0 the first level.
    """

    plan: Plan
    coef: np.ndarray
    code: np.ndarray
    sigma: np.ndarray

    @property
    def nfe(self) -> int:
        """Network evaluations per sample, one less than rows."""
        return len(self.coef) - 1


def bind(plan: Plan, parameterization: Parameterization) -> Table:
    """Return `plan` folded onto a network's parameterization.

    Raises:
        ConfigError: the plan samples another process than the network's, or needs levels that the network does not
            know, or its solver needs more registers than the machine has.
    """
    if plan.process != parameterization.process:
        raise ConfigError(
            f"the plan samples a {plan.process!r} process but the network is of a {parameterization.process!r} one; "
            f"build the plan with schedule={'flow' if parameterization.process == 'flow' else 'edm'!r}"
        )
    plan = plan.for_network(parameterization.sigma_min, parameterization.sigma_max, parameterization.round_sigma)
    rows = plan.rows
    sigma = np.array([rows[0].sigma, *(r.sigma for r in rows)])
    top = parameterization.sigma_max * (1 + 1e-9)
    if sigma.max() > top:
        raise ConfigError(
            f"churn lifts the state to sigma {sigma.max():g}, above the network's largest, "
            f"{parameterization.sigma_max:g}; lower s_churn, restart_gamma or s_max"
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
        try:
            _fold(step, part, coef[at:stop], code[at:stop])
        except ConfigError as error:
            solver = plan.config.solver if step.interval is None else plan.config.restart_solver or plan.config.solver
            raise ConfigError(f"solver {solver!r}, step from sigma {step.t:.5g} to {step.s:.5g}: {error}") from None
        at = stop
    coef[:-1, layout.C_IN] = coefficients.c_in
    coef[:-1, layout.C_NOISE] = coefficients.c_noise
    code[:-1, layout.FLAGS] |= layout.STORE_NET
    code[-1, layout.FLAGS] |= layout.END
    low, high = plan.config.guidance_interval
    coef[1:, layout.W] = np.where((sigma[1:] >= low) & (sigma[1:] <= high), plan.config.guidance_scale, 1.0)
    return Table(plan, coef, code, sigma)


def _fold(step: Step, c: Coefficients, coef: np.ndarray, code: np.ndarray) -> None:
    """Write the rows of one solver step into `coef` and `code`, which are views of these rows."""
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
    history = None if step.keep is None else vector(step.keep)

    h: np.ndarray | None = P
    for k in range(S):
        last = k == S - 1
        y = result if last else z[k + 1]
        coef[k, layout.Y_X : layout.Y_F + 1] = _express(y, h, k)
        g = history if last else _known_part([*z[k + 2 :], result], k)
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


def _known_part(later: list[np.ndarray], k: int) -> np.ndarray | None:
    """Return h after evaluation k: the known part of the later quantity that depends most on past F's."""
    known = [np.where(np.arange(len(v)) < 3 + k, v, 0.0) for v in later]
    best = max(known, key=lambda v: np.abs(v[1:]).max())
    return best if np.abs(best[1:]).max() > 0 else None


def _express(v: np.ndarray, h: np.ndarray | None, k: int) -> tuple[float, float, float]:
    """Return (a, b, c) with v = a·x + b·h + c·F_k; raises ConfigError if there are none."""
    old = [i for i in range(1, len(v)) if i != 2 + k]  # P and the F's other than F_k: only h has these
    b = 0.0
    if h is not None and np.abs(v[old]).max(initial=0.0) > 0:
        i = max(old, key=lambda j: abs(h[j]))
        b = v[i] / h[i] if h[i] else 0.0
    rest = v - b * h if b and h is not None else v
    if np.abs(rest[old]).max(initial=0.0) > _TOLERANCE * max(np.abs(v).max(), 1e-300):
        raise ConfigError(
            f"what follows evaluation {k} needs more than two registers: x, one kept combination of earlier "
            "evaluations and the newest one are there; combine earlier evaluations, or keep fewer"
        )
    return float(rest[0]), float(b), float(rest[2 + k])
