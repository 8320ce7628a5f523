"""Which trials of a search are best, and the picture of all of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import BackendError
from ...common.files import write_atomically
from ..report import tuning

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = dict[str, Any]


def lowest(trials: Sequence[FrozenTrial], budget: int, count: int) -> list[FrozenTrial]:
    """Return the `count` trials of at most `budget` NFE with the lowest distances, the best first.

    Of trials with equal distances, the one with fewer evaluations comes first, and then the earlier one.
    """
    fits = [t for t in trials if t.values[0] <= budget]
    return sorted(fits, key=lambda t: (t.values[1], t.values[0], t.number))[:count]


def best_for(trials: Sequence[FrozenTrial], budget: int) -> FrozenTrial | None:
    """Return the trial with the lowest distance of at most `budget` NFE, None if there is none."""
    return next(iter(lowest(trials, budget, 1)), None)


def pictures(folder: Path, trials: Sequence[Row], tuned: Sequence[Row], title: str) -> list[Path]:
    """Write pareto.html, which needs no network, and pareto.png; return their paths, none if no trial has a distance.

    Raises BackendError if plotly or matplotlib is not installed.
    """
    trials = [row for row in trials if row.get("fd") is not None]
    if not trials:
        return []
    try:
        figure = tuning.interactive(trials, tuned)
    except ImportError as error:
        raise BackendError(f"the plot needs {error.name}: pip install 'restart-sampling[bench]'") from None
    figure.update_layout(title={"text": title, "font": {"size": 16}}, margin={"t": 60})
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    buffer = io.BytesIO()
    tuning.write_png(trials, tuned, title, buffer)
    html, png = folder / "pareto.html", folder / "pareto.png"
    write_atomically(html, lambda file: file.write(page.encode()), durable=False)
    write_atomically(png, lambda file: file.write(buffer.getvalue()), durable=False)
    return [html, png]
