"""The two kernels of restart sampling, the fused step and its noise, each with a reference and fast backends.

    step(x, h, F, net_in, coef=, code=, cursor=, seeds=, first_bad=)    one row of any solver, in place
    normal(seeds, draw, numel)                                          the noise alone

`layout` names the columns and flags of the table that drives the step.
"""

from . import layout as layout
from .dispatch import available_backends as available_backends
from .dispatch import normal as normal
from .dispatch import resolve_backend as resolve_backend
from .dispatch import step as step
from .dispatch import words as words
from .errors import KernelError as KernelError

__all__ = ["KernelError", "available_backends", "layout", "normal", "resolve_backend", "step", "words"]
