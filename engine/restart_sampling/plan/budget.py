"""The largest plan within a budget of network evaluations: one rule for studies, diffusers and k-diffusion."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil


def most_points(
    cost: Callable[[int], int | None], budget: int, per_step: int, start: int, least: int = 1
) -> int | None:
    """Return the most points n of the main grid, least ≤ n ≤ start, whose plan takes at most `budget` evaluations.

    From a plan that is `over` the budget it goes down by over / per_step points at once, since each of them saves no
    more than `per_step` evaluations.

    Args:
        cost: n → evaluations of the plan with n points; None if there is no such plan.
        per_step: the most evaluations that one point can add, `Solver.evaluations`.

    Returns None if not even `least` points fit.
    """
    n = start
    while n >= least:
        taken = cost(n)
        if taken is not None and taken <= budget:
            return n
        n -= 1 if taken is None else max(1, ceil((taken - budget) / per_step))
    return None
