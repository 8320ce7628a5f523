r"""What is searched: a plan as a few independent numbers, and back.

| parameter | range | what it becomes |
|---|---|---|
| solver | as asked | of the main walk; a name, or one with options such as unipc:order=2, which are then fixed |
| solver.option | its choices or its range | options of that solver, but for those that make it another family |
| main | 4 .. max_nfe, log | evaluations of the main walk; N_main is the most points they pay for |
| rho | 4 .. 10, by ½ | exponent of the grid |
| levels | least_levels .. levels | number of Restart intervals; for each k: |
| restart_solver | as asked | inside the intervals; only with some |
| N_k, K_k | 2 .. 6; 1 .. 10, log | grid points and repeats |
| t_min_k | 0.01 .. 50, log | moved to the nearest point (in log σ) of the main grid that can be restarted from |
| ratio_k | 1.2 .. 20, log | t_max = ratio · t_min, at most sigma_max, 4 digits |
| s_noise | 0.99 .. 1.01, by 0.001 | S_noise; only where there is noise |
| s_churn | 1 .. 80, log | S_churn; only for edm-stochastic |
| s_min, s_max | 0.002 .. 0.5, log; 0.5 .. 80, log | the levels that churn; only for edm-stochastic |
| eta | 0.2 .. 1, by 0.1 | scale of the noise of a solver's own; only for solvers that inject it |

Evaluations instead of points make a parameter mean the same for every solver, and a ratio cannot put t_max below t_min,
so that a plan is refused for its NFE alone (almost: the engine has the last word). Intervals run from high to low noise
whatever their order, so they are sorted: two orders are one plan.

A family of samplers is a part of the space, see :func:`of_family`: ODE solvers and SDE solvers without an interval, or
Restart, which has at least one. So each can be given the same number of trials.

Guidance is not searched: `Space.guidance` has its options, which every plan gets, those it is compared with too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np

from ...common.checks import either
from ...common.errors import ConfigError
from ...plan.notation import snap
from ...plan.options import PlanConfig
from ...plan.plan import Plan
from ...plan.schedule import get_schedule
from ...solvers import SOLVERS, Solver, get_solver
from ...solvers.option import Option
from ...solvers.registry import accurate, handling
from ..measure.engine import plan_for

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # of EDM's grid
STOCHASTIC = "edm-stochastic"
LATER = ("s_min", "s_max", "eta", "least_levels", "guidance")  # so that storages of older searches go on
LEAST_MAIN = 4  # evaluations of the main walk
Params = dict[str, Any]
Options = dict[str, Any]


class Refused(ConfigError):
    """Raised for a plan outside the space, which is not drawn."""


class Suggests(Protocol):
    """The part of an optuna trial that is used."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Space:
    """The ranges.

    `sigma_min`, `sigma_max` are the ends of every main grid; `max_nfe` counts all evaluations of a sample. `guidance`
    has (name, value) of the options of guidance that every plan has.
    """

    solvers: tuple[str, ...] = accurate()
    levels: int = 2
    min_nfe: int = 8
    max_nfe: int = 100
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    N: tuple[int, int] = (2, 6)
    K: tuple[int, int] = (1, 10)
    t_min: tuple[float, float] = (0.01, 50.0)
    ratio: tuple[float, float] = (1.2, 20.0)
    s_noise: tuple[float, float] = (0.99, 1.01)
    rho: tuple[float, float] = (4.0, 10.0)
    s_churn: tuple[float, float] = (1.0, 80.0)
    s_min: tuple[float, float] = (0.002, 0.5)
    s_max: tuple[float, float] = (0.5, 80.0)
    eta: tuple[float, float] = (0.2, 1.0)
    least_levels: int = 0
    guidance: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.solvers:
            raise ConfigError("the search needs at least one solver, for example heun")
        for name in self.solvers:
            if "ve" not in get_solver(name).processes:
                raise ConfigError(
                    f"plans are searched on EDM's grid, and solver {name!r} does not handle it; use "
                    f"{either(handling('ve'))}"
                )
        if not 1 <= self.min_nfe <= self.max_nfe:
            raise ConfigError(f"min_nfe must be in 1 .. {self.max_nfe} (max_nfe), got {self.min_nfe}")
        if self.max_nfe < 5:
            raise ConfigError(f"max_nfe must be ≥ 5, got {self.max_nfe}")
        if not 0 <= self.levels <= 8:
            raise ConfigError(f"levels must be in 0 .. 8, got {self.levels}")
        if not 0 <= self.least_levels <= self.levels:
            raise ConfigError(f"least_levels must be in 0 .. {self.levels} (levels), got {self.least_levels}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict, tuples as lists. LATER fields are left out at their defaults."""
        default = {field.name: field.default for field in fields(self)}
        found = {k: v for k, v in asdict(self).items() if k not in LATER or v != default[k]}
        return {k: _listed(v) for k, v in found.items()}


def _listed(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def space_for(parameterization: Any, **given: Any) -> Space:
    """Return the space of a network: EDM's grid inside the levels it knows. Raises ConfigError for flow models."""
    if parameterization.process != "ve":
        raise ConfigError("plans are searched on EDM's grid, x = x₀ + σ·ε; a flow model has another one")
    low = max(SIGMA_MIN, float(parameterization.sigma_min))
    high = min(SIGMA_MAX, float(parameterization.sigma_max))
    return Space(sigma_min=low, sigma_max=high, **given)


def of_family(family: str) -> tuple[str, ...]:
    """Return the solvers of a family of samplers that handle EDM's grid, as :class:`Space` takes them.

    An ODE solver with an option that adds noise is in "sde" too, with that option. "restart" has the solvers of
    :func:`accurate`, each of which may walk the main grid and the intervals.
    """
    if family == "restart":
        return accurate()
    solvers = [SOLVERS[name] for name in handling("ve") if not SOLVERS[name].learned]
    every = [solver.using(chosen) for solver in solvers for chosen in ({}, *_switches(solver))]
    found = tuple(solver.spec for solver in every if solver.family == family)
    if not found:
        raise ConfigError(f"the families of samplers are ode, sde and restart, got {family!r}")
    return found


def _switches(solver: Solver) -> list[dict[str, bool]]:
    """Return the options that are off and, switched on, make an ODE solver inject noise."""
    off = [{option.name: True} for option in solver.options if option.default is False]
    return [chosen for chosen in off if solver.using(chosen).noisy and not solver.noisy]


def _searched(solver: Solver) -> list[Option]:
    """Return the options of a solver that are searched.

    Left out are those that are fixed in its spec, that make another family of it, or that have no range.
    """
    fixed = {name for chosen in _switches(solver) for name in chosen} | {name for name, _ in solver.chosen}
    return [option for option in solver.options if option.name not in fixed and _values(option)]


def _values(option: Option) -> tuple[Any, ...]:
    """Return what an option may be: its choices, or the two ends of its range; () if it has neither."""
    if isinstance(option.default, bool):
        return (False, True)
    if option.choices:
        return option.choices
    numbers = isinstance(option.default, (int, float))
    return (option.low, option.high) if numbers and math.isfinite(option.low) and math.isfinite(option.high) else ()


def _suggest_option(trial: Suggests, solver: Solver, option: Option) -> Any:
    name, values = f"{solver.name}.{option.name}", _values(option)
    if isinstance(option.default, bool) or option.choices:
        return trial.suggest_categorical(name, list(values))
    if isinstance(option.default, int):
        return trial.suggest_int(name, int(values[0]), int(values[1]))
    return trial.suggest_float(name, float(values[0]), float(values[1]))


def suggest(trial: Suggests, space: Space) -> Params:
    """Ask for one point of the space."""
    name = trial.suggest_categorical("solver", list(space.solvers))
    solver = get_solver(name)
    p: Params = {
        "solver": name,
        "main": trial.suggest_int("main", LEAST_MAIN, space.max_nfe, log=True),
        "rho": trial.suggest_float("rho", *space.rho, step=0.5),
        "levels": trial.suggest_int("levels", space.least_levels, space.levels),
    }
    for option in _searched(solver):
        p[f"{solver.name}.{option.name}"] = _suggest_option(trial, solver, option)
    if p["levels"]:
        p["restart_solver"] = trial.suggest_categorical("restart_solver", list(space.solvers))
    for k in range(p["levels"]):
        p[f"N{k}"] = trial.suggest_int(f"N{k}", *space.N)
        p[f"K{k}"] = trial.suggest_int(f"K{k}", *space.K, log=True)
        p[f"t_min{k}"] = trial.suggest_float(f"t_min{k}", *space.t_min, log=True)
        p[f"ratio{k}"] = trial.suggest_float(f"ratio{k}", *space.ratio, log=True)
    if p["levels"] or solver.family == "sde":
        p["s_noise"] = trial.suggest_float("s_noise", *space.s_noise, step=0.001)
    if solver.noisy:
        p["eta"] = trial.suggest_float("eta", *space.eta, step=0.1)
    if solver.name == STOCHASTIC:
        for end in ("s_churn", "s_min", "s_max"):
            p[end] = trial.suggest_float(end, *getattr(space, end), log=True)
    return p


def options_of(params: Params, space: Space) -> Options:
    """Return options of `Plan.build` for a point of the space. Raises Refused if not even the smallest grid fits."""
    solver = get_solver(params["solver"])
    names = {option.name: f"{solver.name}.{option.name}" for option in _searched(solver)}
    solver = solver.using({option: _rounded(params[name]) for option, name in names.items() if name in params})
    options: Options = {"solver": solver.spec, **dict(space.guidance)}
    fitted = plan_for(solver.spec, params["main"])
    if fitted is None:
        raise Refused(f"{params['main']} evaluations are too few for a grid of {solver.spec}")
    options["steps"] = fitted.config.steps
    options |= {"rho": round(float(params["rho"]), 4)} | _ends(space)
    intervals = _intervals(params, options, space)
    if intervals:
        options["restart"] = intervals
        if params.get("restart_solver", params["solver"]) != params["solver"]:
            options["restart_solver"] = params["restart_solver"]
    if "s_noise" in params:
        options["s_noise"] = round(float(params["s_noise"]), 4)
    if "eta" in params:
        options["eta"] = round(float(params["eta"]), 4)
    if "s_churn" in params:
        options |= {name: _digits(params[name], 3) for name in ("s_churn", "s_min", "s_max") if name in params}
    return options


def build(options: Options, space: Space) -> Plan:
    """Return the plan. Raises Refused if the engine does not run it or its NFE is outside the space."""
    try:
        plan = Plan.build(**options)
    except Refused:
        raise
    except ConfigError as error:
        raise Refused(str(error)) from error
    if not space.min_nfe <= plan.nfe <= space.max_nfe:
        raise Refused(f"{plan.nfe} NFE, and {space.min_nfe} .. {space.max_nfe} are searched")
    return plan


def with_guidance(plan: Plan, space: Space) -> Plan:
    """Return a plan without guidance with that of the space; one with guidance of its own as it is."""
    if not space.guidance or plan.config.guided:
        return plan
    return Plan.build(**{**plan.config.to_dict(), **dict(space.guidance)})


def _otherwise_guided(plan: Plan, space: Space) -> bool:
    own = {name: value for name, value in plan.config.to_dict().items() if "guidance" in name}
    wanted = {
        name: value for name, value in PlanConfig.make(**dict(space.guidance)).to_dict().items() if "guidance" in name
    }
    return own != wanted


def params_of(plan: Plan, space: Space) -> Params | None:
    """Return the point whose plan is nearest to `plan`, or None if it is outside the space.

    Inverse of :func:`options_of`.
    """
    config = plan.config
    if _otherwise_guided(plan, space) or config.restart.resampling is not None or config.eta_window is not None:
        return None
    main_solver, restart_solver = config.solvers
    name = _name_in(space, main_solver)
    inside_name = _name_in(space, restart_solver) if config.restart_solver else name
    if name is None or inside_name is None or (config.eta != 1.0 and not main_solver.noisy):
        return None
    levels = sorted(plan.intervals, key=lambda i: (-i.t_min, -i.asked.t_max))
    noisy = bool(levels) or main_solver.family == "sde"
    main = plan.nfe - sum(i.nfe for i in levels)
    fewest = plan_for(main_solver.spec, LEAST_MAIN)
    if fewest is not None and fewest.nfe == main:
        main = LEAST_MAIN  # the smallest grid may cost less than what it is asked for with
    p: Params = {"solver": name, "main": main, "rho": round(config.rho * 2) / 2, "levels": len(levels)}
    for option in _searched(get_solver(name)):
        p[f"{main_solver.name}.{option.name}"] = main_solver.settings[option.name]
    if levels:
        p["restart_solver"] = inside_name
    for k, i in enumerate(levels):
        p |= {f"N{k}": i.N, f"K{k}": i.K, f"t_min{k}": i.t_min, f"ratio{k}": i.asked.t_max / i.t_min}
    if noisy:
        p["s_noise"] = round(config.s_noise, 3)
    if main_solver.noisy:
        p["eta"] = config.eta
    if config.solver == STOCHASTIC:
        p |= {"s_churn": config.s_churn, "s_min": config.s_min, "s_max": config.s_max}
    inside = (
        LEAST_MAIN <= main <= space.max_nfe
        and space.least_levels <= len(levels) <= space.levels
        and config.schedule == "edm"
        and not config.sigmas
        and all(_within(p[name], getattr(space, name.rstrip("0123456789"))) for name in p if not _free(name))
    )
    return p if inside else None


def _free(name: str) -> bool:
    """Return whether a parameter is checked elsewhere: those of the walk, and the options of solvers."""
    return name in ("solver", "restart_solver", "main", "levels") or "." in name


def _name_in(space: Space, solver: Solver) -> str | None:
    """Return the solver of the space of which `solver` is a setting, or None: the one that fixes most of it."""
    settings = set(solver.chosen)
    fixed = {name: set(get_solver(name).chosen) for name in space.solvers if get_solver(name).name == solver.name}
    free = {name: {option.name for option in _searched(get_solver(name))} for name in fixed}
    rest = {name: {option for option, _ in settings - fixed[name]} for name in fixed}
    fits = [name for name in fixed if fixed[name] <= settings and rest[name] <= free[name]]
    return max(fits, key=lambda name: len(fixed[name]), default=None)


def _rounded(value: Any) -> Any:
    """Return a number with 3 digits, as a plan is written; other values as they are."""
    return _digits(value, 3) if isinstance(value, float) else value


def _within(value: float, ends: tuple[float, float]) -> bool:
    return ends[0] <= value <= ends[1]


def _ends(space: Space) -> Options:
    """Return the ends of the grid if they are not EDM's own."""
    ends = {"sigma_min": (space.sigma_min, SIGMA_MIN), "sigma_max": (space.sigma_max, SIGMA_MAX)}
    return {name: value for name, (value, own) in ends.items() if value != own}


def _intervals(params: Params, options: Options, space: Space) -> list[list[Any]]:
    """Return [[N, K, t_min, t_max], …] from high to low noise, on the grid of `options`."""
    grid = get_schedule("edm", rho=options["rho"]).grid(options["steps"], space.sigma_min, space.sigma_max)
    grid = np.append(grid, 0.0)
    found = []
    for k in range(params["levels"]):
        index = 1 + int(np.argmin(np.abs(np.log(grid[1:-1]) - math.log(params[f"t_min{k}"]))))
        t = float(grid[index])
        t_max = min(_digits(min(t * params[f"ratio{k}"], space.sigma_max), 4), space.sigma_max)
        found.append([params[f"N{k}"], params[f"K{k}"], _written(t, grid, index), t_max])
    return sorted(found, key=lambda i: (-i[2], -i[3], i[0], i[1]))


def _written(t: float, grid: np.ndarray, index: int) -> float:
    """Return grid point `t` with the fewest digits, at least 2, that snap to it, as the paper does: 0.14 for 0.1395."""
    for digits in range(2, 17):
        if snap(grid, _digits(t, digits)) == index:
            return _digits(t, digits)
    return t


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
