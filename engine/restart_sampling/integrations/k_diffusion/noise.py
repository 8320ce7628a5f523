"""The noise of a jump: the engine's own by seeds, that of the host's noise sampler, or of torch's global generator.

| given | noise of the k-th jump of row b | does not depend on |
|---|---|---|
| `seeds` | philox-v1 of seeds[b], draw k | batch, order, device |
| `noise_sampler` | what it returns | – |
| `extra_args["seed"]` (ComfyUI) | philox-v1 of seed + b, draw k | batch size, device |
| nothing | `torch.randn_like` | – |

seed + b is how A1111 numbers the images of a batch. A noise sampler that returns the same noise for the same pair of
levels, such as a Brownian tree, is not for Restart: all K jumps of an interval have the same pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...common.checks import integer
from ...common.errors import SeedError
from ...sampler.noise import seed_tensor

NoiseSampler = Callable[[Tensor, Tensor], Tensor]
LARGEST = 2**63  # hosts have seeds of 64 bits, the engine of 63


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
