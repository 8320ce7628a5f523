"""The pictures: plotly figures of rows that may be compared (`select.py` found them).

Text of rows goes through `style.text`, because plotly reads tags. Every function returns a `plotly.graph_objects.Figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .select import Row, front
from .style import (
    DASHES,
    FAMILIES,
    PATTERNS,
    colour,
    family_of,
    log_ticks,
    number,
    rank,
    text,
)
from .tables import title_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
GRID, INK = "#e4e4e4", "#222222"


def pareto(points: Sequence[Row], train: Row | None, marks: dict[str, str]) -> Figure:
    """FD against NFE: a line for each sampler with its spread, and each family's front as a wide band."""
    figure = _figure(height=560)
    _fronts(figure, points, x="nfe")
    for rows in _by_sampler(points):
        row = rows[0]
        figure.add_scatter(
            x=[r["nfe"] for r in rows], y=[r["fd"] for r in rows], error_y=_bars([r.get("std") for r in rows]),
            customdata=[[_hover(r)] for r in rows], **_line(row, marks),
        )  # fmt: skip
    if train is not None:
        name = f"training images, n = {number(train.get('n'))}"
        ends = [min(p["nfe"] for p in points), max(p["nfe"] for p in points)]
        figure.add_scatter(
            x=ends, y=[train["fd"]] * 2, mode="lines", line={"color": INK, "width": 1.5, "dash": "longdash"}, name=name,
            customdata=[[_hover(train)]] * 2, hovertemplate="%{customdata[0]}<extra></extra>", legendrank=1,
        )  # fmt: skip
    values = [p["fd"] for p in points] + ([train["fd"]] if train else [])
    _log(figure, "x", "NFE, network evaluations per sample", [p["nfe"] for p in points])
    _log(figure, "y", f"FD on {text(points[0].get('features') or 'features')} (lower is better)", values)
    return figure


def speed_quality(rows: Sequence[Row], marks: dict[str, str]) -> Figure:
    """Samples per second against FD: of two points at one height, the one on the right is faster."""
    figure = _figure(height=520)
    _fronts(figure, rows, x="samples_per_s", more_is_better=True)
    for some in _by_sampler(rows):
        bars = _quartile_bars(some)
        figure.add_scatter(
            x=[r["samples_per_s"] for r in some], y=[r["fd"] for r in some], error_x=bars,
            error_y=_bars([r.get("std") for r in some]), customdata=[[_hover(r)] for r in some], **_line(some[0], marks),
        )  # fmt: skip
    _log(figure, "x", "samples per second (more is better)", [r["samples_per_s"] for r in rows])
    _log(
        figure,
        "y",
        f"FD on {text(rows[0].get('features') or 'features')} (lower is better)",
        [r["fd"] for r in rows],
    )
    return figure


def speed_bars(rows: Sequence[Row]) -> Figure:
    """Samples per second at one budget; a panel each for the engine, diffusers and plain torch, with one axis."""
    figure, panels = _panels(rows)
    seen: set[str] = set()
    for n, some in enumerate(panels, 1):
        for family in sorted(set(map(family_of, some)), key=rank):
            bars = [row for row in some if family_of(row) == family]
            figure.add_bar(
                y=[_bar_name(r) for r in bars], x=[r["samples_per_s"] for r in bars], orientation="h",
                marker={"color": colour(family), "pattern": _pattern(bars[0])}, error_x=_quartile_bars(bars),
                customdata=[[_hover(r)] for r in bars], hovertemplate="%{customdata[0]}<extra></extra>",
                name=FAMILIES.get(family, text(family)), legendgroup=family, showlegend=family not in seen,
                legendrank=100 + rank(family), row=n, col=1,
            )  # fmt: skip
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
            "orientation": "h", "y": names, "customdata": hover, "hovertemplate": "%{customdata[0]}<extra></extra>",
            "showlegend": n == 1, "row": n, "col": 1,
        }  # fmt: skip
        figure.add_bar(x=inside, name="network", legendgroup="network", marker={"color": "#b8c4d0"}, **shown)
        labels = [f" {100 * r['ms_outside_network'] / r['ms_per_evaluation']:.2g} %" for r in some]
        figure.add_bar(
            x=outside, name="everything else", legendgroup="else", text=labels, textposition="outside", cliponaxis=False,
            marker={"color": "#a3195b", "pattern": {"shape": "x", "fgcolor": "white", "size": 5}}, **shown,
        )  # fmt: skip
    most = max(r["ms_per_evaluation"] for r in rows)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(range=[0, 1.25 * most])
    figure.update_xaxes(title_text="ms per evaluation of a batch", row=len(panels), col=1)
    return figure


def _panels(rows: Sequence[Row]) -> tuple[Figure, list[list[Row]]]:
    """An empty figure with a panel for each runner, and the rows of each, slowest at the bottom."""
    from plotly.subplots import make_subplots

    order = ["engine", "diffusers", "torch"]
    who = sorted({str(r.get("by", "")) for r in rows}, key=lambda by: order.index(by) if by in order else 9)
    panels = [
        sorted((r for r in rows if str(r.get("by", "")) == by), key=lambda r: r.get("samples_per_s") or 0)
        for by in who
    ]
    names = {"engine": "this engine", "torch": "plain PyTorch loops", "": "others"}
    counts = [len(some) for some in panels]
    height = 26 * sum(counts) + 46 * len(panels) + 110
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, row_heights=[n + 0.6 for n in counts],
        vertical_spacing=min(0.12, 46 / height), subplot_titles=[text(names.get(by, by)) for by in who],
    )  # fmt: skip
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
        template="plotly_white", height=height, autosize=True, font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 10, "r": 16, "t": 34, "b": 10}, hoverlabel={"align": "left", "font": {"family": FONT}},
        legend={"font": {"size": 12}}, paper_bgcolor="white", plot_bgcolor="white",
    )  # fmt: skip
    figure.update_xaxes(
        automargin=True, gridcolor=GRID, linecolor="#999", showline=True, ticks="outside", zeroline=False
    )
    figure.update_yaxes(automargin=True, gridcolor=GRID, linecolor="#999", showline=True, zeroline=False)


def _log(figure: Figure, axis: str, title: str, values: Iterable[float]) -> None:
    """A logarithmic axis with ticks people read."""
    ticks = log_ticks(values)
    shown: dict[str, Any] = {"type": "log", "title_text": title}
    if ticks:
        shown |= {"tickvals": ticks, "ticktext": [f"{t:,.10g}" for t in ticks]}
    else:
        shown |= {"tickformat": ".3~g", "nticks": 6}
    (figure.update_xaxes if axis == "x" else figure.update_yaxes)(**shown)


def _by_sampler(points: Iterable[Row]) -> list[list[Row]]:
    """A list for each sampler, along NFE; the engine's first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for point in points:
        found.setdefault((str(point.get("by", "")), str(point.get("sampler"))), []).append(point)
    order = ["engine", "diffusers", "torch"]

    def place(key: tuple[str, str]) -> tuple[Any, ...]:
        return order.index(key[0]) if key[0] in order else 9, rank(family_of(found[key][0])), key[1]

    return [sorted(found[key], key=lambda r: r["nfe"]) for key in sorted(found, key=place)]


def _fronts(figure: Figure, points: Sequence[Row], x: str, more_is_better: bool = False) -> None:
    for family in sorted(set(map(family_of, points)), key=rank):
        best = front((p for p in points if family_of(p) == family), x, "fd", more_is_better)
        figure.add_scatter(
            x=[p[x] for p in best], y=[p["fd"] for p in best], mode="lines+markers", opacity=0.22, hoverinfo="skip",
            line={"color": colour(family), "width": 11},
            marker={"color": colour(family), "size": 13 if len(best) > 1 else 22},  # one point alone must show around its marker
            name=f"front, {text(FAMILIES.get(family, family))}", legendrank=10,
        )  # fmt: skip


def _line(row: Row, marks: dict[str, str]) -> dict[str, Any]:
    """What a sampler's trace looks like. Plain loops draw what the engine draws, so they are hidden at first."""
    by, shade = str(row.get("by", "")), colour(family_of(row))
    return {
        "mode": "lines+markers", "name": text(title_of(row)), "visible": "legendonly" if by == "torch" else True,
        "hovertemplate": "%{customdata[0]}<extra></extra>",
        "line": {"color": shade, "width": 1.5, "dash": DASHES.get(by, "solid")},
        "marker": {
            "color": shade, "size": 9, "symbol": marks.get(str(row.get("sampler")), "circle"),
            "line": {"width": 1.5, "color": shade},
        },
    }  # fmt: skip


def _bars(stds: Sequence[Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "array": [s or 0 for s in stds],
        "thickness": 1.2,
        "width": 4,
        "visible": any(stds),
    }


def _quartile_bars(rows: Sequence[Row]) -> dict[str, Any]:
    mid = [r["samples_per_s"] for r in rows]
    low = [r.get("samples_per_s_q1") or m for r, m in zip(rows, mid, strict=True)]
    high = [r.get("samples_per_s_q3") or m for r, m in zip(rows, mid, strict=True)]
    return {
        "type": "data", "symmetric": False, "thickness": 1.4, "width": 4, "color": INK,
        "array": [max(0.0, h - m) for h, m in zip(high, mid, strict=True)],
        "arrayminus": [max(0.0, m - q) for q, m in zip(low, mid, strict=True)],
    }  # fmt: skip


def _pattern(row: Row) -> dict[str, Any]:
    return {"shape": PATTERNS.get(str(row.get("by", "")), "."), "fgcolor": "white", "size": 6}


def _bar_name(row: Row) -> str:
    return text(f"{title_of(row)} ({row.get('nfe', '?')})")


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
    if row.get("n"):
        seeds = f", seeds {text(row['seeds'])}" if row.get("seeds") else ""
        lines.append(f"n = {number(row['n'])}{seeds}")
    if isinstance(row.get("accuracy"), float):
        lines.append(f"right class {100 * row['accuracy']:.1f} %")
    if row.get("plan"):
        lines.append(f"plan {text(row['plan'])}")
    return "<br>".join(lines)
