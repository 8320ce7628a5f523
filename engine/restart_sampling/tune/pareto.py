r"""The Pareto front of a search, and pictures of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendError
from ..files import write_atomically

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
        from matplotlib.figure import Figure

        from ..report.studies import tuning

        figure = tuning(trials, tuned)
    except ImportError as error:
        raise BackendError(f"the plot needs {error.name}: pip install 'restart-sampling[bench]'") from None
    figure.update_layout(title={"text": title, "font": {"size": 16}}, margin={"t": 60})
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    html, png = folder / "pareto.html", folder / "pareto.png"
    write_atomically(html, lambda file: file.write(page.encode()), durable=False)
    buffer = io.BytesIO()
    _draw(Figure(figsize=(7, 4.5), layout="constrained"), trials, tuned, title).savefig(
        buffer, dpi=130, format="png"
    )
    write_atomically(png, lambda file: file.write(buffer.getvalue()), durable=False)
    return [html, png]


def _draw(figure: Any, trials: Sequence[Row], tuned: Sequence[Row], title: str) -> Any:
    from matplotlib.ticker import NullLocator

    from ..report.studies import counted, equal_classes
    from ..report.style import FAMILIES, colour, family_of, log_ticks

    axes = figure.subplots()
    for family in dict.fromkeys(map(family_of, trials)):
        some = [t for t in trials if family_of(t) == family]
        axes.plot(
            [t["nfe"] for t in some], [t["fd"] for t in some], "o", ms=4, alpha=0.6, color=colour(family),
            label=f"trials, {FAMILIES.get(family, family)}{counted(some)}",
        )  # fmt: skip
    lowest: list[Row] = []
    for row in sorted(trials, key=lambda t: (t["nfe"], t["fd"])):
        if not lowest or row["fd"] < lowest[-1]["fd"]:
            lowest.append(row)
    axes.step(
        [r["nfe"] for r in lowest],
        [r["fd"] for r in lowest],
        where="post",
        color="#222222",
        lw=0.8,
        label="front",
    )
    for name, marker, label in (
        ("fd", "*", f"tuned, on fresh seeds{counted(tuned)}"),
        ("fd_best_preset", "^", "best preset in the budget"),
        ("fd_heun", "s", "Heun in the budget"),
    ):
        some = [r for r in tuned if r.get(name) is not None]
        if some:
            axes.errorbar(
                [r["budget"] for r in some], [r[name] for r in some], yerr=[r.get(f"{name}_std") or 0 for r in some],
                fmt=marker, ms=11 if name == "fd" else 7, elinewidth=1, capsize=2, label=label,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    distances = ("fd", "fd_best_preset", "fd_heun")
    top = ABOVE * max(
        (row[name] for row in tuned for name in distances if row.get(name) is not None), default=0
    )
    above = [row for row in trials if top and row["fd"] > top]
    rows = [*(row for row in trials if row not in above), *tuned]
    if above:
        axes.set_ylim(top=top)
        said = f"{len(above)} plan{'s' * (len(above) > 1)} with a larger distance not shown"
        axes.text(0.01, 0.98, said, transform=axes.transAxes, va="top", fontsize=8)
    for axis, names in ((axes.xaxis, ("nfe", "budget")), (axes.yaxis, distances)):
        ticks = log_ticks([row[name] for row in rows for name in names if row.get(name) is not None])
        if ticks:
            axis.set_ticks(ticks, labels=[f"{tick:,.10g}" for tick in ticks])
            axis.set_minor_locator(NullLocator())
    axes.set_xlabel("NFE (for tuned plans: the budget)")
    axes.set_ylabel(f"Fréchet distance{equal_classes(rows)} (lower is better)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
