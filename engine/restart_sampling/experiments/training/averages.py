r"""Averages of the weights with EDM2's power function, and how long an average should be, decided after training.

The average of length σ_rel at step n weights the weights of step t by t^γ (arXiv 2312.02696, section 3 and appendix C):

    p(t) = (γ+1)/n^(γ+1)·t^γ on [0, n],   β(n) = (1 − 1/n)^(γ+1),   σ_rel² = (γ+1)/((γ+2)²·(γ+3))

so that σ_rel is the width of the profile over the length of training: 0.10 is γ = 6.94, 0.05 is γ = 16.97. Two such
averages, stored now and then, span many more: the average of any length at any step is approximated by the
combination of what is stored, of weights that sum to 1, whose profile is nearest to its own by least squares, with

    ⟨p_a, p_b⟩ = (γ_a+1)(γ_b+1)·min(n_a, n_b)^(γ_a+γ_b+1) / ((γ_a+γ_b+1)·n_a^(γ_a+1)·n_b^(γ_b+1)).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from ...common.checks import real
from ...common.errors import CheckpointError, RestartValueError
from ...common.files import write_atomically
from ...models import Network
from ...models.files.safetensors_file import read_tensors

NAME = re.compile(r"average-(\d{7})-(\d\.\d{3})\.safetensors")
SHORTEST, LONGEST = 0.005, 0.28  # σ_rel; at 1/√12 = 0.289 all steps have the same weight


class Stored(NamedTuple):
    """An average in a file: of the weights up to `step`, of the length `std` (σ_rel)."""

    step: int
    std: float
    path: Path


def gamma_of(std: float) -> float:
    """Return γ of the profile of length σ_rel = `std`. Raises RestartValueError outside of 0.005 to 0.28."""
    std = real("the length of an average, sigma_rel,", std, SHORTEST, LONGEST, error=RestartValueError)
    t = std**-2
    return float(max(np.roots([1, 7, 16 - t, 12 - t]).real))


def beta(step: int, std: float) -> float:
    """Return the share of the old average that stays in the new one at step 1, 2, …"""
    return float((1 - 1 / step) ** (gamma_of(std) + 1))


def inner(n_a: float, gamma_a: float, n_b: float, gamma_b: float) -> float:
    """Return ⟨p_a, p_b⟩ of two profiles."""
    total = gamma_a + gamma_b + 1
    scale = (gamma_a + 1) * (gamma_b + 1) / total
    # In logarithms: the powers of a long run overflow.
    log = total * math.log(min(n_a, n_b)) - (gamma_a + 1) * math.log(n_a) - (gamma_b + 1) * math.log(n_b)
    return scale * math.exp(log)


def weights(stored: Sequence[tuple[int, float]], step: int, std: float) -> np.ndarray:
    """Return the weight of each stored average (its step and std) in the one of length `std` at `step`, float64.

    Raises:
        RestartValueError: nothing was stored up to `step`, or no average can have that length.
    """
    if not stored or min(n for n, _ in stored) > step:
        raise RestartValueError(f"no average was stored up to step {step}")
    profiles = [(float(n), gamma_of(s)) for n, s in stored]
    wanted = (float(step), gamma_of(std))
    n = len(profiles)
    A = np.zeros((n + 1, n + 1))  # the last row: the weights sum to 1, as those of an average do
    A[:n, :n] = [[inner(*a, *b) for b in profiles] for a in profiles]
    scale = A[:n, :n].max()
    A[:n, n] = A[n, :n] = scale
    b = np.array([inner(*a, *wanted) for a in profiles] + [scale])
    # The profiles of neighbours are nearly parallel, so the smallest directions are rounding.
    return np.linalg.lstsq(A, b, rcond=1e-12)[0][:n]


def store(folder: Path, step: int, std: float, network: Network) -> None:
    """Write an average, float32. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    content = to_bytes({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    path = folder / f"average-{step:07d}-{std:.3f}.safetensors"
    write_atomically(path, lambda file: file.write(content))


def stored_in(folder: Path) -> list[Stored]:
    """Return the averages in a folder, the earliest first."""
    found = ((NAME.fullmatch(path.name), path) for path in sorted(folder.glob("average-*")))
    return [Stored(int(match[1]), float(match[2]), path) for match, path in found if match]


def reconstruct(folder: Path, std: float, step: int | None = None) -> dict[str, Tensor]:
    """Return the tensors of the average of length `std` at `step`, by default the last one that was stored.

    Raises:
        CheckpointError: the folder has no averages, or a damaged one. RestartValueError: no average has that length.
    """
    found = stored_in(folder)
    if not found:
        raise CheckpointError(f"{folder}: no stored averages; train with --store-steps")
    step = found[-1].step if step is None else step
    found = [one for one in found if one.step <= step]
    shares = weights([one[:2] for one in found], step, std)
    result: dict[str, Tensor] = {}
    for share, one in zip(shares, found, strict=True):
        for name, tensor in read_tensors(one.path).items():
            value = tensor.double() * float(share)
            result[name] = value if name not in result else result[name] + value
    return {name: tensor.to(torch.float32) for name, tensor in result.items()}
