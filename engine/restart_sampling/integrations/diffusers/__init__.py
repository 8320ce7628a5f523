"""Restart for diffusers pipelines: two schedulers, and a fast path that runs a pipeline's network through `rs.Sampler`.

    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, restart="[10, 2, 0.1, 2]")     # SD, SDXL, DiT, DDPM
    pipe.scheduler = FlowMatchRestartScheduler.from_config(pipe.scheduler.config, restart=...)          # SD3, Flux
    images = draw(pipe, prompt="a red fox", plan=plan, seeds=range(4), guidance_scale=7.5)

Importing this package does not import diffusers; the names below do, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...common.errors import BackendError

if TYPE_CHECKING:
    from .adapter import SchedulerError as SchedulerError
    from .flow import FlowMatchRestartScheduler as FlowMatchRestartScheduler
    from .pipeline import denoiser_of as denoiser_of
    from .pipeline import draw as draw
    from .scheduler import RestartScheduler as RestartScheduler

_LAZY = {
    "RestartScheduler": "scheduler",
    "FlowMatchRestartScheduler": "flow",
    "SchedulerError": "adapter",
    "denoiser_of": "pipeline",
    "draw": "pipeline",
}
__all__ = ["FlowMatchRestartScheduler", "RestartScheduler", "SchedulerError", "denoiser_of", "draw"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("diffusers", "transformers"):
            raise
        raise BackendError(
            f"{name} needs {error.name}, which is not installed: pip install 'restart-sampling[diffusers]'"
        ) from None
