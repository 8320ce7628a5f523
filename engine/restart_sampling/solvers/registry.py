"""The solvers: every module beside this one that defines `SOLVER`. A new file is a new solver, everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.checks import did_you_mean, shown
from ..common.errors import ConfigError
from ..common.scan import records
from .option import Pairs, split
from .trace import Solver


def _found() -> list[Solver]:
    owner: dict[str, str] = {}
    found = records(str(__package__), [str(Path(__file__).parent)], "SOLVER", Solver)
    for file, solver in found.items():
        for name in (solver.name, *(split(alias)[0] for alias in solver.aliases)):
            if name in owner:
                raise ConfigError(
                    f"solvers/{file}.py: the name {name!r} is that of solvers/{owner[name]}.py; choose another"
                )
            owner[name] = file
    return sorted(found.values(), key=lambda solver: (solver.rank, solver.name))


SOLVERS: dict[str, Solver] = {solver.name: solver for solver in _found()}
_BY_ANY_NAME = dict(SOLVERS)
for _solver in SOLVERS.values():
    for _alias, _options in map(split, _solver.aliases):
        _BY_ANY_NAME[_alias] = _solver.using(_options)


def handling(process: str) -> tuple[str, ...]:
    """Return the names of the solvers that handle a process, "ve" or "flow"."""
    return tuple(name for name, solver in SOLVERS.items() if process in solver.processes)


def accurate() -> tuple[str, ...]:
    """Return the names of the ODE solvers of order 2 and higher, among which `tune` searches unless told otherwise.

    It searches plans on EDM's grid, so they handle "ve", and nothing that was learned.
    """
    found = [SOLVERS[name] for name in handling("ve")]
    return tuple(s.name for s in found if s.family == "ode" and s.order >= 2 and not s.learned)


def get_solver(name: str, options: Mapping[str, Any] | Pairs = ()) -> Solver:
    """Return the solver called `name`, or with that alias, with these options on top of those that the name has.

    Args:
        name: a name, or a name with options such as "unipc:order=2", see option.py.

    Raises:
        ConfigError: the solver is not known (lists the choices), or it cannot have an option.
    """
    if isinstance(name, str):
        plain, own = split(name)
        if plain in _BY_ANY_NAME:
            chosen = {**own, **dict(options)}
            return _BY_ANY_NAME[plain].using(chosen) if chosen else _BY_ANY_NAME[plain]
    hint = did_you_mean(name, _BY_ANY_NAME)
    raise ConfigError(f"solver {shown(name)} is not known; choose one of {', '.join(SOLVERS)}{hint}")
