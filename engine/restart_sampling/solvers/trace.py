r"""Tracing: a solver is written as its paper writes it, and recorded as linear algebra.

Every solver here is linear in the state x, the denoiser outputs D_0, D_1, …, what earlier steps kept and standard
normals, with coefficients known before the first network call. So a solver step is an ordinary function on
:class:`Form` objects, linear combinations of these: calling `D(z, t)` records one network evaluation, `D.draw()` takes
a standard normal. The record, a step of plan/trajectory.py, is what a plan is made of: pure float64 numbers, no
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from .option import Option, read_options, written


def _sum(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple([left + right for left, right in zip_longest(a, b, fillvalue=0.0)]) if a or b else ()


@dataclass(frozen=True)
class Form:
    """x·x + Σ_j history[j]·H_j + Σ_k D[k]·D_k + Σ_m noise[m]·ε_m, float64 coefficients."""

    x: float = 0.0
    history: tuple[float, ...] = ()
    D: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()

    def __add__(self, other: Form) -> Form:
        return Form(
            self.x + other.x, _sum(self.history, other.history), _sum(self.D, other.D), _sum(self.noise, other.noise)
        )

    def __mul__(self, scale: float) -> Form:
        history, D, noise = [tuple([a * scale for a in part]) for part in (self.history, self.D, self.noise)]
        return Form(self.x * scale, history, D, noise)

    __rmul__ = __mul__

    def __sub__(self, other: Form) -> Form:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Form:
        return self * (1.0 / divisor)


X = Form(x=1.0)


def unit(place: int) -> tuple[float, ...]:
    """Return the coefficients 0 … 0 1, the 1 at `place`."""
    return (0.0,) * place + (1.0,)


@dataclass(frozen=True)
class Stage:
    """One network evaluation: D_k = D(z; level).

    `asked` is the level that the network is told where that is not the state's (LD3, AdaSDE), else None.
    """

    level: float
    z: Form
    asked: float | None = None

    @property
    def network(self) -> float:
        """The level that the network is told."""
        return self.level if self.asked is None else self.asked


@dataclass(frozen=True)
class Position:
    """Where a step stands: what a solver may know besides (t, s).

    Attributes:
        remaining: the steps left on this leg, this one included.
        restart: whether the step is inside a Restart interval.
        history: what the step before kept, in its order. It is empty at the start and after every jump.
        levels: at most as many levels: those at which the steps before began, the latest first. A solver that keeps one
            form of each step, the latest first, has kept history[j] at levels[j].
        eta: scale of the noise of ancestral sampling.
        process: the state, see process.py.
        options: every option of the solver, by name.
        note: what the step before noted for this one; None at the start and after every jump.
        first: the level at which this leg began: the main grid, or an interval.
        after: the level after s on this leg; 0 where s is its last.
        index: the number of this step on the main grid, from 0; inside an interval that of the step before it.
    """

    remaining: int = 1
    restart: bool = False
    history: tuple[Form, ...] = ()
    levels: tuple[float, ...] = ()
    eta: float = 1.0
    process: str = "ve"
    options: Mapping[str, Any] = field(default_factory=dict)
    note: Any = None
    first: float = math.inf
    after: float = 0.0
    index: int = 0

    def lowered(self, order: int, left: int = 0) -> int:
        """Return the order for the last steps of the main grid: at most the steps up to the one of order 1.

        `left` counts the steps of order 1 after that one. Inside an interval orders are not lowered.
        """
        return order if self.restart else min(order, max(1, self.remaining - left))


@dataclass(frozen=True)
class Update:
    """What a step returns.

    Attributes:
        x: the new state.
        noise: std of fresh noise to add to it, in which no stage has a part (noise that stages share is `D.draw()`).
        keep: what the next step needs of this one and of those before it: D's or slopes.
        note: a plain value that the next step finds as `position.note`.
    """

    x: Form
    noise: float = 0.0
    keep: tuple[Form, ...] = ()
    note: Any = None


@dataclass
class Tracer:
    """Records the evaluations and the draws of one step; call it as `D(z, level)` and `D.draw()`."""

    stages: list[Stage] = field(default_factory=list)
    draws: int = 0

    def __call__(self, z: Form, level: float, asked: float | None = None) -> Form:
        """Return D(z; level), one network evaluation; the network is told the level `asked` if it is given."""
        self.stages.append(Stage(level, z, asked))
        return Form(D=unit(len(self.stages) - 1))

    def draw(self) -> Form:
        """Return a fresh standard normal ε, which stages and the new state may share."""
        self.draws += 1
        return Form(noise=unit(self.draws - 1))


StepFunction = Callable[[Form, float, float, Tracer, Position], Update]


@dataclass(frozen=True)
class Solver:
    """A solver: its step function and everything else that anyone asks of it.

    Attributes:
        name: as `--solver` has it. aliases: other names for it; "name:option=value" is one that stands for options too.
        step: one step of it, see the module docstring.
        order: convergence order of the deterministic part, with the default options.
        title: for `Plan.explain`. label: for tables and pictures; default: the title.
        source: the paper with its arXiv number or DOI, and the equation or algorithm.
        processes: the states that it handles, see process.py.
        options: its options. chosen: those that differ from the defaults, see :meth:`using`.
        lift: (options, number of a step on the main grid) → γ ≥ 0: fresh noise raises the state to (1 + γ)t, from where
            the step function is called; None: never.
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
    options: tuple[Option, ...] = ()
    study: tuple[tuple[str, Any], ...] = ()
    lift: Callable[[Mapping[str, Any], int], float] | None = None
    rank: float = math.inf
    chosen: tuple[tuple[str, Any], ...] = ()
    evaluations: int = field(init=False)
    noisy: bool = field(init=False)
    multistep: bool = field(init=False)
    family: str = field(init=False)

    def __post_init__(self) -> None:
        at = Position(remaining=9, process=self.processes[0], options=self.settings, first=0.9, after=0.4)
        D, evaluations = Tracer(), 0
        for t, s in ((0.9, 0.7), (0.7, 0.5), (0.5, 0.4)):  # with a history a step may do more
            D = Tracer()
            update = self.step(X, t, s, D, at)
            kept = tuple(Form(history=unit(j)) for j in range(len(update.keep)))
            at = replace(at, history=kept, levels=(t, *at.levels)[: len(kept)], note=update.note, after=0.3)
            evaluations = max(evaluations, len(D.stages))
        lifted = self.lift is not None and self.lift(self.settings, 0) > 0
        noisy = update.noise > 0 or D.draws > 0 or lifted
        sde = noisy or dict(self.study).get("s_churn", 0.0) > 0
        found = {
            "label": self.label or self.title,
            "evaluations": evaluations,
            "noisy": noisy,
            "multistep": bool(update.keep),
            "family": "sde" if sde else "ode",
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Every option with its value."""
        return MappingProxyType({option.name: option.default for option in self.options} | dict(self.chosen))

    @property
    def spec(self) -> str:
        """The name with the options that were chosen, as `--solver` reads it: "unipc:order=2"."""
        return written(self.name, self.chosen)

    def using(self, given: Mapping[str, Any]) -> Solver:
        """Return the solver with these options on top of those it has. ConfigError for one it cannot have."""
        chosen = read_options(self.name, self.options, dict(self.chosen) | dict(given))
        return self if chosen == self.chosen else replace(self, chosen=chosen)
