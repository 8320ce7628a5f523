"""The kernels of restart sampling: the fused row of a table, its noise, and pixels, each on several backends.

    bind(machine, backend)          a machine's table and registers bound to a backend: .run_row(F), .advance()
    normal(seeds, draw, numel)      the normals of scheme philox-v1 alone
    words(seeds, draw, count)       the Philox words under them
    pixels(x)                       samples in [−1, 1] → uint8 images, channels last

`layout` names the columns and flags of a table, `row/reference.py` states what a row computes, and each file in
`backends/` is one backend. All backends give the same bits.
"""

from restart_bindings.moved import keep_old_names

from . import layout as layout
from .backends.base import Backend as Backend
from .dispatch import available_backends as available_backends
from .dispatch import bind as bind
from .dispatch import fastest_backend as fastest_backend
from .dispatch import get_backend as get_backend
from .dispatch import normal as normal
from .dispatch import pixels as pixels
from .dispatch import resolve_backend as resolve_backend
from .dispatch import why_not as why_not
from .dispatch import words as words
from .errors import KernelError as KernelError
from .machine import BoundMachine as BoundMachine
from .machine import Machine as Machine

__all__ = [
    "Backend",
    "BoundMachine",
    "KernelError",
    "Machine",
    "available_backends",
    "bind",
    "fastest_backend",
    "get_backend",
    "layout",
    "normal",
    "pixels",
    "resolve_backend",
    "why_not",
    "words",
]

keep_old_names(
    __name__, {"step": "row", "condition": "row.condition", "launch": "backends.triton"}, since="0.1", until="0.2"
)
