"""Which backend runs a kernel, and the checks that all of them share.

reference   plain PyTorch, any device: `step/reference.py`, `philox/reference.py`
triton      CUDA tensors; CPU tensors only in Triton's interpreter (TRITON_INTERPRET=1 before its import)
native      C++ and CUDA from restart_bindings: not built yet

All give the same bits (`philox/coefficients.py` says why), so "auto" is a choice of speed only.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from . import layout
from .errors import KernelError
from .philox import reference as philox_reference
from .step import reference as step_reference

BACKENDS = ("auto", "reference", "triton", "native")
REGISTERS = (torch.float32, torch.float64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The backends that run on this device, fastest first."""
    device = torch.device(device)
    if _why_not_triton(device) is not None:
        return ("reference",)
    return ("triton", "reference") if device.type == "cuda" else ("reference", "triton")


def resolve_backend(backend: str, device: torch.device | str) -> str:
    """The backend that "auto" means here, or the one asked for.

    Raises:
        KernelError: unknown name, or one that does not run on this device (the message says why).
    """
    device = torch.device(device)
    if backend == "auto":  # on other devices than CUDA without importing triton, which takes a second
        return available_backends(device)[0] if device.type == "cuda" else "reference"
    if backend not in BACKENDS:
        raise KernelError(f"unknown backend {backend!r}; the backends are {', '.join(BACKENDS)}")
    if backend == "native":
        raise KernelError(f"the native backend is not built in this version; use one of {_choices(device)}")
    reason = _why_not_triton(device) if backend == "triton" else None
    if reason is not None:
        raise KernelError(f"backend {backend!r} is not available: {reason}; use one of {_choices(device)}")
    return backend


def _choices(device: torch.device) -> str:
    return ", ".join(("auto", *available_backends(device)))


def step(
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    *,
    coef: Tensor,
    code: Tensor,
    cursor: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Execute one row of the table for every sample, in place. No host sync; on triton no allocation.

    Args:
        x, h: registers, float32 [B, ...] contiguous (float64 on the reference backend).
        F: network output [B, ...], float32, bfloat16 or float16; None if no row reads it.
        net_in: next network input [B, ...], or [2B, ...] with F_uncond: both halves are written.
        coef, code: the table, see `layout`; [R, 12] float32 and [R, 4] int32.
        cursor: int32 [B], or [1] for the whole batch: the row to execute; negative = idle, left untouched.
        seeds: int64 [B], the noise key of each sample.
        first_bad: int32 [B], min-reduced with the row when a value of the sample's y is not finite.
        F_uncond: the unconditional output, F then being the conditional one.

    Raises:
        KernelError: shapes, dtypes or strides that do not fit, or no such backend.
    """
    _check_step(x, h, F, net_in, coef, code, cursor, seeds, first_bad, F_uncond)
    if x.numel() == 0:
        return
    if resolve_backend(backend, x.device) == "reference":
        run = step_reference.step
    else:
        if x.dtype != torch.float32:
            raise KernelError(f"the triton backend has float32 registers, not {x.dtype}; use 'reference'")
        from .launch import step as run
    run(
        x,
        h,
        F,
        net_in,
        coef=coef,
        code=code,
        cursor=cursor,
        seeds=seeds,
        first_bad=first_bad,
        F_uncond=F_uncond,
    )


def _check_step(
    x: Tensor,
    h: Tensor,
    F: Tensor | None,
    net_in: Tensor,
    coef: Tensor,
    code: Tensor,
    cursor: Tensor,
    seeds: Tensor,
    first_bad: Tensor,
    F_uncond: Tensor | None,
) -> None:
    """Metadata only, nothing is read from the device; messages are made only when there is one to raise."""
    shape, numel = x.shape, x.numel()
    batch, dtype = shape[0], x.dtype
    net = numel if F_uncond is None else 2 * numel
    _require(dtype in REGISTERS, "x", x, "float32, or float64 on the reference backend")
    _require(h.shape == shape and h.dtype == dtype, "h", h, "of the shape and dtype of x")
    if F is not None:
        _require(
            F.numel() == numel and F.dtype in (*FLOATS, dtype), "F", F, "a float with x's number of elements"
        )
    if F_uncond is not None:
        good = F is not None and F_uncond.numel() == numel and F_uncond.dtype == F.dtype
        _require(good, "F_uncond", F_uncond, "of the size and dtype of F, the conditional output")
    good = net_in.numel() == net and net_in.dtype in (*FLOATS, dtype)
    _require(good, "net_in", net_in, "a float with x's number of elements, twice that with F_uncond")
    good = coef.dim() == 2 and coef.shape[1] == layout.NUM_COEF and coef.dtype in REGISTERS
    _require(good, "coef", coef, "float32 [rows, 12]")
    good = code.shape == (coef.shape[0], layout.NUM_CODE) and code.dtype == torch.int32
    _require(good, "code", code, "int32 [rows, 4], as many rows as coef")
    good = cursor.dtype == torch.int32 and cursor.dim() == 1 and cursor.shape[0] in (1, batch)
    _require(good, "cursor", cursor, "int32 [B] or [1]")
    _require(seeds.dtype == torch.int64 and seeds.shape == (batch,), "seeds", seeds, "int64 [B]")
    good = first_bad.dtype == torch.int32 and first_bad.shape == (batch,)
    _require(good, "first_bad", first_bad, "int32 [B]")
    device = x.device
    for t in (x, h, F, F_uncond, net_in, coef, code, cursor, seeds, first_bad):
        if t is not None and not (t.is_contiguous() and t.device == device):
            given = f"{list(t.shape)} with strides {t.stride()} on {t.device}"
            raise KernelError(
                f"every tensor must be contiguous and on the device of x, {device}; one is {given}"
            )


def _require(good: bool, name: str, tensor: Tensor, allowed: str) -> None:
    if not good:
        raise KernelError(f"{name} must be {allowed}, not {tensor.dtype} {list(tensor.shape)}")


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
    if resolve_backend(backend, seeds.device) == "reference":
        return philox_reference.normal(seeds, draw, numel, stream=stream)
    from .launch import normal as run

    return run(seeds, draw, numel, stream=stream)


def words(
    seeds: Tensor, draw: int, count: int, *, stream: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """The raw Philox words under the normals, int64 0 … 2³²−1, [B, count]; arguments as in `normal`."""
    return philox_reference.words(_check_draw(seeds, draw, count, stream, device), draw, count, stream=stream)


def _check_draw(
    seeds: Tensor, draw: int, count: int, stream: int, device: torch.device | str | None
) -> Tensor:
    _require(seeds.dtype == torch.int64 and seeds.dim() == 1, "seeds", seeds, "int64 [B]")
    for name, value, end in (("draw", draw, 2**32), ("stream", stream, 2**32), ("count", count, 2**34)):
        if not 0 <= value < end:
            raise KernelError(f"{name} must be an integer from 0 to {end - 1}, not {value!r}")
    if seeds.device.type == "cpu" and bool((seeds < 0).any()):
        raise KernelError(f"seeds must be 0 … 2**63 - 1, not {int(seeds.min())}")
    return seeds if device is None else seeds.to(device)
