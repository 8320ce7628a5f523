"""The figures of ablations on the page: FD over what was varied, as plotly's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .chart import empty, explain_hollow, family_label, hover, hovering, spread_bars
from .select import Row
from .style import SHADES, colour, family_of, symbol, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TITLES = {
    "K": "K, the number of jumps in an interval",
    "interval": "the interval [t_min, t_max]",
    "N_main": "N_main, points of the main grid",
}
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
Cell = tuple[tuple[float, float], Row]  # (t_min, t_max) and the point


def ablation(experiment: str, points: Sequence[Row]) -> Figure:
    """Draw FD over what was varied: a line over numbers, a heat map over intervals [t_min, t_max], else bars."""
    cells = [(ends, p) for p in points if (ends := _ends(p))]
    if experiment == "interval" and all(len({ends[i] for ends, _ in cells}) > 1 for i in (0, 1)):
        return _heat_map(cells)
    figure = empty(height=380)
    if all(isinstance(p.get("value"), (int, float)) for p in points):
        rows = sorted(points, key=lambda p: p["value"])
        figure.add_scatter(
            x=[f"{p['value']:g}<br>{p.get('nfe', '?')} NFE" for p in rows],
            y=[p["fd"] for p in rows],
            error_y=spread_bars([p.get("std") for p in rows]),
            mode="lines+markers",
            showlegend=False,
            line={"color": colour("restart")},
            marker={"size": 9, "color": [colour(family_of(p)) for p in rows], "symbol": [symbol(p) for p in rows]},
            **hovering(rows),
        )
        explain_hollow(figure, rows)
    else:
        for family in dict.fromkeys(map(family_of, points)):
            rows = [p for p in points if family_of(p) == family]
            figure.add_bar(
                x=[text(p.get("value")) for p in rows],
                y=[p["fd"] for p in rows],
                name=family_label(family),
                error_y=spread_bars([p.get("std") for p in rows]),
                marker={"color": colour(family)},
                **hovering(rows),
            )
    figure.update_xaxes(title_text=text(TITLES.get(experiment, experiment)), type="category")
    figure.update_yaxes(title_text="FD (lower is better)")
    return figure


def _heat_map(points: Sequence[Cell]) -> Figure:
    """Draw FD over t_max along and t_min up; cells that were not measured stay empty."""
    lows = sorted({ends[0] for ends, _ in points})
    highs = sorted({ends[1] for ends, _ in points})
    cells: list[list[float | None]] = [[None] * len(highs) for _ in lows]
    labels = [[""] * len(highs) for _ in lows]
    told = [[""] * len(highs) for _ in lows]
    for (low, high), p in points:
        i, j = lows.index(low), highs.index(high)
        cells[i][j], told[i][j] = p["fd"], hover(p)
        labels[i][j] = f"{p['fd']:.2f}" + (f" ± {p['std']:.2f}" if p.get("std") else "")
    figure = empty(height=150 + 56 * len(lows))
    figure.add_heatmap(
        x=[f"{v:g}" for v in highs],
        y=[f"{v:g}" for v in lows],
        z=cells,
        text=labels,
        texttemplate="%{text}",
        hovertext=told,
        hovertemplate="%{hovertext}<extra></extra>",
        colorscale=SHADES,
        colorbar={"title": {"text": "FD"}, "thickness": 14},
        xgap=2,
        ygap=2,
        hoverongaps=False,
    )
    figure.update_xaxes(type="category", title_text="t_max", showgrid=False)
    figure.update_yaxes(type="category", title_text="t_min", showgrid=False)
    return figure


def _ends(row: Row) -> tuple[float, float] | None:
    """Return (t_min, t_max), the last two numbers of an interval's text; None for no interval or several."""
    for value in (row.get("value"), row.get("restart")):
        found = [float(v) for v in NUMBER.findall(str(value))] if isinstance(value, str) else []
        if len(found) in (2, 4) and found[-2] < found[-1]:
            return found[-2], found[-1]
    return None
