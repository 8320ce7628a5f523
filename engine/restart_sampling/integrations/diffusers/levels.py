"""The noise levels of a pipeline's own scheduler, for plans that say nothing of levels."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.parameterization import Coefficients, Parameterization
from .flow import FlowMatchRestartScheduler, dynamic_shift, shifted
from .kinds import refuse_other_kinds
from .network import PipelineNetwork, Shape
from .scheduler import RestartScheduler


@dataclass(frozen=True)
class OwnLevels:
    """The main grid of a model, and the guidance of its pipeline. Called with a number of steps it gives plan options.

    Models with betas have the Karras grid between their lowest and highest level; flow models the times of their own
    scheduler, shifted as it shifts them. A scheduler with shift_terminal stretches its times so that the last one is
    that: 1 − t' = (1 − t)/k, k = (1 − t_last)/(1 − shift_terminal). These are the times of the shift s' = 1 + k·(s − 1)
    that end there.

    Attributes:
        sigma_min, sigma_max: the ends; of a flow model sigma_min is the lowest time before the shift, 0 for 1/steps.
        shift: s of a flow model; None for one with betas.
        terminal: its shift_terminal, if it has one.
        guidance_scale: w that the pipeline's call has by default; 1 for none.
    """

    sigma_min: float
    sigma_max: float = 1.0
    shift: float | None = None
    terminal: float | None = None
    guidance_scale: float = 1.0

    def __call__(self, steps: int) -> dict[str, Any]:
        """Return options of `Plan.build` for a main grid of `steps` points."""
        guided = {} if self.guidance_scale == 1 else {"guidance_scale": self.guidance_scale}
        if self.shift is None:
            return {"steps": steps, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, **guided}
        low, s = float(shifted(self.sigma_min or 1 / steps, self.shift)), self.shift
        if steps > 1 and self.terminal:
            low, s = self.terminal, 1 + (1 - low) / (1 - self.terminal) * (s - 1)
        ends = {"steps": steps, "sigma_min": low, "sigma_max": 1.0} if steps > 1 else {"sigmas": (1.0,)}
        return {**ends, "schedule": "flow", "schedule_options": {"shift": s, "segment": "own"}, **guided}


def own_levels(pipe: Any, net: Any, family: type[PipelineNetwork], shape: Shape, guided: bool) -> OwnLevels:
    """Return the levels of a pipeline's scheduler for latents of `shape`, with its guidance if it can be guided."""
    scale = 1.0
    call = inspect.signature(type(pipe).__call__).parameters
    if guided and family.guidance in call and isinstance(call[family.guidance].default, (int, float)):
        scale = float(call[family.guidance].default) + family.guidance_offset
    if not family.flow:
        known = parameterization_of(pipe, net, family, shape)
        return OwnLevels(known.sigma_min, known.sigma_max, guidance_scale=scale)
    config, s = pipe.scheduler.config, _shift(pipe, net, family, shape)
    lowest = 0.0
    if not (family.to_one_nth or config.get("use_flow_sigmas")):
        lowest = 1 / config.get("num_train_timesteps", 1000)
        if not config.get("use_dynamic_shifting"):
            lowest = float(shifted(lowest, s))  # once by the scheduler itself, see flow.py
    return OwnLevels(lowest, 1.0, s, config.get("shift_terminal"), scale)


def parameterization_of(pipe: Any, net: Any, family: type[PipelineNetwork], shape: Shape) -> Parameterization:
    """Return what the pipeline's network predicts, and at which levels, by its scheduler's config.

    Raises:
        ConfigError: the config is of a model of another kind, or asks for levels that are not supported.
    """
    if not family.flow:
        scheduler = RestartScheduler.from_config(pipe.scheduler.config, restart=None)
        scheduler.refuse_other_models()
        return scheduler.parameterization
    s, T = _shift(pipe, net, family, shape), float(pipe.scheduler.config.get("num_train_timesteps", 1000))

    def function(t: np.ndarray) -> Coefficients:
        one = np.ones_like(t)
        return Coefficients(one, -family.sign * t, one, family.c_noise(config, t, T, s))

    config = net.config  # the function holds no network
    return Parameterization("flow", function, 0.0, 1.0, process="flow")


def _shift(pipe: Any, net: Any, family: type[PipelineNetwork], shape: Shape) -> float:
    """Return s of a flow-matching pipeline's shift. Raises ConfigError for a scheduler of another kind."""
    config = pipe.scheduler.config
    refuse_other_kinds(config, FlowMatchRestartScheduler, "flow")
    if config.get("use_dynamic_shifting"):
        return dynamic_shift(config, family.shift_parameter(config, net, shape))
    return float(config.get("flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0))
