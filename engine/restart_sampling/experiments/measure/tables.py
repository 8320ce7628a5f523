"""Rows of a run as tables for a terminal: one of speed, one or two of quality."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .ensembles.tables import of_samplers
from .rows import Row, calls_of, ranking

if TYPE_CHECKING:
    from rich.table import Table

CALLS = "network calls"
SPEED = ("samples/s", "q1–q3", "× plain loop", "ms outside", "launches")
Lines = dict[tuple[int, str], dict[str, str]]  # (NFE, sampler) → column → text


def tables(rows: Sequence[Row], title: str) -> Iterator[Table]:
    """Yield the tables of rows by NFE and sampler, without columns that hold nothing."""
    from rich.table import Table

    scored = [row for row in rows if row["kind"] == "ensemble"]
    if scored:
        one = scored[0]
        yield of_samplers(scored, f"{one['inputs']:,} inputs, {one['members']} members of each, {title}")
    judged = [row for row in rows if row["kind"] == "quality" and row.get("fd") is not None]
    metric = ranking(judged)
    distance = "FD, equal classes" if metric == "fd_balanced" else "FD"
    lines: Lines = {}
    for row in rows:
        if row["kind"] == "speed":
            lines.setdefault((row["nfe"], row["sampler"]), {}).update(_speed(row))
    extractors = list(dict.fromkeys(row["features"] for row in judged))
    means, pooled = [], []
    for features in extractors:
        prefix = f"{features.removeprefix('fashion-mnist-')}\n" if len(extractors) > 1 else ""
        means.append(f"{prefix}{distance}")
        pooled.append(f"{prefix}all together")
        mine = [row for row in rows if row["kind"] in ("quality", "pooled") and row["features"] == features]
        _distances(lines, mine, metric, means[-1], pooled[-1])
    quality = [(*means, "blocks", *pooled)] if len(extractors) < 2 else [(*means, "blocks"), tuple(pooled)]
    for row in rows:
        if calls_of(row) is not None and (row["nfe"], row["sampler"]) in lines:
            lines[row["nfe"], row["sampler"]][CALLS] = str(calls_of(row))
    for names in (SPEED, *quality):
        shown = [name for name in names if any(line.get(name) for line in lines.values())]
        if not shown:
            continue
        there = [line for line in lines.values() if any(name in line for name in shown)]
        shown = [CALLS] * any(CALLS in line for line in there) + shown
        table = Table(title=title)
        for column in ("sampler", "NFE", *shown):
            table.add_column(column, justify="left" if column == "sampler" else "right", no_wrap=True)
        for (nfe, sampler), line in sorted(lines.items()):
            if line in there:
                table.add_row(sampler, str(nfe), *(line.get(name, "") for name in shown))
        yield table


def study_table(rows: Sequence[Row], title: str) -> Table:
    """Return the table of a text-to-image study: a line for each sampler, budget and guidance scale."""
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row["scorers"]))
    extractors = [name for name in dict.fromkeys(row["features"] for row in rows) if name is not None]
    table = Table(title=title)
    for column in ("sampler", "NFE", CALLS, "guidance", *(f"FD\n{name}" for name in extractors), *names):
        table.add_column(column, justify="left" if column == "sampler" else "right", no_wrap=True)
    lines: dict[tuple[str, int, float], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault((row["sampler"], row["nfe"], row["guidance_scale"]), {CALLS: str(row["network_calls"])})
        if row["features"] is not None:
            line[row["features"]] = _number(row["fd"])
        for name in names:
            if row.get(name) is not None:
                error = row.get(f"{name}_se")
                line[name] = f"{row[name]:.4f}" + ("" if error is None else f" ± {error:.4f}")
    for (sampler, nfe, scale), line in lines.items():
        values = (line.get(name, "") for name in (*extractors, *names))
        table.add_row(sampler, str(nfe), line[CALLS], f"{scale:g}", *values)
    return table


def _speed(row: Row) -> dict[str, str]:
    values = (
        _number(row["samples_per_s"]),
        f"{row['samples_per_s_q1']:.4g}–{row['samples_per_s_q3']:.4g}",
        _number(row["ratio"]),
        _number(row["ms_outside_network"]),
        _number(row["launches_per_evaluation"]),
    )
    return dict(zip(SPEED, values, strict=True))


def _distances(lines: Lines, rows: Sequence[Row], metric: str, mean: str, pooled: str) -> None:
    """Add the distances by one extractor to the lines.

    Args:
        lines: the lines of the tables.
        rows: of kind "quality" and "pooled", by that extractor.
        metric: the distance that is shown.
        mean: the column for mean and standard deviation over blocks.
        pooled: the column for the distance of all blocks together.
    """
    for row in rows:
        if row["kind"] == "pooled" and row["blocks"] > 1 and row.get(metric) is not None:
            lines.setdefault((row["nfe"], row["sampler"]), {})[pooled] = _number(row[metric])
    blocks = [row for row in rows if row["kind"] == "quality" and row.get("fd") is not None]
    for nfe, sampler in dict.fromkeys((row["nfe"], row["sampler"]) for row in blocks):
        mine = [row for row in blocks if (row["nfe"], row["sampler"]) == (nfe, sampler)]
        whole = [row for row in mine if row["n"] == mine[0]["n"]]
        values = [row[metric] for row in whole]
        spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        lines.setdefault((nfe, sampler), {}).update(
            {mean: f"{statistics.fmean(values):.4g}{spread}", "blocks": f"{len(whole)} × {whole[0]['n']:,}"}
        )


def against_table(rows: Sequence[Row], title: str, revision: str) -> Table:
    """Return the table of rows of kind "against"."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("sampler", "NFE", "s", f"s at {revision}", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for row in rows:
        table.add_row(
            row["sampler"],
            str(row["nfe"]),
            f"{row['seconds']:.4g}",
            f"{row['seconds_old']:.4g}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_q1']:.3f}–{row['ratio_q3']:.3f}",
        )
    return table


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
