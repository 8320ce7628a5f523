"""Restart sampling (arXiv 2306.14878) for diffusion models: exact plans, one fused step, noise that depends on the seed
alone.

>>> import restart_sampling as rs
>>> den = rs.load("fashion-mnist")
>>> plan = rs.Plan.build(steps=18, restart="[3, 2, 0.14, 0.30]")
>>> x = rs.sample(den, plan, seeds=range(64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common.errors import BackendError as BackendError
from .common.errors import CheckpointError as CheckpointError
from .common.errors import ConfigError as ConfigError
from .common.errors import NonFiniteError as NonFiniteError
from .common.errors import OutputError as OutputError
from .common.errors import RestartError as RestartError
from .common.errors import SeedError as SeedError
from .common.lazy import lazy
from .common.moved import keep_old_names
from .common.version import __version__ as __version__
from .models.parameterization import Parameterization as Parameterization
from .plan.notation import RestartConfig as RestartConfig
from .plan.notation import RestartInterval as RestartInterval
from .plan.plan import Plan as Plan
from .plan.presets import Preset as Preset
from .plan.presets import presets as presets
from .sampler.seeds import Seeds as Seeds
from .sampler.seeds import parse_seeds as parse_seeds

keep_old_names(__name__)

if TYPE_CHECKING:
    from .integrations.load import load as load
    from .models.denoiser import Denoiser as Denoiser
    from .sampler import noise as noise
    from .sampler.parity import Parity as Parity
    from .sampler.parity import parity as parity
    from .sampler.sampler import Batch as Batch
    from .sampler.sampler import Progress as Progress
    from .sampler.sampler import Sampler as Sampler
    from .sampler.sampler import sample as sample

__all__ = [
    "BackendError",
    "Batch",
    "CheckpointError",
    "ConfigError",
    "Denoiser",
    "NonFiniteError",
    "OutputError",
    "Parameterization",
    "Parity",
    "Plan",
    "Preset",
    "Progress",
    "RestartConfig",
    "RestartError",
    "RestartInterval",
    "Sampler",
    "SeedError",
    "Seeds",
    "__version__",
    "load",
    "noise",
    "parity",
    "parse_seeds",
    "preset",
    "presets",
    "sample",
]

# What needs torch is imported on first use, so that plans, presets and `--help` do not wait for it.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "Batch": "sampler.sampler",
        "Denoiser": "models.denoiser",
        "Parity": "sampler.parity",
        "Progress": "sampler.sampler",
        "Sampler": "sampler.sampler",
        "load": "integrations.load",
        "parity": "sampler.parity",
        "sample": "sampler.sampler",
    },
    modules={"errors": "common.errors", "noise": "sampler.noise"},
)


def preset(name: str) -> Plan:
    """The plan of a preset, e.g. `rs.preset("imagenet64-edm-623")`; ConfigError names the closest one."""
    from .plan.presets import find

    return Plan.build(**find(name).plan_options)
