r"""The walk: solver steps in running order, with every lift folded into the arrival before it.

A lift is noise that raises the state to a higher level: a Restart jump, EDM's churn, or both at one point. It costs no
evaluation, because it is added by the row that arrives there. Lifts at one point share one draw: their variances add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..solvers.process import rise
from ..solvers.trace import D_PREVIOUS, Form, Position, Solver, Stage, Tracer, Update, X
from .intervals import Round
from .options import PlanConfig


@dataclass(frozen=True)
class Step:
    """One solver step from `t` to `s`, in terms of D, and the noise added on arrival.

    The network is evaluated at each stage's level on its form; the new state is `result` (already scaled by the jump,
    if one follows) + `noise`·ε. `lift_to` is the level the noise lifts the state to (= s without a jump or churn).
    `interval` is None on the main grid, else the interval's number, with `iteration` counting its K repeats from 0.
    """

    t: float
    s: float
    stages: tuple[Stage, ...]
    result: Form
    noise: float = 0.0
    draw: int = 0
    lift_to: float = 0.0
    keep: Form | None = None
    interval: int | None = None
    iteration: int = 0


class Walk:
    """Builds the steps of a plan: solver steps, with lifts (jump, churn, ancestral noise) folded into the arrival."""

    def __init__(self, config: PlanConfig, round_sigma: Round | None) -> None:
        self.config, self.round_sigma = config, round_sigma
        self.steps: list[Step] = []
        self.nfe = self.dropped = 0
        self.pending = (1.0, 0.0)  # (scale, variance) to apply to the state before the next evaluation
        self.initial = 0.0
        self.previous_level: float | None = None

    def lift(self, t: float, t_up: float) -> None:
        """Add the noise that moves the state from t up to t_up. Lifts at one point share one draw: variances add."""
        scale, variance = self.pending
        a, std = rise(self.config.process, t, t_up, self.config.s_noise)
        self.pending = (a * scale, a * a * variance + std * std)

    def settle(self, level: float) -> None:
        """Attach what is pending to the last step (or the initial latent), before the network is evaluated at `level`."""
        scale, variance = self.pending
        self.pending = (1.0, 0.0)
        if not self.steps:
            self.initial = math.sqrt((scale * self.initial) ** 2 + variance)
        elif (scale, variance) != (1.0, 0.0):
            last = self.steps[-1]
            total = math.sqrt((scale * last.noise) ** 2 + variance)
            self.steps[-1] = replace(last, result=scale * last.result, noise=total, lift_to=level)

    def forget(self) -> None:
        """Start a fresh multistep history (after a jump)."""
        self.previous_level = None

    def leg(
        self,
        levels: tuple[float, ...],
        solver: Solver,
        gammas: Callable[[float], float],
        interval: int | None = None,
        iteration: int = 0,
        remaining: int | None = None,
    ) -> None:
        """Walk the consecutive `levels`; `remaining` counts the steps to the end of the whole leg."""
        remaining = len(levels) - 1 if remaining is None else remaining
        for k, (t, s) in enumerate(pairwise(levels)):
            if t <= s:
                self.dropped += 1
                continue
            t_hat = self._churned(t, gammas(t))
            self.lift(t, t_hat)
            self.settle(t_hat)
            fresh = self.previous_level is None
            position = Position(
                remaining - k,
                interval is not None,
                None if fresh else D_PREVIOUS,
                self.previous_level,
                self.config.eta,
                self.config.process,
            )
            tracer = Tracer()
            update: Update = solver.step(X, t_hat, s, tracer, position)
            self.previous_level = t_hat if update.keep is not None else None
            self.nfe += len(tracer.stages)
            self.steps.append(
                Step(
                    t_hat,
                    s,
                    tuple(tracer.stages),
                    update.x,
                    update.noise * self.config.s_noise,
                    0,
                    s,
                    update.keep,
                    interval,
                    iteration,
                )
            )

    def _churned(self, t: float, g: float) -> float:
        if g == 0:
            return t
        t_hat = t * (1.0 + g)
        if self.config.process == "flow":
            t_hat = min(t_hat, 1.0)
        # Rounding may land below t, where the lift would be the root of a negative number; then there is no churn.
        return t_hat if self.round_sigma is None else max(t, float(self.round_sigma(np.asarray(t_hat))))

    def finish(self) -> tuple[Step, ...]:
        """Number the draws: draw k is the k-th injection with noise ≠ 0."""
        draw, numbered = 0, []
        for step in self.steps:
            if step.noise:
                draw += 1
            numbered.append(replace(step, draw=draw if step.noise else 0))
        return tuple(numbered)
