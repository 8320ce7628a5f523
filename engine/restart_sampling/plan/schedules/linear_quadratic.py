"""Mochi's grid: small even steps from the top, then steps that grow with the square."""

from __future__ import annotations

import numpy as np

from ...common.checks import integer, real
from ...common.errors import ConfigError
from .rule import Rule, checked, descending


def linear_quadratic(
    n: int, sigma_min: float, sigma_max: float, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> np.ndarray:
    """Levels σ_max(1 − y_i): with ν = threshold_noise and m = linear_steps (None: ⌊n/2⌋) y_i = iν/m for i < m, then

    ai² + bi + am², a = (m − νn)/(m(n − m)²), b = ν/m − 2(m − νn)/(n − m)², so that y_m = ν and y_n = 1.

    The curve runs to 0 and not to sigma_min, which is only a bound: the last level is above it.
    """
    low, high = checked(n, sigma_min, sigma_max)
    nu = real("threshold_noise", threshold_noise, 0.0, 1.0, open_low=True)
    m = n // 2 if linear_steps is None else integer("linear_steps", linear_steps, 1, n - 1)
    i = np.arange(n)
    a = (m - nu * n) / (m * (n - m) ** 2)
    b = nu / m - 2 * (m - nu * n) / (n - m) ** 2
    y = np.where(i < m, i * (nu / m), a * i**2 + b * i + a * m**2)
    levels = descending(high * (1 - y))
    if levels[-1] < low:
        raise ConfigError(
            f"linear_quadratic falls to {levels[-1]:g}, below sigma_min = {low:g}, before its last step; use fewer "
            "steps"
        )
    return levels


def segment(N: int, t_min: float, t_max: float, **options: float) -> np.ndarray:
    """Levels of an interval: the same curve, which runs to t_min."""
    curve = linear_quadratic(N - 1, np.nextafter(0, 1), t_max - t_min, **options)  # type: ignore[arg-type]
    return np.append(t_min + curve, t_min)


SCHEDULE = Rule(
    "linear_quadratic",
    linear_quadratic,
    title="linear, then quadratic in σ",
    source="Mochi 1, genmo/mochi",
    aliases=("linear-quadratic",),
    segment=segment,
    flows=True,
    rank=15,
)
