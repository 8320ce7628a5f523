"""The grids: every module beside this one that defines `SCHEDULE`. A new file is a new grid, everywhere."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import ConfigError
from ...common.scan import records
from .rule import Rule


def _found() -> list[Rule]:
    owner: dict[str, str] = {}
    found = records(str(__package__), [str(Path(__file__).parent)], "SCHEDULE", Rule)
    for file, rule in found.items():
        for name in (rule.name, *rule.aliases):
            if name in owner:
                raise ConfigError(
                    f"schedules/{file}.py: the name {name!r} is that of schedules/{owner[name]}.py; choose another"
                )
            owner[name] = file
    return sorted(found.values(), key=lambda rule: (rule.rank, rule.name))


RULES: dict[str, Rule] = {rule.name: rule for rule in _found()}
BY_ANY_NAME: dict[str, Rule] = RULES | {alias: rule for rule in RULES.values() for alias in rule.aliases}
