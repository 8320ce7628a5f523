"""The grids: every module beside this one that defines `SCHEDULE`. A new file is a new grid, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.checks import shown
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


def option_of(schedule: str, text: str) -> tuple[str, Any]:
    """Return an option of a schedule from text, "shift=3" → ("shift", 3.0), with the type that its default has.

    A name that the schedule does not have stays text, and building the plan says what there is instead.

    Raises:
        ConfigError: the text is not written so, or holds no number where one is needed.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ConfigError(f"an option of a schedule is written NAME=VALUE, as in shift=3, got {shown(text)}")
    options = BY_ANY_NAME[schedule].options if schedule in BY_ANY_NAME else {}
    if name not in options or isinstance(options[name], str):
        return name, value
    if value.lower() in ("none", "null"):
        return name, None
    try:
        return name, float(value) if isinstance(options[name], float) else int(value)
    except ValueError:
        raise ConfigError(f"{name} of schedule {schedule!r} must be a number, got {shown(value)}") from None
