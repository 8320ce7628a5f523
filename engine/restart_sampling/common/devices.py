r"""Devices: which one is meant, and making it the current one where CUDA looks at that.

PyTorch's own operators run on the device of their tensors. Three things do not: an event that is recorded without a
stream, a kernel that is launched by hand (Triton's, or a user's network), and memory that is allocated "on cuda". They
take the current device of the process, which is GPU 0 unless it was changed. So a device always has its index here
("cuda" becomes "cuda:0" where GPU 0 is current), every run makes its own device the current one, and a program that
uses one device selects it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from .checks import shown
from .errors import BackendError

if TYPE_CHECKING:
    import torch

Generator = TypeVar("Generator", bound=Callable[..., Iterator[Any]])


def check_device(device: str | torch.device) -> torch.device:
    """Return `device` with its index, if it can be used here.

    Raises:
        BackendError: it is unknown or not visible; the message says what is.
    """
    import torch

    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise BackendError(f"device {shown(device)} is not known; use cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        visible = visible_gpus()
        if (device.index or 0) >= visible:
            raise BackendError(f"device {device} was asked for, but {visible} CUDA devices are visible; use cpu")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    elif device.type not in ("cpu", "meta"):
        raise BackendError(f"device {str(device)!r} is not supported; use cpu, cuda or cuda:N")
    return device


def visible_gpus() -> int:
    """Return how many CUDA devices PyTorch can use."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def select_device(asked: str | torch.device | None = None, local_rank: int = 0) -> torch.device:
    """Return the device of this process, and make it the current one: for programs, since it changes the process.

    Args:
        asked: "cuda:N" is taken as it is. "cuda", and None where a CUDA device is visible, mean the GPU of the worker
            `local_rank`; GPUs are shared in turn where workers outnumber them. None means the CPU without CUDA.
        local_rank: number of the worker on this machine.

    Raises:
        BackendError: as `check_device`.
    """
    import torch

    gpus = visible_gpus()
    if asked is None:
        asked = "cuda" if gpus else "cpu"
    if gpus and str(asked) == "cuda":
        asked = f"cuda:{local_rank % gpus}"
    device = check_device(asked)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def made_current(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which `device` is the current CUDA device; nothing changes for other devices."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


def while_it_runs(context: Callable[[Any], AbstractContextManager[Any]]) -> Callable[[Generator], Generator]:
    """Decorate a generator method: it runs inside `context(self)`, and its caller, between two items, does not."""

    def decorate(method: Generator) -> Generator:
        @wraps(method)
        def resumed(self: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
            generator = method(self, *arguments, **options)
            try:
                while True:
                    with context(self):
                        try:
                            item = next(generator)
                        except StopIteration:
                            return
                    yield item
            finally:
                generator.close()  # type: ignore[attr-defined]

        return resumed  # type: ignore[return-value]

    return decorate


on_own_device = while_it_runs(lambda owner: made_current(owner.device))
