r"""Seeds and noise: scheme `philox-v1`.

ε(seed, draw, element) is a pure function: Philox4x32-10 (Salmon et al., SC 2011) on key = seed and counter =
(element // 4, draw, stream, 0), then Box–Muller on our own polynomials, so the same bits come out on every backend, whatever
the batch, the order or the rank. draw 0 is the initial latent, draw k the k-th injection of a trajectory. Stream 0 holds the
Gaussian noise, stream 1 the class labels, stream 2 is kept for PFGM++.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

import restart_kernels

from .devices import check_device
from .errors import RestartTypeError, RestartValueError, SeedError

SCHEME = "philox-v1"
STREAM_NOISE, STREAM_LABELS, STREAM_PFGMPP = 0, 1, 2


def seed_tensor(seeds: int | Iterable[int] | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """`seeds` as an int64 tensor [B]; SeedError for anything but integers in [0, 2^63)."""
    if isinstance(seeds, Tensor):
        if seeds.is_floating_point() or seeds.dtype == torch.bool or seeds.ndim > 1:
            raise SeedError(
                f"seeds must be a 1-d integer tensor, got {seeds.dtype} of shape {tuple(seeds.shape)}"
            )
        tensor = seeds.reshape(-1).to(torch.int64)
        if seeds.dtype == torch.uint64 or (tensor.numel() and int(tensor.min()) < 0):
            raise SeedError("seeds must be int64 and ≥ 0; the tensor holds others")
        return tensor.to(device)
    values: Sequence[int] = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in values:
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise SeedError(f"a seed must be an integer ≥ 0, got {seed!r}")
        if not 0 <= int(seed) < 2**63:
            raise SeedError(f"a seed must be ≥ 0 and < 2^63, got {int(seed)}")
    return torch.tensor([int(seed) for seed in values], dtype=torch.int64, device=device)


def normal(
    seeds: int | Iterable[int] | Tensor,
    draw: int = 0,
    shape: Sequence[int] = (),
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> Tensor:
    """Standard normals ε(seed, draw), float32 [B, *shape], the same bits on every device and backend.

    Args:
        seeds: integers in [0, 2^63), one per sample.
        draw: 0 for the initial latent, k for the k-th injection; 0 ≤ draw < 2^31.
        shape: shape of one sample, e.g. (3, 32, 32).
    """
    if isinstance(draw, bool) or not isinstance(draw, int):
        raise RestartTypeError(f"draw must be an integer, got {draw!r}")
    if not 0 <= draw < 2**31:
        raise RestartValueError(f"draw must be ≥ 0 and < 2^31, got {draw}")
    numel = 1
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise RestartValueError(f"shape must be non-negative integers, got {tuple(shape)!r}")
        numel *= size
    if numel > 2**34:
        raise RestartValueError(f"a sample may hold at most 2^34 elements, got {numel:,}")
    tensor = seed_tensor(seeds, check_device(device))
    return restart_kernels.normal(tensor, draw, numel, backend=backend).view(len(tensor), *shape)


def class_labels(seeds: int | Iterable[int] | Tensor, label_dim: int) -> Tensor:
    """The class each seed draws when none is asked for: int64 [B] in [0, label_dim), uniform, from stream 1.

    floor(w·label_dim / 2^32) with w the first Philox word, so the label depends on the seed alone.
    """
    tensor = seed_tensor(seeds)
    words = restart_kernels.words(tensor, 0, 1, stream=STREAM_LABELS)[:, 0]
    return (words * label_dim) >> 32
