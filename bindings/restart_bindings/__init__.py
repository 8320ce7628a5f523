"""The Python face of the native library: the fused row and the normals in C++ and CUDA.

The library is optional: `available` says whether it is there, `reason` why it is not. It has one module per type of
device, each loaded when it is first asked for. Arguments are tensors that restart_kernels has checked (its `Machine`);
the library checks sizes, dtypes and devices once more before it touches memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BoundMachine", "available", "normal", "reason", "set_simd", "simd", "simds"]

MODULES = {"cpu": "_native_cpu", "cuda": "_native_cuda"}


@cache
def _load(device_type: str) -> tuple[ModuleType | None, str]:
    """Return the module for a type of device, or None and the reason why it cannot be used."""
    name = MODULES.get(device_type)
    if name is None:
        return None, f"the native library does not run on {device_type} tensors"
    try:
        module = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError:
        how = "`pip install .` builds it where it finds a C++ compiler" + ", and nvcc" * (device_type == "cuda")
        return None, f"the native library was not built for {device_type}: {how}"
    except ImportError as error:
        return None, f"the native library does not load: {' '.join(str(error).split())}"
    if not hasattr(module, "BoundMachine"):
        return None, "the native library was built from older sources: build it again"
    if device_type == "cuda":
        import torch

        if not torch.cuda.is_available():
            return None, "there is no CUDA device"
    return module, ""


def available(device_type: str = "cpu") -> bool:
    """Return whether the native library can be used on this type of device."""
    return _load(device_type)[0] is not None


def reason(device_type: str = "cpu") -> str:
    """Return why the native library cannot be used, in one line; empty if it can."""
    return _load(device_type)[1]


def _module(device_type: str) -> Any:
    """Return the module for a type of device; RuntimeError if it cannot be used."""
    module, why = _load(device_type)
    if module is None:
        raise RuntimeError(why)
    return module


def _cuda_stream(device: Any) -> int:
    import torch

    return torch.cuda.current_stream(device).cuda_stream


class BoundMachine:
    """A machine bound to the native library: the tensors are kept alive, and their addresses are read once.

    The arguments are the fields of `Machine` in restart_kernels, those of every machine in their order and the others
    by name; the meaning of `run_row`, `advance` and `weigh` is that of `BoundMachine` there. A row runs on as many
    threads as torch uses, on CUDA in the current stream. Before memory is touched, a tensor that does not fit is a
    TypeError, tensors that do not go together are a ValueError, and on the CPU a cursor beyond the table is an
    IndexError.
    """

    __slots__ = ("advance", "run_row", "weigh")

    run_row: Callable[..., None]  # (F: Tensor | None = None, F_uncond: Tensor | None = None)
    advance: Callable[[], None]
    weigh: Callable[[Tensor, Tensor], None]

    def __init__(
        self,
        x: Tensor,
        h: Tensor | None,
        net_in: Tensor,
        coef: Tensor,
        code: Tensor,
        cursor: Tensor,
        seeds: Tensor,
        first_bad: Tensor,
        c_noise: Tensor | None = None,
        *,
        h2: Tensor | None = None,
        h3: Tensor | None = None,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        mix: Tensor | None = None,
        noises: int = 1,
    ) -> None:
        import torch

        tensors = (x, h, net_in, coef, code, cursor, seeds, first_bad, c_noise)
        others = {"h2": h2, "h3": h3, "known": known, "mask": mask, "mix": mix, "noises": noises}
        native = _module(x.device.type)
        if x.device.type == "cpu":
            bound = native.BoundMachine(*tensors, torch.get_num_threads, **others)
            # The compiled methods themselves: a Python function around them would double the cost of a call.
            self.run_row, self.advance, self.weigh = bound.run_row, bound.advance, bound.weigh
            return
        bound = native.BoundMachine(*tensors, **others)
        device = x.device

        def run_row(F: Tensor | None = None, F_uncond: Tensor | None = None) -> None:
            bound.run_row(F, F_uncond, _cuda_stream(device))

        self.run_row = run_row
        self.advance = lambda: bound.advance(_cuda_stream(device))
        self.weigh = lambda F, F_uncond: bound.weigh(F, F_uncond, _cuda_stream(device))


def normal(out: Tensor, seeds: Tensor, draw: int, stream: int) -> None:
    """Fill `out`, float32 [B, numel], with the normals of (seeds [B], draw, stream)."""
    import torch

    native = _module(out.device.type)
    if out.device.type == "cpu":
        native.normal(out, seeds, draw, stream, torch.get_num_threads())
    else:
        native.normal(out, seeds, draw, stream, _cuda_stream(out.device))


def simds() -> list[str]:
    """Return the instruction sets of the CPU library that run here, fastest first. All give the same bits."""
    return _module("cpu").simds()


def simd() -> str:
    """Return the instruction set in use."""
    return _module("cpu").simd()


def set_simd(name: str) -> None:
    """Use another instruction set, for tests and measurements; ValueError if it does not run here."""
    _module("cpu").set_simd(name)
