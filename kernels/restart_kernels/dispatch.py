"""Which backend runs a kernel.

reference   plain PyTorch, any device: `step/reference.py`, `philox/reference.py`
triton      CUDA tensors; CPU tensors only in Triton's interpreter (TRITON_INTERPRET=1 before its import)
native      C++ on CPU tensors and CUDA C++ on CUDA tensors, where restart_bindings was built

All give the same bits (`philox/coefficients.py` says why), so "auto" is a choice of speed only: native on the CPU,
triton on CUDA, and what is left where these are missing."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

import restart_bindings

from .errors import KernelError
from .machine import Backend, Machine, Stepper, require
from .philox import reference as philox_reference
from .pixels import reference as pixels_reference
from .step import reference as step_reference

BACKENDS = ("auto", "reference", "triton", "native")
ORDER = {"cpu": ("native", "reference", "triton"), "cuda": ("triton", "native", "reference")}  # fastest first


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _why_not_triton(device: torch.device) -> str | None:
    """None if the triton backend runs on this device, else the reason."""
    if not _triton_is_installed():
        return "triton is not installed"
    if device.type == "cuda":
        return None
    if device.type != "cpu":
        return f"triton does not run on {device.type} tensors"
    from .launch import interpreted

    if interpreted():
        return None
    return "triton runs on CPU tensors only in its interpreter, TRITON_INTERPRET=1 before it is imported"


def why_not(backend: str, device: torch.device | str) -> str | None:
    """None if the backend runs on this device, else the reason in one line."""
    device = torch.device(device)
    if backend == "triton":
        return _why_not_triton(device)
    if backend == "native" and not restart_bindings.available(device.type):
        return restart_bindings.reason(device.type)
    return None


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The backends that run on this device, fastest first."""
    device = torch.device(device)
    names = ORDER.get(device.type, ("reference",))
    return tuple(name for name in names if why_not(name, device) is None)


def resolve_backend(backend: str, device: torch.device | str) -> str:
    """The backend that "auto" means here, or the one asked for.

    Raises:
        KernelError: unknown name, or one that does not run on this device (the message says why).
    """
    device = torch.device(device)
    if not isinstance(backend, str):
        raise KernelError(f"backend must be one of {', '.join(BACKENDS)}, got a {type(backend).__name__}")
    if backend == "auto":  # the first that runs: on a CPU without importing triton, which takes a second
        names = ORDER.get(device.type, ("reference",))
        return next(name for name in names if why_not(name, device) is None)
    if backend not in BACKENDS:
        raise KernelError(f"unknown backend {backend!r}; the backends are {', '.join(BACKENDS)}")
    reason = why_not(backend, device)
    if reason is not None:
        raise KernelError(f"backend {backend!r} is not available: {reason}; use one of {_choices(device)}")
    return backend


def _choices(device: torch.device) -> str:
    return ", ".join(("auto", *available_backends(device)))


class _Reference:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def step(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        step_reference.step(self.machine, F, F_uncond)

    def advance(self) -> None:
        step_reference.advance(self.machine)


class _Nothing:
    """The step of a batch without elements."""

    def step(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        pass

    def advance(self) -> None:
        pass


def bind(machine: Machine, backend: str = "auto") -> Stepper:
    """The fused step of `machine` on a backend.

    Raises:
        KernelError: no such backend, or one that cannot run this machine (float64 registers are for the reference).
    """
    float64 = torch.float64 in (machine.x.dtype, machine.coef.dtype)
    if backend == "auto" and float64:
        backend = "reference"
    backend = resolve_backend(backend, machine.x.device)
    run: Backend
    if machine.x.numel() == 0:
        run = _Nothing()
    elif backend == "reference":
        run = _Reference(machine)
    elif float64:
        raise KernelError(f"the {backend} backend has float32 registers, not float64; use 'reference'")
    elif backend == "native":
        m = machine
        run = restart_bindings.Step(m.x, m.h, m.net_in, m.coef, m.code, m.cursor, m.seeds, m.first_bad, m.c_noise)
    else:
        from .launch import Step

        run = Step(machine)
    return Stepper(machine, backend, run)


def normal(
    seeds: Tensor,
    draw: int,
    numel: int,
    *,
    device: torch.device | str | None = None,
    stream: int = 0,
    backend: str = "auto",
) -> Tensor:
    """Standard normals of scheme philox-v1, float32 [B, numel].

    Element i of a sample depends on (seed, draw, stream, i) alone: not on batch, device or backend.

    Args:
        seeds: int64 [B], ≥ 0.
        draw: which draw, 0 … 2³²−1; 0 is the initial latent.
        numel: elements per sample.
        device: where to make them; default the device of `seeds`.
        stream: 0 Gaussian noise, 1 class labels, 2 PFGM++.
    """
    seeds = _check_draw(seeds, draw, numel, stream, device)
    backend = resolve_backend(backend, seeds.device)
    if backend == "reference":
        return philox_reference.normal(seeds, draw, numel, stream=stream)
    if backend == "native":
        out = torch.empty(len(seeds), numel, dtype=torch.float32, device=seeds.device)
        restart_bindings.normal(out, seeds.contiguous(), draw, stream)
        return out
    from .launch import normal as run

    return run(seeds, draw, numel, stream=stream)


def pixels(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Samples float [B, C, H, W] in [−1, 1] → pixels uint8 [B, H, W, C] on the same device, in one pass where triton
    runs.

    uint8 = clip(127.5·x + 128, 0, 255), truncated. There is no native backend: on a CPU "auto" is the reference.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise KernelError(f"pixels need samples float [B, C, H, W], got {x.dtype} {list(x.shape)}")
    wide = x.dtype == torch.float64
    if backend == "auto":
        backend = "triton" if x.is_cuda and not wide and why_not("triton", x.device) is None else "reference"
    if resolve_backend(backend, x.device) != "triton":
        return pixels_reference.pixels(x)
    if wide:
        raise KernelError("the triton backend has float32 registers, not float64; use 'reference'")
    from .launch import pixels as run

    return run(x)


def words(seeds: Tensor, draw: int, count: int, *, stream: int = 0, device: torch.device | str | None = None) -> Tensor:
    """The raw Philox words under the normals, int64 0 … 2³²−1, [B, count]; arguments as in `normal`."""
    return philox_reference.words(_check_draw(seeds, draw, count, stream, device), draw, count, stream=stream)


def _check_draw(seeds: Tensor, draw: int, count: int, stream: int, device: torch.device | str | None) -> Tensor:
    require(seeds.dtype == torch.int64 and seeds.dim() == 1, "seeds", seeds, "int64 [B]")
    for name, value, end in (("draw", draw, 2**32), ("stream", stream, 2**32), ("count", count, 2**34)):
        if not 0 <= value < end:
            raise KernelError(f"{name} must be an integer from 0 to {end - 1}, not {value!r}")
    if seeds.device.type == "cpu" and bool((seeds < 0).any()):
        raise KernelError(f"seeds must be 0 … 2**63 - 1, not {int(seeds.min())}")
    return seeds if device is None else seeds.to(device)
