"""Restart in PhysicsNeMo: its networks as denoisers, its samplers' signatures, CorrDiff ensembles.

    from restart_sampling.integrations.physicsnemo import denoiser_of, sample
    den = denoiser_of(net, condition=(12, 448, 448))
    x0 = sample(denoiser, xN, noise_scheduler, num_steps=18, restart="[3, 2, 0.06, 0.30]")

Nothing of PhysicsNeMo is needed or imported; docs/ensembles.md says which interface this fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.lazy import lazy

if TYPE_CHECKING:
    from .corrdiff import CorrDiff as CorrDiff
    from .networks import denoiser_of as denoiser_of
    from .sampling import RestartSolver as RestartSolver
    from .sampling import sample as sample
    from .stochastic import stochastic_sampler as stochastic_sampler

__all__ = ["CorrDiff", "RestartSolver", "denoiser_of", "sample", "stochastic_sampler"]

# What needs torch is imported on first use.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "CorrDiff": "corrdiff",
        "RestartSolver": "sampling",
        "denoiser_of": "networks",
        "sample": "sampling",
        "stochastic_sampler": "stochastic",
    },
)
