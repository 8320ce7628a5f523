"""The parts that all figures of the page share: axes, error bars, legend entries and hover texts, for plotly.

plotly reads tags, so text of rows passes through `style.text`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .select import Row
from .series import title_of
from .style import (
    DISTURBED,
    EDGE,
    GRID,
    HOLLOW,
    INK,
    LOOKS,
    QUIET,
    disturbed,
    hollow,
    log_range,
    log_ticks,
    look,
    number,
    text,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
HOVER = "%{customdata[0]}<extra></extra>"  # shows the first entry of a point's customdata, and no name of a trace


def empty(height: int) -> Figure:
    """Return a figure without traces, `height` pixels high."""
    import plotly.graph_objects as go

    figure = go.Figure()
    dress(figure, height)
    return figure


def dress(figure: Figure, height: int) -> None:
    """Set the height, the font, the margins and the frame of a figure."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        autosize=True,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 10, "r": 16, "t": 34, "b": 10},
        hoverlabel={"align": "left", "font": {"family": FONT}},
        legend={"font": {"size": 12}},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, linecolor=EDGE, showline=True, ticks="outside", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor=GRID, linecolor=EDGE, showline=True, zeroline=False)


def log_axis(figure: Figure, axis: str, title: str, values: Iterable[float], **where: int) -> None:
    """Make the "x" or "y" axis logarithmic, with round ticks and room around the values.

    `where` is the panel as plotly's `row` and `col`; without it, the axes of all panels.
    """
    values = list(values)
    ticks, ends = log_ticks(values), log_range(values)
    shown: dict[str, Any] = {"type": "log", "title_text": title}
    if ends:
        shown["range"] = [math.log10(end) for end in ends]
    if ticks:
        shown |= {"tickvals": ticks, "ticktext": [f"{t:,.10g}" for t in ticks]}
    else:
        shown |= {"tickformat": ".3~g", "nticks": 6}
    (figure.update_xaxes if axis == "x" else figure.update_yaxes)(**shown, **where)


def spread_bars(stds: Sequence[Any]) -> dict[str, Any]:
    """Return error bars of these standard deviations; None is no bar."""
    return {"type": "data", "array": [s or 0 for s in stds], "thickness": 1.2, "width": 4, "visible": any(stds)}


def quartile_bars(rows: Sequence[Row]) -> dict[str, Any]:
    """Return error bars from the lower to the upper quartile of the samples per second."""
    mid = [r["samples_per_s"] for r in rows]
    low = [r.get("samples_per_s_q1") or m for r, m in zip(rows, mid, strict=True)]
    high = [r.get("samples_per_s_q3") or m for r, m in zip(rows, mid, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 1.4,
        "width": 4,
        "color": INK,
        "array": [max(0.0, h - m) for h, m in zip(high, mid, strict=True)],
        "arrayminus": [max(0.0, m - q) for q, m in zip(low, mid, strict=True)],
    }


def opacities(rows: Sequence[Row]) -> list[float]:
    """Return the opacity of each row's marker or bar: pale if its speed was disturbed."""
    return [DISTURBED if disturbed(row) else 1.0 for row in rows]


def family_label(family: str) -> str:
    """Return the name of a family as legends show it."""
    return look(family).label if family in LOOKS else text(family)


def explain_hollow(figure: Figure, points: Iterable[Row]) -> None:
    """Add a legend entry that explains hollow markers, if one of the points has one."""
    if any(map(hollow, points)):
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=HOLLOW,
            marker={"symbol": "circle-open", "color": QUIET, "size": 9},
            hoverinfo="skip",
            legendrank=2,
        )


def hover(row: Row) -> str:
    """Return the hover text of a row: all that a point stands for, a line each."""
    lines = [f"<b>{text(title_of(row))}</b>, {number(row.get('nfe'))} NFE"]
    if row.get("restart"):
        lines.append(f"restart {text(row['restart'])}")
    if row.get("fd") is not None:
        spread = f" ± {number(row['std'])} over {row.get('blocks')} blocks" if row.get("std") else ""
        lines.append(f"FD {number(row['fd'])}{spread}")
    if row.get("samples_per_s") is not None:
        low, high = number(row.get("samples_per_s_q1")), number(row.get("samples_per_s_q3"))
        lines.append(f"{number(row['samples_per_s'])} samples/s ({low} – {high})")
        if disturbed(row):
            lines.append(f"{text(disturbed(row))} by other processes")
    if row.get("n"):
        seeds = f", seeds {text(row['seeds'])}" if row.get("seeds") else ""
        lines.append(f"n = {number(row['n'])}{seeds}")
    if isinstance(row.get("accuracy"), float):
        lines.append(f"right class {100 * row['accuracy']:.1f} %")
    if row.get("plan"):
        lines.append(f"plan {text(row['plan'])}")
    return "<br>".join(lines)


def hovering(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the options of a trace whose points show their rows when the pointer is over them."""
    return {"customdata": [[hover(row)] for row in rows], "hovertemplate": HOVER}
