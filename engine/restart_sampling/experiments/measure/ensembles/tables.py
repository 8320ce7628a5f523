"""Scores of ensembles as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    ("crps_fair", "CRPS, fair"),
    ("crps_fair_error", "±"),
    ("crps", "CRPS"),
    ("spread", "spread"),
    ("rmse", "RMSE of mean"),
    ("spread_skill", "spread / skill"),
    ("rank_deviation", "rank deviation"),
)
MOST = 20  # variables that are shown


def of_variables(row: Mapping[str, Any], title: str) -> Table:
    """Return the table of one row of scores: a line for all points, and one for each variable if there are several."""
    variables = row.get("variables", [])
    lines = [("all", row), *((f"variable {c}", one) for c, one in enumerate(variables[:MOST]))]
    title += f"; {len(variables) - MOST} variables more in --json" * (len(variables) > MOST)
    return _table(title, [("", [name for name, _ in lines])], [one for _, one in lines])


def of_samplers(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return the table of rows of kind "ensemble": a line for each sampler, by NFE and score."""
    rows = sorted(rows, key=lambda row: (row["nfe"], row["crps_fair"]))
    named = [("sampler", [row["sampler"] for row in rows]), ("NFE", [str(row["nfe"]) for row in rows])]
    return _table(title, named, rows)


def ranks(row: Mapping[str, Any]) -> str:
    """Return the rank histogram of a row in words, as shares of what a flat one has."""
    counts = row["ranks"]
    shares = " ".join(f"{count * len(counts) / sum(counts):.2f}" for count in counts)
    return f"truths by the number of members below them, 1 is flat: {shares}"


def _table(title: str, named: Sequence[tuple[str, list[str]]], rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    shown = [(name, text) for name, text in COLUMNS if any(row.get(name) is not None for row in rows)]
    for n, (column, _) in enumerate(named):
        table.add_column(column, justify="right" if n else "left", no_wrap=True)
    for _, text in shown:
        table.add_column(text, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        values = (row.get(name) for name, _ in shown)
        table.add_row(*(cells[i] for _, cells in named), *("" if v is None else f"{v:.4g}" for v in values))
    return table
