"""Restart sampling (arXiv 2306.14878) for diffusion models: exact plans, one fused step, noise that depends on the seed
alone.

>>> import restart_sampling as rs
>>> den = rs.load("fashion-mnist")
>>> plan = rs.Plan.build(steps=18, restart="[3, 2, 0.14, 0.30]")
>>> x = rs.sample(den, plan, seeds=range(64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common.lazy import lazy
from .common.moved import keep_old_names
from .common.version import __version__ as __version__

keep_old_names(__name__)

if TYPE_CHECKING:
    from .common.errors import BackendError as BackendError
    from .common.errors import CheckpointError as CheckpointError
    from .common.errors import ConfigError as ConfigError
    from .common.errors import NonFiniteError as NonFiniteError
    from .common.errors import OutputError as OutputError
    from .common.errors import RestartError as RestartError
    from .common.errors import SeedError as SeedError
    from .integrations.load import load as load
    from .integrations.sample import sample as sample
    from .models.conditions import Condition as Condition
    from .models.denoiser import Denoiser as Denoiser
    from .models.files.plan_file import load_plan as load_plan
    from .models.parameterization import Parameterization as Parameterization
    from .plan.notation import RestartConfig as RestartConfig
    from .plan.notation import RestartInterval as RestartInterval
    from .plan.plan import Plan as Plan
    from .plan.presets import Preset as Preset
    from .plan.presets import presets as presets
    from .sampler import noise as noise
    from .sampler.parity import Parity as Parity
    from .sampler.parity import parity as parity
    from .sampler.sampler import Batch as Batch
    from .sampler.sampler import Progress as Progress
    from .sampler.sampler import Sampler as Sampler
    from .sampler.seeds import Seeds as Seeds
    from .sampler.seeds import parse_seeds as parse_seeds

__all__ = [
    "BackendError",
    "Batch",
    "CheckpointError",
    "Condition",
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
    "load_plan",
    "noise",
    "parity",
    "parse_seeds",
    "preset",
    "presets",
    "sample",
]

# Everything is imported on first use: commands and plans do not wait for torch, and Ctrl-C while a program starts meets
# `__main__`, which ends it quietly.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "BackendError": "common.errors",
        "Batch": "sampler.sampler",
        "CheckpointError": "common.errors",
        "Condition": "models.conditions",
        "ConfigError": "common.errors",
        "Denoiser": "models.denoiser",
        "NonFiniteError": "common.errors",
        "OutputError": "common.errors",
        "Parameterization": "models.parameterization",
        "Parity": "sampler.parity",
        "Plan": "plan.plan",
        "Preset": "plan.presets",
        "Progress": "sampler.sampler",
        "RestartConfig": "plan.notation",
        "RestartError": "common.errors",
        "RestartInterval": "plan.notation",
        "Sampler": "sampler.sampler",
        "SeedError": "common.errors",
        "Seeds": "sampler.seeds",
        "load": "integrations.load",
        "load_plan": "models.files.plan_file",
        "parity": "sampler.parity",
        "parse_seeds": "sampler.seeds",
        "presets": "plan.presets",
        "sample": "integrations.sample",
    },
    modules={"errors": "common.errors", "noise": "sampler.noise"},
)


def preset(name: str) -> Plan:
    """Return the plan of a preset, e.g. `rs.preset("imagenet64-edm-623")`; ConfigError names the closest ones."""
    from .plan.plan import Plan
    from .plan.presets import find

    return Plan.build(**find(name).plan_options)
