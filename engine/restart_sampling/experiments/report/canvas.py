"""Pictures for documentation and for `tune`, drawn by matplotlib with the looks of style.py.

A picture is as wide as a column of text and its letters are large, so that it can still be read at 400 pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from ...common.errors import BackendError
from .labels import POSITIONS, Label, place
from .series import Series
from .style import (
    FLOOR_LINE,
    GRID,
    HOLLOW,
    INK,
    LOOKS,
    MAKERS,
    NEUTRAL,
    QUIET,
    Look,
    family_of,
    hollow,
    log_range,
    log_ticks,
    look,
    maker,
    rank,
)

WIDTH, DPI, SMALL, GAP = 5.6, 190, 7.5, 6
SETTINGS: Any = {  # matplotlib's types know only its own literals
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "figure.constrained_layout.use": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Use the settings of all pictures within the block. Raises BackendError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise BackendError(f"the picture needs {error.name}: pip install 'restart-sampling[bench]'") from None
    with matplotlib.rc_context(SETTINGS):
        yield


def figure(height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options: Any) -> tuple[Any, Any]:
    """Return (figure, axes), the axes in an array if there are several; `options` are those of `Figure.subplots`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.subplots(rows, columns, **options)


def save(made: Any, target: Any, caption: str = "") -> None:
    """Write a figure as a PNG to a path or a binary file, with a caption under it."""
    if caption:
        letters = int(made.get_figwidth() * 72 / (0.57 * SMALL))
        made.supxlabel(textwrap.fill(caption, letters), fontsize=SMALL, color=QUIET, x=0.01, ha="left")
    made.savefig(target, dpi=DPI, format="png")


def log_axis(axes: Any, which: str, values: Sequence[float], pad: float = 0.06) -> None:
    """Make the "x" or "y" axis logarithmic, with round ticks and room around the values."""
    from matplotlib.ticker import NullLocator

    values = list(values)
    ticks, ends = log_ticks(values), log_range(values, pad)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if ends:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)
    if ticks and ends:
        inside = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
        (axes.set_xticks if which == "x" else axes.set_yticks)(inside, [f"{t:,.10g}" for t in inside])
        (axes.xaxis if which == "x" else axes.yaxis).set_minor_locator(NullLocator())


def points(axes: Any, x: Sequence[Any], y: Sequence[float], family: str, **options: Any) -> None:
    """Draw points of one family, hollow if they have no error bar.

    `options` are those of `Axes.errorbar`; in `yerr`, None and 0 are no bar.
    """
    spread = [value or 0.0 for value in options.pop("yerr", None) or [0.0] * len(y)]
    shown = look(family)
    options = {"color": shown.colour, "marker": shown.marker, "zorder": 3} | options
    axes.errorbar(x, y, yerr=spread, **options)
    for at, value, bar in zip(x, y, spread, strict=True):
        if not bar:
            axes.plot(
                [at],
                [value],
                shown.marker,
                color=shown.colour,
                markerfacecolor="white",
                zorder=4,
                markersize=options.get("markersize"),
            )


def curve(axes: Any, series: Series, x: str, low: str = "", high: str = "") -> None:
    """Draw the FD of a sampler along the field `x`, with its spread, and bars in x from the fields `low` to `high`."""
    rows = series.rows
    bars = None
    if low:
        bars = [
            [max(0.0, r[x] - (r.get(low) or r[x])) for r in rows],
            [max(0.0, (r.get(high) or r[x]) - r[x]) for r in rows],
        ]
    points(
        axes,
        [r[x] for r in rows],
        [r["fd"] for r in rows],
        family_of(rows[0]),
        xerr=bars,
        yerr=[r.get("std") for r in rows],
        linestyle=maker(rows[0]).line,
    )


def name(axes: Any, series: Sequence[Series], x: str) -> None:
    """Write the name of each series beside one of its points. The limits of the axes must be set."""
    canvas = axes.figure.canvas
    if not hasattr(canvas, "get_renderer"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(axes.figure)
    axes.figure.draw_without_rendering()
    frame = axes.get_window_extent()
    scale = axes.figure.dpi / 72

    def pixels(row: Any, fd: float) -> tuple[float, float]:
        across, up = axes.transData.transform((row[x], max(fd, 1e-9)))
        return float(across - frame.x0), float(up - frame.y0)

    low, high = axes.get_ylim()
    inside = [[r for r in s.rows if low <= r["fd"] <= high] for s in series]
    spread = [r for rows in inside for r in rows if r.get("std")]
    found = place(
        [[pixels(r, r["fd"]) for r in rows] for rows in inside],
        [0.54 * SMALL * scale * len(s.name) for s in series],
        1.15 * SMALL * scale,
        (frame.width, frame.height),
        GAP * scale,
        [(pixels(r, r["fd"] - r["std"]), pixels(r, r["fd"] + r["std"])) for r in spread],
        rings=(1, 2.5, 4, 6, 9),
    )
    for one, rows, label in zip(series, inside, found, strict=True):
        if label is not None:
            _annotate(axes, one.name, rows[label.point], x, label)


def _annotate(axes: Any, text: str, row: Any, x: str, label: Label) -> None:
    """Write a name beside the point of a row; a leader line joins them if the name stands at a distance."""
    from matplotlib.patheffects import withStroke

    shade = look(family_of(row)).colour
    dx, dy = POSITIONS[label.position]
    away = GAP * label.ring
    place: dict[str, Any] = {
        "xy": (row[x], row["fd"]),
        "xytext": (dx * away * (1 if dy == 0 else 0.5), dy * away),
        "textcoords": "offset points",
        "fontsize": SMALL,
        "ha": {1: "left", 0: "center", -1: "right"}[dx],
        "va": {1: "bottom", 0: "center", -1: "top"}[dy],
    }
    if label.ring > 1:  # under all names, so that it strikes none of them through: the line of an invisible name
        leader = {"arrowstyle": "-", "color": shade, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(text, **place, alpha=0, zorder=2, arrowprops=leader)
    axes.annotate(text, **place, color=shade, zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")])


def floor(axes: Any, value: float, label: str) -> None:
    """Draw a level line with its name, such as the distance of the training images."""
    axes.axhline(value, color=LOOKS["data"].colour, linewidth=1, linestyle=FLOOR_LINE)
    axes.annotate(
        label,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        fontsize=SMALL,
        ha="right",
        color=LOOKS["data"].colour,
    )


def legend(
    made: Any, families: Sequence[str], makers: Sequence[str] = (), one_block: bool = False, bars: bool = False
) -> None:
    """Draw the legend of all pictures above the panels: families by colour and marker, makers by line.

    Args:
        families, makers: what the picture shows; a single maker needs no entry.
        one_block: add an entry that explains hollow markers.
        bars: the picture shows bars, whose makers differ by hatch.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def handle(shown: Look) -> Any:
        if bars:
            return Patch(facecolor=shown.colour, label=shown.label)
        return Line2D([], [], color=shown.colour, marker=shown.marker, label=shown.label)

    handles: list[Any] = [handle(look(family)) for family in sorted(set(families), key=rank)]
    for by in [by for by in MAKERS if by in makers] if len(set(makers)) > 1 else []:
        if bars:
            handles.append(Patch(facecolor=NEUTRAL, edgecolor="white", hatch=MAKERS[by].hatch, label=MAKERS[by].label))
        elif by != "engine":
            handles.append(Line2D([], [], color=INK, ls=cast(Any, MAKERS[by].line), label=MAKERS[by].label))
    if one_block:
        handles.append(Line2D([], [], color=QUIET, marker="o", markerfacecolor="white", linestyle="", label=HOLLOW))
    made.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.2, handlelength=1.6)


def has_hollow(rows: Sequence[Any]) -> bool:
    """Return whether a row is drawn as a hollow marker."""
    return any(map(hollow, rows))
