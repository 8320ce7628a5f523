r"""`sample` with the signature of `physicsnemo.diffusion.samplers.sample`, and a solver for that function itself.

Both run a plan of the engine over the time steps of a noise scheduler, one network call for each row. `sample` runs it
in one go, with any solver. `RestartSolver` has the method `step(x, t_cur, t_next)` that PhysicsNeMo's own `sample`
calls: a step goes to the next time step and makes the jumps of the intervals that begin there. With the same seeds the
two give the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...common.errors import ConfigError, RestartTypeError, RestartValueError
from ...plan.plan import Plan
from ...solvers import get_solver
from ..k_diffusion.sampling import sample_plan
from .levels import Times

RandnLike = Callable[[Tensor], Tensor]
NEAR = 1e-4  # relative; time steps that a caller computed in another precision


class RestartSolver:
    """A solver with Restart for PhysicsNeMo's `sample`, whose other arguments must be these.

    Args:
        denoiser: d(x, t), the right-hand side of the ODE, as `noise_scheduler.get_denoiser` makes it.
        noise_scheduler, num_steps, time_steps: as of `sample`: they say which time steps there are.
        restart: intervals [N, K, t_min, t_max] in noise levels σ/α, in any notation; None is the solver alone.
        solver, solver_options: a solver of the engine; `step` refuses multistep ones, whose history it does not have.
        s_noise, eta: factor on the noise of jumps, and scale of the noise of stochastic solvers.
        seeds: one for each row of the batch: the engine's noise. randn_like: a function like `torch.randn_like`, which
            is the default.
        backend: of the fused step: auto, reference, triton or native.

    Attributes:
        plan: what runs; `plan.explain()` shows it.

    Raises:
        ConfigError: a scheduler, intervals or options that cannot run as written.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        noise_scheduler: Any,
        num_steps: int,
        restart: Any = None,
        *,
        solver: str = "heun",
        solver_options: dict[str, Any] | None = None,
        time_steps: Any = None,
        s_noise: float = 1.0,
        eta: float = 1.0,
        seeds: Iterable[int] | Tensor | None = None,
        randn_like: RandnLike | None = None,
        backend: str = "auto",
        like: Tensor | None = None,
    ) -> None:
        if not callable(denoiser):
            raise RestartTypeError(f"denoiser must be a function d(x, t), got {type(denoiser).__name__}")
        if not isinstance(solver, str):
            raise RestartTypeError(
                f"solver must be the name of a solver of the engine, got {type(solver).__name__}; an object with a "
                "method step runs in physicsnemo's own sample"
            )
        self.denoiser, self.backend = denoiser, backend
        self.seeds, self.randn_like = seeds, randn_like
        self.times = Times.of(noise_scheduler, num_steps, time_steps, like)
        self.plan = self.times.plan(
            restart, solver=solver, solver_options=solver_options or (), s_noise=s_noise, eta=eta
        )

    def run(self, xN: Tensor) -> Tensor:
        """Return the samples [B, *shape] from the state xN at the first time step."""
        return self._run(self.plan, xN, self.times.steps[0], self.times.steps[-1])

    @torch.no_grad()
    def step(self, x: Tensor, t_cur: Tensor, t_next: Tensor) -> Tensor:
        """Return the state at t_next, one of the time steps, from the state at t_cur, the one before it.

        Both are [B] with one value, which is read from the device.
        """
        at, to = self._place(t_cur), self._place(t_next)
        if to != at + 1:
            raise RestartValueError(
                f"a step goes from one time step to the next, and these are {at} and {to}; make the solver with the "
                "same noise_scheduler, num_steps and time_steps as sample"
            )
        return self._run(self._legs[at], x, self.times.steps[at], self.times.steps[to])

    @cached_property
    def _legs(self) -> list[Plan]:
        """The plan cut at the time steps: each leg is one step of the main grid and the jumps after it."""
        for spec in (self.plan.config.solver, self.plan.config.restart_solver):
            if spec is not None and get_solver(spec).multistep:
                raise ConfigError(
                    f"solver {spec!r} remembers the steps before, which a step by itself does not have; choose one of "
                    "a single step such as heun, or call this package's sample"
                )
        legs: list[list[Any]] = []
        for step in self.plan.steps:
            if step.interval is None:
                legs.append([])
            legs[-1].append(step)
        return [replace(self.plan, steps=tuple(leg)) for leg in legs]

    def _place(self, t: Tensor) -> int:
        """Return which time step a batch stands at."""
        value = float(torch.as_tensor(t).reshape(-1)[0])
        place = min(range(len(self.times.steps)), key=lambda i: abs(self.times.steps[i] - value))
        if abs(self.times.steps[place] - value) > NEAR * abs(value):
            raise RestartValueError(
                f"t = {value:g} is none of the time steps that this solver was made for; make it with the same "
                "noise_scheduler, num_steps and time_steps as sample"
            )
        return place

    def _run(self, plan: Plan, x: Tensor, first: float, last: float) -> Tensor:
        """Run a plan, or a leg of one, from a state at time `first` to one at time `last`."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            given = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise RestartTypeError(f"the state must be a floating tensor [B, ...], got {given}")
        times = self.times
        asked = iter(times.at(row.sigma for row in plan.rows))

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            t = next(asked)
            return times.denoised(self.denoiser, y * times.alpha(t), y.new_full((len(y),), t))

        state = x / times.alpha(first)
        randn_like = self.randn_like
        noise = None if randn_like is None else lambda sigma, sigma_next: randn_like(state)
        found = sample_plan(
            model, state, plan, disable=True, noise_sampler=noise, seeds=self.seeds, backend=self.backend
        )
        return found * times.alpha(last)


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    xN: Tensor,
    noise_scheduler: Any,
    num_steps: int,
    solver: str = "heun",
    time_steps: Tensor | None = None,
    solver_options: dict[str, Any] | None = None,
    time_eval: list[int] | None = None,
    *,
    restart: Any = None,
    s_noise: float = 1.0,
    eta: float = 1.0,
    seeds: Iterable[int] | Tensor | None = None,
    randn_like: RandnLike | None = None,
    backend: str = "auto",
) -> Tensor | list[Tensor]:
    """Sample from xN, with the arguments of PhysicsNeMo's `sample`, by a solver of the engine with Restart.

    Args:
        denoiser: d(x, t), the right-hand side of the ODE, as `noise_scheduler.get_denoiser` makes it.
        xN: state at the first time step, float [B, …], as `noise_scheduler.init_latents` makes it.
        noise_scheduler, num_steps, time_steps: the steps are `time_steps`, or noise_scheduler.timesteps(num_steps).
        solver, solver_options: a solver of the engine and its options.
        time_eval: numbers of steps whose result is wanted, from 0; a list of states is returned then.
        restart, s_noise, eta, seeds, randn_like, backend: see `RestartSolver`.

    Returns:
        x at the last time step in the dtype of xN, or the states that time_eval asks for.

    Raises:
        ConfigError, RestartTypeError, RestartValueError: one sentence about what cannot run.
    """
    made = RestartSolver(
        denoiser,
        noise_scheduler,
        num_steps,
        restart,
        solver=solver,
        solver_options=solver_options,
        time_steps=time_steps,
        s_noise=s_noise,
        eta=eta,
        seeds=seeds,
        randn_like=randn_like,
        backend=backend,
        like=xN if isinstance(xN, Tensor) else None,
    )
    if time_eval is None:
        return made.run(xN)
    count = len(made.times.steps) - 1
    if wrong := [i for i in time_eval if not 0 <= i < count]:
        raise RestartValueError(f"time_eval must be numbers of steps from 0 to {count - 1}, got {wrong}")
    found, x = [], xN
    for i in range(count):
        t_cur, t_next = (torch.tensor([made.times.steps[j]]) for j in (i, i + 1))
        x = made.step(x, t_cur, t_next)
        if i in time_eval:
            found.append(x.clone())
    return found
