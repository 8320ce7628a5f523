"""Names beside points, where a legend would have to be matched: where each of them fits without covering another.

Works in pixels and knows no plotting library; plotly and matplotlib pictures both ask it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

# plotly's names, and for each in which direction from the point the text's box lies: −1, 0 or 1 along x and y
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
    """A name at point number `point` of its series, in this direction and distance; `clear` where it covers no other
    name.
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
    """For each series a place for its name of this width, y upwards from the bottom of a picture of this size.

    Names keep clear of each other, then of markers, of the lines that join them and of `bars` (from one end to the
    other). The last point of a series is tried first, then the others; the least bad place is taken where none is free.
    None for a series without points. `rings`: distances from the point to try, in gaps."""
    points = [(x - gap, y - gap, x + gap, y + gap) for some in series for x, y in some]
    inked = [p for some in series for a, b in pairwise(some) for p in _along(a, b, gap)]
    inked += [p for a, b in bars for p in _along(a, b, gap)]
    lines: list[Box] = [(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in inked]
    written: list[Box] = []
    found: list[Label | None] = [None] * len(series)
    for n in sorted(range(len(series)), key=lambda n: len(series[n])):  # single points have the fewest places
        best: tuple[float, Label, Box] | None = None
        for order, k in enumerate((len(series[n]) - 1, *range(len(series[n]) - 1))):
            if k < 0:
                break
            for ring, (turn, (position, (dx, dy))) in product(rings, enumerate(POSITIONS.items())):
                box = _box(series[n][k], widths[n], height, dx, dy, gap * ring)
                names = sum(_overlap(box, other) for other in written)
                outside = box[0] < 0 or box[1] < 0 or box[2] > size[0] or box[3] > size[1]
                score = 4 * names + 2 * sum(_overlap(box, p) for p in points) + sum(_overlap(box, p) for p in lines)
                score += 1e4 * outside + 2 * order + 0.1 * turn + 0.4 * gap * (ring - 1)
                if best is None or score < best[0]:
                    clear = names < 0.02 * widths[n] * height and not outside
                    best = score, Label(k, position, clear, ring), box
        if best is not None:
            found[n] = best[1]
            written.append(best[2])
    return found


def _along(a: Point, b: Point, step: float) -> list[Point]:
    """Points from a to b, about a step apart."""
    count = min(200, max(1, round(math.hypot(b[0] - a[0], b[1] - a[1]) / step)))
    return [(a[0] + (b[0] - a[0]) * n / count, a[1] + (b[1] - a[1]) * n / count) for n in range(count + 1)]


def _box(at: Point, width: float, height: float, dx: int, dy: int, gap: float) -> Box:
    x = at[0] + dx * (gap if dy == 0 else gap / 2) - (width / 2 if dx == 0 else width * (dx < 0))
    y = at[1] + dy * gap - (height / 2 if dy == 0 else height * (dy < 0))
    return x, y, x + width, y + height


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
