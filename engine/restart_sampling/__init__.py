"""Restart sampling (arXiv 2306.14878) for diffusion models: exact plans, one fused step, noise that depends on the seed
alone.

>>> import restart_sampling as rs
>>> den = rs.load("fashion-mnist")
>>> plan = rs.Plan.build(steps=18, restart="[3, 2, 0.14, 0.30]")
>>> x = rs.sample(den, plan, seeds=range(64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import BackendError as BackendError
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import NonFiniteError as NonFiniteError
from .errors import OutputError as OutputError
from .errors import RestartError as RestartError
from .errors import SeedError as SeedError
from .parameterization import Parameterization as Parameterization
from .plan import Plan as Plan
from .presets import Preset as Preset
from .presets import presets as presets
from .restart import RestartConfig as RestartConfig
from .restart import RestartInterval as RestartInterval
from .seeds import Seeds as Seeds
from .seeds import parse_seeds as parse_seeds
from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import noise as noise
    from .denoiser import Denoiser as Denoiser
    from .models.registry import load as load
    from .parity_report import Parity as Parity
    from .parity_report import parity as parity
    from .sampler import Batch as Batch
    from .sampler import Progress as Progress
    from .sampler import Sampler as Sampler
    from .sampler import sample as sample

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
    "Denoiser": "denoiser",
    "Sampler": "sampler",
    "Batch": "sampler",
    "Progress": "sampler",
    "sample": "sampler",
    "Parity": "parity_report",
    "parity": "parity_report",
    "load": "models.registry",
}


def preset(name: str) -> Plan:
    """The plan of a preset, e.g. `rs.preset("imagenet64-edm-623")`; ConfigError names the closest one."""
    from .presets import find

    return Plan.build(**find(name).plan_options)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    import importlib

    if name == "noise":
        return importlib.import_module(".noise", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
