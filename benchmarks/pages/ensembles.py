"""Blocks of docs/ensembles.md: the example of half an image."""

from __future__ import annotations

from ._markdown import load, prose, table

PAGE = "docs/ensembles.md"


def halves() -> str:
    rows = load("ensemble_example.json")
    columns = ["lower halves", "NFE", "CRPS, fair", "spread", "RMSE of the mean", "spread / skill", "rank deviation"]
    lines = [
        (
            row["name"],
            row["nfe"] or "",
            f"{row['crps_fair']:.1f} ± {row['crps_fair_error']:.1f}",
            f"{row['spread']:.1f}",
            f"{row['rmse']:.1f}",
            f"{row['spread_skill']:.2f}",
            f"{row['rank_deviation']:.3f}",
        )
        for row in rows
    ]
    first = rows[0]
    said = prose(
        f"{first['inputs']} images, {first['members']} members of each, in grey levels of 255; ± is the standard error",
        "over images.",
    )
    return f"{table(columns, lines)}\n\n{said}"
