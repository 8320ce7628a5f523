"""The solvers: every module beside this one that defines `SOLVER`. A new file is a new solver, everywhere."""

from __future__ import annotations

from pathlib import Path

from ..common.checks import did_you_mean, shown
from ..common.errors import ConfigError
from ..common.scan import records
from .trace import Solver


def _found() -> list[Solver]:
    owner: dict[str, str] = {}
    found = records(str(__package__), [str(Path(__file__).parent)], "SOLVER", Solver)
    for file, solver in found.items():
        for name in (solver.name, *solver.aliases):
            if name in owner:
                raise ConfigError(
                    f"solvers/{file}.py: the name {name!r} is that of solvers/{owner[name]}.py; choose another"
                )
            owner[name] = file
    return sorted(found.values(), key=lambda solver: (solver.rank, solver.name))


SOLVERS: dict[str, Solver] = {solver.name: solver for solver in _found()}
_BY_ANY_NAME = {name: s for s in SOLVERS.values() for name in (s.name, *s.aliases)}


def handling(process: str) -> tuple[str, ...]:
    """Return the names of the solvers that handle a process, "ve" or "flow"."""
    return tuple(name for name, solver in SOLVERS.items() if process in solver.processes)


def accurate() -> tuple[str, ...]:
    """Return the names of the ODE solvers of order 2 and higher, among which `tune` searches unless told otherwise.

    It searches plans on EDM's grid, so they handle "ve".
    """
    return tuple(name for name in handling("ve") if SOLVERS[name].family == "ode" and SOLVERS[name].order >= 2)


def get_solver(name: str) -> Solver:
    """Return the solver called `name`, or with that alias; ConfigError lists the choices."""
    if isinstance(name, str) and name in _BY_ANY_NAME:
        return _BY_ANY_NAME[name]
    hint = did_you_mean(name, _BY_ANY_NAME)
    raise ConfigError(f"solver {shown(name)} is not known; choose one of {', '.join(SOLVERS)}{hint}")
