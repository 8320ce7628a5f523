"""Solvers, one per file. A solver is a function on linear forms that lowers one step of the grid (see trace.py)."""

from __future__ import annotations

from ..common.checks import did_you_mean, shown
from ..common.errors import ConfigError
from . import ddpm, dpm2, dpm3, dpmpp_2m, edm_stochastic, euler, heun
from .trace import Solver as Solver

_ALL = (euler, heun, edm_stochastic, ddpm, dpm2, dpm3, dpmpp_2m)
SOLVERS: dict[str, Solver] = {module.SOLVER.name: module.SOLVER for module in _ALL}
_BY_ANY_NAME = {name: s for s in SOLVERS.values() for name in (s.name, *s.aliases)}


def get_solver(name: str) -> Solver:
    """The solver called `name` (or one of its aliases); ConfigError lists the choices."""
    if isinstance(name, str) and name in _BY_ANY_NAME:
        return _BY_ANY_NAME[name]
    hint = did_you_mean(name, _BY_ANY_NAME)
    raise ConfigError(f"solver {shown(name)} is not known; choose one of {', '.join(SOLVERS)}{hint}")
