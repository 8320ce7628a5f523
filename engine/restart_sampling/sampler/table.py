r"""The table: a plan folded onto a network, one row per evaluation, for the machine in restart_kernels.

A plan speaks of D. The machine has the registers x and h, h2, h3 and the network's raw output F, and a row is

    y = Y_X·x + Σ_j Y_H[j]·h_j + Y_F·F + S·ε(DRAW) + S2·ε(DRAW2)
    g = G_X·x + Σ_j G_H[j]·h_j + G_F·F
    x ← y (STORE_X)    h_j ← g (STORE_H[j])    net_in ← C_IN·y (STORE_NET)

`lowering.py` finds the coefficients. Row 0 of a table makes the initial latent, y = S·ε(0). Row i + 1 follows
evaluation i, which is row i of the plan, so a table has NFE + 1 rows. A row also holds c_in and c_noise of the
evaluation after it, and the guidance weight w of the one before it.

What a row asks of the network is its kind: NONE, where it does not read F; ONE output; or BOTH outputs of guidance.

A plan has a table for each `Variant` of a run: the start (from noise, from given latents, or from an image) changes row
0, and a known image pastes every row, so that the network's next input is at that image where the mask says so:

    y ← M·y + (1 − M)·(α·image + σ·ε)       at the level of the next evaluation; the image itself at the end
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from restart_kernels import layout
from restart_kernels.registers import HISTORY, METHODS

from ..common.errors import ConfigError
from ..models.parameterization import Coefficients, Parameterization
from ..plan.guidance import BOTH, NONE, ONE, silent, weights
from ..plan.options import PlanConfig
from ..plan.plan import Plan
from ..plan.trajectory import Step
from ..solvers.process import alpha
from .lowering import Lowered, Lowering

NOISE = ((layout.S, layout.DRAW), (layout.S2, layout.DRAW2))
UNREAD = [layout.Y_H2, layout.G_H2, layout.Y_H3, layout.G_H3]  # −0 where the register is not read, see layout.py


STARTS = ("noise", "latents", "image")
PASTES = ("initial", "fresh")
PASTE_DRAWS = 2**30  # the noise of pasted rows has draws from here on, where no trajectory comes


class Variant(NamedTuple):
    """How a run begins and what it pastes.

    Attributes:
        start: "noise", the latent is draw 0 of the seed; "latents", x holds standard normals; "image", x holds an
            image, which gets draw 0 as the noise of the first level.
        paste: None, or which noise the known image gets: "initial", draw 0 again, so that each level has the same; or
            "fresh", a draw of its own for each row (the first latent is then left as it is, as in RePaint).
        soft: whether masks have values between 0 and 1, see lowering.py.
    """

    start: str = "noise"
    paste: str | None = None
    soft: bool = False


PLAIN = Variant()


@dataclass(frozen=True)
class Table:
    """The coefficients of a bound plan, on the host.

    Attributes:
        plan: the plan, clipped and rounded to the network's levels.
        coef: float64 [NFE + 1, NUM_COEF], see restart_kernels.layout.
        code: int32 [NFE + 1, NUM_CODE], likewise.
        sigma: float64 [NFE + 1], the level of the evaluation before each row; for row 0 the first level.
        variant: how the run begins and what it pastes.
    """

    plan: Plan
    coef: np.ndarray
    code: np.ndarray
    sigma: np.ndarray
    variant: Variant = PLAIN

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

    @cached_property
    def kinds(self) -> np.ndarray:
        """What each evaluation asks of the network, int8 [NFE]: NONE, ONE or BOTH."""
        flags = self.code[1:, layout.FLAGS]
        kinds = np.where(flags & layout.GUIDE, BOTH, ONE)
        return np.where(flags & layout.READ_F, kinds, NONE).astype(np.int8)

    @cached_property
    def weighed(self) -> bool:
        """Whether any row has a guidance method that weighs whole samples (the kernels' `row/weights.py`)."""
        return bool((self.code[:, layout.FLAGS] & METHODS).any())

    @cached_property
    def key(self) -> str:
        """Twelve hex digits that name what runs: equal for tables that draw the same images.

        A table that an older layout could hold, of 12 columns, keeps the digits it had there.
        """
        older = np.zeros((len(self.coef), 12))
        older[:, :10] = self.coef[:, :10]
        parts = [older, self.code & ~np.int32(layout.GUIDE), self.sigma]
        if self.coef[:, 10:].any():
            parts.append(self.coef[:, 10:])
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:12]

    @property
    def pasted(self) -> bool:
        """Whether its rows paste a known image."""
        return self.variant.paste is not None

    @property
    def network_calls(self) -> int:
        """Network calls per sample."""
        return int(self.kinds.sum())


def bind(plan: Plan, parameterization: Parameterization, variant: Variant = PLAIN) -> Table:
    """Return `plan` folded onto a network's parameterization, for a variant of the run.

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
    coefficients = coefficients._replace(c_out=np.where(silent(plan), 0.0, coefficients.c_out))  # F counts as 0 there
    coef = np.zeros((len(sigma), layout.NUM_COEF))
    code = np.zeros((len(sigma), layout.NUM_CODE), dtype=np.int32)
    coef[:, UNREAD] = -0.0
    _begin(plan, variant, coef[0], code[0])
    config, at = plan.config, 1
    lowering = Lowering(variant.soft)
    for step in plan.steps:
        stop = at + len(step.stages)
        part = Coefficients(*(c[at - 1 : stop - 1] for c in coefficients))
        try:
            write_step(lowering, step, part, coef[at:stop], code[at:stop])
        except ConfigError as error:
            solver = config.solver if step.interval is None else config.restart_solver or config.solver
            mask = ", or give a mask of 0 and 1 alone" if variant.soft else ""
            raise ConfigError(
                f"solver {solver!r}, step from sigma {step.t:.5g} to {step.s:.5g}: {error}{mask}"
            ) from None
        at = stop
    coef[:-1, layout.C_IN] = coefficients.c_in
    coef[:-1, layout.C_NOISE] = coefficients.c_noise
    code[:-1, layout.FLAGS] |= layout.STORE_NET
    code[-1, layout.FLAGS] |= layout.END
    coef[1:, layout.W] = weights(plan)
    _guide(plan.config, coef[1:], code[1:])
    if variant.paste is not None:
        _paste(plan, variant.paste, coef, code)
    return Table(plan, coef, code, sigma, variant)


def _begin(plan: Plan, variant: Variant, coef: np.ndarray, code: np.ndarray) -> None:
    """Write row 0, which makes the first state."""
    code[layout.FLAGS] = layout.STORE_X
    if variant.start != "latents":
        coef[layout.S] = plan.initial_noise
    if variant.start != "noise":
        coef[layout.Y_X] = plan.initial_noise if variant.start == "latents" else alpha(plan.process, plan.steps[0].t)
        code[layout.FLAGS] |= layout.READ_X


def _guide(config: PlanConfig, coef: np.ndarray, code: np.ndarray) -> None:
    """Mark the rows where guidance acts, with what its method needs."""
    acts = (coef[:, layout.W] != 1) & ((code[:, layout.FLAGS] & layout.READ_F) != 0)
    flag = layout.GUIDE
    if config.guidance_rescale:
        flag |= layout.RESCALE
        coef[acts, layout.P] = config.guidance_rescale
    elif config.guidance == "zero-star":
        flag |= layout.ZERO_STAR
    elif config.guidance == "apg":
        flag |= layout.APG
        coef[acts, layout.P], coef[acts, layout.Q] = config.apg_eta, config.apg_norm
    code[acts, layout.FLAGS] |= flag


def _paste(plan: Plan, noise: str, coef: np.ndarray, code: np.ndarray) -> None:
    """Make every row paste the known image at the level of the state that the network sees next."""
    levels = np.array([*(stage.level for step in plan.steps for stage in step.stages), plan.steps[-1].s])
    rows = slice(1 if noise == "fresh" else 0, None)
    coef[rows, layout.K] = [alpha(plan.process, level) for level in levels[rows]]
    coef[rows, layout.S_K] = levels[rows]
    code[rows, layout.FLAGS] |= layout.PASTE
    if noise == "fresh":
        code[rows, layout.DRAW_K] = PASTE_DRAWS + np.arange(1, len(levels))


def write_step(lowering: Lowering, step: Step, c: Coefficients, coef: np.ndarray, code: np.ndarray) -> None:
    """Lower a step and write its rows into `coef` and `code`, which are views of these rows; ConfigError if it cannot.

    Args:
        lowering: that of the plan.
        c: the coefficients of the network at the step's evaluations.
    """
    rows = lowering.step(step, c)
    for row, floats, numbers in zip(rows, coef, code, strict=True):
        _write(row, floats, numbers)
        terms = [(std, step.draws[m]) for m, std in row.y.noise.items()]
        if row is rows[-1] and step.noise:
            terms.insert(0, (step.noise, step.draw))
        for (std, draw), (s, number) in zip(terms, NOISE, strict=False):
            floats[s], numbers[number] = std, draw


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
