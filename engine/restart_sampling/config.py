"""The recipe of a plan: every option, checked, and nothing computed yet. It is what `run.json` records."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from .errors import ConfigError
from .limits import inside
from .restart import RestartConfig
from .schedule import get_schedule
from .solvers import get_solver
from .solvers.trace import Solver

COLLISION_RULES = ("both", "last", "first", "error")


def _number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """`value` as a finite float in [low, high] (or (low, high]); infinity only where `high` is infinite and asked."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    value = float(value)
    bad = math.isnan(value) or value < low or value > high or (open_low and value == low)
    if bad or (math.isinf(value) and name != "s_max"):
        bounds = f"{'>' if open_low else '≥'} {low:g}" + (f" and ≤ {high:g}" if math.isfinite(high) else "")
        raise ConfigError(f"{name} must be a finite number {bounds}, got {value:g}")
    return value


@dataclass(frozen=True)
class PlanConfig:
    """All options of a plan. `Plan.build(**config.to_dict())` makes the same plan again.

    Beyond the arguments of `Plan.build`:
        schedule: grid of the main walk: edm, exponential, vp, ve, iddpm, sd or flow; `schedule_options` go to it.
        restart_solver, restart_schedule: solver and grid inside intervals; default: those of the main walk.
        on_collision: what to do when intervals snap to one grid point: "both" run in the given order (default), the
            "last" one only (what the official code does), the "first" one only, or "error".
        eta: noise of ancestral sampling; 0 is DDIM.
        guidance_scale: w of classifier-free guidance; 1 is off. `guidance_interval`: levels where it acts.
        sigmas: the main grid itself, one level or more, descending, with or without a final 0; replaces steps, sigma_min,
            sigma_max and rho.
    """

    steps: int = 18
    solver: str = "heun"
    schedule: str = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    restart: RestartConfig = field(default_factory=lambda: RestartConfig(()))
    s_noise: float = 1.0
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    restart_gamma: float = 0.0
    restart_solver: str | None = None
    restart_schedule: str | None = None
    on_collision: str = "both"
    eta: float = 1.0
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, math.inf)
    schedule_options: tuple[tuple[str, Any], ...] = ()
    sigmas: tuple[float, ...] = ()

    @property
    def process(self) -> str:
        """The state the plan walks: "ve" or "flow"."""
        return get_schedule(self.schedule, rho=self.rho, **dict(self.schedule_options)).process

    @property
    def guided(self) -> bool:
        """Whether any evaluation needs the network twice."""
        return self.guidance_scale != 1.0

    @classmethod
    def make(cls, **given: Any) -> PlanConfig:
        """Check `given` and fill in the defaults; ConfigError says what was given and what is allowed."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = (
                    f"; did you mean {close[0]!r}?" if close else f"; options are {', '.join(sorted(known))}"
                )
                raise ConfigError(f"unknown plan option {name!r}{hint}")
        values = {k: v for k, v in given.items() if v is not None}
        steps = values.get("steps")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
            raise ConfigError(f"steps must be an integer ≥ 2, got {steps!r}")
        values["sigmas"] = _grid(values.get("sigmas", ()))
        if values["sigmas"]:
            if steps not in (None, len(values["sigmas"])):
                raise ConfigError(
                    f"steps = {steps} was given with {len(values['sigmas'])} sigmas; leave out steps"
                )
            steps = len(values["sigmas"])
            values["sigma_min"], values["sigma_max"] = values["sigmas"][-1], values["sigmas"][0]
        restart = RestartConfig.parse(values.pop("restart", None), steps=steps)
        values["steps"] = _settle_steps(steps, restart)
        values["restart"] = restart
        return cls(**_checked(values))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able options, infinities left out; `PlanConfig.make(**d)` reads them back."""
        result: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == math.inf or value in ((), (0.0, math.inf)):
                continue
            if f.name == "guidance_interval":
                value = tuple(None if math.isinf(v) else v for v in value)
            result[f.name] = value.to_json() if isinstance(value, RestartConfig) else value
        return result


def _grid(sigmas: Any) -> tuple[float, ...]:
    """A main grid given level by level (list, tuple, array or tensor), without its final 0; () for none."""
    values = sigmas.tolist() if hasattr(sigmas, "tolist") else sigmas
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"sigmas must be a list of levels, got {sigmas!r}")
    values = [t.item() if getattr(t, "ndim", None) == 0 else t for t in values]
    levels = tuple(_number("each of sigmas", t, 0.0) for t in values)
    if not levels:
        return ()
    levels = levels[:-1] if levels[-1] == 0 else levels
    if not levels or any(a <= b for a, b in pairwise(levels)) or levels[-1] <= 0:
        raise ConfigError(f"sigmas must be strictly descending positive levels, got {levels[:8]}")
    return levels


def _settle_steps(steps: int | None, restart: RestartConfig) -> int:
    if restart.steps is None:
        return 18 if steps is None else steps
    if steps is not None and steps != restart.steps and restart.source != "a1111":
        raise ConfigError(
            f"steps = {steps} was given, but the Restart line says {restart.steps}; give only one of the two"
        )
    return restart.steps


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Ranges of every option, and the combinations that mean nothing."""
    given = values.get("sigmas", ())
    if values["steps"] < 2 and not given:
        raise ConfigError(
            f"steps must be an integer ≥ 2, got {values['steps']}: a grid has two ends; for one step from a level sigma to 0 "
            "give sigmas=[sigma]"
        )
    if values["steps"] > 100_000:
        raise ConfigError(f"steps must be ≤ 100,000, got {values['steps']:,}")
    solver = get_solver(values.get("solver", "heun"))
    values["solver"] = solver.name
    restart_solver = get_solver(values["restart_solver"]) if values.get("restart_solver") else solver
    if values.get("restart_solver"):
        values["restart_solver"] = restart_solver.name
    if values.get("restart_schedule"):
        values["restart_schedule"] = get_schedule(values["restart_schedule"]).name
    values["rho"] = _number("rho", values.get("rho", 7.0), 0.0, open_low=True)
    options = values.get("schedule_options", ())
    values["schedule_options"] = tuple(sorted(dict(options).items()))
    name = values.get("schedule", "edm")
    schedule = get_schedule(name, rho=values["rho"], **dict(values["schedule_options"]))
    values["schedule"] = schedule.name
    values["sigma_min"] = _number(
        "sigma_min", values.get("sigma_min", schedule.sigma_min), 0.0, open_low=True
    )
    values["sigma_max"] = _number(
        "sigma_max", values.get("sigma_max", schedule.sigma_max), 0.0, open_low=True
    )
    if values["sigma_min"] >= values["sigma_max"] and len(given) != 1:
        raise ConfigError(
            f"sigma_min must be below sigma_max, got {values['sigma_min']:g} and {values['sigma_max']:g}"
        )
    if schedule.process == "flow" and inside(values["sigma_max"], 0.0, 1.0) is None:
        raise ConfigError(f"a flow schedule runs over t in (0, 1], got sigma_max = {values['sigma_max']:g}")
    for name in ("s_noise", "s_churn", "s_min", "s_max", "restart_gamma"):
        values[name] = _number(name, values.get(name, getattr(PlanConfig, name)), 0.0)
    if values["s_min"] > values["s_max"]:
        raise ConfigError(f"s_min must not be above s_max, got {values['s_min']:g} and {values['s_max']:g}")
    values["eta"] = _number("eta", values.get("eta", 1.0), 0.0, 1.0)
    values["guidance_scale"] = _number("guidance_scale", values.get("guidance_scale", 1.0), 0.0)
    values["guidance_interval"] = _guidance_interval(values.get("guidance_interval", (0.0, None)))
    rule = values.get("on_collision", "both")
    if rule not in COLLISION_RULES:
        raise ConfigError(f"on_collision must be one of {', '.join(COLLISION_RULES)}, got {rule!r}")
    _check_combination(values, (solver, restart_solver), schedule.process)
    return values


def _guidance_interval(given: Any) -> tuple[float, float]:
    """(low, high) as floats; None for high is no upper limit."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        low, high = given[0], math.inf if given[1] is None else given[1]
        if (
            all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
            and 0 <= low < high
        ):
            return float(low), float(high)
    raise ConfigError(f"guidance_interval must be two levels, 0 ≤ low < high, got {given!r}")


def _check_combination(values: dict[str, Any], solvers: tuple[Solver, Solver], process: str) -> None:
    for solver, churn in zip(solvers, ("s_churn", "restart_gamma"), strict=True):
        if process not in solver.processes:
            raise ConfigError(
                f"solver {solver.name!r} does not handle {process!r} states; use euler, heun or dpm++2m"
            )
        if values[churn] > 0 and (solver.noisy or solver.multistep):
            kind = "injects its own noise" if solver.noisy else "keeps a history"
            raise ConfigError(
                f"{churn} cannot be combined with solver {solver.name!r}, which {kind}; set {churn} to 0"
            )
