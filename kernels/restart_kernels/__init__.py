"""The kernels of restart sampling, the fused step and its noise, each with a reference and fast backends.

    bind(machine, backend)              the fused step on the static tensors of a batch: .step(F), .advance()
    normal(seeds, draw, numel)          the noise alone
    pixels(x)                           samples to uint8 images, channels last

`layout` names the columns and flags of the table that drives the step.
"""

from . import layout as layout
from .dispatch import available_backends as available_backends
from .dispatch import bind as bind
from .dispatch import normal as normal
from .dispatch import pixels as pixels
from .dispatch import resolve_backend as resolve_backend
from .dispatch import why_not as why_not
from .dispatch import words as words
from .errors import KernelError as KernelError
from .machine import Machine as Machine
from .machine import Stepper as Stepper

__all__ = [
    "KernelError",
    "Machine",
    "Stepper",
    "available_backends",
    "bind",
    "layout",
    "normal",
    "pixels",
    "resolve_backend",
    "why_not",
    "words",
]
