"""The picture of a text-to-image study: two scores against each other, a line for each sampler along guidance scales.

The better sampler's line lies nearer to the corner of the two better ends, as in arXiv 2306.14878, section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from . import canvas
from .select import Row
from .series import title_of
from .style import family_of, maker

HEIGHT = 3.2
LABELS = {"clip": "CLIP score (higher: text alignment)", "aesthetic": "aesthetic score (higher is better)"}


def picture(rows: Sequence[Row], target: Path | BinaryIO, along: str = "clip", against: str = "fd") -> None:
    """Draw the rows that have both fields as a PNG. Raises BackendError if matplotlib is not installed.

    Args:
        along, against: the fields of the two axes.
    """
    rows = [row for row in rows if row.get(along) is not None and row.get(against) is not None]
    lines: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        lines.setdefault((title_of(row), int(row["nfe"])), []).append(row)
    with canvas.drawing():
        made, axes = canvas.figure(HEIGHT)
        for (title, nfe), some in lines.items():
            some = sorted(some, key=lambda row: row["guidance_scale"])
            x, y = [row[along] for row in some], [row[against] for row in some]
            shown: dict[str, Any] = {"linestyle": maker(some[0]).line, "xerr": [row.get(f"{along}_se") for row in some]}
            canvas.points(axes, x, y, family_of(some[0]), yerr=[row.get(f"{against}_se") for row in some], **shown)
            for row, at, value in zip(some, x, y, strict=True):
                axes.annotate(
                    f"{row['guidance_scale']:g}",
                    (at, value),
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize=canvas.SMALL,
                )
            axes.annotate(
                f"{title}, {nfe} NFE", (x[-1], y[-1]), xytext=(4, -9), textcoords="offset points", fontsize=canvas.SMALL
            )
        axes.set_xlabel(LABELS.get(along, along))
        axes.set_ylabel("Fréchet distance\n(lower is better)" if against == "fd" else LABELS.get(against, against))
        axes.margins(0.15)
        canvas.legend(
            made, [family_of(row) for row in rows], one_block=not any(row.get(f"{against}_se") for row in rows)
        )
        some_row = rows[0]
        caption = (
            f"{some_row['n']:,} prompts of {some_row['prompts']}, the same seeds for all; the numbers are guidance "
            f"scales, bars standard errors over images."
        )
        canvas.save(made, target, caption)
