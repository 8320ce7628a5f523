r"""The Pareto front of a search, and pictures of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import BackendError
from ...common.files import write_atomically

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = dict[str, Any]
ABOVE = 1.5  # the picture ends at so many times the largest distance measured on fresh seeds


def front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials than which none is better in NFE or distance and as good in the other; by NFE, the earliest of equals."""
    best: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda t: (t.values[0], t.values[1], t.number)):
        if not best or trial.values[1] < best[-1].values[1]:
            best.append(trial)
    return best


def best_for(trials: Sequence[FrozenTrial], budget: int) -> FrozenTrial | None:
    """The trial with the lowest distance of at most `budget` NFE; None where there is none."""
    fits = [t for t in front(trials) if t.values[0] <= budget]
    return fits[-1] if fits else None


def lowest(trials: Sequence[FrozenTrial], budget: int, count: int) -> list[FrozenTrial]:
    """The `count` trials of at most `budget` NFE with the lowest distances, the best first; of equals the cheaper one."""
    fits = [t for t in trials if t.values[0] <= budget]
    return sorted(fits, key=lambda t: (t.values[1], t.values[0], t.number))[:count]


def pictures(folder: Path, trials: Sequence[Row], tuned: Sequence[Row], title: str) -> list[Path]:
    """Write pareto.html, which needs no network, and pareto.png; where nothing was judged, nothing."""
    trials = [row for row in trials if row.get("fd") is not None]
    if not trials:
        return []
    try:
        from ..report.studies import tuning

        figure = tuning(trials, tuned)
    except ImportError as error:
        raise BackendError(f"the plot needs {error.name}: pip install 'restart-sampling[bench]'") from None
    figure.update_layout(title={"text": title, "font": {"size": 16}}, margin={"t": 60})
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    html, png = folder / "pareto.html", folder / "pareto.png"
    write_atomically(html, lambda file: file.write(page.encode()), durable=False)
    buffer = io.BytesIO()
    _draw(trials, tuned, title, buffer)
    write_atomically(png, lambda file: file.write(buffer.getvalue()), durable=False)
    return [html, png]


def _draw(trials: Sequence[Row], tuned: Sequence[Row], title: str, file: Any) -> None:
    """Trials above, and under them, since it is of other seeds, what was measured again for each budget."""
    from ..report import canvas
    from ..report import front as lowest_of
    from ..report.studies import confirmed, counted, equal_classes, of_blocks, places
    from ..report.style import INK, family_of, look, rank

    points = list(confirmed(tuned))
    fd = f"FD{equal_classes([*trials, *tuned])}\n(lower is better)"
    with canvas.drawing():
        figure, panels = canvas.figure(6.2 if points else 3.4, 2 if points else 1, squeeze=False)
        search = panels[0, 0]
        top = ABOVE * max((p.fd for p in points), default=0)
        shown = [row for row in trials if not top or row["fd"] <= top] or list(trials)
        for family in sorted(set(map(family_of, shown)), key=rank):
            some = [t for t in shown if family_of(t) == family]
            search.plot(
                [t["nfe"] for t in some],
                [t["fd"] for t in some],
                look(family).marker,
                ms=3.5,
                alpha=0.6,
                color=look(family).colour,
            )
        best = lowest_of(shown)
        search.step([r["nfe"] for r in best], [r["fd"] for r in best], where="post", color=INK, lw=0.8)
        canvas.log_axis(search, "x", [r["nfe"] for r in shown])
        canvas.log_axis(search, "y", [r["fd"] for r in shown])
        hidden = len(trials) - len(shown)
        more = f"; {hidden} plan{'s' * (hidden > 1)} above the picture" if hidden else ""
        search.set(xlabel="NFE", ylabel=fd, title=f"the search{counted(trials)}; line: the lowest so far{more}")
        if points:
            again = panels[1, 0]
            budgets, at = places(points)
            for x, p in zip(at, points, strict=True):
                big = {"markersize": 8 if p.role == "tuned" else 5}
                canvas.points(again, [x], [p.fd], p.family, yerr=[p.std], linestyle="", **big)
                again.annotate(
                    p.role,
                    (x, p.ends[1]),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=canvas.SMALL,
                )
            canvas.log_axis(again, "y", [end for p in points for end in p.ends], 0.1)
            again.set(
                xlim=(-0.5, len(budgets) - 0.5), xlabel="budget", ylabel=fd, title=f"measured again, {of_blocks(tuned)}"
            )
            again.set_xticks(range(len(budgets)), [f"{b} NFE" for b in budgets])
            again.grid(axis="x", visible=False)
        canvas.legend(
            figure, [*map(family_of, shown), *(p.family for p in points)], one_block=any(not p.std for p in points)
        )
        canvas.save(figure, file, title)
