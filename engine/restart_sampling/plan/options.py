"""The recipe of a plan: every option, checked, and nothing computed yet. `run.json` records it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from ..common.checks import choice, did_you_mean, either, integer, is_integer, real, scalar, shown
from ..common.errors import ConfigError
from ..solvers import get_solver
from ..solvers.registry import handling
from ..solvers.trace import Solver
from . import guidance
from .limits import inside
from .notation import RestartConfig
from .schedule import get_schedule

MAX_STEPS = 100_000
# A field that came later is left out of recipes at its default, so that the digests of older plans stay.
LATER = {"later": True}
COLLISION_RULES = ("both", "last", "first", "error")


@dataclass(frozen=True)
class PlanConfig:
    """All options of a plan. `Plan.build(**config.to_dict())` makes the same plan again.

    Beyond the arguments of `Plan.build`:
        schedule: the main grid, a name of plan/schedules; `schedule_options` go to it.
        restart_solver, restart_schedule: solver and grid inside intervals; default: those of the main grid.
        on_collision: what to do when intervals snap to one grid point: "both" run in the given order (default), the
            "last" one only (what the official code does), the "first" one only, or "error".
        eta: noise of ancestral sampling; 0 is DDIM.
        guidance_scale: w of classifier-free guidance; 1 is off. `guidance_interval`: levels where it acts, each
            evaluation by its own level, or with guidance_interval_rounding="grid" whole steps, see guidance.py.
        guidance: the method, see guidance.py: "cfg", "cfg++", "zero-star" or "apg".
        guidance_rescale: φ of rescaled guidance, for "cfg"; 0 is off.
        apg_eta, apg_norm: weight of the parallel part, and the norm that the difference is clipped to (0: never), for
            "apg".
        zero_init: first evaluations that leave out the network, for "zero-star".
        eta_window: (a, b): eta is 0 but for steps a ≤ i < b of the main grid; None: eta everywhere.
        sigmas: the main grid itself, one level or more, descending, with or without a final 0; replaces steps,
            sigma_min, sigma_max and rho.
        solver_options, restart_solver_options: those of the solvers that are not at their defaults.
        network_sigmas: the levels that the network is told, one for each of `sigmas`; empty: the same ones.
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
    guidance: str = field(default="cfg", metadata=LATER)
    guidance_rescale: float = field(default=0.0, metadata=LATER)
    apg_eta: float = field(default=0.0, metadata=LATER)
    apg_norm: float = field(default=0.0, metadata=LATER)
    zero_init: int = field(default=0, metadata=LATER)
    eta_window: tuple[int, int] | None = field(default=None, metadata=LATER)
    solver_options: tuple[tuple[str, Any], ...] = field(default=(), metadata=LATER)
    restart_solver_options: tuple[tuple[str, Any], ...] = field(default=(), metadata=LATER)
    network_sigmas: tuple[float, ...] = field(default=(), metadata=LATER)
    guidance_interval_rounding: str = field(default="none", metadata=LATER)

    @property
    def solvers(self) -> tuple[Solver, Solver]:
        """The solver of the main grid and that of the intervals, with their options: one object if they are alike."""
        main = get_solver(self.solver, self.solver_options)
        if self.restart_solver is None:
            return main, main
        inside = get_solver(self.restart_solver, self.restart_solver_options)
        return main, main if inside == main else inside

    @property
    def process(self) -> str:
        """The state that the plan samples: "ve" or "flow"."""
        return get_schedule(self.schedule, rho=self.rho, **dict(self.schedule_options)).process

    @property
    def family(self) -> str:
        """What kind of sampler it is: "restart", "sde" or "ode", see :func:`family`."""
        return family(self.solvers[0].spec, self.s_churn, self.restart.jumps)

    @property
    def guided(self) -> bool:
        """Whether any evaluation needs the network twice."""
        return self.guidance_scale != 1.0 or self.guidance == "cfg++"

    @classmethod
    def make(cls, **given: Any) -> PlanConfig:
        """Check `given` and fill in the defaults; ConfigError says what was given and what is allowed."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known, f"options are {', '.join(sorted(known))}")
                raise ConfigError(f"unknown plan option {name!r}{hint}")
        values = {k: v for k, v in given.items() if v is not None}
        steps = values.get("steps")
        values["sigmas"] = _grid(values.get("sigmas", ()))
        if steps is not None:
            steps = _steps(steps, values["sigmas"])
        if values.get("network_sigmas") is not None:
            values["network_sigmas"] = _network_levels(values["network_sigmas"], values["sigmas"])
        if values["sigmas"]:
            if steps not in (None, len(values["sigmas"])):
                raise ConfigError(f"steps = {steps} was given with {len(values['sigmas'])} sigmas; leave out steps")
            steps = len(values["sigmas"])
            values["sigma_min"], values["sigma_max"] = values["sigmas"][-1], values["sigmas"][0]
        restart = RestartConfig.parse(values.pop("restart", None), steps=steps)
        values["steps"] = _settle_steps(steps, restart)
        values["restart"] = restart
        return cls(**_checked(values))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able options, infinities left out; `PlanConfig.make(**d)` reads them back."""
        result: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == math.inf or value in ((), (0.0, math.inf)):
                continue
            if f.metadata == LATER and value == f.default:
                continue
            if f.name == "guidance_interval":
                value = tuple(None if math.isinf(v) else v for v in value)
            result[f.name] = value.to_json() if isinstance(value, RestartConfig) else value
        return result


def family(solver: str, s_churn: float = 0.0, jumps: bool = False) -> str:
    """Return the family of a sampler: "restart" if it jumps, "sde" if it injects noise otherwise, else "ode".

    `solver` is a name, with options or without. Limiting case: the stochastic sampler of EDM with S_churn = 0 is Heun,
    an ODE solver.
    """
    if jumps:
        return "restart"
    return "sde" if s_churn > 0 or get_solver(solver).noisy else "ode"


def _grid(sigmas: Any) -> tuple[float, ...]:
    """Return a main grid given level by level (list, tuple, array or tensor), without its final 0; () for none."""
    try:
        values = list(sigmas)
    except TypeError:
        values = None
    if values is None or isinstance(sigmas, str):
        raise ConfigError(f"sigmas must be a list of descending levels such as [80, 10, 1], got {shown(sigmas)}")
    levels = tuple(real("each of sigmas", t, 0.0) for t in values)
    if not levels:
        return ()
    levels = levels[:-1] if levels[-1] == 0 else levels
    if not levels or any(a <= b for a, b in pairwise(levels)) or levels[-1] <= 0:
        raise ConfigError(f"sigmas must be strictly descending positive levels, got {levels[:8]}")
    return levels


def _steps(steps: Any, levels: tuple[float, ...]) -> int:
    """Return N_main as an int: at least 2, or 1 where the grid is given as one level."""
    if is_integer(steps) and scalar(steps) == 1 and not levels:
        raise ConfigError(
            "steps must be an integer ≥ 2, got 1: a grid has two ends; for one step from a level sigma to 0 give "
            "sigmas=[sigma]"
        )
    return integer("steps", steps, 1 if levels else 2, MAX_STEPS)


def _settle_steps(steps: int | None, restart: RestartConfig) -> int:
    if restart.steps is None:
        return 18 if steps is None else steps
    if steps is not None and steps != restart.steps and restart.source != "a1111":
        raise ConfigError(
            f"steps = {steps} was given, but the Restart line says {restart.steps}; give only one of the two"
        )
    return restart.steps


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Check the range of every option, and refuse inconsistent combinations."""
    levels = values["sigmas"]
    values["steps"] = _steps(values["steps"], levels)
    solver = get_solver(values.get("solver", "heun"), _options(values.get("solver_options", ()), "solver_options"))
    values["solver"], values["solver_options"] = solver.name, solver.chosen
    restart_solver = solver
    given = _options(values.pop("restart_solver_options", ()), "restart_solver_options")
    if "restart_solver" in values:
        restart_solver = get_solver(values["restart_solver"], given)
        values["restart_solver"], values["restart_solver_options"] = restart_solver.name, restart_solver.chosen
    elif given:
        raise ConfigError(
            "restart_solver_options were given without restart_solver; name the solver inside intervals too"
        )
    if "restart_schedule" in values:
        values["restart_schedule"] = get_schedule(values["restart_schedule"]).name
    values["rho"] = real("rho", values.get("rho", 7.0), 0.0, open_low=True)
    values["schedule_options"] = _options(values.get("schedule_options", ()), "schedule_options", "{'shift': 3.0}")
    name = values.get("schedule", "edm")
    schedule = get_schedule(name, rho=values["rho"], **dict(values["schedule_options"]))
    values["schedule"] = schedule.name
    values["sigma_min"] = real("sigma_min", values.get("sigma_min", schedule.sigma_min), 0.0, open_low=True)
    values["sigma_max"] = real("sigma_max", values.get("sigma_max", schedule.sigma_max), 0.0, open_low=True)
    if values["sigma_min"] >= values["sigma_max"] and len(levels) != 1:
        raise ConfigError(f"sigma_min must be below sigma_max, got {values['sigma_min']:g} and {values['sigma_max']:g}")
    if schedule.process == "flow" and inside(values["sigma_max"], 0.0, 1.0) is None:
        raise ConfigError(f"a flow schedule runs over t in (0, 1], got sigma_max = {values['sigma_max']:g}")
    for name in ("s_noise", "s_churn", "s_min", "s_max", "restart_gamma"):
        given = values.get(name, getattr(PlanConfig, name))
        values[name] = real(name, given, 0.0, infinite=name == "s_max")
    if values["s_min"] > values["s_max"]:
        raise ConfigError(f"s_min must not be above s_max, got {values['s_min']:g} and {values['s_max']:g}")
    values["eta"] = real("eta", values.get("eta", 1.0), 0.0, 1.0)
    if values.get("eta_window") is not None:
        values["eta_window"] = _window(values["eta_window"], values["steps"])
    values["guidance_scale"] = real("guidance_scale", values.get("guidance_scale", 1.0), 0.0)
    values["guidance_interval"] = _guidance_interval(values.get("guidance_interval", (0.0, None)))
    choice("guidance_interval_rounding", values.get("guidance_interval_rounding", "none"), guidance.ROUNDINGS)
    choice("guidance", values.get("guidance", "cfg"), guidance.METHODS)
    values["guidance_rescale"] = real("guidance_rescale", values.get("guidance_rescale", 0.0), 0.0, 1.0)
    values["apg_eta"] = real("apg_eta", values.get("apg_eta", 0.0))
    values["apg_norm"] = real("apg_norm", values.get("apg_norm", 0.0), 0.0)
    values["zero_init"] = integer("zero_init", values.get("zero_init", 0), 0, MAX_STEPS)
    choice("on_collision", values.get("on_collision", "both"), COLLISION_RULES)
    _check_combination(values, (solver, restart_solver), schedule.process)
    method = values.get("guidance", "cfg")
    guidance.check_method(
        method, values["guidance_scale"], values["guidance_rescale"], values["zero_init"], (solver, restart_solver)
    )
    return values


def _window(given: Any, steps: int) -> tuple[int, int]:
    """Return (a, b) with 0 ≤ a < b ≤ steps."""
    try:
        a, b = given
        a, b = integer("its first step", a, 0, steps - 1), integer("its end", b, a + 1, steps)
    except (TypeError, ValueError) as error:  # ConfigError is a ValueError
        why = f"; {error}" if isinstance(error, ConfigError) else ""
        raise ConfigError(f"eta_window must be two steps, 0 ≤ a < b ≤ {steps}, got {shown(given)}{why}") from None
    return a, b


def _guidance_interval(given: Any) -> tuple[float, float]:
    """Return (low, high) as floats; None for high is no upper limit."""
    try:
        low, high = given
        low = real("the lower level", low, 0.0)
        high = math.inf if high is None else real("the upper level", high, 0.0, infinite=True)
    except (TypeError, ValueError) as error:  # ConfigError is a ValueError
        why = f"; {error}" if isinstance(error, ConfigError) else ""
        raise ConfigError(f"guidance_interval must be two levels, 0 ≤ low < high, got {shown(given)}{why}") from None
    if low >= high:
        raise ConfigError(f"guidance_interval must be two levels, 0 ≤ low < high, got {shown(given)}")
    return low, high


def _network_levels(given: Any, sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """Return the levels that the network is told, one for each of `sigmas`."""
    levels = tuple(real("each of network_sigmas", t, 0.0) for t in given)
    if not levels:
        return ()
    levels = levels[:-1] if levels and levels[-1] == 0 else levels
    if len(levels) != len(sigmas) or 0 in levels:
        raise ConfigError(
            f"network_sigmas has a positive level for each of sigmas, got {len(levels)} for {len(sigmas)} sigmas; the "
            "final 0 may be left out"
        )
    return () if levels == sigmas else levels


def _options(given: Any, name: str, example: str = "{'order': 2}") -> tuple[tuple[str, Any], ...]:
    """Return the options of a schedule or solver as sorted pairs, NumPy and PyTorch numbers as Python numbers."""
    try:
        pairs = dict(given).items()
        if not all(isinstance(key, str) for key, _ in pairs):
            raise TypeError
        return tuple(sorted((key, scalar(value)) for key, value in pairs))
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a dict such as {example}, got {shown(given)}") from None


def _check_combination(values: dict[str, Any], solvers: tuple[Solver, Solver], process: str) -> None:
    for solver in solvers:
        if process not in solver.processes:
            raise ConfigError(
                f"solver {solver.name!r} does not handle {process!r} states; use {either(handling(process))}"
            )
