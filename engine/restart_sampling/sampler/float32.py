r"""Float32 products: PyTorch's process-wide precision switches, set around a call and put back after it.

cuDNN's convolutions use TF32 unless told otherwise, matrix products do not, and oneDNN may use bfloat16 or TF32 on a
CPU. A network runs with all of them set as its dtype says, so "fp32" is float32 whatever the program chose elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = ("ieee", "none")  # values of a switch; none: it follows a more general switch that says nothing
_backends: Any = torch.backends
# cuDNN's convolutions and recurrent layers go together: where they differ, `torch.backends.cudnn.flags()` and
# `.allow_tf32` raise, in a user's network too.
CUDA_SWITCHES: tuple[Any, ...] = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
CPU_SWITCHES: tuple[Any, ...] = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn)
SWITCHES = (*CUDA_SWITCHES, *CPU_SWITCHES)
_lock = threading.RLock()


def cpu_is_exact() -> bool:
    """Whether oneDNN computes float32 products in float32, as it does unless told otherwise."""
    return all(slot.fp32_precision in _EXACT for slot in CPU_SWITCHES)


@contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Compute float32 products of matrices, convolutions and RNNs at `precision` inside, and as before outside.

    What is put back are the values that were read: a general switch (`torch.backends.fp32_precision`) that is changed
    later does not reach cuDNN's any more, as after `torch.backends.cudnn.flags()`. The switches belong to the process,
    so threads whose networks need them changed take turns; on CUDA that is while they launch, not while the GPU
    computes.

    Args:
        precision: "ieee", or "tf32" on CUDA. On the CPU it is always "ieee".
        device: where the network runs.
    """
    if device.type != "cuda":
        precision = "ieee"
    with _lock:
        old = [slot.fp32_precision for slot in SWITCHES]
        # The older ways to set them, set_float32_matmul_precision and cudnn.allow_tf32, have values of their own, which
        # parts of the compiler and users' networks read. The first can be read while the switches ask for no more, the
        # second while they agree with it. So old and new ways are set alike.
        for slot in SWITCHES:
            slot.fp32_precision = "ieee"
        matmul = torch.get_float32_matmul_precision()
        cudnn = _cudnn_allows_tf32()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        _backends.cudnn.allow_tf32 = precision == "tf32"
        for slot in CUDA_SWITCHES:
            slot.fp32_precision = precision
        for slot in CPU_SWITCHES:
            slot.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)
            _backends.cudnn.allow_tf32 = cudnn
            for slot, value in zip(SWITCHES, old, strict=True):
                slot.fp32_precision = value


def _cudnn_allows_tf32() -> bool:
    """Read the older switch of cuDNN, which raises where the newer ones differ from it; changes the newer ones."""
    for slot in CUDA_SWITCHES[1:]:
        slot.fp32_precision = "tf32"
    try:
        return bool(_backends.cudnn.allow_tf32)
    except RuntimeError:
        return False
