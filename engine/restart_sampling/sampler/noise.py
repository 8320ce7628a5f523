r"""Seeds and noise: scheme `philox-v1`.

ε(seed, draw, element) is a pure function: Philox4x32-10 (Salmon et al., SC 2011) on key = seed and counter =
(element // 4, draw, stream, 0), then Box–Muller with our own polynomials, so the same bits come out on every backend,
whatever the batch, the order or the rank. draw 0 is the initial latent, draw k the k-th injection of a trajectory.
Stream 0 has the Gaussian noise, stream 1 the class labels, stream 2 the sizes of PFGM++ (pfgmpp.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import restart_kernels
from restart_kernels.philox.coefficients import STREAM_LABEL

from ..common import forked
from ..common.checks import integer, is_integer, scalar, shown
from ..common.devices import check_device
from ..common.errors import RestartValueError, SeedError
from ..models.conditions import holds_values
from .seeds import Seeds, parse_seeds

SCHEME = "philox-v1"
MOST_SEEDS = 2**28  # of one call: 2 GiB of seeds


def seed_tensor(seeds: str | Iterable[int] | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Return `seeds` as an int64 tensor [B].

    Args:
        seeds: integers in [0, 2^63), one per sample: a range, list, array or tensor [B], or text such as "0-63,100".

    Raises:
        SeedError: anything else. One integer n is refused, since it may mean n samples, range(n), or the seed n, [n].
    """
    if is_integer(seeds):
        n = int(scalar(seeds))
        if n < 0:
            raise SeedError(f"seeds must be a list of integers ≥ 0 and < 2^63, got {shown(n)} alone")
        raise SeedError(
            f"seeds must be a list of integers, got {shown(n)} alone: write range({shown(n)}) for {shown(n)} samples, "
            f"or [{shown(n)}] for the sample of seed {shown(n)}"
        )
    if isinstance(seeds, str):
        seeds = parse_seeds(seeds)
    if isinstance(seeds, (range, Seeds)):
        return _of_runs(seeds).to(device)
    if isinstance(seeds, (Tensor, np.ndarray)):
        return _of_array(seeds).to(device)
    if isinstance(seeds, (dict, bytes, set, frozenset)) or not isinstance(seeds, Iterable):
        raise SeedError(f"seeds must be a range or a list of integers, such as range(4) or [3, 5], got {shown(seeds)}")
    return torch.tensor([_seed(value) for value in seeds], dtype=torch.int64, device=device)


def _of_runs(seeds: range | Seeds) -> Tensor:
    if not seeds:
        return torch.zeros(0, dtype=torch.int64)
    first, last = _seed(seeds[0]), _seed(seeds[-1])
    # Not by len, which ends at 2^63 − 1.
    count = len(seeds) if isinstance(seeds, Seeds) else (last - first) // seeds.step + 1
    if count > MOST_SEEDS:
        raise SeedError(f"{count:,} seeds in one call are too many, at most {MOST_SEEDS:,}; draw them in parts")
    values = seeds.numpy() if isinstance(seeds, Seeds) else np.arange(count, dtype=np.int64) * seeds.step + first
    return torch.from_numpy(values)


def _of_array(seeds: Any) -> Tensor:
    """Return int64 seeds from a 1-d tensor or array of integers."""
    if seeds.ndim != 1 or not _holds_integers(seeds):
        raise SeedError(f"seeds must be a 1-d integer tensor or array, got {seeds.dtype} of shape {tuple(seeds.shape)}")
    if not len(seeds):
        return torch.zeros(0, dtype=torch.int64)
    if isinstance(seeds, Tensor) and seeds.dtype != torch.uint64:
        least, most = int(seeds.min()), int(seeds.max())
    else:
        seeds = np.asarray(seeds.cpu() if isinstance(seeds, Tensor) else seeds)
        least, most = int(seeds.min()), int(seeds.max())
        seeds = torch.from_numpy(seeds.astype(np.int64))
    _seed(least), _seed(most)
    return seeds.to(torch.int64)


def _holds_integers(seeds: Any) -> bool:
    if isinstance(seeds, Tensor):
        real = not (seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool)
        return real and holds_values(seeds)
    return getattr(seeds.dtype, "kind", "") in "iu"


def _seed(value: Any) -> int:
    number = scalar(value)
    if not is_integer(number):
        raise SeedError(f"a seed must be an integer ≥ 0, got {shown(value)}")
    if not 0 <= number < 2**63:
        raise SeedError(f"a seed must be ≥ 0 and < 2^63, got {shown(int(number))}")
    return int(number)


def normal(
    seeds: str | Iterable[int] | Tensor,
    draw: int = 0,
    shape: Sequence[int] = (),
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> Tensor:
    """Return standard normals ε(seed, draw), float32 [B, *shape], the same bits on every device and backend.

    Args:
        seeds: integers in [0, 2^63), one per sample; one integer alone is refused, see `seed_tensor`.
        draw: 0 for the initial latent, k for the k-th injection; 0 ≤ draw < 2^31.
        shape: shape of one sample, e.g. (3, 32, 32).
        device: where they are made.
        backend: "auto", "reference", "triton" or "native".

    Raises:
        SeedError: seeds that cannot be used. RestartValueError: another argument is out of its range.
    """
    draw = integer("draw", draw, 0, 2**31 - 1, error=RestartValueError)
    sizes = _sizes(shape)
    numel = math.prod(sizes)
    if numel > 2**34:
        raise RestartValueError(f"a sample may hold at most 2^34 elements, got {numel:,}")
    forked.settle()
    tensor = seed_tensor(seeds, check_device(device))
    return restart_kernels.normal(tensor, draw, numel, backend=backend).view(len(tensor), *sizes)


def _sizes(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(integer("a size", size, 0, error=RestartValueError) for size in tuple(shape))
    except (TypeError, RestartValueError):
        raise RestartValueError(
            f"shape must be non-negative integers such as (3, 32, 32), got {shown(shape)}"
        ) from None


def class_labels(seeds: str | Iterable[int] | Tensor, label_dim: int) -> Tensor:
    """Return the class that each seed draws when none is asked for: int64 [B], uniform in [0, label_dim).

    It is floor(w·label_dim / 2^32) with w the first Philox word of stream 1, so it depends on the seed alone.
    """
    label_dim = integer("label_dim", label_dim, 1, 2**31 - 1, error=RestartValueError)
    tensor = seed_tensor(seeds)
    words = restart_kernels.words(tensor, 0, 1, stream=STREAM_LABEL)[:, 0]
    return (words * label_dim) >> 32
