"""The pictures: plotly figures of rows that may be compared (`select.py` found them).

Text of rows goes through `style.text`, because plotly reads tags. Every function returns a
`plotly.graph_objects.Figure`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .labels import place
from .select import Row, front
from .series import Series, series_of, title_of
from .style import (
    DISTURBED,
    EDGE,
    FLOOR_DASH,
    GRID,
    HOLLOW,
    INK,
    LOOKS,
    NETWORK,
    OUTSIDE,
    QUIET,
    colour,
    disturbed,
    family_of,
    hollow,
    log_range,
    log_ticks,
    look,
    maker,
    maker_rank,
    number,
    rank,
    symbol,
    text,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
WIDTH, LETTER, LINE = (
    820,
    6.0,
    14,
)  # about how wide a picture is without its legend, and a letter of a name, in pixels


def pareto(points: Sequence[Row], train: Row | None) -> Figure:
    """FD against NFE: a line for each sampler with its spread, and each family's front as a wide band."""
    figure = _figure(height=560)
    _fronts(figure, points, x="nfe")
    values = [p["fd"] for p in points] + ([train["fd"]] if train else [])
    _log(figure, "x", "NFE, network evaluations per sample", [p["nfe"] for p in points])
    _log(figure, "y", f"FD on {text(points[0].get('features') or 'features')} (lower is better)", values)
    for some, label in _named(figure, points, "nfe"):
        figure.add_scatter(
            x=[r["nfe"] for r in some.rows],
            y=[r["fd"] for r in some.rows],
            **_line(some, label),
            error_y=_bars([r.get("std") for r in some.rows]),
        )
    if train is not None:
        _floor(figure, train, [p["nfe"] for p in points])
    _say_hollow(figure, points)
    return figure


def _floor(figure: Figure, train: Row, xs: Sequence[float]) -> None:
    """The distance of the training images, over as many blocks as they have."""
    blocks = train.get("blocks") or 1
    name = f"{LOOKS['data'].label}, n = {number(train.get('n_block') or train.get('n'))}"
    name += f", {number(blocks)} blocks" * (blocks > 1)
    figure.add_scatter(
        x=[min(xs), max(xs)],
        y=[train["fd"]] * 2,
        mode="lines",
        name=name,
        legendrank=1,
        customdata=[[_hover(train)]] * 2,
        line={"color": LOOKS["data"].colour, "width": 1.5, "dash": FLOOR_DASH},
        hovertemplate="%{customdata[0]}<extra></extra>",
    )


def _say_hollow(figure: Figure, points: Iterable[Row]) -> None:
    """A legend entry for hollow markers, where there are any."""
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


def speed_quality(rows: Sequence[Row]) -> Figure:
    """Samples per second against FD: of two points at one height, the one on the right is faster."""
    figure = _figure(height=520)
    _fronts(figure, rows, x="samples_per_s", more_is_better=True)
    features = text(rows[0].get("features") or "features")
    _log(figure, "x", "samples per second (more is better)", [r["samples_per_s"] for r in rows])
    _log(figure, "y", f"FD on {features} (lower is better)", [r["fd"] for r in rows])
    for some, label in _named(figure, rows, "samples_per_s"):
        figure.add_scatter(
            x=[r["samples_per_s"] for r in some.rows],
            y=[r["fd"] for r in some.rows],
            error_x=_quartile_bars(some.rows),
            error_y=_bars([r.get("std") for r in some.rows]),
            **_line(some, label),
        )
    _say_hollow(figure, rows)
    return figure


def speed_bars(rows: Sequence[Row]) -> Figure:
    """Samples per second at one budget; a panel each for the engine, diffusers and plain torch, with one axis."""
    figure, panels = _panels(rows)
    seen: set[str] = set()
    for n, some in enumerate(panels, 1):
        for family in sorted(set(map(family_of, some)), key=rank):
            bars = [row for row in some if family_of(row) == family]
            figure.add_bar(
                y=[_bar_name(r) for r in bars],
                x=[r["samples_per_s"] for r in bars],
                orientation="h",
                marker={"color": colour(family), "pattern": _pattern(bars[0]), "opacity": _opacities(bars)},
                error_x=_quartile_bars(bars),
                customdata=[[_hover(r)] for r in bars],
                hovertemplate="%{customdata[0]}<extra></extra>",
                name=_family(family),
                legendgroup=family,
                showlegend=family not in seen,
                legendrank=100 + rank(family),
                row=n,
                col=1,
            )
            seen.add(family)
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title_text="samples per second", row=len(panels), col=1)
    return figure


def breakdown(rows: Sequence[Row]) -> Figure:
    """Milliseconds of one evaluation of a batch: inside the network, and everything else."""
    figure, panels = _panels(rows)
    for n, some in enumerate(panels, 1):
        names = [_bar_name(r) for r in some]
        outside = [r["ms_outside_network"] for r in some]
        inside = [max(0.0, r["ms_per_evaluation"] - r["ms_outside_network"]) for r in some]
        hover = [[_hover(r)] for r in some]
        shown: dict[str, Any] = {
            "orientation": "h",
            "y": names,
            "customdata": hover,
            "hovertemplate": "%{customdata[0]}<extra></extra>",
            "showlegend": n == 1,
            "row": n,
            "col": 1,
        }
        figure.add_bar(x=inside, name="network", legendgroup="network", marker={"color": NETWORK}, **shown)
        labels = [f" {100 * r['ms_outside_network'] / r['ms_per_evaluation']:.2g} %" for r in some]
        figure.add_bar(
            x=outside,
            name="everything else",
            legendgroup="else",
            text=labels,
            textposition="outside",
            cliponaxis=False,
            marker={"color": OUTSIDE, "pattern": {"shape": "x", "fgcolor": "white", "size": 5}},
            **shown,
        )
    most = max(r["ms_per_evaluation"] for r in rows)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(range=[0, 1.25 * most])
    figure.update_xaxes(title_text="ms per evaluation of a batch", row=len(panels), col=1)
    return figure


def _panels(rows: Sequence[Row]) -> tuple[Figure, list[list[Row]]]:
    """An empty figure with a panel for each runner, and the rows of each, slowest at the bottom."""
    from plotly.subplots import make_subplots

    who = sorted({str(r.get("by", "")) for r in rows}, key=maker_rank)
    panels = [
        sorted((r for r in rows if str(r.get("by", "")) == by), key=lambda r: r.get("samples_per_s") or 0) for by in who
    ]
    names = {by: maker({"by": by}).label for by in who}
    counts = [len(some) for some in panels]
    height = 26 * sum(counts) + 46 * len(panels) + 110
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        row_heights=[n + 0.6 for n in counts],
        vertical_spacing=min(0.12, 46 / height),
        subplot_titles=[text(names.get(by, by)) for by in who],
    )
    _dress(figure, height)
    figure.update_layout(margin_t=56)  # on a phone the tool bar stands above the first panel's title
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    figure.update_yaxes(automargin=True, showgrid=False, ticks="")
    for n, some in enumerate(panels, 1):
        figure.update_yaxes(categoryorder="array", categoryarray=[_bar_name(r) for r in some], row=n, col=1)
    figure.update_layout(bargap=0.25)
    return figure, panels


def _figure(height: int) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    _dress(figure, height)
    return figure


def _dress(figure: Figure, height: int) -> None:
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


def _log(figure: Figure, axis: str, title: str, values: Iterable[float], **where: int) -> None:
    """A logarithmic axis with ticks people read and room around the values."""
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


def _named(figure: Figure, points: Iterable[Row], x: str) -> list[tuple[Series, tuple[int, str] | None]]:
    """The series of these points, and of each at which point and where its name stands; None where it would cover
    another.

    The axes must have their ranges.
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


def _fronts(figure: Figure, points: Sequence[Row], x: str, more_is_better: bool = False) -> None:
    for family in sorted(set(map(family_of, points)), key=rank):
        best = front((p for p in points if family_of(p) == family), x, "fd", more_is_better)
        figure.add_scatter(
            x=[p[x] for p in best],
            y=[p["fd"] for p in best],
            mode="lines+markers",
            opacity=0.22,
            hoverinfo="skip",
            line={"color": colour(family), "width": 11},
            # one point alone must show around its marker
            marker={"color": colour(family), "size": 13 if len(best) > 1 else 22},
            name=f"front, {_family(family)}",
            legendrank=10,
        )


def _line(series: Series, label: tuple[int, str] | None) -> dict[str, Any]:
    """What a sampler's trace looks like.

    Plain loops are the engine's samplers once more, so they are hidden at first.
    """
    rows, shade = series.rows, colour(family_of(series.rows[0]))
    found: dict[str, Any] = {
        "mode": "lines+markers",
        "name": text(series.name),
        "visible": "legendonly" if rows[0].get("by") == "torch" else True,
        "customdata": [[_hover(r)] for r in rows],
        "hovertemplate": "%{customdata[0]}<extra></extra>",
        "line": {"color": shade, "width": 1.5, "dash": maker(rows[0]).dash},
        "marker": {
            "color": shade,
            "size": 9,
            "symbol": [symbol(r) for r in rows],
            "line": {"width": 1.5, "color": shade},
            "opacity": _opacities(rows),
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


def _opacities(rows: Sequence[Row]) -> list[float]:
    return [DISTURBED if disturbed(row) else 1.0 for row in rows]


def _family(family: str) -> str:
    return look(family).label if family in LOOKS else text(family)


def _bars(stds: Sequence[Any]) -> dict[str, Any]:
    return {"type": "data", "array": [s or 0 for s in stds], "thickness": 1.2, "width": 4, "visible": any(stds)}


def _quartile_bars(rows: Sequence[Row]) -> dict[str, Any]:
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


def _pattern(row: Row) -> dict[str, Any]:
    return {"shape": maker(row).pattern, "fgcolor": "white", "size": 6}


def _bar_name(row: Row) -> str:
    told = disturbed(row)
    return text(f"{title_of(row)} ({row.get('nfe', '?')})" + f", {told}" * bool(told))


def _hover(row: Row) -> str:
    """Everything a point stands for, one line each."""
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
