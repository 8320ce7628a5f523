"""The picture of a search: every trial with their front, and what was measured again on fresh seeds.

`panels` says what is drawn. The two are of different seeds, so each has a panel of its own. The page needs an
interactive picture without a network and the pages of documentation need a PNG, and no library makes both: plotly
writes a PNG only with a browser. So `interactive` hands the panels to plotly and `write_png` to matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ...plan.presets import presets
from . import canvas
from .chart import HOVER, dress, family_label, hover, log_axis, spread_bars
from .front import front
from .select import Row
from .style import INK, colour, family_of, look, number, rank, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SEARCHED = ("n", "first_seed")  # fields that trials in one picture share
CONFIRMED = ("n", "blocks", "first_seed")  # and the tuned rows in one picture
TUNED = "tuned"  # the role of the plan that the search found; its marker is larger
ABOVE = 1.5  # the PNG leaves out trials above so many times the largest distance on fresh seeds


@dataclass(frozen=True)
class Point:
    """A marker.

    Attributes:
        x, fd: where it stands. std: standard deviation of fd, None if it is not known.
        family: of the plan. role: "Heun", "best preset" or TUNED, "" for a trial. told: the hover text.
    """

    x: float
    fd: float
    family: str
    told: str
    std: float | None = None
    role: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of its error bar, the lower one above 0 so that a logarithmic axis can show it."""
        return max(self.fd - (self.std or 0), self.fd / 10), self.fd + (self.std or 0)


@dataclass(frozen=True)
class Panel:
    """Points on a logarithmic axis of FD.

    Attributes:
        name: the points' name in a legend. title, aside: the heading, and what is added where there is room.
        y_title: title of the axis of FD. x_title: title of the other axis, which is logarithmic unless there are ticks.
        ticks: labels at x = 0, 1, 2 …
        line: corners (x, fd) of a line of steps.
        hidden: number of points that were left out because they are too high.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    points: tuple[Point, ...]
    aside: str = ""
    ticks: tuple[str, ...] = ()
    line: tuple[tuple[float, float], ...] = ()
    hidden: int = 0

    @property
    def families(self) -> list[str]:
        """The families of its points, in the order of legends."""
        return sorted({p.family for p in self.points}, key=rank)

    @property
    def heights(self) -> list[float]:
        """The distances that the axis of FD must show: with error bars their ends."""
        return [end for p in self.points for end in (p.ends if self.ticks else (p.fd,))]


def panels(trials: Sequence[Row], tuned: Sequence[Row], above: float = math.inf) -> list[Panel]:
    """Return the panel of the search and the panel of fresh seeds, each only if it has points.

    Trials whose distance is more than `above` times the largest one on fresh seeds are left out, unless all are.
    """
    again = list(confirmed(tuned))
    equal = ", equal classes" * any(row.get("classes") == "equal" for row in (*trials, *tuned))
    y_title = f"FD{equal} (lower is better)"
    found = []
    if trials:
        top = above * max((p.fd for _, p in again), default=math.inf)
        shown = [row for row in trials if row["fd"] <= top] or list(trials)
        best = front(shown, itemgetter("nfe"), itemgetter("fd"))
        found.append(
            Panel(
                "trials",
                f"the search{_counted(trials)}",
                "NFE",
                y_title,
                tuple(Point(t["nfe"], t["fd"], family_of(t), hover(t)) for t in shown),
                aside="the same seeds for all",
                line=tuple((row["nfe"], row["fd"]) for row in best),
                hidden=len(trials) - len(shown),
            )
        )
    if again:
        budgets = list(dict.fromkeys(budget for budget, _ in again))
        found.append(
            Panel(
                "fresh seeds",
                f"measured again, {_blocks_of(tuned)}",
                "budget",
                y_title,
                tuple(replace(p, x=budgets.index(budget) + p.x) for budget, p in again),
                ticks=tuple(f"{budget} NFE" for budget in budgets),
            )
        )
    return found


def confirmed(tuned: Sequence[Row]) -> Iterator[tuple[int, Point]]:
    """Yield (budget, point) of plain Heun, the best preset and the tuned plan, by budget, if they were measured.

    The x of a point is its distance from the tick of its budget: the three stand side by side.
    """
    families = {p.name: family_of({"config": p.plan_options}) for p in presets()}
    for row in sorted(tuned, key=lambda row: row.get("budget") or 0):
        preset = str(row.get("best_preset") or "")
        three = (
            ("Heun", "fd_heun", str(row.get("heun") or ""), "ode"),
            ("best preset", "fd_best_preset", preset, families.get(preset, "restart")),
            (TUNED, "fd", str(row.get("restart") or ""), family_of(row)),
        )
        for side, (role, name, what, family) in zip((-0.3, 0.0, 0.3), three, strict=True):
            fd = row.get(name)
            if isinstance(fd, (int, float)):
                told = f"<b>{role}</b>, budget {row['budget']} NFE<br>FD {number(fd)}<br>{text(what)}"
                yield row["budget"], Point(side, fd, family, told, row.get(f"{name}_std"), role)


def interactive(trials: Sequence[Row], tuned: Sequence[Row]) -> Figure:
    """Return the picture as a plotly figure, for the page."""
    from plotly.subplots import make_subplots

    shown = panels(trials, tuned)
    titles = [", ".join(filter(None, (panel.title, panel.aside))) for panel in shown]
    figure = make_subplots(rows=max(1, len(shown)), cols=1, subplot_titles=titles, vertical_spacing=0.16)
    dress(figure, 90 + 400 * max(1, len(shown)))
    figure.update_layout(margin_t=50)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    for n, panel in enumerate(shown, 1):
        _add_panel(figure, panel, {"row": n, "col": 1})
    return figure


def _add_panel(figure: Figure, panel: Panel, where: dict[str, Any]) -> None:
    """Draw one panel of a plotly figure."""
    for family in panel.families:
        some = [p for p in panel.points if p.family == family]
        marker: dict[str, Any] = {"color": colour(family), "size": 6, "symbol": look(family).symbol, "opacity": 0.6}
        bars = {}
        if panel.ticks:
            bars["error_y"] = spread_bars([p.std for p in some])
            marker = {
                "color": colour(family),
                "size": [13 if p.role == TUNED else 9 for p in some],
                "symbol": [look(family).symbol + "-open" * (not p.std) for p in some],
            }
        figure.add_scatter(
            x=[p.x for p in some],
            y=[p.fd for p in some],
            mode="markers",
            name=f"{panel.name}, {family_label(family)}",
            marker=marker,
            customdata=[[p.told] for p in some],
            hovertemplate=HOVER,
            **bars,
            **where,
        )
    if panel.line:
        figure.add_scatter(
            x=[x for x, _ in panel.line],
            y=[fd for _, fd in panel.line],
            mode="lines",
            line={"color": INK, "width": 1, "shape": "hv"},
            name=f"front of the {panel.name}",
            hoverinfo="skip",
            **where,
        )
    for p in panel.points:
        if p.role:
            figure.add_annotation(
                x=p.x,
                y=math.log10(p.ends[1]),
                text=p.role,
                showarrow=False,
                yanchor="bottom",
                yshift=5,
                font={"size": 11, "color": colour(p.family)},
                **where,
            )
    if panel.ticks:
        figure.update_xaxes(
            tickvals=list(range(len(panel.ticks))),
            ticktext=list(panel.ticks),
            title_text=panel.x_title,
            range=[-0.5, len(panel.ticks) - 0.5],
            showgrid=False,
            **where,
        )
    else:
        log_axis(figure, "x", panel.x_title, [p.x for p in panel.points], **where)
    log_axis(figure, "y", panel.y_title, panel.heights, **where)


def write_png(trials: Sequence[Row], tuned: Sequence[Row], title: str, target: Any) -> None:
    """Write the picture as a PNG to a path or a binary file, with `title` under it."""
    shown = panels(trials, tuned, ABOVE)
    with canvas.drawing():
        figure, axes = canvas.figure(6.2 if len(shown) > 1 else 3.4, len(shown), squeeze=False)
        for panel, ax in zip(shown, axes[:, 0], strict=True):
            _draw_panel(ax, panel)
        points = [p for panel in shown for p in panel.points]
        canvas.legend(figure, [p.family for p in points], one_block=any(p.role and not p.std for p in points))
        canvas.save(figure, target, title)


def _draw_panel(axes: Any, panel: Panel) -> None:
    """Draw one panel on matplotlib's axes."""
    heading = panel.title
    if panel.ticks:
        for p in panel.points:
            size = 8 if p.role == TUNED else 5
            canvas.points(axes, [p.x], [p.fd], p.family, yerr=[p.std], linestyle="", markersize=size)
            place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": canvas.SMALL}
            axes.annotate(p.role, (p.x, p.ends[1]), **place)
    else:
        for family in panel.families:
            some = [p for p in panel.points if p.family == family]
            shown = look(family)
            axes.plot([p.x for p in some], [p.fd for p in some], shown.marker, ms=3.5, alpha=0.6, color=shown.colour)
    if panel.line:
        axes.step([x for x, _ in panel.line], [fd for _, fd in panel.line], where="post", color=INK, lw=0.8)
        heading += "; line: the lowest so far"
    if panel.hidden:
        heading += f"; {panel.hidden} plan{'s' * (panel.hidden > 1)} above the picture"
    if panel.ticks:
        axes.set(xlim=(-0.5, len(panel.ticks) - 0.5))
        axes.set_xticks(range(len(panel.ticks)), panel.ticks)
        axes.grid(axis="x", visible=False)
    else:
        canvas.log_axis(axes, "x", [p.x for p in panel.points])
    canvas.log_axis(axes, "y", panel.heights, 0.1 if panel.ticks else 0.06)
    axes.set(xlabel=panel.x_title, ylabel=panel.y_title.replace(" (", "\n("), title=heading)


def _counted(rows: Sequence[Row]) -> str:
    """Return ", n = 1,000", how many images a distance was taken over; "" if the rows differ in it."""
    found = {row.get("n") for row in rows}
    return f", n = {found.pop():,}" if len(found) == 1 and None not in found else ""


def _blocks_of(tuned: Sequence[Row]) -> str:
    """Return "3 blocks of n = 1,000 fresh seeds", of rows that agree in it."""
    row = tuned[-1]
    blocks, n = row.get("blocks") or 1, row.get("n")
    one = f"n = {number(n)} fresh seeds" if n else "fresh seeds"
    return f"{number(blocks)} blocks of {one}" if blocks > 1 else f"one block of {one}"
