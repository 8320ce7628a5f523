"""`rs.sample`: a sampler made for one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from . import inputs
from .inputs import Seeds
from .labels import Labels
from .sampler import Sampler


def sample(denoiser: Denoiser, plan: Plan, seeds: Seeds, class_labels: Labels = None, **options: Any) -> Tensor:
    """Return samples float32 [len(seeds), *shape]: `Sampler(denoiser, plan, …).run(seeds, class_labels, …)`.

    Args:
        seeds: a list of seeds, e.g. range(64); one integer alone is refused, see `Sampler.run`.
        **options: keyword arguments of `Sampler` (batch_size, backend, …) and of `Sampler.run` (conditions, …).
    """
    given, run = inputs.parted(options, Sampler, Sampler.run, "rs.sample")
    return Sampler(denoiser, plan, **given).run(seeds, class_labels, **run)
