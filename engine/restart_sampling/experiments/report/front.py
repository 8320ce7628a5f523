"""The Pareto front of points that each have a cost and a loss, both to be lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Point = TypeVar("Point")


def front(points: Iterable[Point], cost: Callable[[Point], float], loss: Callable[[Point], float]) -> list[Point]:
    """Return the points that no other point beats: none costs no more and has no more loss, except an equal one.

    The result is in order of rising cost and so of falling loss. Of points that are equal in both, the first is taken.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (cost(point), loss(point))):
        if not best or loss(point) < loss(best[-1]):
            best.append(point)
    return best
