r"""Analytic denoisers: data whose D(x; σ) = E[x₀ | x₀ + σε = x] is known, so samplers are judged against the truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian(c: float = 0.5):
    """Data N(0, c²): D = c²/(c² + σ²)·x. The ODE from σ = t to s is exactly x·√((c² + s²)/(c² + t²))."""

    def D(x: Tensor, sigma: Tensor, **_) -> Tensor:
        s2 = sigma.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) ** 2
        return c * c / (c * c + s2) * x

    return D


def gaussian_flow(x: Tensor, t: float, s: float, c: float = 0.5) -> Tensor:
    """The exact ODE solution from level t to level s for Gaussian data."""
    return x * math.sqrt((c * c + s * s) / (c * c + t * t))


def conditional_gaussian(s: float = 0.1):
    """Data N(mean, s²) with a mean for each sample: D = (s²·x + σ²·mean)/(s² + σ²), elementwise."""

    def D(x: Tensor, sigma: Tensor, mean: Tensor, **_) -> Tensor:
        levels = sigma.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) ** 2
        means = mean.to(x.dtype).reshape(*mean.shape, *[1] * (x.ndim - mean.ndim))
        return (s * s * x + levels * means) / (s * s + levels)

    return D


class Mixture:
    """Equal-weight mixture of N(mean_j, c²I) in R^d: a nonlinear denoiser in closed form.

    With weights w_j ∝ exp(−|x − mean_j|²/(2(c² + σ²))), D = Σ_j w_j·(c²·x + σ²·mean_j)/(c² + σ²).
    """

    def __init__(self, means: Tensor, c: float) -> None:
        self.means, self.c = means, c

    def __call__(self, x: Tensor, sigma: Tensor, **_) -> Tensor:
        shape, flat = x.shape, x.reshape(len(x), -1)
        means = self.means.to(x.device, x.dtype)
        s2 = (sigma.to(x.dtype) ** 2).view(-1, 1)
        c2 = self.c**2
        w = torch.softmax(-(torch.cdist(flat, means) ** 2) / (2 * (c2 + s2)), dim=1)
        return ((c2 * flat + s2 * (w @ means)) / (c2 + s2)).view(shape)


def mixture(shape: tuple[int, ...] = (1, 4, 4), modes: int = 5, c: float = 0.3, seed: int = 0) -> Mixture:
    """A mixture of `modes` Gaussians with unit-scale means, the same for every call."""
    d = math.prod(shape)
    generator = torch.Generator().manual_seed(seed)
    return Mixture(torch.randn(modes, d, generator=generator, dtype=torch.float64), c)
