"""The public calls: each checks its arguments, chooses a backend, and asks that.

Which backends there are is found in the folder `backends/`. All of them give the same bits, so "auto" chooses by speed
alone: of those that run on the device, the one of the smallest rank.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch
from torch import Tensor

from . import backends
from .backends.base import Backend
from .errors import KernelError
from .machine import Bound, BoundMachine, Machine, require
from .philox import reference as philox

UNRANKED = 1000  # the rank of a backend on a type of device that it does not list


def find_backends() -> dict[str, Backend]:
    """Return every backend by name: the `BACKEND` of each file in `backends/`, in the order of the files' names."""
    found = {}
    for file in pkgutil.iter_modules(backends.__path__):
        module = importlib.import_module(f"{backends.__name__}.{file.name}")
        if hasattr(module, "BACKEND"):
            found[file.name] = module.BACKEND
    return found


BACKENDS = find_backends()


def get_backend(name: str) -> Backend:
    """Return the backend of this name, to ask what it can do.

    Raises:
        KernelError: there is no such backend.
    """
    if not isinstance(name, str):
        raise KernelError(f"backend must be one of {_names()}, got a {type(name).__name__}")
    if name not in BACKENDS:
        raise KernelError(f"unknown backend {name!r}; the backends are {_names()}")
    return BACKENDS[name]


def why_not(backend: str, device: torch.device | str) -> str | None:
    """Return None if the backend runs on this device, else the reason in one line."""
    return get_backend(backend).why_not(torch.device(device))


def available_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Return the backends that run on this device with registers of `dtype`, fastest first."""
    return tuple(name for name in _by_speed(device, dtype) if why_not(name, device) is None)


def fastest_backend(device: torch.device | str) -> str:
    """Return the backend that "auto" prefers on this kind of device, whether it is available or not."""
    return _by_speed(device)[0]


def resolve_backend(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """Return the backend that "auto" means here, or the one asked for.

    Args:
        backend: "auto" or a backend's name.
        device: where the tensors are.
        dtype: of the registers; not every backend has float64.

    Raises:
        KernelError: unknown name, or a backend that does not run on this device or has no such registers. The message
            says why and what to use.
    """
    device = torch.device(device)
    if isinstance(backend, str) and backend == "auto":
        # The first that runs is enough: on a CPU triton is not asked, since that would import it, which takes a second.
        return next(name for name in _by_speed(device, dtype) if why_not(name, device) is None)
    chosen = get_backend(backend)
    reason = chosen.why_not(device)
    if reason is not None:
        raise KernelError(f"backend {backend!r} is not available: {reason}; use one of {_choices(device, dtype)}")
    if dtype == torch.float64 and not chosen.float64:
        use = _choices(device, dtype)
        raise KernelError(f"the {backend} backend has float32 registers, not float64; use one of {use}")
    return backend


class _Nothing:
    """A batch without elements: there is nothing to launch."""

    def run_row(self, F: Tensor | None, F_uncond: Tensor | None) -> None:
        pass

    def advance(self) -> None:
        pass

    def weigh(self, F: Tensor, F_uncond: Tensor) -> None:
        pass


def bind(machine: Machine, backend: str = "auto") -> BoundMachine:
    """Bind a machine to a backend.

    Raises:
        KernelError: no such backend, or one that cannot run this machine, e.g. for its float64 registers.
    """
    dtype = torch.float64 if torch.float64 in (machine.x.dtype, machine.coef.dtype) else torch.float32
    backend = resolve_backend(backend, machine.x.device, dtype)
    bound: Bound = get_backend(backend).bind(machine) if machine.x.numel() else _Nothing()
    return BoundMachine(machine, backend, bound)


def normal(
    seeds: Tensor,
    draw: int,
    numel: int,
    *,
    device: torch.device | str | None = None,
    stream: int = 0,
    backend: str = "auto",
) -> Tensor:
    """Return standard normals of scheme philox-v1, float32 [B, numel].

    Element i of a sample depends on (seed, draw, stream, i) alone: not on batch, device or backend.

    Args:
        seeds: int64 [B], ≥ 0.
        draw: the number of the draw, 0 … 2³²−1; 0 is the initial latent.
        numel: elements per sample.
        device: where to make them; default: the device of `seeds`.
        stream: 0 Gaussian noise, 1 class labels, 2 PFGM++; the `STREAM_…` of `philox/coefficients.py`.
        backend: "auto" or a backend's name.

    Raises:
        KernelError: seeds, draw, numel or stream out of range, or no such backend.
    """
    seeds = _check_draw(seeds, draw, numel, stream, device)
    backend = resolve_backend(backend, seeds.device)
    return get_backend(backend).normal(seeds, draw, numel, stream=stream)


def pixels(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Return samples float [B, C, H, W] in [−1, 1] as pixels uint8 [B, H, W, C] on the same device.

    uint8 = clip(127.5·x + 128, 0, 255), truncated (`pixels/reference.py`).

    Raises:
        KernelError: `x` is not a batch of samples, or no such backend.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise KernelError(f"pixels need samples float [B, C, H, W], got {x.dtype} {list(x.shape)}")
    return get_backend(resolve_backend(backend, x.device, x.dtype)).pixels(x)


def words(seeds: Tensor, draw: int, count: int, *, stream: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Return the raw Philox words under the normals, int64 [B, count], 0 … 2³²−1; arguments as in `normal`."""
    return philox.words(_check_draw(seeds, draw, count, stream, device), draw, count, stream=stream)


def _by_speed(device: torch.device | str, dtype: torch.dtype = torch.float32) -> list[str]:
    """Return the backends that have such registers, by their rank on this type of device."""
    kind = torch.device(device).type
    names = [name for name, backend in BACKENDS.items() if backend.float64 or dtype != torch.float64]
    return sorted(names, key=lambda name: BACKENDS[name].rank.get(kind, UNRANKED))


def _names() -> str:
    return ", ".join(("auto", *BACKENDS))


def _choices(device: torch.device, dtype: torch.dtype) -> str:
    return ", ".join(("auto", *available_backends(device, dtype)))


def _check_draw(seeds: Tensor, draw: int, count: int, stream: int, device: torch.device | str | None) -> Tensor:
    """Return the seeds on `device`; raise KernelError unless all arguments are in range."""
    require(seeds.dtype == torch.int64 and seeds.dim() == 1, "seeds", seeds, "int64 [B]")
    for name, value, end in (("draw", draw, 2**32), ("stream", stream, 2**32), ("count", count, 2**34)):
        if not 0 <= value < end:
            raise KernelError(f"{name} must be an integer from 0 to {end - 1}, not {value!r}")
    if seeds.device.type == "cpu" and bool((seeds < 0).any()):
        raise KernelError(f"seeds must be 0 … 2**63 - 1, not {int(seeds.min())}")
    return seeds if device is None else seeds.to(device)
