"""Blocks of docs/adding-a-solver.md."""

from __future__ import annotations

from restart_sampling.solvers import SOLVERS

PAGE = "docs/adding-a-solver.md"


def solvers() -> str:
    lines = [
        "| name | other names | solver | family | order | evaluations | states | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{s.name}` | {', '.join(f'`{name}`' for name in s.aliases) or '–'} | {s.title} | {s.family.upper()} "
        f"| {s.order} | {s.evaluations} | {', '.join(s.processes)} | {s.source} |"
        for s in SOLVERS.values()
    ]
    return "\n".join(lines)
