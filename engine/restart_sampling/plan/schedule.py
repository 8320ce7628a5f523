r"""Noise-level grids: n strictly descending levels, float64, without the final 0.

| name        | level i of n, u = i/(n−1)                                        | source |
|-------------|------------------------------------------------------------------|--------|
| edm, karras | (σ_max^(1/ρ) + u(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ                   | EDM eq. 5; Restart Alg. 1 |
| exponential | σ_max(σ_min/σ_max)^u                                             | Score SDE |
| vp          | σ(t), t linear from t(σ_max) to t(σ_min)                         | EDM Table 1, VP |
| ve          | √τ, τ = σ_max²(σ_min²/σ_max²)^u, the same levels as exponential  | EDM Table 1, VE |
| iddpm       | the iDDPM levels inside [σ_min, σ_max] at positions ⌊u(L−1) + ½⌋ | EDM Table 1, iDDPM |
| sd          | σ = √((1−ᾱ)/ᾱ) at n of Stable Diffusion's 1000 timesteps         | Latent Diffusion |
| flow        | s·v/(1 + (s−1)v), v linear, s the shift                          | SD3, eq. 23 |

"EDM" is arXiv 2206.00364, "Restart" 2306.14878, "SD3" 2403.03206.

How sigma_min and sigma_max enter: edm, exponential, vp, ve and flow end exactly at the given levels. `vp`
takes either fixed β_d, β_min and the times of the two levels, or β_d = β_min = None and EDM's generalised
form, which chooses both so that σ(1) = sigma_max and σ(ε_s) = sigma_min. `iddpm` and `sd` own a list of
levels and use those inside the range (iddpm), or from the nearest to one end to the nearest to the other
(sd): their end points are levels of the list. EDM runs vp over σ(1e-3) .. σ(1), ve over 0.02 .. 100 and iddpm
over 0.002 .. 81 (j₀ = 8, u₈ = 80.2).

A Restart interval is walked on `Schedule.segment(t_min, t_max, N)`, with bitwise exact end points. Its rule
is Karras whatever the main grid (`segment="karras"`, what the paper does), or the grid's own
(`segment="own"`). The own rule of sd is linear in the integer timestep, as the paper's Stable Diffusion runs
(`segment="timestep"`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..common.checks import did_you_mean, integer, real, shown
from ..common.errors import ConfigError
from .levels import iddpm_levels, sd_sigmas, vp_sigma

SPACINGS = ("linspace", "leading", "trailing")


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """EDM grid (EDM eq. 5, Restart Algorithm 1). ρ = 1 is linear; ρ → ∞ is `exponential`."""
    low, high = _range(n, sigma_min, sigma_max)
    power = 1.0 / _positive("rho", rho)
    with np.errstate(all="ignore"):
        first, last = np.float64(high) ** power, np.float64(low) ** power
        levels = (first + np.linspace(0.0, 1.0, n) * (last - first)) ** (1.0 / power)
    return _with_ends(levels, low, high)


def exponential(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Levels evenly spaced in ln σ."""
    low, high = _range(n, sigma_min, sigma_max)
    return _with_ends(np.exp(np.linspace(math.log(high), math.log(low), n)), low, high)


def vp(
    n: int,
    sigma_min: float,
    sigma_max: float,
    beta_d: float | None = 19.9,
    beta_min: float | None = 0.1,
    epsilon_s: float = 1e-3,
) -> np.ndarray:
    """VP grid (EDM Table 1): σ(t) = √(exp(β_d t²/2 + β_min t) − 1), t linear between the two ends.

    β_d = β_min = None solves σ(1) = sigma_max and σ(epsilon_s) = sigma_min for them, as EDM does; epsilon_s
    counts only then. With sigma_min = σ(epsilon_s), sigma_max = σ(1) both ways are one grid, t from 1 to
    epsilon_s. β_d = 0 is constant β: levels evenly spaced in ln(1 + σ²).
    """
    low, high = _range(n, sigma_min, sigma_max)
    top, bottom = math.log1p(high * high), math.log1p(low * low)
    if (beta_d is None) != (beta_min is None):
        raise ConfigError("beta_d and beta_min are either both given or both None (derived from sigma_min, sigma_max)")
    if beta_d is None or beta_min is None:
        eps = _positive("epsilon_s", epsilon_s)
        if eps >= 1:
            raise ConfigError(f"epsilon_s must be below 1, got {eps:g}")
        beta_d = 2.0 * (top - bottom / eps) / (1.0 - eps)
        beta_min = top - 0.5 * beta_d
    beta_d, beta_min = real("beta_d", beta_d), real("beta_min", beta_min)

    def time(log_total: float) -> float:
        """The t at which β_d t²/2 + β_min t = ln(1 + σ²), in the form that also holds for β_d = 0."""
        root = beta_min**2 + 2.0 * beta_d * log_total
        total = beta_min + math.sqrt(root) if root >= 0 else 0.0
        if total <= 0:
            raise ConfigError(f"beta_d = {beta_d:g}, beta_min = {beta_min:g} never reach the given sigma_max {high:g}")
        return 2.0 * log_total / total

    with np.errstate(all="ignore"):
        levels = vp_sigma(np.linspace(time(top), time(bottom), n), beta_d, beta_min)
    return _with_ends(levels, low, high)


def ve(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """VE grid (EDM Table 1): σ = √τ with τ geometric, which is `exponential`."""
    return exponential(n, sigma_min, sigma_max)


def iddpm(
    n: int, sigma_min: float, sigma_max: float, M: int = 1000, C_1: float = 0.001, C_2: float = 0.008
) -> np.ndarray:
    """iDDPM grid (EDM Table 1): n of the M levels u_j that lie in [sigma_min, sigma_max], evenly spaced in j.

    The end points are the outermost levels inside. n = all of them is every level; more is a ConfigError.
    """
    low, high = _range(n, sigma_min, sigma_max)
    u = iddpm_levels(integer("M", M, 2), _positive("C_1", C_1), _positive("C_2", C_2))[:-1]
    inside = u[(u >= low) & (u <= high)]
    if n > len(inside):
        raise ConfigError(
            f"iddpm has {len(inside)} levels in [{low:g}, {high:g}], fewer than the {n} asked for; "
            f"use fewer steps or a wider range (it spans {u[-1]:.4g} .. {u[0]:.6g})"
        )
    return _descending(inside[np.floor(np.linspace(0, len(inside) - 1, n) + 0.5).astype(int)])


def sd(n: int, sigma_min: float, sigma_max: float, spacing: str = "linspace", steps_offset: int = 1) -> np.ndarray:
    """n of Stable Diffusion's levels, from timestep a, nearest to sigma_min, to b, nearest to sigma_max.

    spacing, with T = b − a + 1: "linspace" rounds n even steps from b to a; "leading" is a + steps_offset +
    i·⌊T/n⌋, i = n−1..0, what the SD pipelines use (958, 925, …, 34, 1 for n = 30); "trailing" is a − 1 +
    round(T − i·T/n).
    """
    low, high = _range(n, sigma_min, sigma_max)
    sigmas = sd_sigmas()
    a, b = _nearest_timestep(sigmas, low), _nearest_timestep(sigmas, high)
    T = b - a + 1
    if n > T:
        raise ConfigError(f"sd has {T} levels in [{low:g}, {high:g}], fewer than the {n} asked for; use fewer steps")
    spacing = spacing if isinstance(spacing, str) else shown(spacing)
    if spacing == "linspace":
        t = np.round(np.linspace(b, a, n)).astype(int)
    elif spacing == "leading":
        t = a + integer("steps_offset", steps_offset, 0) + np.arange(n)[::-1] * (T // n)
        if t[0] > b:
            raise ConfigError(
                f"leading spacing of {n} steps with steps_offset {steps_offset} needs timestep {t[0]}, "
                f"but the last is {b}; use fewer steps or steps_offset 0"
            )
    elif spacing == "trailing":
        t = a - 1 + np.round(T - np.arange(n) * (T / n)).astype(int)
    else:
        raise ConfigError(f"spacing {shown(spacing)} is not known; choose one of {', '.join(SPACINGS)}")
    return _descending(sigmas[t])


def flow(n: int, t_min: float, t_max: float, shift: float = 1.0) -> np.ndarray:
    """Flow-matching times t = s·v/(1 + (s−1)v), s = shift, v linear, from t_max ≤ 1 down to t_min.

    t_min and t_max are levels after the shift. shift = 1 is linear in t; shift > 1 spends more steps near t =
    1.
    """
    low, high = _range(n, t_min, t_max, ("t_min", "t_max"))
    if high > 1:
        raise ConfigError(f"t_max of a flow schedule must be at most 1, got {high:g}")
    s = _positive("shift", shift)
    v = np.linspace(high / (s - (s - 1) * high), low / (s - (s - 1) * low), n)
    return _with_ends(s * v / (1 + (s - 1) * v), low, high)


@dataclass(frozen=True)
class Schedule:
    """A named grid rule. Both callables return float64 arrays, strictly descending.

    `grid(n, sigma_min, sigma_max)` is the main grid without the final 0, `segment(t_min, t_max, N)` the grid
    of a Restart interval, from t_max to t_min with exact ends. `process` is the state walked: "ve" or "flow".
    `sigma_min`, `sigma_max` are the ends the schedule is used with unless others are given (EDM Table 1).
    """

    name: str
    grid: Callable[[int, float, float], np.ndarray]
    segment: Callable[[float, float, int], np.ndarray]
    process: str = "ve"
    sigma_min: float = 0.002
    sigma_max: float = 80.0


_GRIDS: dict[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "edm": (karras, ()),
    "exponential": (exponential, ()),
    "vp": (vp, ("beta_d", "beta_min", "epsilon_s")),
    "ve": (ve, ()),
    "iddpm": (iddpm, ("M", "C_1", "C_2")),
    "sd": (sd, ("spacing", "steps_offset")),
    "flow": (flow, ("shift",)),
}
_ALIASES = {"karras": "edm"}
_FLOW_RANGE = (1e-3, 1.0)
SCHEDULES: tuple[str, ...] = tuple(_GRIDS)


def get_schedule(name: str, rho: float = 7.0, **options: Any) -> Schedule:
    """The schedule called `name`, one of SCHEDULES or "karras" (= edm).

    Args:
        rho: exponent of the edm grid, and of Karras segments.
        **options: the grid's own (beta_d, beta_min, epsilon_s; M, C_1, C_2; spacing, steps_offset;
            shift), and `segment`, the rule inside Restart intervals: "karras" (default), "own", or "timestep"
            (sd's own).

    Raises:
        ConfigError: unknown name or option (the closest match is named), rho not positive and finite.
    """
    _positive("rho", rho)
    canonical = _ALIASES.get(name, name) if isinstance(name, str) else ""
    if canonical not in _GRIDS:
        raise ConfigError(
            f"schedule {shown(name)} is not known; choose one of {', '.join(SCHEDULES)}"
            + did_you_mean(name, (*_GRIDS, *_ALIASES))
        )
    function, allowed = _GRIDS[canonical]
    rule = options.pop("segment", "karras")
    for option in options:
        if option not in allowed:
            known = ", ".join((*allowed, "segment"))
            raise ConfigError(
                f"schedule {canonical!r} has no option {option!r}; its options are {known}"
                + did_you_mean(option, allowed)
            )
    rules = ("karras", "own", "timestep") if canonical == "sd" else ("karras", "own")
    if not isinstance(rule, str) or rule not in rules:
        raise ConfigError(
            f"segment {shown(rule)} is not known for schedule {canonical!r}; choose one of {', '.join(rules)}"
        )
    grid = partial(function, rho=rho) if canonical == "edm" else partial(function, **options)
    inner: Callable[[int, float, float], np.ndarray] = partial(karras, rho=rho)
    if rule != "karras":
        inner = _sd_timesteps if canonical == "sd" else grid
    process = "flow" if canonical == "flow" else "ve"
    return Schedule(canonical, grid, partial(_segment, inner), process, *_default_range(canonical))


def _default_range(name: str) -> tuple[float, float]:
    """(sigma_min, sigma_max) of EDM Table 1 for vp, ve and iddpm; all levels of sd; (0, 1] for flow."""
    if name == "vp":
        return float(vp_sigma(1e-3)), float(vp_sigma(1.0))
    if name == "sd":
        levels = sd_sigmas()
        return float(levels[0]), float(levels[-1])
    return {"ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "flow": _FLOW_RANGE}.get(name, (0.002, 80.0))


def _segment(rule: Callable[[int, float, float], np.ndarray], t_min: float, t_max: float, N: int) -> np.ndarray:
    """N levels of `rule` from t_max down to t_min, end points exact. N = 2 is the two end points."""
    low, high = _range(N, t_min, t_max, ("t_min", "t_max", "N"))
    return np.array([high, low]) if N == 2 else _with_ends(np.array(rule(N, low, high)), low, high)


def _sd_timesteps(n: int, low: float, high: float) -> np.ndarray:
    """SD levels at n rounded timesteps, linear from the one nearest to `high` to the one nearest to `low`."""
    sigmas = sd_sigmas()
    return sigmas[np.round(np.linspace(_nearest_timestep(sigmas, high), _nearest_timestep(sigmas, low), n)).astype(int)]


def _nearest_timestep(sigmas: np.ndarray, sigma: float) -> int:
    return int(np.argmin(np.abs(sigmas - sigma)))


def _with_ends(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    levels[0], levels[-1] = high, low
    return _descending(levels)


def _descending(levels: np.ndarray) -> np.ndarray:
    if not (np.isfinite(levels).all() and (np.diff(levels) < 0).all()):
        raise ConfigError(
            f"{len(levels)} levels from {levels[0]:g} to {levels[-1]:g} cannot be kept apart with these "
            "settings; use fewer points, a wider range or a smaller rho"
        )
    return levels


def _range(n: int, low: float, high: float, names: tuple[str, ...] = ("sigma_min", "sigma_max")) -> tuple[float, float]:
    """(low, high) as floats after the checks all grids share: n ≥ 2, both positive and finite, low < high."""
    integer(names[2] if len(names) > 2 else "n", n, 2)
    low, high = _positive(names[0], low), _positive(names[1], high)
    if low >= high:
        raise ConfigError(f"{names[0]} must be below {names[1]}, got {low:g} and {high:g}")
    return low, high


def _positive(name: str, value: Any) -> float:
    return real(name, value, 0.0, open_low=True)
