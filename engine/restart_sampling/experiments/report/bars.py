"""The figures of speeds on the page: samples per second, and where the time of an evaluation goes, as plotly's bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .chart import dress, family_label, hovering, opacities, quartile_bars
from .select import Row
from .series import title_of
from .style import NETWORK, OUTSIDE, colour, disturbed, family_of, maker, maker_rank, rank, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def speed_bars(rows: Sequence[Row]) -> Figure:
    """Draw samples per second at one budget: a panel each for the engine, diffusers and plain loops, with one axis."""
    figure, panels = _panels(rows)
    seen: set[str] = set()
    for n, some in enumerate(panels, 1):
        for family in sorted(set(map(family_of, some)), key=rank):
            bars = [row for row in some if family_of(row) == family]
            pattern = {"shape": maker(bars[0]).pattern, "fgcolor": "white", "size": 6}
            figure.add_bar(
                y=[_bar_name(r) for r in bars],
                x=[r["samples_per_s"] for r in bars],
                orientation="h",
                marker={"color": colour(family), "pattern": pattern, "opacity": opacities(bars)},
                error_x=quartile_bars(bars),
                **hovering(bars),
                name=family_label(family),
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
    """Draw the milliseconds of one evaluation of a batch: inside the network, and everything else."""
    figure, panels = _panels(rows)
    for n, some in enumerate(panels, 1):
        inside = [max(0.0, r["ms_per_evaluation"] - r["ms_outside_network"]) for r in some]
        outside = [r["ms_outside_network"] for r in some]
        shown: dict[str, Any] = {
            "orientation": "h",
            "y": [_bar_name(r) for r in some],
            **hovering(some),
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
    """Return a figure with an empty panel for each maker, and the rows of each panel, the slowest at the bottom."""
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
    dress(figure, height)
    figure.update_layout(margin_t=56)  # on a phone the tool bar stands above the first panel's title
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    figure.update_yaxes(automargin=True, showgrid=False, ticks="")
    for n, some in enumerate(panels, 1):
        figure.update_yaxes(categoryorder="array", categoryarray=[_bar_name(r) for r in some], row=n, col=1)
    figure.update_layout(bargap=0.25)
    return figure, panels


def _bar_name(row: Row) -> str:
    """Return the name of a bar: the sampler, its NFE in brackets, and whether its speed was disturbed."""
    told = disturbed(row)
    return text(f"{title_of(row)} ({row.get('nfe', '?')})" + f", {told}" * bool(told))
