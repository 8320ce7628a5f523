r"""Tracing: a solver is written as its paper writes it, and recorded as linear algebra.

Every solver here is linear in the state x and the denoiser outputs D_0, D_1, … with coefficients known before the first
network call. So a solver step is an ordinary function on :class:`Form` objects (linear combinations of x, D_0, D_1, …
and the form kept from the previous step); calling `D(z, t)` records one network evaluation. The record, a step of
plan/trajectory.py, is what a plan is made of: pure float64 numbers, no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any


@dataclass(frozen=True)
class Form:
    """x·x + previous·D_prev + Σ_k D[k]·D_k, float64 coefficients."""

    x: float = 0.0
    previous: float = 0.0
    D: tuple[float, ...] = ()

    def __add__(self, other: Form) -> Form:
        D = [a + b for a, b in zip_longest(self.D, other.D, fillvalue=0.0)]
        return Form(self.x + other.x, self.previous + other.previous, tuple(D))

    def __mul__(self, scale: float) -> Form:
        return Form(self.x * scale, self.previous * scale, tuple([d * scale for d in self.D]))

    __rmul__ = __mul__

    def __sub__(self, other: Form) -> Form:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Form:
        return self * (1.0 / divisor)


X = Form(x=1.0)
D_PREVIOUS = Form(previous=1.0)


@dataclass(frozen=True)
class Stage:
    """One network evaluation: D_k = D(z; level)."""

    level: float
    z: Form


@dataclass(frozen=True)
class Position:
    """Where a step stands: what a solver may know besides (t, s).

    `remaining` counts the steps left on this leg, this one included; `restart` is True inside a Restart interval.
    `previous` (with the level `t_previous` it belongs to) is the form kept by the step before, or None when the
    history is fresh: at the start and after every jump. `eta` scales the noise of ancestral sampling; `process` names
    the state (see process.py)."""

    remaining: int = 1
    restart: bool = False
    previous: Form | None = None
    t_previous: float | None = None
    eta: float = 1.0
    process: str = "ve"


@dataclass(frozen=True)
class Update:
    """What a step returns.

    Attributes:
        x: the new state.
        noise: std of the noise to add to it.
        keep: what the next step needs of this one (a D, a slope).
    """

    x: Form
    noise: float = 0.0
    keep: Form | None = None


@dataclass
class Tracer:
    """Records the evaluations of one step; call it as `D(z, level)`."""

    stages: list[Stage] = field(default_factory=list)

    def __call__(self, z: Form, level: float) -> Form:
        self.stages.append(Stage(level, z))
        return Form(D=(0.0,) * (len(self.stages) - 1) + (1.0,))


StepFunction = Callable[[Form, float, float, Tracer, Position], Update]


@dataclass(frozen=True)
class Solver:
    """A solver: its step function and everything else that anyone asks of it.

    Attributes:
        name: as `--solver` has it. aliases: other names for it.
        step: one step of it, see the module docstring.
        order: convergence order of the deterministic part.
        title: for `Plan.explain`. label: for tables and pictures; default: the title.
        source: the paper with its arXiv number or DOI, and the equation or algorithm.
        processes: the states that it handles, see process.py.
        study: plan options with which studies of samplers run it.
        rank: its place in lists; a solver without one comes after those that have one, by name.
        evaluations: the most network evaluations that one step takes.
        noisy: whether the step itself injects noise.
        multistep: whether it keeps something for the next step.
        family: "ode", or "sde" if it injects noise or is studied with churn.

    The last four are found by tracing a step.
    """

    name: str
    step: StepFunction
    order: int
    title: str
    source: str
    label: str = ""
    processes: tuple[str, ...] = ("ve",)
    aliases: tuple[str, ...] = ()
    study: tuple[tuple[str, Any], ...] = ()
    rank: float = math.inf
    evaluations: int = field(init=False)
    noisy: bool = field(init=False)
    multistep: bool = field(init=False)
    family: str = field(init=False)

    def __post_init__(self) -> None:
        D = Tracer()
        update = self.step(X, 0.9, 0.5, D, Position(remaining=9, process=self.processes[0]))
        sde = update.noise > 0 or dict(self.study).get("s_churn", 0.0) > 0
        found = {
            "label": self.label or self.title,
            "evaluations": len(D.stages),
            "noisy": update.noise > 0,
            "multistep": update.keep is not None,
            "family": "sde" if sde else "ode",
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)
