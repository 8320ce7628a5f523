r"""The plain PyTorch loops of loops.py as candidates: the baselines that the engine's speed is compared with.

They run the plans of the engine's `heun`, `edm-stochastic` and `heun+restart` at the same budget, with unused draws as
in public code. They start from the engine's initial latents, draw 0 of the seed. Later noise is torch's: the float64
loops have one generator for each seed, the float32 loops one for each batch, so with Restart their samples depend on
the batch. The network is the engine's, in its precision; preconditioning is plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.noise import normal
from ...solvers import get_solver
from . import loops
from .candidate import Candidate, Runner
from .eager import EagerRunner
from .engine import plan_for
from .rows import DRAW0

_EDM = "EDM, arXiv 2206.00364"
_RESTART = "Restart, arXiv 2306.14878, Algorithms 1 and 2"
# name, family, title, source, registers, solver of the engine's plan
_LOOPS = (
    ("heun-fp64", "ode", "Heun, plain float64", f"{_EDM}, Algorithm 1", torch.float64, "heun"),
    (
        "edm-stochastic-fp64",
        "sde",
        "EDM stochastic, plain float64",
        f"{_EDM}, Algorithm 2",
        torch.float64,
        "edm-stochastic",
    ),
    ("restart-fp64", "restart", "Heun + Restart, plain float64", _RESTART, torch.float64, "heun"),
    ("heun-fp32", "ode", "Heun, plain float32", f"{_EDM}, Algorithm 1, in k-diffusion's manner", torch.float32, "heun"),
    (
        "restart-fp32",
        "restart",
        "Heun + Restart, plain float32",
        f"{_RESTART}, in k-diffusion's manner",
        torch.float32,
        "heun",
    ),
)


def candidates() -> tuple[Candidate, ...]:
    """Return `torch/heun-fp64` and the other four."""
    return tuple(
        Candidate(f"torch/{name}", family, "torch", title, source, partial(_make, name, family, solver, registers))
        for name, family, title, source, registers, solver in _LOOPS
    )


class LoopRunner(EagerRunner):
    """Draws with one of the loops, on a plan's grid and intervals."""

    def __init__(
        self, denoiser: Denoiser, plan: Plan, registers: torch.dtype, key: str, batch_size: int, dtype: str
    ) -> None:
        super().__init__(denoiser, plan.nfe, key, batch_size, dtype)
        self.recipe, self.registers = plan, registers
        bound = plan.for_network(denoiser.parameterization.sigma_min, denoiser.parameterization.sigma_max)
        self.grid = torch.tensor(bound.grid, dtype=registers, device=self.device)
        self.intervals = loops.intervals_of(bound)

    def _batch(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        c, D, shape = self.recipe.config, self._D(labels), self.denoiser.shape
        latents = normal(seeds, 0, shape, device=self.device)
        if self.registers == torch.float64:
            each = loops.SampleGenerators(seeds.tolist(), self.device)
            return loops.restart_loop_fp64(
                D, latents, self.grid, self.intervals, each, c.s_churn, c.s_min, c.s_max, c.s_noise
            )
        noise = _batch_noise(int(seeds[0]), self.device)
        x = latents * self.grid[0]
        return loops.heun_loop_fp32(D, x, self.grid, self.intervals, noise, c.s_churn, c.s_min, c.s_max, c.s_noise)


def _batch_noise(seed: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function like `torch.randn_like` with a generator of its own."""
    generator = torch.Generator(device).manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _make(
    name: str,
    family: str,
    solver: str,
    registers: torch.dtype,
    denoiser: Denoiser,
    nfe: int,
    batch_size: int,
    dtype: str,
    restart: Any,
) -> Runner | None:
    options = get_solver("edm-stochastic").study if family == "sde" else ()
    plan = plan_for(solver, nfe, family == "restart", restart, options)
    if plan is None:
        return None
    own = "" if registers == torch.float64 or family == "ode" else f"-batch{batch_size}"
    return LoopRunner(denoiser, plan, registers, f"torch-{name}-{DRAW0}-{plan.digest}-{dtype}{own}", batch_size, dtype)
