"""Blocks of docs/scale.md: what a job costs besides its network."""

from __future__ import annotations

from restart_sampling.experiments.measure.rows import find

from ._markdown import load, prose, table

PAGE = "docs/scale.md"


def scale() -> str:
    rows = load("scale.json")["rows"]
    lines = [
        (r["format"], f"{r['samples']:,}", f"{r['us_per_sample']:.0f}", f"{r['bytes_per_sample']:,.0f}")
        for r in find(rows, what="job")
    ]
    (row,) = find(rows, what="writing")
    share = row["share_of_speed"]
    writing = prose(
        f"The bundled model at {row['nfe']} NFE writes PNG files at {100 * share['median']:.1f} %",
        f"({100 * share['q1']:.1f} – {100 * share['q3']:.1f}) of the speed it has without writing, start and end of",
        f"the job counted; {row['disturbed']} of {row['rounds']} rounds were disturbed by other processes.",
    )
    return f"{table(['format', 'samples', 'µs per sample', 'bytes per sample'], lines)}\n\n{writing}"
