"""The noise: the engine's own by seeds, that of the host's noise sampler, or of torch's global generator.

| given | noise of draw k of row b | does not depend on |
|---|---|---|
| `seeds` | philox-v1 of seeds[b], draw k | batch, order, device |
| `noise_sampler` | what it returns | – |
| `extra_args["seed"]` (ComfyUI) | philox-v1 of seed + b, draw k | batch size, device |
| nothing | `torch.randn_like` | – |

seed + b is how A1111 numbers the images of a batch. A noise sampler that returns the same noise for the same pair of
levels, such as a Brownian tree, is not for Restart: all K jumps of an interval have the same pair.

Without Restart a Brownian tree serves every solver. One that shares noise between its evaluations (dpm++sde, SEEDS)
asks for the parts of its step, from one evaluation to the next and on to its end, and mixes them itself. They do not
overlap, so they are independent, and for dpm++sde the mix is what the tree gives for the whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from restart_kernels import layout

from ...common.checks import integer
from ...common.errors import RestartValueError, SeedError
from ...plan.trajectory import Step
from ...sampler.noise import seed_tensor
from ...sampler.table import Table

NoiseSampler = Callable[[Tensor, Tensor], Tensor]
LARGEST = 2**63  # hosts have seeds of 64 bits, the engine of 63


@dataclass(frozen=True)
class HostNoise:
    """The noise that a host's sampler makes for a table, row by row.

    Attributes:
        sampler: the host's.
        terms: row → (std, number of the draw), up to two.
        pairs: draw → (sigma, sigma_next) that it is asked for with.
        last: draw → the last row that has it.
        drawn: those that a later row has again.
    """

    sampler: NoiseSampler
    terms: list[list[tuple[float, int]]]
    pairs: dict[int, tuple[float, float]]
    last: dict[int, int]
    drawn: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, sampler: NoiseSampler) -> HostNoise:
        """Take the noise out of the rows of `table`, except the first one, and make it here."""
        stds, draws = table.coef[:, [layout.S, layout.S2]].tolist(), table.code[:, [layout.DRAW, layout.DRAW2]].tolist()
        terms = [[(a, n) for a, n in zip(*row, strict=True) if a] for row in zip(stds, draws, strict=True)]
        table.coef[:, [layout.S, layout.S2]] = 0.0
        pairs = {draw: pair for step in table.plan.steps for draw, pair in _pairs(step)}
        return cls(sampler, terms, pairs, {n: k for k, row in enumerate(terms) for _, n in row})

    def after(self, row: int, x: Tensor) -> Tensor | None:
        """Return what is added to the result of a row, None for nothing. `x` has its shape and device."""
        total: Tensor | None = None
        for std, draw in self.terms[row]:
            noise = self.drawn.pop(draw, None)
            if noise is None:
                sigmas = (torch.tensor(v, dtype=torch.float32, device=x.device) for v in self.pairs[draw])
                noise = of_shape(self.sampler(*sigmas), x, "noise_sampler")
            if self.last[draw] > row:
                self.drawn[draw] = noise
            term = noise.to(torch.promote_types(noise.dtype, torch.float32)) * std
            total = term if total is None else total + term
        return total


def _pairs(step: Step) -> Iterator[tuple[int, tuple[float, float]]]:
    """Yield the draws of a step with the levels between which each is the noise."""
    levels = [*(stage.level for stage in step.stages), step.s]
    forms = [*(stage.z for stage in step.stages), step.result]
    for m, draw in enumerate(step.draws):
        used = [j for j, form in enumerate(forms) if m < len(form.noise) and form.noise[m]]
        if draw and used:
            yield draw, (levels[used[0] - 1], levels[used[0]])
    if step.draw and step.lift_to > step.s:
        yield step.draw, (step.s, step.lift_to)
    elif step.draw:
        yield step.draw, (levels[-2] if any(step.draws) else step.t, step.s)


def of_shape(found: Any, x: Tensor, who: str) -> Tensor:
    """Return `found` if it is a tensor of the shape of x; RestartValueError names who made it."""
    if not isinstance(found, Tensor) or found.shape != x.shape:
        given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RestartValueError(f"{who} must return a tensor of the shape of x, {list(x.shape)}, got {given}")
    return found


def row_seeds(seed: int, batch: int) -> list[int]:
    """Return the seeds of a batch that a host numbers with one seed: seed, seed + 1, …, modulo 2^63."""
    first = integer("the seed in extra_args", seed, 0, error=SeedError)
    return [(first + b) % LARGEST for b in range(batch)]


def choose(
    x: Tensor, seeds: Iterable[int] | Tensor | None, noise_sampler: NoiseSampler | None, extra_args: dict[str, Any]
) -> Tensor | NoiseSampler:
    """Return seeds int64 [B] on the device of x, or a function (sigma, sigma_next) → noise of the shape of x.

    Raises:
        SeedError: seeds that cannot be used, or not one for each row of x; both seeds and a noise sampler.
    """
    if seeds is not None:
        if noise_sampler is not None:
            raise SeedError("seeds and noise_sampler are two sources of noise; give one of them")
        found = seed_tensor(seeds)
        if len(found) != len(x):
            raise SeedError(f"{len(found)} seeds were given for a batch of {len(x)}; give one for each row")
        return found.to(x.device)
    if noise_sampler is not None:
        return noise_sampler
    if extra_args.get("seed") is not None:
        return seed_tensor(row_seeds(extra_args["seed"], len(x))).to(x.device)
    return lambda sigma, sigma_next: torch.randn_like(x)
