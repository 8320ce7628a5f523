r"""The trajectory: the solver steps of a plan in running order, each with the noise that is added on arrival.

Noise that raises the state from level t to t_up, x ← a·x + S_noise·√(t_up² − a²t²)·ε, is needed in two places: the
forward process of Restart (arXiv 2306.14878, Algorithm 2) and EDM's churn (arXiv 2206.00364, Algorithm 2, lines 4–6).
It is folded into the step that arrives at t, so it needs no network call of its own. Noise that meets at one point, as
a Restart jump followed by churn does, is one Gaussian: the variances add, and it takes one draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..common.errors import ConfigError
from ..solvers.process import rise
from ..solvers.trace import Form, Position, Solver, Stage, Tracer, X, unit

Round = Callable[[np.ndarray], np.ndarray]
Churn = Callable[[float], float]
NEAR = 1e-3  # 1/rounding.MUCH


@dataclass(frozen=True)
class Step:
    """One solver step from level `t` to level `s`, in terms of D, and the noise added on arrival.

    The network is evaluated at each stage's level on its form. The new state is `result` + `noise`·ε(draw), where
    `result` is already scaled by a jump that follows; `lift_to` is the level that the noise raises the state to, or s.
    `keep` is what the next step has as its history, and `draws` has the number of each draw that the forms share.
    `interval` is None on the main grid, else the interval's number, and `iteration` counts its K repeats from 0.
    """

    t: float
    s: float
    stages: tuple[Stage, ...]
    result: Form
    noise: float = 0.0
    draw: int = 0
    lift_to: float = 0.0
    keep: tuple[Form, ...] = ()
    draws: tuple[int, ...] = ()
    interval: int | None = None
    iteration: int = 0


class Trajectory:
    """Records what happens to the state x, beginning with x ~ N(0, t_0²·I).

    Args:
        t_0: the first level.
        process: "ve" or "flow", see solvers/process.py.
        s_noise: factor on the std of every injected noise.
        eta: noise of ancestral solvers; 0 is DDIM.
        round_sigma: rounds levels to those the network was trained on.
        network_levels: level of the state → level that the network is told; None: the same.
    """

    def __init__(
        self,
        t_0: float,
        process: str,
        s_noise: float,
        eta: float,
        round_sigma: Round | None = None,
        network_levels: Churn | None = None,
    ) -> None:
        self.network_levels = network_levels
        self.process, self.s_noise, self.eta, self.round_sigma = process, s_noise, eta, round_sigma
        self.initial_noise = t_0
        self.dropped = 0  # steps of zero length
        self._steps: list[Step] = []
        self._scale, self._variance = 1.0, 0.0  # noise that waits for the next evaluation
        self._kept = 0  # how many forms the step before kept
        self._levels: tuple[float, ...] = ()  # where the steps that the history comes from began, the latest first
        self._note: Any = None  # of the step before
        self._solver: Solver | None = None  # of the step before

    def forward(self, t: float, t_up: float) -> None:
        """Raise the state from level t to level t_up ≥ t by fresh noise; t_up = t is the identity."""
        a, std = rise(self.process, t, t_up, self.s_noise)
        self._scale, self._variance = a * self._scale, a * a * self._variance + std * std

    def forget(self) -> None:
        """Drop the history of a multistep solver, which a jump makes worthless."""
        self._kept, self._levels, self._note = 0, (), None

    def backward(
        self,
        levels: tuple[float, ...],
        solver: Solver,
        churn: Churn,
        *,
        remaining: int | None = None,
        eta: float | None = None,
        first: float | None = None,
        after: float = 0.0,
        index: int = 0,
        interval: int | None = None,
        iteration: int = 0,
    ) -> None:
        """Solve the ODE down one leg, the consecutive `levels`: a solver step for each pair of them.

        Args:
            churn: level t → γ ≥ 0; the step then starts at t̂ = t(1 + γ).
            eta: noise of ancestral solvers on this leg; default: that of the trajectory.
            remaining: steps to the end of the whole leg, where `levels` are only its beginning.
            first: the first level of the whole leg; default: of `levels`.
            after: the level of the leg after `levels`, 0 for none.
            index: the number of the first step on the main grid.

        A step begins without a history if it is of another solver, if churn raised its level, and if an earlier level
        is NEAR the next one: extrapolating from there would multiply every rounding error.
        """
        remaining = len(levels) - 1 if remaining is None else remaining
        eta, first = self.eta if eta is None else eta, levels[0] if first is None else first
        if solver is not self._solver:
            self.forget()
        self._solver = solver
        for k, (t, s) in enumerate(pairwise(levels)):
            if t <= s:
                self.dropped += 1
                continue
            gamma = churn(t)
            if solver.lift is not None and interval is None:
                gamma = max(gamma, solver.lift(solver.settings, index + k))
            t_hat = self._churned(t, gamma)
            if t_hat > t or self._too_near(t_hat, s):
                self.forget()
            self.forward(t, t_hat)
            self._inject(t_hat)
            history = tuple(Form(history=unit(j)) for j in range(self._kept))
            position = Position(
                remaining=remaining - k,
                restart=interval is not None,
                history=history,
                levels=self._levels,
                eta=eta,
                process=self.process,
                options=solver.settings,
                note=self._note,
                first=first,
                after=(*levels, after)[k + 2],
                index=index + (k if interval is None else 0),
            )
            D = Tracer()
            new = solver.step(X, t_hat, s, D, position)
            if D.stages and D.stages[0].z != X:
                raise ConfigError(f"solver {solver.name!r} must make its first evaluation at the state it is given")
            self._kept, self._levels = len(new.keep), (t_hat, *self._levels)[: len(new.keep)]
            self._note = new.note
            stages = tuple(replace(stage, z=self._scaled(stage.z), asked=self._asked(stage)) for stage in D.stages)
            result, keep = self._scaled(new.x), tuple(map(self._scaled, new.keep))
            noise, draws = new.noise * self.s_noise, (0,) * D.draws
            self._steps.append(Step(t_hat, s, stages, result, noise, 0, s, keep, draws, interval, iteration))

    def _too_near(self, t: float, s: float) -> bool:
        """Whether the levels of the history are so near to each other that a step from t to s cannot use it.

        The weights of earlier outputs grow as the product of the ratios of this step to those before, in ln t; where it
        is above 1/NEAR, float32 would keep fewer than about four digits (see rounding.py).
        """
        if s == 0:
            return False
        ratios = [math.log(above / below) / math.log(t / s) for below, above in pairwise((t, *self._levels))]
        return math.prod(min(1.0, ratio) for ratio in ratios) < NEAR

    def _asked(self, stage: Stage) -> float | None:
        """Return the level that the network is told at a stage, None for that of the state."""
        if stage.asked is not None or self.network_levels is None:
            return stage.asked
        level = self.network_levels(stage.level)
        return None if level == stage.level else level

    def _scaled(self, form: Form) -> Form:
        """Return a form with S_noise on its noise."""
        return form if not form.noise else replace(form, noise=tuple(a * self.s_noise for a in form.noise))

    def _churned(self, t: float, gamma: float) -> float:
        """Return t̂ = t(1 + γ), rounded to a level that the network knows."""
        if gamma == 0:
            return t
        t_hat = t * (1.0 + gamma)
        if self.process == "flow":
            t_hat = min(t_hat, 1.0)
        # Rounding may land below t, where the noise would be the root of a negative number; then there is no churn.
        return t_hat if self.round_sigma is None else max(t, float(self.round_sigma(np.asarray(t_hat))))

    def _inject(self, level: float) -> None:
        """Fold the waiting noise into the last step, or into the initial noise, before D is evaluated at `level`."""
        scale, variance = self._scale, self._variance
        self._scale, self._variance = 1.0, 0.0
        if not self._steps:
            self.initial_noise = math.sqrt((scale * self.initial_noise) ** 2 + variance)
        elif (scale, variance) != (1.0, 0.0):
            last = self._steps[-1]
            noise = math.sqrt((scale * last.noise) ** 2 + variance)
            self._steps[-1] = replace(last, result=scale * last.result, noise=noise, lift_to=level)

    def steps(self) -> tuple[Step, ...]:
        """Return the steps with their draws numbered: draw k is the k-th injection whose std is not 0.

        Of one step, the draws that its forms share come first, then the noise on arrival.
        """
        last, numbered = 0, []
        for step in self._steps:
            forms, draws = (*(stage.z for stage in step.stages), step.result), []
            for m in range(len(step.draws)):
                used = any(m < len(form.noise) and form.noise[m] for form in forms)
                last += used
                draws.append(last if used else 0)
            last += bool(step.noise)
            numbered.append(replace(step, draw=last if step.noise else 0, draws=tuple(draws)))
        return tuple(numbered)
