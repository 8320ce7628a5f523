"""Blocks of docs/grids.md: the table of grids, from their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from restart_sampling.plan.schedule import get_schedule
from restart_sampling.plan.schedules.registry import RULES

PAGE = "docs/grids.md"


def grids() -> str:
    lines = ["| name | other names | levels | options | default ends | source |", "|---|---|---|---|---|---|"]
    for rule in RULES.values():
        made = get_schedule(rule.name)
        lines.append(
            f"| `{rule.name}` | {', '.join(f'`{name}`' for name in rule.aliases) or '–'} | {rule.title} "
            f"| {_options(rule.options)} | {made.sigma_min:.4g} … {made.sigma_max:.6g} | {rule.source} |"
        )
    return "\n".join(lines)


def _options(options: Mapping[str, Any]) -> str:
    """Return the options with their defaults."""
    return ", ".join(f"`{name}` {value}" for name, value in options.items()) or "–"
