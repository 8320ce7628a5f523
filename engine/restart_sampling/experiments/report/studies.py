"""The pictures of ablations and of tuning."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...plan.presets import presets
from .figures import _bars, _dress, _family, _figure, _hover, _log, _say_hollow
from .select import Row, front
from .style import INK, SHADES, colour, family_of, look, number, rank, symbol, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TITLES = {
    "K": "K, the number of jumps in an interval",
    "interval": "the interval [t_min, t_max]",
    "N_main": "N_main, points of the main grid",
}
SEARCHED = ("n", "first_seed")  # what trials of one picture have in common
CONFIRMED = ("n", "blocks", "first_seed")  # and what is measured on fresh seeds
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def ablation(experiment: str, points: Sequence[Row]) -> Figure:
    """FD over what was varied: a line for numbers, a heat map for intervals [t_min, t_max], bars for other texts."""
    ends = [(_ends(p), p) for p in points]
    if experiment == "interval" and len({e[0] for e, _ in ends if e}) > 1 and len({e[1] for e, _ in ends if e}) > 1:
        return _heat_map([(e, p) for e, p in ends if e])
    lined = [p for p in points if isinstance(p.get("value"), (int, float))]
    figure = _figure(height=380)
    if len(lined) == len(points):
        rows = sorted(lined, key=lambda p: p["value"])
        shade = colour("restart")
        figure.add_scatter(
            x=[f"{p['value']:g}<br>{p.get('nfe', '?')} NFE" for p in rows],
            y=[p["fd"] for p in rows],
            error_y=_bars([p.get("std") for p in rows]),
            mode="lines+markers",
            showlegend=False,
            line={"color": shade},
            marker={"size": 9, "color": [colour(family_of(p)) for p in rows], "symbol": [symbol(p) for p in rows]},
            customdata=[[_hover(p)] for p in rows],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )
        _say_hollow(figure, rows)
        figure.update_xaxes(title_text=text(TITLES.get(experiment, experiment)), type="category")
    else:
        for family in dict.fromkeys(map(family_of, points)):
            rows = [p for p in points if family_of(p) == family]
            figure.add_bar(
                x=[text(p.get("value")) for p in rows],
                y=[p["fd"] for p in rows],
                name=_family(family),
                error_y=_bars([p.get("std") for p in rows]),
                marker={"color": colour(family)},
                customdata=[[_hover(p)] for p in rows],
                hovertemplate="%{customdata[0]}<extra></extra>",
            )
        figure.update_xaxes(title_text=text(TITLES.get(experiment, experiment)), type="category")
    figure.update_yaxes(title_text="FD (lower is better)")
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
        x=[f"{v:g}" for v in highs],
        y=[f"{v:g}" for v in lows],
        z=cells,
        text=labels,
        texttemplate="%{text}",
        hovertext=hover,
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


@dataclass(frozen=True)
class Confirmed:
    """A plan measured on fresh seeds: for which budget, which of the three it is, its name and family, distance and
    spread.
    """

    budget: int
    role: str
    what: str
    family: str
    fd: float
    std: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """Where its bar ends."""
        return max(self.fd - (self.std or 0), self.fd / 10), self.fd + (self.std or 0)


ROLES = ("Heun", "best preset", "tuned")


def confirmed(tuned: Sequence[Row]) -> Iterator[Confirmed]:
    """For each budget plain Heun, the best preset and the tuned plan, as far as they were measured."""
    families = {p.name: family_of({"config": p.plan_options}) for p in presets()}
    for row in sorted(tuned, key=lambda row: row.get("budget") or 0):
        preset = str(row.get("best_preset") or "")
        for role, name, what, family in (
            ("Heun", "fd_heun", str(row.get("heun") or ""), "ode"),
            ("best preset", "fd_best_preset", preset, families.get(preset, "restart")),
            ("tuned", "fd", str(row.get("restart") or ""), family_of(row)),
        ):
            if isinstance(row.get(name), (int, float)):
                yield Confirmed(row["budget"], role, what, family, row[name], row.get(f"{name}_std"))


def places(points: Sequence[Confirmed]) -> tuple[list[int], list[float]]:
    """The budgets, and where along them each point stands: the three of a budget side by side."""
    budgets = sorted({p.budget for p in points})
    return budgets, [budgets.index(p.budget) + 0.3 * (ROLES.index(p.role) - 1) for p in points]


def of_blocks(tuned: Sequence[Row]) -> str:
    """ "3 blocks of n = 1,000 fresh seeds" of rows that agree in it."""
    row = tuned[-1]
    blocks, n = row.get("blocks") or 1, row.get("n")
    one = f"n = {number(n)} fresh seeds" if n else "fresh seeds"
    return f"{number(blocks)} blocks of {one}" if blocks > 1 else f"one block of {one}"


def tuning(trials: Sequence[Row], tuned: Sequence[Row]) -> Figure:
    """Every trial with the trials' front, and in a panel of its own, since it is of other seeds, what was measured
    again.
    """
    from plotly.subplots import make_subplots

    points = list(confirmed(tuned))
    titles = [f"the search{counted(trials)}, the same seeds for all"] if trials else []
    titles += [f"measured again, {of_blocks(tuned)}"] if points else []
    figure = make_subplots(rows=max(1, len(titles)), cols=1, subplot_titles=titles, vertical_spacing=0.16)
    _dress(figure, 90 + 400 * max(1, len(titles)))
    figure.update_layout(margin_t=50)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    fd = f"FD{equal_classes(tuned or trials)} (lower is better)"
    for family in sorted(set(map(family_of, trials)), key=rank):
        rows = [t for t in trials if family_of(t) == family]
        figure.add_scatter(
            x=[t["nfe"] for t in rows],
            y=[t["fd"] for t in rows],
            mode="markers",
            name=f"trials, {_family(family)}",
            marker={"color": colour(family), "size": 6, "symbol": look(family).symbol, "opacity": 0.6},
            customdata=[[_hover(t)] for t in rows],
            hovertemplate="%{customdata[0]}<extra></extra>",
            row=1,
            col=1,
        )
    if trials:
        best = front(trials)
        figure.add_scatter(
            x=[t["nfe"] for t in best],
            y=[t["fd"] for t in best],
            mode="lines",
            line={"color": INK, "width": 1, "shape": "hv"},
            name="front of the trials",
            hoverinfo="skip",
            row=1,
            col=1,
        )
        _log(figure, "x", "NFE", [t["nfe"] for t in trials], row=1, col=1)
        _log(figure, "y", fd, [t["fd"] for t in trials], row=1, col=1)
    if points:
        budgets, at = places(points)
        for family in sorted({p.family for p in points}, key=rank):
            some = [(x, p) for x, p in zip(at, points, strict=True) if p.family == family]
            figure.add_scatter(
                x=[x for x, _ in some],
                y=[p.fd for _, p in some],
                mode="markers",
                name=f"fresh seeds, {_family(family)}",
                error_y=_bars([p.std for _, p in some]),
                marker={
                    "color": colour(family),
                    "size": [13 if p.role == "tuned" else 9 for _, p in some],
                    "symbol": [look(family).symbol + "-open" * (not p.std) for _, p in some],
                },
                customdata=[
                    [f"<b>{p.role}</b>, budget {p.budget} NFE<br>FD {number(p.fd)}<br>{text(p.what)}"] for _, p in some
                ],
                hovertemplate="%{customdata[0]}<extra></extra>",
                row=len(titles),
                col=1,
            )
        where: dict[str, Any] = {"row": len(titles), "col": 1}
        for x, p in zip(at, points, strict=True):
            figure.add_annotation(
                x=x,
                y=math.log10(p.ends[1]),
                text=p.role,
                showarrow=False,
                yanchor="bottom",
                yshift=5,
                **where,
                font={"size": 11, "color": colour(p.family)},
            )
        figure.update_xaxes(
            tickvals=list(range(len(budgets))),
            ticktext=[f"{b} NFE" for b in budgets],
            title_text="budget",
            range=[-0.5, len(budgets) - 0.5],
            showgrid=False,
            **where,
        )
        _log(figure, "y", fd, [end for p in points for end in p.ends], **where)
    return figure
