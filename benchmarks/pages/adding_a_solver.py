"""Blocks of docs/adding-a-solver.md."""

from __future__ import annotations

from restart_sampling.solvers import SOLVERS, Solver

PAGE = "docs/adding-a-solver.md"


def solvers() -> str:
    lines = [
        "| name | other names | solver | options | family | order | evaluations | states | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{s.name}` | {', '.join(f'`{name}`' for name in s.aliases) or '–'} | {s.title} | {_options(s)} "
        f"| {s.family.upper()} | {s.order} | {s.evaluations} | {', '.join(s.processes)} | {s.source} |"
        for s in SOLVERS.values()
    ]
    return "\n".join(lines)


def _options(solver: Solver) -> str:
    """Return the options with their defaults, and what else they may be."""
    parts = []
    for option in solver.options:
        default = str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
        others = [str(choice) for choice in option.choices if choice != option.default]
        parts.append(f"`{option.name}` {default}" + f" ({', '.join(others)})" * bool(others))
    return "; ".join(parts) or "–"
