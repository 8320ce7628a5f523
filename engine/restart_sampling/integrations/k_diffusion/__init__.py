"""Restart as a k-diffusion sampler: `sample_restart(model, x, sigmas, …)`, for k-diffusion, A1111, Forge and ComfyUI.

    from restart_sampling.integrations.k_diffusion import sample_restart
    x = sample_restart(model, torch.randn_like(latent) * sigmas[0], sigmas, seeds=[0, 1, 2, 3])

`restart_plan` says what will run for given sigmas, `steps` how many solver steps that is. Nothing of k-diffusion is
needed or imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.lazy import lazy
from .fit import RestartWarning as RestartWarning
from .fit import restart_plan as restart_plan
from .fit import steps as steps

if TYPE_CHECKING:
    from .noise import row_seeds as row_seeds
    from .sampling import sample_plan as sample_plan
    from .sampling import sample_restart as sample_restart

__all__ = ["RestartWarning", "restart_plan", "row_seeds", "sample_plan", "sample_restart", "steps"]

# What needs torch is imported on first use.
__getattr__, __dir__ = lazy(__name__, {"row_seeds": "noise", "sample_plan": "sampling", "sample_restart": "sampling"})
