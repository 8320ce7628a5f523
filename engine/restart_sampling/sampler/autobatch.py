r"""How many samples to give the network at once: `--batch auto`.

The answer depends on shapes, the device and its free memory and on no measured time, so the same run chooses the same
batch. Images do not depend on it beyond the network's rounding. Let A be the bytes of the network's largest
activation for one sample, found by one evaluation of one sample.

* CPU: B·A ≤ 8 MiB. A call of the network costs something that does not depend on B, and an activation that has left the
  caches is read from memory by each pass of convolution, norm and SiLU. Between the two lies a flat stretch: on one
  core of a Xeon with 35 MiB of L3 an evaluation of the bundled model (A = 147 KiB) took 24, 13, 11.0, 7.6, 7.7 and 8.4
  ms per image at B = 1, 4, 8, 16, 32 and 64. `benchmarks/network_cpu.py` measures it again. A network that may be
  sliced gets that many samples for each thread (`executors/threads.py`).
* CUDA: the machine's registers, the conditions and 16·A per sample in half of the free memory (a U-Net keeps its skip
  connections, together below 8·A in all published networks, and a block's working set), and B·A ≤ 512 MiB, far beyond
  what fills a GPU.

Samples are then spread evenly over the number of batches that this gives: 64 at a limit of 55 are 2 × 32, not 55 + 9.
Limiting cases: `total` below the limit is one batch; an activation beyond the limit is B = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import integer
from ..common.devices import made_current
from ..common.errors import RestartValueError
from ..models.conditions import CLASS, placeholders
from ..models.denoiser import Denoiser
from ..models.network_output import FLOATS
from .network import inference_copy

CPU_BYTES = 8 << 20
CUDA_BYTES = 512 << 20
CUDA_SHARE = 0.5  # of the free memory: the rest is for convolution workspaces, graph pools and the caller
ALIVE = 16  # activations of the largest size that are alive at once, rounded up
REGISTERS = 8  # float32 tensors of the sample's shape: x, h, F, net_in, each twice for guidance
LARGEST = 4096


def choose_batch(
    denoiser: Denoiser,
    total: int,
    device: str | torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    guided: bool = False,
    free_memory: Callable[[torch.device], int] | None = None,
) -> int:
    """Return the samples per network call for a run of `total` samples on `device`: 1 ≤ B ≤ min(total, 4096).

    Args:
        denoiser: the network; it is evaluated once where it is.
        total: samples of the run.
        device: where the run will be.
        dtype: dtype of the network's input and activations.
        guided: whether the network sees every sample twice, or its guide sees it too.
        free_memory: bytes free on a CUDA device, `torch.cuda.mem_get_info` by default.

    Raises:
        RestartValueError: total is not a positive integer.
    """
    total = integer("total", total, 1, error=RestartValueError)
    device = torch.device(device)
    # Both halves are one batch of a network; a guide is called after the network, with a batch of its own.
    networks = [denoiser] if denoiser.guide is None or not guided else [denoiser, denoiser.guide]
    batches = 2 if guided and denoiser.guide is None else 1
    activation = batches * max(map(largest_activation, networks)) * dtype.itemsize
    limit = (CUDA_BYTES if device.type == "cuda" else CPU_BYTES) // activation
    if device.type == "cpu" and getattr(denoiser.network, "concurrent", False):
        limit = max(1, limit) * torch.get_num_threads()
    if device.type == "cuda":
        free = (free_memory or _free_cuda_memory)(device)
        told = (2 if guided else 1) * sum(
            math.prod(spec.shape) * spec.dtype.itemsize for spec in denoiser.conditions.values() if not spec.shared
        )
        limit = min(limit, int(CUDA_SHARE * free) // (ALIVE * activation + REGISTERS * 4 * denoiser.numel + told))
    limit = max(1, min(limit, LARGEST))
    return math.ceil(total / math.ceil(total / limit))


@torch.inference_mode()
def largest_activation(denoiser: Denoiser) -> int:
    """Return the elements of the largest tensor that goes into or out of a module of the network, for one sample.

    For a plain function it is the size of the sample. Costs one evaluation of one sample on the network's device.
    """
    largest = denoiser.numel
    if not isinstance(denoiser.network, nn.Module):
        return largest

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        tensors = (t for t in (*inputs, output) if isinstance(t, Tensor) and t.ndim == len(denoiser.shape) + 1)
        largest = max(largest, *(t.numel() for t in tensors), 0)

    network: nn.Module = denoiser.network
    first = next(network.parameters(), None)
    dtype = first.dtype if first is not None else torch.float32
    if dtype not in FLOATS:  # stored in float8, which no operator computes in
        dtype = torch.float32
        network = inference_copy(network, denoiser.device, dtype, "contiguous")
    # Tensors of fewer dimensions are embeddings, and weights do not pass through hooks.
    hooks = [module.register_forward_hook(see) for module in network.modules()]
    try:
        net_in = torch.zeros(1, *denoiser.shape, dtype=dtype, device=denoiser.device)
        told = placeholders(denoiser.conditions, 1, denoiser.device)
        with made_current(denoiser.device):
            network(net_in, torch.zeros(1, device=denoiser.device), told.pop(CLASS, None), **told)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _free_cuda_memory(device: torch.device) -> int:
    """Return the bytes that are free on the card, plus those that PyTorch's allocator holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
