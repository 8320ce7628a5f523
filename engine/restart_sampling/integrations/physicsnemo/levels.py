r"""Diffusion times of PhysicsNeMo as noise levels of the engine.

A noise scheduler has x(t) = α(t)·x₀ + σ(t)·ε. The engine's state is x(t)/α(t), at the level σ(t)/α(t), for every
scheduler but those of flow matching, α = 1 − t and σ = t, whose state and level are x and t themselves. A scheduler
that does not say what α and σ are counts as EDM's, α = 1 and σ = t.

What samplers call the denoiser is d, the right-hand side of the probability-flow ODE dx/dt = d(x, t). D follows from
it: x − t·d for EDM's and for flows; else, with the scheduler's own f, g² and score_to_x0, from d = f − ½·g²·score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import ConfigError, RestartTypeError
from ...plan.limits import stop_at_last_level
from ...plan.plan import Plan
from ..k_diffusion.levels import Levels, read

PROCESSES = {"ve": "edm", "flow": "flow"}  # the state, and the schedule that walks it
HALVINGS = 200  # of the bisection that finds the time of a level


@dataclass(frozen=True)
class Times:
    """The time steps of a run.

    Attributes:
        scheduler: a noise scheduler. steps: t_N … t_0, descending, the last one 0 for a whole run.
    """

    scheduler: Any
    steps: tuple[float, ...]

    @classmethod
    def of(cls, scheduler: Any, num_steps: int, time_steps: Any = None, like: Tensor | None = None) -> Times:
        """Return the steps that `sample` of PhysicsNeMo takes: those given, or the scheduler's in the dtype of `like`.

        Raises:
            ConfigError: no steps, or levels that cannot be sampled. RestartTypeError: the scheduler has no timesteps.
        """
        if hasattr(scheduler, "nu"):
            raise ConfigError(
                f"{type(scheduler).__name__} has Student-t noise, and the noise of jumps and of stochastic solvers is "
                "Gaussian here; use a Gaussian scheduler"
            )
        if time_steps is None:
            if not callable(make := getattr(scheduler, "timesteps", None)):
                raise RestartTypeError(
                    f"noise_scheduler must have timesteps(num_steps), got {type(scheduler).__name__}"
                )
            dtype = torch.float32 if like is None else like.dtype
            time_steps = make(num_steps, device=None if like is None else like.device, dtype=dtype)
        found = cls(scheduler, tuple(float(t) for t in np.asarray(_plain(time_steps), np.float64).reshape(-1)))
        if len(found.steps) < 2:
            raise ConfigError(f"a run has at least 2 time steps, the last one 0, got {list(found.steps)}")
        missing = [name for name in ("drift", "diffusion", "score_to_x0") if not hasattr(scheduler, name)]
        if missing and not found.plain:
            raise ConfigError(
                f"{type(scheduler).__name__} has an alpha or a sigma of its own and no {missing[0]}, so D does not "
                "follow from what the denoiser returns; derive it from LinearGaussianNoiseScheduler"
            )
        if found.process == "ve" and not found.alpha(found.steps[0]) > 1e-6:
            raise ConfigError(
                f"at the first time step {found.steps[0]:g} nothing of the data is left (alpha is 0), so there is no "
                "finite noise level; begin below it"
            )
        return found

    @cached_property
    def process(self) -> str:
        """The engine's process, "ve" or "flow"."""
        t = np.array(self.steps)
        alpha, sigma = self._values("alpha", t), self._values("sigma", t)
        if alpha is None or sigma is None:
            return "ve"
        return "flow" if np.allclose(alpha, 1 - t, atol=1e-6) and np.allclose(sigma, t, atol=1e-6) else "ve"

    @cached_property
    def plain(self) -> bool:
        """Whether times are levels, and D is x − t·d."""
        t = np.array(self.steps)
        alpha, sigma = self._values("alpha", t), self._values("sigma", t)
        if self.process == "flow" or alpha is None or sigma is None:
            return True
        return bool((alpha == 1).all() and np.array_equal(sigma, t))

    @cached_property
    def levels(self) -> Levels:
        """The engine's levels of the steps. Raises ConfigError if they do not descend."""
        found = read(self._level(np.array(self.steps)))
        if len(found.sigmas) + found.to_zero != len(self.steps):
            raise ConfigError("time steps must descend, and two of these are equal; leave one of them out")
        return found

    def alpha(self, t: float) -> float:
        """Return what a state at time t is divided by to be the engine's."""
        if self.plain:
            return 1.0
        found = self._values("alpha", np.array([t]))
        return 1.0 if found is None else float(found[0])

    def plan(self, restart: Any = None, **options: Any) -> Plan:
        """Return the plan over these steps with Restart intervals; `options` are of `Plan.build`."""
        levels = self.levels
        found = Plan.build(sigmas=levels.sigmas, restart=restart, schedule=PROCESSES[self.process], **options)
        return found if levels.to_zero else stop_at_last_level(found)

    def at(self, levels: Iterable[float]) -> list[float]:
        """Return the times of levels of the engine: those of the steps exactly, others by bisection."""
        wanted = np.array(list(levels), np.float64)
        if self.plain:
            return list(map(float, wanted))
        low, high = np.zeros_like(wanted), np.full_like(wanted, self.steps[0])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = self._level(middle) > wanted
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        known = dict(zip(self._level(np.array(self.steps)).tolist(), self.steps, strict=True))
        return [known.get(level, t) for level, t in zip(wanted.tolist(), high.tolist(), strict=True)]

    def denoised(self, denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        """Return D of a state x at times t [B], from the right-hand side of its ODE."""
        d = denoiser(x, t)
        if not isinstance(d, Tensor) or d.shape != x.shape:
            given = list(d.shape) if isinstance(d, Tensor) else type(d).__name__
            raise RestartTypeError(f"the denoiser must return dx/dt of the shape of x, {list(x.shape)}, got {given}")
        if self.plain:
            return x - t.view(-1, *[1] * (x.ndim - 1)) * d
        of = self.scheduler
        x0: Tensor = of.score_to_x0(2 * (of.drift(x, t) - d) / of.diffusion(x, t), x, t)
        return x0

    def _level(self, t: np.ndarray) -> np.ndarray:
        """Return the engine's levels of times."""
        if self.plain:
            return t
        alpha, sigma = self._values("alpha", t), self._values("sigma", t)
        assert alpha is not None and sigma is not None
        found: np.ndarray = sigma / alpha
        return found

    def _values(self, name: str, t: np.ndarray) -> np.ndarray | None:
        """Return α or σ at times, float64; None if the scheduler does not say."""
        function = getattr(self.scheduler, name, None)
        if not callable(function):
            return None
        return np.asarray(_plain(function(torch.from_numpy(t))), np.float64)


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
