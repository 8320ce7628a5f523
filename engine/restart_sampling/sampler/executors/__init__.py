"""Executors run evaluations of a program: `eager` launches them one by one, `graph` replays captured ones, `threads`
runs slices of a CPU's batch side by side.

They differ in who launches, not in what is launched: all of them run the body in `evaluation.py`.
"""

from .eager import EagerExecutor as EagerExecutor
from .evaluation import Evaluation as Evaluation
from .evaluation import Lanes as Lanes
from .evaluation import Network as Network
from .graph import make_executor as make_executor
from .threads import Slices as Slices
from .threads import ThreadExecutor as ThreadExecutor
