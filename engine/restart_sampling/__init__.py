"""Restart sampling (arXiv 2306.14878) for diffusion models: exact plans, one fused step, noise that depends on the seed
alone.

>>> import restart_sampling as rs
>>> den = rs.load("fashion-mnist")
>>> plan = rs.Plan.build(steps=18, restart="[3, 2, 0.14, 0.30]")
>>> x = rs.sample(den, plan, seeds=range(64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .common.errors import BackendError as BackendError
from .common.errors import CheckpointError as CheckpointError
from .common.errors import ConfigError as ConfigError
from .common.errors import NonFiniteError as NonFiniteError
from .common.errors import OutputError as OutputError
from .common.errors import RestartError as RestartError
from .common.errors import SeedError as SeedError
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

keep_old_names()

if TYPE_CHECKING:
    from .models.denoiser import Denoiser as Denoiser
    from .models.registry import load as load
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
_LAZY = {
    "Denoiser": "models.denoiser",
    "Sampler": "sampler.sampler",
    "Batch": "sampler.sampler",
    "Progress": "sampler.sampler",
    "sample": "sampler.sampler",
    "Parity": "sampler.parity",
    "parity": "sampler.parity",
    "load": "models.registry",
}


def preset(name: str) -> Plan:
    """The plan of a preset, e.g. `rs.preset("imagenet64-edm-623")`; ConfigError names the closest one."""
    from .plan.presets import find

    return Plan.build(**find(name).plan_options)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("errors", "noise"):
        return importlib.import_module(f".{name}", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
