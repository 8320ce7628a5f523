"""Restart for diffusers pipelines: two schedulers, and a fast path that runs a pipeline's network through `rs.Sampler`.

    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config)             # SD, SDXL, DiT, DDPM
    pipe.scheduler = FlowMatchRestartScheduler.from_config(pipe.scheduler.config)    # SD3, Flux
    images = draw(pipe, prompt="a red fox", plan=plan, seeds=range(4), guidance_scale=7.5)

Importing this package does not import diffusers; the names below do, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.lazy import lazy

if TYPE_CHECKING:
    from .conditioning import prompt_conditions as prompt_conditions
    from .errors import SchedulerError as SchedulerError
    from .flow import FlowMatchRestartScheduler as FlowMatchRestartScheduler
    from .pipeline import denoiser_of as denoiser_of
    from .pipeline import draw as draw
    from .scheduler import RestartScheduler as RestartScheduler

__all__ = [
    "FlowMatchRestartScheduler",
    "RestartScheduler",
    "SchedulerError",
    "denoiser_of",
    "draw",
    "prompt_conditions",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "FlowMatchRestartScheduler": "flow",
        "RestartScheduler": "scheduler",
        "SchedulerError": "errors",
        "denoiser_of": "pipeline",
        "draw": "pipeline",
        "prompt_conditions": "conditioning",
    },
    extra=("diffusers", "transformers"),
)
