r"""Starting lower: a plan that begins at a given image with the noise of a lower level (SDEdit, arXiv 2108.01073).

Image-to-image draws x = α(t_m)·image + σ(t_m)·ε at a point m of the main grid and goes on from there. One rule says
which point: with `strength` s in (0, 1] the run has ⌊N·s⌋ of the N steps of the main grid, as in diffusers, so
m = N − ⌊N·s⌋; with `sigma` it is the point nearest to that level, as for the t_min of an interval.

Limiting cases: s = 1, or a sigma at the first level or above it, is the whole plan, from the image with the most noise.
"""

from __future__ import annotations

from dataclasses import replace

from ..common.checks import real
from ..common.errors import ConfigError
from .limits import stop_at_last_level
from .notation import RestartConfig, RestartInterval, snap
from .plan import Plan


def beginning(plan: Plan, strength: float | None = None, sigma: float | None = None) -> Plan:
    """Return the plan from the point on that `strength` or `sigma` asks for; what is left out is in its notes.

    Raises:
        ConfigError: neither or both are given, or no step is left to run.
    """
    if (strength is None) == (sigma is None):
        raise ConfigError(
            "a run from a given image needs one of strength and sigma, got " + ("neither", "both")[strength is not None]
        )
    m = point(plan, strength, sigma)
    later, left_out = tail(plan, m)
    return replace(later, notes=(*later.notes, *left_out))


def point(plan: Plan, strength: float | None, sigma: float | None) -> int:
    """Return the point of the main grid at which the run begins, from 0."""
    N = len(plan.grid) - 1
    end = N if plan.steps[-1].s == 0 else N - 1  # where the plan ends: some stop at the last level above 0
    if strength is not None:
        s = real("strength", strength, 0.0, 1.0, open_low=True)
        if N - int(N * s) >= end:
            raise ConfigError(
                f"strength = {s:g} of {N} steps leaves no step to run; raise strength to {(N + 1 - end) / N:.3g} or "
                "more, or use more steps"
            )
        return N - int(N * s)
    assert sigma is not None
    level = real("sigma", sigma, 0.0, open_low=True)
    m = snap(plan.grid, level)
    if m >= end:
        raise ConfigError(
            f"sigma = {level:g} is nearest to {plan.grid[m]:g}, where no step is left to run; the lowest level is "
            f"{plan.grid[end - 1]:g}"
        )
    return m


def tail(plan: Plan, m: int) -> tuple[Plan, tuple[str, ...]]:
    """Return `plan` from point m of its main grid on, and what was left out of it, one line each.

    An interval stays if its t_min lies on the way and its t_max is not above the level where the run begins: a jump
    above that level would undo more of the image than was asked for. Churn stays what it is at every level.
    """
    if m == 0:
        return plan, ()
    config, level, N = plan.config, plan.grid[m], len(plan.grid) - 1
    kept = [i for i in plan.intervals if i.index > m and i.t_max <= level]
    left_out = tuple(
        f"Restart interval {i.number} ({i.t_min:.4g} to {i.t_max:.4g}) is left out of a run that begins at {level:.4g}"
        for i in plan.intervals
        if i not in kept
    )
    options = {
        name: value for name, value in config.to_dict().items() if name not in ("steps", "sigma_min", "sigma_max")
    }
    resampling = config.restart.resampling
    if resampling is None:
        options["restart"] = RestartConfig(tuple(RestartInterval(i.N, i.K, i.t_min, i.t_max) for i in kept))
    elif resampling[1] > 1 and resampling[0] >= N - m:
        options["restart"] = None
        left_out = (f"repaint: jumps of {resampling[0]} points are left out of a run of {N - m} steps",)
    else:
        left_out = ()  # the intervals of RePaint are made anew on the points that are left
    if config.s_churn:
        options["s_churn"] = config.s_churn * (N - m) / N  # γ = S_churn/N
    if config.eta_window is not None:
        a, b = (max(0, i - m) for i in config.eta_window)
        options |= {"eta_window": (a, b)} if b else {"eta_window": None, "eta": 0.0}
    each = {option.name for option in config.solvers[0].options if option.per_step}
    if each & dict(config.solver_options).keys():
        pairs = config.solver_options
        options["solver_options"] = {name: value[m:] if name in each else value for name, value in pairs}
    if config.zero_init:
        options["zero_init"] = 0  # it is for the first evaluations from pure noise
    later = Plan.build(**{**options, "sigmas": plan.grid[m:-1]})
    return later if plan.steps[-1].s == 0 else stop_at_last_level(later), left_out
