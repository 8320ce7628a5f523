"""Solvers, one per file. A solver is a function on linear forms that lowers one step of the grid (see trace.py)."""

from .registry import SOLVERS as SOLVERS
from .registry import get_solver as get_solver
from .trace import Solver as Solver
