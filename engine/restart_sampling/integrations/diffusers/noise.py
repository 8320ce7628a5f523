"""The noise of a jump: from seeds, or from the generators of the pipeline's call."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...common.errors import SeedError
from ...sampler.noise import normal


def noise_like(sample: Tensor, draw: int, seeds: Tensor | None, generator: Any) -> Tensor:
    """Return standard normals of the shape of `sample`, at least float32.

    Args:
        draw: number of the draw along the run.
        seeds: one per sample; None for noise of the generator.
        generator: one, one per sample, or None for PyTorch's own.

    Raises:
        SeedError: there is not one seed per sample.
    """
    dtype = torch.promote_types(sample.dtype, torch.float32)
    if seeds is None:
        return randn_tensor(tuple(sample.shape), generator=generator, device=sample.device, dtype=dtype)
    batch = len(sample)
    if batch == 2 * len(seeds) and torch.equal(sample[: len(seeds)], sample[len(seeds) :]):
        seeds = seeds.repeat(2)  # DiTPipeline keeps every sample twice under guidance
    if len(seeds) != batch:
        raise SeedError(f"{len(seeds)} seeds were set for a batch of {batch}; set one per sample")
    return normal(seeds, draw, tuple(sample.shape[1:]), sample.device)
