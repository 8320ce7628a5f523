"""Executors launch the evaluations of a program.

`eager` launches them one by one, `graph` replays captured ones, `threads` runs slices of a CPU's batch side by side.
They all launch the body in `evaluation.py` and differ in how they do it; `choice.py` chooses one.
"""

from .choice import Executor as Executor
from .choice import make_executor as make_executor
from .conditions import Conditions as Conditions
from .eager import EagerExecutor as EagerExecutor
from .evaluation import Evaluation as Evaluation
from .evaluation import Network as Network
from .lanes import Lanes as Lanes
from .observer import Observer as Observer
from .observer import Observers as Observers
from .observer import observed_network as observed_network
from .threads import Slices as Slices
from .threads import ThreadExecutor as ThreadExecutor
