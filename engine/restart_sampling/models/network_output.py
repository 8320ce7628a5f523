"""What a network may return, checked by shape and type.

A wrong layout has the right number of elements, so counting them finds nothing, and the result is an image of noise.
The output must have the shape of the input: [B, C, H, W], B being twice the samples under guidance. The check looks at
Python objects alone: no further evaluation, no launch and no value from the device. It runs with the first evaluation
and with every later one that Python launches; a captured graph or a compiled network repeats what was checked.

Shapes do not show everything: height and width swapped in a square sample, or channels last where C = H = W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..common.errors import RestartTypeError, RestartValueError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check(F: Any, net_in: Tensor) -> Tensor:
    """Return F, the output of a network for `net_in`, as it is.

    Raises:
        RestartTypeError: F is not a tensor of floating-point numbers.
        RestartValueError: its shape or device is not that of net_in.
    """
    if not isinstance(F, Tensor):
        raise RestartTypeError(f"the network must return a tensor of shape {list(net_in.shape)}, {_kind(F)}")
    if F.shape != net_in.shape:
        raise RestartValueError(_shapes(list(F.shape), list(net_in.shape)))
    if F.dtype not in FLOATS:
        raise RestartTypeError(
            f"the network must return float32, bfloat16, float16 or float64, got {F.dtype}; convert it, e.g. by "
            ".float()"
        )
    if F.device != net_in.device:
        raise RestartValueError(
            f"the network was given a tensor on {net_in.device} and returned one on {F.device}; "
            "keep it on its input's device"
        )
    return F


def checked(F: Any, net_in: Tensor) -> Tensor:
    """Return F after `check`, as the sampler reads it: detached, and no wider than float32 for float32 registers."""
    F = check(F, net_in)
    if F.requires_grad:
        F = F.detach()
    if F.dtype == torch.float64 and net_in.dtype != torch.float64:
        return F.to(torch.float32)
    return F


class Checked:
    """A network whose output is checked, for executors that call it as it is."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network
        self.concurrent = bool(getattr(network, "concurrent", False))

    def __call__(
        self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, **conditions: Tensor
    ) -> Tensor:
        return checked(self.network(net_in, c_noise, class_labels, **conditions), net_in)


def _shapes(got: list[int], wanted: list[int]) -> str:
    """Return one sentence with both shapes, and the reason if the shapes show it."""
    text = f"the network was given {wanted} and returned {got}; both must have one shape"
    batch, sample = wanted[0], wanted[1:]
    if len(got) == len(wanted) >= 2 and got == [batch, 2 * wanted[1], *wanted[2:]]:
        return (
            f"{text}. Twice the channels are what a network with a learned variance returns: "
            f"wrap it so that it returns the first half, output[:, :{wanted[1]}]"
        )
    if got == [batch, *sample[1:], *sample[:1]]:
        return f"{text}. Its channels are last: return output.movedim(-1, 1)"
    if len(sample) >= 2 and got == [batch, *sample[:-2], sample[-1], sample[-2]]:
        return f"{text}. The last two dimensions, height and width, are swapped"
    if len(sample) >= 2 and got == [sample[0], batch, *sample[1:]]:
        return f"{text}. Batch and channels are swapped"
    if got == sample:
        return f"{text}. The dimension of the batch is missing"
    return text


def _kind(F: Any) -> str:
    """Return what the network returned, in words, and how to get a tensor from it."""
    name = type(F).__name__
    if F is None:
        return "got None; does the function end with `return`?"
    if isinstance(getattr(F, "sample", None), Tensor):
        return f"got {name}; return its tensor, `output.sample`"
    if isinstance(F, (tuple, list)):
        return f"got a {name} of {len(F)}; return its tensor alone, such as `output[0]`"
    if name == "ndarray":
        return "got a NumPy array; return `torch.from_numpy(output)`"
    return f"got {name}"
