r"""The report's numbers for other programs: one CSV of all points, and LaTeX tables for a paper.

In the CSV every line is one point at full precision. Its distances are those of the pictures: a mean over blocks of
seeds that other samplers share, once for each such set of blocks, so lines with equal `basis` and `seeds` compare. The
LaTeX tables need the package booktabs; each says in its caption what its rows have in common.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from . import select
from .clean import cleaned
from .columns import AT_QUALITY, CALLS, Column, Table, field, plus_minus, table
from .series import intervals_of, title_of
from .style import family_of, number
from .tables import pairs_table

COLUMNS = (
    "point",
    "model",
    "model_sha256",
    "dtype",
    "features",
    "reference",
    "sampler",
    "title",
    "family",
    "by",
    "nfe",
    "network_calls",
    "nfe_asked",
    "restart",
    "plan",
    "basis",
    "equal_classes",
    "n",
    "n_block",
    "blocks",
    "seeds",
    "fd",
    "std",
    "kid",
    "kid_std",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
    "experiment",
    "value",
    "conditions",
    "inputs",
    "members",
    "first_seed",
    "crps_fair",
    "crps_fair_error",
    "crps",
    "spread",
    "rmse",
    "spread_skill",
    "rank_deviation",
    "device",
    "threads",
    "batch",
    "rotation",
    "rounds",
    "disturbed",
    "samples_per_s",
    "samples_per_s_q1",
    "samples_per_s_q3",
    "ratio",
    "ms_per_evaluation",
    "ms_outside_network",
    "launches_per_evaluation",
    "bytes_per_evaluation",
    "first_result_s",
    "peak_memory_mb",
    "git",
)
QUALITY: tuple[Column, ...] = (
    ("sampler", title_of),
    ("restart", intervals_of),
    ("NFE", field("nfe")),
    CALLS,
    ("FD", plus_minus("fd", "std")),
    ("right class", field("accuracy")),
)
SPEED: tuple[Column, ...] = tuple(column for column in AT_QUALITY if column[0] not in ("n", "seeds", "FD"))
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "σ": r"$\sigma$",
}


def csv_text(rows: Iterable[Any]) -> str:
    """Return all points as CSV text with a header: distances, ablations, ensembles and speeds."""
    good, _ = cleaned(rows)
    found = [{**p, "point": "distance", "family": family_of(p)} for p in select.quality_points(good)]
    found += [{**p, "point": "ablation", "family": family_of(p)} for p in select.ablation_points(good)]
    found += [{**r, "point": "ensemble", "family": family_of(r)} for r in select.ensemble_rows(good)]
    found += [{**r, "point": "speed", "family": family_of(r)} for r in select.speed_rows(good)]
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in COLUMNS} for row in found)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Return a value as a cell; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return "" if value is None else value


def latex_text(rows: Iterable[Any]) -> str:
    """Return tables as LaTeX with booktabs: distances, Restart compared with other samplers, and speeds."""
    good, _ = cleaned(rows)
    parts = []
    for group in select.panels(select.quality_groups(good)):
        train = select.train_row(good, group)
        lines = [*([{**train, "nfe": None}] if train else []), *sorted(group.rows, key=lambda r: (r["nfe"], r["fd"]))]
        parts.append(latex_table(table(lines, QUALITY), f"Fréchet distance (lower is better): {group.label}."))
    pairs = pairs_table(good)
    if pairs.cells:
        parts.append(latex_table(pairs, "Restart compared with other samplers, on the same blocks of seeds."))
    for group in select.groups(select.speed_rows(good), (*select.SPEED_GROUP, "nfe_asked"))[:1]:
        caption = (
            f"Samples per second, quartiles q1 and q3 over {number(group.rows[0].get('rounds'))} rounds: {group.label}."
        )
        parts.append(latex_table(table(sorted(group.rows, key=lambda r: -r["samples_per_s"]), SPEED), caption))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def latex_table(some: Table, caption: str) -> str:
    """Return one table in LaTeX; columns of text are flush left, columns of numbers flush right."""
    right = [
        all(not line[i] or line[i][:1] in "0123456789–−+" for line in some.cells) for i in range(len(some.columns))
    ]
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in (some.columns, *some.cells)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if r else 'l' for r in right)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
