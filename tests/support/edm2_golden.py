r"""A network of EDM2 with weights by a formula, and what the authors' code returned for it in float32.

Weights are u(k)_j = frac(43758.5453·sin(12.9898·j + 78.233·k)) in float64, k the position in the state dict and j the
flat index: a gain is ½ + u, frequencies are 4π(u − ½), phases 2πu, all other weights u − ½. Inputs are
x = 2(u(1000) − ½)·√(σ² + ¼) at σ = 0.3 and 2.5, of the classes 1 and 3. Every gain differs from 0, so no part of the
network is without effect.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import restart_sampling as rs
from restart_sampling.models import build_network
from restart_sampling.models.edm2.networks import EDM2Network
from restart_sampling.models.edm2.pickled import restored

SMALL: dict[str, Any] = {
    "class_name": "Precond",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 5,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 16,
}
SIGMAS = (0.3, 2.5)
CLASSES = (1, 3)
ROUNDING = 1e-5  # relative: two float32 evaluations, and seven printed digits


class Golden(NamedTuple):
    """|D| of both images. `config`: entries besides those of SMALL. `half`: weights went through float16."""

    norms: tuple[float, float]
    config: Mapping[str, Any] = MappingProxyType({})
    labels: bool = True
    half: bool = False


GOLDEN = {
    "plain": Golden((4.668514, 3.458116)),
    "no labels": Golden((4.335592, 3.083814), labels=False),
    "clip_act 1": Golden((3.850496, 1.783020), {"clip_act": 1.0}),
    "other balances": Golden((4.024916, 2.680988), {"label_balance": 0.3, "concat_balance": 0.7}),
    "stored in float16": Golden((4.668837, 3.459106), half=True),
}
FIRST = (-0.069244, 0.214153)  # of D of "plain", flattened
LOGVAR = (-0.153031, -0.655847)
STEPS = 6  # of the samples: σ from 80 to 0.002, ρ = 7, Heun, the last step Euler; norms of both images
SAMPLES = {"unguided": (17.0032, 15.2838), "guided": (70.9428, 51.4456), "guided in steps 2 and 3": (59.5013, 42.6091)}
SCALE = 2.1  # guidance weight of the guided ones


def u(k: int, n: int) -> np.ndarray:
    """The first n values of u(k), float64 in [0, 1)."""
    v = 43758.5453 * np.sin(12.9898 * np.arange(n, dtype=np.float64) + 78.233 * k)
    return np.asarray(v - np.floor(v))


def weights(state: dict[str, Tensor], first: int = 0) -> dict[str, Tensor]:
    """The weights by their names, float32, the first tensor's k being `first`."""
    found = {}
    for k, (name, tensor) in enumerate(state.items(), first):
        v = u(k, tensor.numel())
        if name.endswith("freqs"):
            v = 4 * math.pi * (v - 0.5)
        elif name.endswith("phases"):
            v = 2 * math.pi * v
        else:
            v = v + 0.5 if tensor.ndim == 0 else v - 0.5
        found[name] = torch.from_numpy(v).reshape(tensor.shape).float()
    return found


def network(config: Mapping[str, Any] | None = None, first: int = 0, half: bool = False) -> EDM2Network:
    """The network with these weights; `half`: as it is after a file has stored it in float16."""
    made = build_network(SMALL | dict(config or {}))
    assert isinstance(made, EDM2Network)
    found = weights(made.state_dict(), first)
    made.load_state_dict(restored({n: t.half() for n, t in found.items()}) if half else found)
    return made


def denoiser(net: EDM2Network, function: Any = None) -> rs.Denoiser:
    """The denoiser around `net`, or around `function`, another form of it."""
    return rs.Denoiser(function or net, net.parameterization, net.shape, net.label_dim)


def noise() -> Tensor:
    """x of both images over √(σ² + ¼)."""
    return torch.from_numpy(2 * (u(1000, 2 * 3 * 8 * 8) - 0.5)).reshape(2, 3, 8, 8).float()


def denoised(net: EDM2Network, labels: bool = True, function: Any = None) -> Tensor:
    """D of both images [2, 3, 8, 8]."""
    sigma = torch.tensor(SIGMAS)
    x = noise() * torch.sqrt(sigma**2 + 0.25).view(2, 1, 1, 1)
    one_hot = torch.eye(5)[list(CLASSES)] if labels else None
    with torch.no_grad():
        return denoiser(net, function)(x, sigma, one_hot)


def norms(D: Tensor) -> tuple[float, ...]:
    """|D| of each image."""
    return tuple(D.double().flatten(1).norm(dim=1).tolist())


def latents() -> Tensor:
    """The noise that samples begin with, [2, 3, 8, 8], standard deviation about 1."""
    return torch.from_numpy(math.sqrt(12) * (u(2000, 2 * 3 * 8 * 8) - 0.5)).reshape(2, 3, 8, 8).float()


def off(got: tuple[float, ...], want: tuple[float, ...]) -> float:
    """The largest relative difference."""
    return max(abs(a / b - 1) for a, b in zip(got, want, strict=True))


def pair() -> tuple[rs.Denoiser, rs.Denoiser]:
    """The denoiser that is sampled from, and its guide."""
    return denoiser(network()), denoiser(network({"model_channels": 16}, first=500))


def sampled(main: rs.Denoiser, guide: rs.Denoiser, steps: Collection[int], by_evaluation: bool = False) -> Tensor:
    """Heun's method as the authors' generator runs it. The guide is asked in `steps`, in both evaluations of a step.

    `by_evaluation`: in those at the levels where these steps begin instead, which is a mistake.
    """
    i = torch.arange(STEPS, dtype=torch.float64) / (STEPS - 1)
    levels = [*((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist(), 0.0]
    labels = torch.eye(5)[list(CLASSES)]

    def direction(x: Tensor, sigma: float, guided: bool) -> Tensor:
        D = main(x, sigma, labels)
        if guided:
            G = guide(x, sigma, labels)
            D = G + SCALE * (D - G)
        return (x - D) / sigma

    x = latents() * levels[0]
    with torch.no_grad():
        for step, (t, s) in enumerate(pairwise(levels)):
            d = direction(x, t, step in steps)
            end = x + (s - t) * d
            if s:
                end = x + (s - t) * (d + direction(end, s, step + by_evaluation in steps)) / 2
            x = end
    return x
