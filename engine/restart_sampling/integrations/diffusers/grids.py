"""The main grid of RestartScheduler: the model's own timesteps, or a rule of plan/schedules between two levels.

The names "karras" and "beta" mean what they mean in diffusers. Rules that draw on a model's timesteps draw on Stable
Diffusion's, so they are refused for a model that has other levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...common.errors import ConfigError
from ...plan.levels import sd_sigmas
from ...plan.limits import inside, stop_at_last_level
from ...plan.plan import Plan
from ...plan.schedule import SCHEDULES
from ...plan.schedules.registry import BY_ANY_NAME
from .betas import log_linear_grid, sigma_of, spaced, timesteps_above

_OTHERS = tuple(name for name in SCHEDULES if name not in ("edm", "exponential", "beta", "ve", "sd", "flow"))
GRIDS = ("model", "karras", "exponential", "beta", *_OTHERS)
FLAGS = {  # keys of other schedulers' configs that choose a grid
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_lu_lambdas": "exponential",
    "use_beta_sigmas": "beta",
}


def main_grid(config: Any, levels: np.ndarray, n: int, warn: Callable[[str], None]) -> dict[str, Any]:
    """Return the plan options of a main grid of n points.

    Args:
        config: of the scheduler.
        levels: the model's σ, float64 [T], ascending.
        warn: called with a sentence if an end of the grid is moved.

    Raises:
        ConfigError: the model has no such grid.
    """
    name = config.grid or next((grid for flag, grid in FLAGS.items() if config[flag]), "model")
    if name == "model" and config.interpolation_type == "log_linear":
        return {"sigmas": log_linear_grid(n, levels[0], levels[-1])}
    if name != "model":
        low, high = _ends(config, levels, warn)
        if n == 1:
            return {"sigmas": (high,)}
        rule = BY_ANY_NAME[name]
        if name != "beta" and rule.asks_process and not _is_stable_diffusion(levels):
            raise ConfigError(
                f"the grid {name!r} is of Stable Diffusion's levels, and this model has others; use 'model'"
            )
        made = {"steps": n, "schedule": rule.name, "sigma_min": low, "sigma_max": high}
        return made | {"schedule_options": {"variant": "diffusers"}} if name == "beta" else made
    T = timesteps_above(levels, config.lambda_min_clipped)
    if _is_stable_diffusion(levels) and n > 1 and len(levels) == T:
        # The same levels as below, and a schedule that knows the model's timesteps between them.
        options = {"spacing": config.timestep_spacing, "segment": "timestep"}
        if config.timestep_spacing == "leading":
            options["steps_offset"] = config.steps_offset
        return {
            "steps": n,
            "schedule": "sd",
            "schedule_options": options,
            "sigma_min": levels[0],
            "sigma_max": levels[-1],
        }
    t = spaced(n, T, config.timestep_spacing, config.steps_offset)
    return {"sigmas": tuple(sigma_of(levels, t).tolist())}


def _ends(config: Any, levels: np.ndarray, warn: Callable[[str], None]) -> tuple[float, float]:
    """Return the lowest and highest level of a grid that is not the model's: those given, as far as the model goes."""
    low, high = float(levels[0]), float(levels[-1])
    result = []
    for name, end in (("sigma_min", low), ("sigma_max", high)):
        given = end if config[name] is None else float(config[name])
        if inside(given, low, high) is None:
            warn(f"{name} = {given:g} is outside the model's levels, {low:.6g} .. {high:.6g}; {end:.6g} is used")
            given = end
        result.append(min(max(given, low), high))
    return result[0], result[1]


def _is_stable_diffusion(levels: np.ndarray) -> bool:
    known = sd_sigmas()
    return len(known) == len(levels) and bool(np.allclose(known, levels, rtol=1e-9, atol=0))


def ended_at(last: float, plan: Plan, options: dict[str, Any]) -> Plan:
    """Return the plan of `options` that ends at the level `last` instead of 0; `plan` is the one that ends at 0.

    Raises:
        ConfigError: no step is left.
    """
    if inside(plan.grid[-2], 0.0, last) is None:
        kept = {name: value for name, value in options.items() if name not in ("steps", "sigma_min", "sigma_max")}
        plan = Plan.build(**{**kept, "sigmas": (*plan.grid[:-1], last)})
    if len(plan.steps) < 2:
        raise ConfigError("final_sigmas_type='sigma_min' leaves no step of this grid; use final_sigmas_type='zero'")
    return stop_at_last_level(plan)
