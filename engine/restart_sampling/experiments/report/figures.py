"""The figures of distances on the page: FD against NFE, and FD against samples per second.

The rows of a figure are of one group of `select.py`, so they may be compared. Both figures are plotly's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .chart import (
    HOVER,
    empty,
    explain_hollow,
    family_label,
    hover,
    hovering,
    log_axis,
    opacities,
    quartile_bars,
    spread_bars,
)
from .front import front
from .labels import place
from .select import Row
from .series import Series, series_of
from .style import FLOOR_DASH, LOOKS, colour, family_of, maker, number, rank, symbol, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# In pixels: about how wide a picture is without its legend, a letter of a name, and the height of a line of text.
WIDTH, LETTER, LINE = 820, 6.0, 14


def pareto(points: Sequence[Row], train: Row | None) -> Figure:
    """Draw FD against NFE: a line for each sampler with its spread, and the front of each family as a wide band.

    `train` is the row of the training images, whose distance is drawn as a line; None draws no line.
    """
    figure = empty(height=560)
    _fronts(figure, points, x="nfe")
    values = [p["fd"] for p in points] + ([train["fd"]] if train else [])
    log_axis(figure, "x", "NFE, network evaluations per sample", [p["nfe"] for p in points])
    log_axis(figure, "y", f"FD on {text(points[0].get('features') or 'features')} (lower is better)", values)
    for some, label in _named(figure, points, "nfe"):
        figure.add_scatter(
            x=[r["nfe"] for r in some.rows],
            y=[r["fd"] for r in some.rows],
            **_line(some, label),
            error_y=spread_bars([r.get("std") for r in some.rows]),
        )
    if train is not None:
        _floor(figure, train, [p["nfe"] for p in points])
    explain_hollow(figure, points)
    return figure


def speed_quality(rows: Sequence[Row]) -> Figure:
    """Draw FD against samples per second: of two points at one height, the one on the right is faster."""
    figure = empty(height=520)
    _fronts(figure, rows, x="samples_per_s", more_is_better=True)
    features = text(rows[0].get("features") or "features")
    log_axis(figure, "x", "samples per second (more is better)", [r["samples_per_s"] for r in rows])
    log_axis(figure, "y", f"FD on {features} (lower is better)", [r["fd"] for r in rows])
    for some, label in _named(figure, rows, "samples_per_s"):
        figure.add_scatter(
            x=[r["samples_per_s"] for r in some.rows],
            y=[r["fd"] for r in some.rows],
            error_x=quartile_bars(some.rows),
            error_y=spread_bars([r.get("std") for r in some.rows]),
            **_line(some, label),
        )
    explain_hollow(figure, rows)
    return figure


def _fronts(figure: Figure, points: Sequence[Row], x: str, more_is_better: bool = False) -> None:
    """Draw the front of each family as a wide band."""
    sign = -1 if more_is_better else 1
    for family in sorted(set(map(family_of, points)), key=rank):
        mine = [p for p in points if family_of(p) == family]
        best = front(mine, lambda p: sign * p[x], itemgetter("fd"))
        figure.add_scatter(
            x=[p[x] for p in best],
            y=[p["fd"] for p in best],
            mode="lines+markers",
            opacity=0.22,
            hoverinfo="skip",
            line={"color": colour(family), "width": 11},
            # A single point must show around its marker.
            marker={"color": colour(family), "size": 13 if len(best) > 1 else 22},
            name=f"front, {family_label(family)}",
            legendrank=10,
        )


def _floor(figure: Figure, train: Row, xs: Sequence[float]) -> None:
    """Draw a line at the distance of the training images."""
    blocks = train.get("blocks") or 1
    name = f"{LOOKS['data'].label}, n = {number(train.get('n_block') or train.get('n'))}"
    name += f", {number(blocks)} blocks" * (blocks > 1)
    figure.add_scatter(
        x=[min(xs), max(xs)],
        y=[train["fd"]] * 2,
        mode="lines",
        name=name,
        legendrank=1,
        customdata=[[hover(train)]] * 2,
        line={"color": LOOKS["data"].colour, "width": 1.5, "dash": FLOOR_DASH},
        hovertemplate=HOVER,
    )


def _named(figure: Figure, points: Iterable[Row], x: str) -> list[tuple[Series, tuple[int, str] | None]]:
    """Return the series of these points, each with (the point, the position) of its name.

    The place is None if the name would cover another one. The axes must have their ranges.
    """
    found = series_of(points)
    height = figure.layout.height - 90

    def pixels(row: Row) -> tuple[float, float]:
        def share(value: float, ends: Sequence[float]) -> float:
            return (math.log10(value) - ends[0]) / ((ends[1] - ends[0]) or 1) if value > 0 else 0.0

        return (
            WIDTH * share(row[x], figure.layout.xaxis.range or (0, 1)),
            height * share(row["fd"], figure.layout.yaxis.range or (0, 1)),
        )

    places = place(
        [[pixels(row) for row in some.rows] for some in found],
        [LETTER * len(some.name) for some in found],
        LINE,
        (WIDTH, height),
    )
    return [
        (some, None if label is None or not label.clear else (label.point, label.position))
        for some, label in zip(found, places, strict=True)
    ]


def _line(series: Series, label: tuple[int, str] | None) -> dict[str, Any]:
    """Return the options of a sampler's trace.

    Plain loops repeat the engine's samplers, so they are hidden until the reader chooses them in the legend.
    """
    rows, shade = series.rows, colour(family_of(series.rows[0]))
    found: dict[str, Any] = {
        "mode": "lines+markers",
        "name": text(series.name),
        "visible": "legendonly" if rows[0].get("by") == "torch" else True,
        **hovering(rows),
        "line": {"color": shade, "width": 1.5, "dash": maker(rows[0]).dash},
        "marker": {
            "color": shade,
            "size": 9,
            "symbol": [symbol(r) for r in rows],
            "line": {"width": 1.5, "color": shade},
            "opacity": opacities(rows),
        },
    }
    if label is not None:
        at, position = label
        found |= {
            "mode": "lines+markers+text",
            "text": [text(series.name) if n == at else "" for n in range(len(rows))],
            "textposition": position,
            "textfont": {"color": shade, "size": 11},
        }
    return found
