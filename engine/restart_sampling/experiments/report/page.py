"""The page: one HTML file that loads nothing.

The file holds plotly.js once, images as data URIs, and asks for the system's font. It is made from the Jinja template
in `templates/`. Jinja escapes all text; figures are JSON in which it writes <, >, & and ' as escapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..measure import agreement, comparison
from .clean import cleaned, printable
from .commands import commands_for, models_of
from .sections import Live as Live
from .sections import sections
from .select import Row
from .tables import environments

TEMPLATES = Path(__file__).with_name("templates")


def make_page(
    rows: Iterable[Any],
    *,
    title: str | None = None,
    folders: Sequence[str] = ("benchmarks/results",),
    live: Live | None = None,
) -> str:
    """Return the page as HTML text.

    Args:
        rows: result rows of any kinds; a kind that is missing is named with the command that makes it. A row that is
            not of bench or tune, or that lacks what its kind needs, is left out and counted (`clean.cleaned`).
        title: heading of the page; by default it names the models of the rows.
        folders: where the rows came from, for the commands: `bench` writes into the first, `tune` into the last.
        live: images drawn for this page; None for none.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    rows, left_out = cleaned(rows)
    compared = comparison.comparison(rows)
    again = commands_for(rows, [printable(folder) for folder in folders])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_function"] = lambda figure, **_: figure.to_json()
    return environment.get_template("report.html").render(
        title=printable(title or heading(rows)),
        sections=sections(rows, live, again[0]),
        plotly=get_plotlyjs(),
        claims=comparison.sentences(compared) if compared else agreement.sentences(rows),
        summary=" ".join([_summary(rows), *left_out]),
        environments=environments(rows),
        commands=[line for some in again for line in some.all()],
    )


def heading(rows: Iterable[Row]) -> str:
    """Return the title of a page: "Samplers compared" and on which models."""
    models = models_of(rows)
    if not models:
        return "Samplers compared"
    more = f" and {len(models) - 3} more models" if len(models) > 3 else ""
    return f"Samplers compared: {', '.join(models[:3])}{more}"


def _summary(rows: Sequence[Row]) -> str:
    """Return how many rows of each kind there are, of which models and devices."""
    if not rows:
        return "No rows were found."
    kinds = Counter(str(row.get("kind", "?")) for row in rows)
    counted = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
    devices = list(dict.fromkeys(str(row["device"]) for row in rows if row.get("device")))
    models = ", ".join(models_of(rows)) or "not named"
    return f"Rows: {counted}. Models: {models}. Devices: {', '.join(devices) or 'not named'}."
