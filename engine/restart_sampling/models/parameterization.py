r"""What a network predicts, as four coefficients for each noise level.

Every denoiser in use is (EDM, arXiv 2206.00364, eq. 7)

    D(x; σ) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x; c_noise(σ))

with F the raw network. A :class:`Parameterization` states the four functions in float64 on the host; it is the only
place where they are written. Training, plain evaluation and the fused step all read them from here.

| name       | c_skip       | c_out          | c_in        | c_noise                 | source |
|------------|--------------|----------------|-------------|-------------------------|--------|
| `edm`      | σd²/(σ²+σd²) | σ·σd/√(σ²+σd²) | 1/√(σ²+σd²) | ln(σ)/4                 | EDM Table 1 |
| `vp`       | 1            | −σ             | 1/√(σ²+1)   | (M−1)·t(σ)              | EDM Table 1, Score SDE |
| `ve`       | 1            | σ              | 1           | ln(σ/2)                 | EDM Table 1 |
| `iddpm`    | 1            | −σ             | 1/√(σ²+1)   | M−1−argmin_j abs(u_j−σ) | EDM Table 1 |
| `eps`      | 1            | −σ             | 1/√(σ²+1)   | timestep of σ           | DDPM on discrete levels |
| `v`        | 1/(σ²+1)     | −σ/√(σ²+1)     | 1/√(σ²+1)   | timestep of σ           | Salimans & Ho 2022 |
| `x0`       | 0            | 1              | 1/√(σ²+1)   | timestep of σ           | sample prediction |
| `flow`     | 1            | −t             | 1           | 1000·t (scalable)       | x_t = (1−t)x₀ + tε, F = ε − x₀ |
| `denoiser` | 0            | 1              | 1           | σ                       | F is D itself |

For `flow` the noise level is t ∈ [0, 1] and the state is x_t itself; for all others the state is x₀ + σε.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..common.checks import choice
from ..common.errors import ConfigError
from ..plan.levels import iddpm_levels as iddpm_levels
from ..plan.levels import vp_sigma as vp_sigma

Array = np.ndarray


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in and c_noise at given noise levels: float64 arrays of the shape of `sigma`."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def _identity(sigma: Array) -> Array:
    return sigma


@dataclass(frozen=True)
class Parameterization:
    """The four coefficient functions of a network and the noise levels it knows.

    Attributes:
        name: as in the table above.
        function: σ float64 → the coefficients at σ.
        sigma_min, sigma_max: the lowest and the highest level the network knows.
        round_sigma: maps levels to the nearest ones the network was trained on; the identity for continuous networks.
        process: "ve" (state x₀ + σε) or "flow" (state (1−t)x₀ + tε).
    """

    name: str
    function: Callable[[Array], Coefficients]
    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    round_sigma: Callable[[Array], Array] = _identity
    process: str = "ve"

    def coefficients(self, sigma: float | Array) -> Coefficients:
        """Return the coefficients at `sigma`, float64, in its shape. Raises ConfigError unless all levels are > 0."""
        sigma = np.asarray(sigma, dtype=np.float64)
        if not (np.isfinite(sigma).all() and (sigma > 0).all()):
            raise ConfigError(f"noise levels must be finite and > 0, got {sigma.min()} .. {sigma.max()}")
        return self.function(sigma)


def edm(sigma_data: float = 0.5, sigma_min: float = 0.0, sigma_max: float = float("inf")) -> Parameterization:
    """Return EDM's preconditioning (EDM Table 1, last column)."""

    def function(sigma: Array) -> Coefficients:
        total = np.sqrt(sigma**2 + sigma_data**2)
        return Coefficients(sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total, np.log(sigma) / 4)

    return Parameterization("edm", function, sigma_min, sigma_max)


def vp(
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    M: int = 1000,
    epsilon_t: float = 1e-5,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Parameterization:
    """Return VP preconditioning (EDM Table 1).

    `sigma_min` and `sigma_max`, which checkpoints store, take the place of σ(ε_t) and σ(1).
    """

    def function(sigma: Array) -> Coefficients:
        t = (np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigma**2)) - beta_min) / beta_d
        return Coefficients(np.ones_like(sigma), -sigma, 1 / np.sqrt(sigma**2 + 1), (M - 1) * t)

    low = float(vp_sigma(epsilon_t, beta_d, beta_min)) if sigma_min is None else sigma_min
    high = float(vp_sigma(1.0, beta_d, beta_min)) if sigma_max is None else sigma_max
    return Parameterization("vp", function, low, high)


def ve(sigma_min: float = 0.02, sigma_max: float = 100.0) -> Parameterization:
    """Return VE preconditioning (EDM Table 1)."""

    def function(sigma: Array) -> Coefficients:
        one = np.ones_like(sigma)
        return Coefficients(one, sigma.copy(), one, np.log(sigma / 2))

    return Parameterization("ve", function, sigma_min, sigma_max)


def _nearest(levels: Array, sigma: Array) -> Array:
    """Return the index of the level nearest to each sigma; `levels` are in any order."""
    return np.abs(levels[:, None] - np.asarray(sigma, dtype=np.float64).reshape(1, -1)).argmin(axis=0)


def iddpm(u: Array | None = None, sigma_min: float | None = None, sigma_max: float | None = None) -> Parameterization:
    """Return iDDPM preconditioning on the M+1 levels `u` (descending, the last one 0), which checkpoints store."""
    u = np.asarray(iddpm_levels() if u is None else u, dtype=np.float64)
    M = len(u) - 1
    positive = u[:-1]

    def round_sigma(sigma: Array) -> Array:
        sigma = np.asarray(sigma, dtype=np.float64)
        return positive[_nearest(positive, sigma)].reshape(sigma.shape)

    def function(sigma: Array) -> Coefficients:
        j = _nearest(u, sigma).reshape(sigma.shape)
        return Coefficients(np.ones_like(sigma), -sigma, 1 / np.sqrt(sigma**2 + 1), (M - 1 - j).astype(np.float64))

    low = float(u[M - 1]) if sigma_min is None else sigma_min
    high = float(u[0]) if sigma_max is None else sigma_max
    return Parameterization("iddpm", function, low, high, round_sigma)


def discrete(sigmas: Array, prediction: str = "eps") -> Parameterization:
    """Return the coefficients of a DDPM-style network on discrete levels; c_noise is the (fractional) timestep.

    Args:
        sigmas: levels [T], ascending. Between them the timestep is linear in ln σ.
        prediction: what F predicts: "eps", "v" or "x0".

    Raises:
        ConfigError: sigmas or prediction are none of these.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not (np.diff(sigmas) > 0).all() or sigmas[0] <= 0:
        raise ConfigError("discrete sigmas must be a 1-d, strictly ascending list of at least 2 positive levels")
    choice("prediction", prediction, ("eps", "v", "x0"))
    log_sigmas = np.log(sigmas)
    steps = np.arange(len(sigmas), dtype=np.float64)

    def function(sigma: Array) -> Coefficients:
        t = np.interp(np.log(sigma), log_sigmas, steps)
        c_in = 1 / np.sqrt(sigma**2 + 1)
        one, zero = np.ones_like(sigma), np.zeros_like(sigma)
        if prediction == "eps":
            return Coefficients(one, -sigma, c_in, t)
        if prediction == "v":
            return Coefficients(c_in**2, -sigma * c_in, c_in, t)
        return Coefficients(zero, one, c_in, t)

    return Parameterization(prediction, function, float(sigmas[0]), float(sigmas[-1]))


def flow(time_scale: float = 1000.0) -> Parameterization:
    """Return those of flow matching: x_t = (1−t)x₀ + tε, F = ε − x₀, so D = x_t − t·F; c_noise = time_scale·t."""

    def function(t: Array) -> Coefficients:
        one = np.ones_like(t)
        return Coefficients(one, -t, one, time_scale * t)

    return Parameterization("flow", function, 0.0, 1.0, process="flow")


def denoiser(sigma_min: float = 0.0, sigma_max: float = float("inf")) -> Parameterization:
    """Return those of a network that is the denoiser D itself and takes σ (see `Denoiser.from_function`)."""

    def function(sigma: Array) -> Coefficients:
        one = np.ones_like(sigma)
        return Coefficients(np.zeros_like(sigma), one, one, sigma.copy())

    return Parameterization("denoiser", function, sigma_min, sigma_max)
