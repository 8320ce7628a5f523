r"""The table: a plan folded onto a network, one row per evaluation, for the machine in restart_kernels.

A plan speaks of D. The machine has the registers x and h, h2, h3 and the network's raw output F, and a row is

    y = Y_X·x + Σ_j Y_H[j]·h_j + Y_F·F + S·ε(DRAW) + S2·ε(DRAW2)
    g = G_X·x + Σ_j G_H[j]·h_j + G_F·F
    x ← y (STORE_X)    h_j ← g (STORE_H[j])    net_in ← C_IN·y (STORE_NET)

`lowering.py` finds the coefficients. Row 0 of a table makes the initial latent, y = S·ε(0). Row i + 1 follows
evaluation i, which is row i of the plan, so a table has NFE + 1 rows. A row also holds c_in and c_noise of the
evaluation after it, and the guidance weight w of the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from restart_kernels import layout

from ..common.errors import ConfigError
from ..models.parameterization import Coefficients, Parameterization
from ..plan.plan import Plan
from ..plan.trajectory import Step
from .lowering import Lowered, Lowering

# For each history register its columns and flags.
HISTORY = (
    (layout.Y_H, layout.G_H, layout.READ_H, layout.STORE_H),
    (layout.Y_H2, layout.G_H2, layout.READ_H2, layout.STORE_H2),
    (layout.Y_H3, layout.G_H3, layout.READ_H3, layout.STORE_H3),
)
NOISE = ((layout.S, layout.DRAW), (layout.S2, layout.DRAW2))
UNREAD = [layout.Y_H2, layout.G_H2, layout.Y_H3, layout.G_H3]  # −0 where the register is not read, see layout.py


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

    @cached_property
    def registers(self) -> int:
        """R: history registers that the rows read or store, 0 … 3."""
        flags = int(np.bitwise_or.reduce(self.code[:, layout.FLAGS]))
        return max((j + 1 for j, (_, _, read, store) in enumerate(HISTORY) if flags & (read | store)), default=0)

    @cached_property
    def noises(self) -> int:
        """Noise terms of the rows: 2 if one of them has two, else 1."""
        return 2 if self.coef[:, layout.S2].any() else 1


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
    coef[:, UNREAD] = -0.0
    coef[0, layout.S] = plan.initial_noise
    code[0, layout.FLAGS] = layout.STORE_X
    config, at = plan.config, 1
    lowering = Lowering()
    for step in plan.steps:
        stop = at + len(step.stages)
        part = Coefficients(*(c[at - 1 : stop - 1] for c in coefficients))
        try:
            write_step(lowering, step, part, coef[at:stop], code[at:stop])
        except ConfigError as error:
            solver = config.solver if step.interval is None else config.restart_solver or config.solver
            raise ConfigError(f"solver {solver!r}, step from sigma {step.t:.5g} to {step.s:.5g}: {error}") from None
        at = stop
    coef[:-1, layout.C_IN] = coefficients.c_in
    coef[:-1, layout.C_NOISE] = coefficients.c_noise
    code[:-1, layout.FLAGS] |= layout.STORE_NET
    code[-1, layout.FLAGS] |= layout.END
    low, high = plan.config.guidance_interval
    coef[1:, layout.W] = np.where((sigma[1:] >= low) & (sigma[1:] <= high), plan.config.guidance_scale, 1.0)
    return Table(plan, coef, code, sigma)


def write_step(lowering: Lowering, step: Step, c: Coefficients, coef: np.ndarray, code: np.ndarray) -> None:
    """Lower a step and write its rows into `coef` and `code`, which are views of these rows; ConfigError if it cannot.

    Args:
        lowering: that of the plan.
        c: the coefficients of the network at the step's evaluations.
    """
    rows = lowering.step(step, c)
    for row, weights, numbers in zip(rows, coef, code, strict=True):
        _write(row, weights, numbers)
        terms = [(std, step.draws[m]) for m, std in row.y.noise.items()]
        if row is rows[-1] and step.noise:
            terms.insert(0, (step.noise, step.draw))
        for (std, draw), (s, number) in zip(terms, NOISE, strict=False):
            weights[s], numbers[number] = std, draw


def _write(row: Lowered, coef: np.ndarray, code: np.ndarray) -> None:
    """Write one row but for its noise into its row of the table."""
    flags = layout.STORE_X if row.store_x else 0
    parts = [(row.y, layout.Y_X, layout.Y_F, [y for y, *_ in HISTORY])]
    if row.g is not None:
        parts.append((row.g, layout.G_X, layout.G_F, [g for _, g, *_ in HISTORY]))
        flags |= HISTORY[row.slot][3]
    for part, x, F, history in parts:
        coef[x], coef[F] = part.x, part.F
        flags |= (layout.READ_X if part.x else 0) | (layout.READ_F if part.F else 0)
        for j, (column, weight) in enumerate(zip(history, part.history, strict=True)):
            if weight:
                coef[column] = weight
                flags |= HISTORY[j][2]
    code[layout.FLAGS] = flags
