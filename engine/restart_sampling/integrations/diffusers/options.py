"""What users give to a scheduler, as its config and its plans have it."""

from __future__ import annotations

from typing import Any

from ...common.errors import ConfigError
from ...plan.notation import RestartConfig, RestartInterval
from ...solvers import get_solver
from .solvers import FROM_CONFIG

STEPS_ARE = ("nfe", "main")


def without_repeats(levels: Any) -> tuple[float, ...]:
    """Return given levels (list, array or tensor) as floats, without those that repeat the one before them.

    Some schedulers of diffusers write their last level twice, which is a step of length zero.
    """
    values = levels.tolist() if hasattr(levels, "tolist") else list(levels)
    values = [v.item() if hasattr(v, "item") else v for v in values]
    return tuple(v for i, v in enumerate(values) if i == 0 or v != values[i - 1])


def jsonable(restart: Any) -> Any:
    """Return a Restart configuration as a scheduler's config can hold it. Raises ConfigError if it cannot be read."""
    if restart is None or restart == "auto":
        return restart
    parsed = RestartConfig.parse(restart, steps=50)
    if isinstance(restart, str):
        return restart
    if isinstance(restart, (RestartConfig, RestartInterval)):
        return parsed.to_json()
    if isinstance(restart, (list, tuple, dict)) and parsed.steps is None:
        return [[i.N, i.K, i.t_min, i.t_max] for i in parsed.intervals]
    raise ConfigError(f"restart cannot be kept in a scheduler's config: {restart!r}; give it as text")


def check_solvers(*names: str | None) -> None:
    """Raise ConfigError for a solver that is not known; None is the default."""
    for name in names:
        if name == FROM_CONFIG:
            raise ConfigError("solver='config' is the solver of a config: it is read by from_config alone")
        if name is not None:
            get_solver(name)
