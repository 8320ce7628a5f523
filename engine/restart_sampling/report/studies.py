"""The pictures of ablations and of tuning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figures import INK, _bars, _figure, _hover, _log
from .select import Row, front
from .style import FAMILIES, colour, family_of, number, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TITLES = {
    "K": "K, the number of jumps in an interval",
    "interval": "the interval [t_min, t_max]",
    "N_main": "N_main, points of the main grid",
}
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def ablation(experiment: str, points: Sequence[Row]) -> Figure:
    """FD over what was varied: a line for numbers, a heat map for intervals [t_min, t_max], bars for other texts."""
    ends = [(_ends(p), p) for p in points]
    if (
        experiment == "interval"
        and len({e[0] for e, _ in ends if e}) > 1
        and len({e[1] for e, _ in ends if e}) > 1
    ):
        return _heat_map([(e, p) for e, p in ends if e])
    lined = [p for p in points if isinstance(p.get("value"), (int, float))]
    figure = _figure(height=380)
    if len(lined) == len(points):
        rows = sorted(lined, key=lambda p: p["value"])
        shade = colour("restart")
        figure.add_scatter(
            x=[f"{p['value']:g}<br>{p.get('nfe', '?')} NFE" for p in rows], y=[p["fd"] for p in rows],
            error_y=_bars([p.get("std") for p in rows]), mode="lines+markers", marker={"size": 9, "color": shade},
            line={"color": shade}, customdata=[[_hover(p)] for p in rows], hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title_text=text(TITLES.get(experiment, experiment)), type="category")
    else:
        for family in dict.fromkeys(map(family_of, points)):
            rows = [p for p in points if family_of(p) == family]
            figure.add_bar(
                x=[text(p.get("value")) for p in rows], y=[p["fd"] for p in rows], name=FAMILIES.get(family, text(family)),
                error_y=_bars([p.get("std") for p in rows]), marker={"color": colour(family)},
                customdata=[[_hover(p)] for p in rows], hovertemplate="%{customdata[0]}<extra></extra>",
            )  # fmt: skip
        figure.update_xaxes(title_text=text(TITLES.get(experiment, experiment)), type="category")
    figure.update_yaxes(title_text="FD (lower is better)")
    figure.update_layout(showlegend=False)
    return figure


def _heat_map(points: Sequence[tuple[tuple[float, float], Row]]) -> Figure:
    """t_max along, t_min up, FD in the cells; cells that were not measured stay empty."""
    lows = sorted({ends[0] for ends, _ in points})
    highs = sorted({ends[1] for ends, _ in points})
    cells: list[list[Any]] = [[None] * len(highs) for _ in lows]
    labels: list[list[str]] = [[""] * len(highs) for _ in lows]
    hover: list[list[str]] = [[""] * len(highs) for _ in lows]
    for (low, high), p in points:
        i, j = lows.index(low), highs.index(high)
        cells[i][j], hover[i][j] = p["fd"], _hover(p)
        labels[i][j] = f"{p['fd']:.2f}" + (f" ± {p['std']:.2f}" if p.get("std") else "")
    figure = _figure(height=150 + 56 * len(lows))
    figure.add_heatmap(
        x=[f"{v:g}" for v in highs], y=[f"{v:g}" for v in lows], z=cells, text=labels, texttemplate="%{text}", hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>", colorscale="Cividis_r", colorbar={"title": {"text": "FD"}, "thickness": 14},
        xgap=2, ygap=2, hoverongaps=False,
    )  # fmt: skip
    figure.update_xaxes(type="category", title_text="t_max", showgrid=False)
    figure.update_yaxes(type="category", title_text="t_min", showgrid=False)
    return figure


def _ends(row: Row) -> tuple[float, float] | None:
    """(t_min, t_max) of an interval: the last two numbers of its text, None for no interval or several."""
    for value in (row.get("value"), row.get("restart")):
        found = [float(v) for v in NUMBER.findall(str(value))] if isinstance(value, str) else []
        if len(found) in (2, 4) and found[-2] < found[-1]:
            return found[-2], found[-1]
    return None


def counted(rows: Sequence[Row]) -> str:
    """ ", n = 1,000", how many images a distance was taken over, which it depends on; empty where the rows differ."""
    found = {row.get("n") for row in rows}
    return f", n = {found.pop():,}" if len(found) == 1 and None not in found else ""


def equal_classes(rows: Sequence[Row]) -> str:
    """ ", equal classes" where the distances of a search are such."""
    return ", equal classes" if any(row.get("classes") == "equal" for row in rows) else ""


def tuning(trials: Sequence[Row], tuned: Sequence[Row]) -> Figure:
    """Every trial as a point, the trials' front, and for each budget the tuned plan, the best preset and Heun."""
    figure = _figure(height=520)
    kinds = {"ode": "circle-open", "sde": "square-open", "restart": "diamond-open"}
    for family in dict.fromkeys(map(family_of, trials)):
        rows = [t for t in trials if family_of(t) == family]
        figure.add_scatter(
            x=[t["nfe"] for t in rows], y=[t["fd"] for t in rows], mode="markers",
            name=f"trials, {text(FAMILIES.get(family, family))}{counted(rows)}",
            marker={"color": colour(family), "size": 7, "symbol": kinds.get(family, "x"), "opacity": 0.7},
            customdata=[[_hover(t)] for t in rows], hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
    if trials:
        best = front(trials)
        figure.add_scatter(
            x=[t["nfe"] for t in best], y=[t["fd"] for t in best], mode="lines", line={"color": INK, "width": 1, "shape": "hv"},
            name="front of the trials", hoverinfo="skip",
        )  # fmt: skip
    for name, what, label, symbol, shade in (
        ("fd", "restart", f"tuned, on fresh seeds{counted(tuned)}", "star", colour("restart")),
        ("fd_best_preset", "best_preset", "best preset in the budget", "triangle-up", "#8a6d00"),
        ("fd_heun", "heun", "Heun in the budget", "circle", colour("ode")),
    ):
        rows = sorted(
            (t for t in tuned if isinstance(t.get(name), (int, float))), key=lambda t: t.get("budget") or 0
        )
        if not rows:
            continue
        hover = [
            f"<b>{label}</b><br>budget {number(t.get('budget'))} NFE<br>FD {number(t[name])}<br>{text(t.get(what) or '')}"
            for t in rows
        ]
        figure.add_scatter(
            x=[t.get("budget") for t in rows], y=[t[name] for t in rows], mode="lines+markers", name=label,
            error_y=_bars([t.get(f"{name}_std") for t in rows]),
            marker={"size": 15 if name == "fd" else 10, "symbol": symbol, "color": shade, "line": {"color": "white", "width": 1}},
            line={"color": shade, "width": 1, "dash": "dot"}, customdata=[[h] for h in hover],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )  # fmt: skip
    nfes = [t["nfe"] for t in trials] + [
        t["budget"] for t in tuned if isinstance(t.get("budget"), (int, float))
    ]
    fds = [t["fd"] for t in (*trials, *tuned)]
    _log(figure, "x", "NFE (for the large markers: the budget)", nfes)
    _log(figure, "y", f"FD{equal_classes(tuned or trials)} (lower is better)", fds)
    return figure
