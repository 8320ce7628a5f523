"""Where the names of series stand beside their points, so that none covers another and no legend must be matched.

It works in pixels and knows no plotting library; the pictures of plotly and of matplotlib both ask it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

# plotly's names, each with the direction from the point in which the text lies: −1, 0 or 1 along x and y.
POSITIONS = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
}


@dataclass(frozen=True)
class Label:
    """Where the name of a series stands.

    Attributes:
        point: number of the point of the series that it stands beside. position: the direction, a key of POSITIONS.
        clear: whether it covers no other name. ring: the distance from the point; above 1 a leader line joins them.
    """

    point: int
    position: str
    clear: bool
    ring: float = 1.0


def place(
    series: Sequence[Sequence[Point]],
    widths: Sequence[float],
    height: float,
    size: Point,
    gap: float = 7.0,
    bars: Sequence[tuple[Point, Point]] = (),
    rings: Sequence[float] = (1.0,),
) -> list[Label | None]:
    """Return a place for the name of each series, None for a series without points.

    Names keep clear of each other, then of markers, of the lines that join markers and of error bars. The last point of
    a series is tried first, then the others. If no place is free, the least bad one is taken. Lengths are in pixels,
    and y goes up from the bottom of the picture.

    Args:
        series: points of each series. widths: of their names. height: of a name. size: of the picture.
        gap: from a point to a name beside it.
        bars: error bars, each from one end to the other.
        rings: distances from the point to try, in gaps.
    """
    markers = _boxes(_square(point, gap) for some in series for point in some)
    drawn = [*bars, *(pair for some in series for pair in pairwise(some))]
    lines = _boxes(_square(point, gap / 2) for a, b in drawn for point in _along(a, b, gap))
    written: list[Box] = []
    found: list[Label | None] = [None] * len(series)
    for n in sorted(range(len(series)), key=lambda n: len(series[n])):  # single points have the fewest places
        if not series[n]:
            continue
        last = len(series[n]) - 1
        tried = list(product(enumerate((last, *range(last))), rings, enumerate(POSITIONS.items())))
        boxes = _boxes(
            _box(series[n][k], widths[n], height, dx, dy, gap * ring) for (_, k), ring, (_, (_, (dx, dy))) in tried
        )
        names = _shared(boxes, _boxes(written))
        outside = np.minimum(boxes[:, :2], np.asarray(size) - boxes[:, 2:]).min(1) < 0
        score = 4 * names + 2 * _shared(boxes, markers) + _shared(boxes, lines) + 1e4 * outside
        score += [2 * order + 0.1 * turn + 0.4 * gap * (ring - 1) for (order, _), ring, (turn, _) in tried]
        best = int(score.argmin())
        (_, k), ring, (_, (position, _)) = tried[best]
        clear = bool(names[best] < 0.02 * widths[n] * height and not outside[best])
        found[n] = Label(k, position, clear, ring)
        left, bottom, right, top = boxes[best].tolist()
        written.append((left, bottom, right, top))
    return found


def _along(a: Point, b: Point, step: float) -> list[Point]:
    """Return points from a to b, about a step apart."""
    count = min(200, max(1, round(math.hypot(b[0] - a[0], b[1] - a[1]) / step)))
    return [(a[0] + (b[0] - a[0]) * n / count, a[1] + (b[1] - a[1]) * n / count) for n in range(count + 1)]


def _square(at: Point, half: float) -> Box:
    """Return the square around a point with sides of 2 · half."""
    return at[0] - half, at[1] - half, at[0] + half, at[1] + half


def _box(at: Point, width: float, height: float, dx: int, dy: int, gap: float) -> Box:
    """Return the box of a text in a direction from a point."""
    x = at[0] + dx * (gap if dy == 0 else gap / 2) - (width / 2 if dx == 0 else width * (dx < 0))
    y = at[1] + dy * gap - (height / 2 if dy == 0 else height * (dy < 0))
    return x, y, x + width, y + height


def _boxes(some: Iterable[Box]) -> np.ndarray:
    """Return boxes as float64 [n, 4]."""
    return np.array(list(some), dtype=np.float64).reshape(-1, 4)


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area float64 [n] that each of `boxes`, [n, 4], shares with the `others`, [m, 4], added up."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    return sides.clip(0).prod(2).sum(1)
