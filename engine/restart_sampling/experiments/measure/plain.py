r"""The plain PyTorch loops of loops.py as contenders: what people run today.

They walk the very plans of the engine's `heun`, `edm-stochastic` and `heun+restart` at the same budget, with unused
draws as in public code. They begin from the engine's initial latents, draw 0 of the seed. Later noise is torch's: the
float64 loops have one generator for each seed; the float32 loops one for each batch, so with Restart their samples
depend on the batch. The network is the engine's, in its precision; preconditioning is plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.network import PreparedNetwork, prepare
from ...sampler.noise import class_labels as labels_of_seeds
from ...sampler.noise import normal, seed_tensor
from . import loops
from .engine import CHURN, plan_for
from .samplers import DRAW0, Contender, Runner

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


def contenders() -> tuple[Contender, ...]:
    """`torch/heun-fp64` and the other four."""
    return tuple(
        Contender(f"torch/{name}", family, "torch", title, source, partial(_make, name, family, solver, registers))
        for name, family, title, source, registers, solver in _LOOPS
    )


class EagerRunner:
    """What runners outside the engine share: labels, batches, and the network as torch loops call it.

    A subclass draws one batch with :meth:`_batch`. `network` may be replaced before the first draw.
    """

    plan: Plan | None = None

    def __init__(self, denoiser: Denoiser, nfe: int, key: str, batch_size: int, dtype: str) -> None:
        loops.sigma_data_of(denoiser)  # refuses what is not preconditioned as EDM
        self.denoiser, self.nfe, self.key, self.batch_size = denoiser, nfe, key, batch_size
        self.device = denoiser.device
        prepared: PreparedNetwork = prepare(denoiser, device=self.device, dtype=dtype)
        self.network: Any = prepared
        self.net_dtype = prepared.net_dtype

    def draw(self, seeds: Sequence[int], class_labels: Any = None) -> tuple[Tensor, Tensor | None]:
        """See `Runner.draw`."""
        all_seeds = seed_tensor(seeds)
        labels = None
        if self.denoiser.label_dim:
            labels = (
                labels_of_seeds(all_seeds, self.denoiser.label_dim)
                if class_labels is None
                else torch.as_tensor(class_labels, dtype=torch.int64).expand(len(all_seeds)).clone()
            )
        parts = []
        with torch.inference_mode():
            for start in range(0, len(all_seeds), self.batch_size):
                part = slice(start, start + self.batch_size)
                parts.append(self._batch(all_seeds[part], None if labels is None else labels[part]).float())
        return torch.cat(parts) if parts else torch.empty(0, *self.denoiser.shape), labels

    def _batch(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _hot(self, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        return torch.nn.functional.one_hot(labels, self.denoiser.label_dim).float().to(self.device)

    def _F(self, net_in: Tensor, c_noise: Tensor, hot: Tensor | None) -> Tensor:
        """The raw network, fed as it wants: its dtype, contiguous, and where it is compiled always full batches."""
        n, short = len(net_in), self.batch_size - len(net_in)
        net_in, c_noise = net_in.to(self.net_dtype).contiguous(), c_noise.contiguous()
        if short and getattr(self.network, "compiled", False):
            net_in = torch.cat([net_in, net_in.new_zeros(short, *net_in.shape[1:])])
            c_noise = c_noise if len(c_noise) == 1 else torch.cat([c_noise, c_noise[:1].expand(short)])
            hot = None if hot is None else torch.cat([hot, hot.new_zeros(short, hot.shape[1])])
        return self.network(net_in, c_noise, hot)[:n]

    def _D(self, labels: Tensor | None) -> loops.D:
        """D(x, sigma) with EDM's preconditioning in plain torch."""
        return loops.edm_denoiser(self._F, self._hot(labels), loops.sigma_data_of(self.denoiser))


class LoopRunner(EagerRunner):
    """One of the loops on a plan's grid and intervals."""

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
    """Like `torch.randn_like`, of a generator of its own."""
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
    options = tuple(CHURN.items()) if family == "sde" else ()
    plan = plan_for(solver, nfe, family == "restart", restart, options)
    if plan is None:
        return None
    own = "" if registers == torch.float64 or family == "ode" else f"-batch{batch_size}"
    return LoopRunner(denoiser, plan, registers, f"torch-{name}-{DRAW0}-{plan.digest}-{dtype}{own}", batch_size, dtype)
