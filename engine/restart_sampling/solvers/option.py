r"""Options of solvers: what there is, with defaults and ranges, and how they are written.

A solver with options is written `name:option=value,option=value`, as in `unipc:order=2,variant=bh1`, wherever a solver
is named; Plan.build also takes them as `solver_options`. Options that have their defaults are left out, so that a
recipe is named by what it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.checks import choice, did_you_mean, either, integer, real, scalar, shown
from ..common.errors import ConfigError

Pairs = tuple[tuple[str, Any], ...]
_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


@dataclass(frozen=True)
class Option:
    """An option of a solver. Its type is that of the default: bool, int, float, str, or a tuple of numbers.

    Attributes:
        choices: what it may be, if it is one of a few.
        low, high: range of a number.
        help: what it does, in a few words.
        per_step: whether it has a number for each step of the main grid.
    """

    name: str
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    per_step: bool = False

    def read(self, solver: str, given: Any) -> Any:
        """Return a value of the option's type, from itself or from text. ConfigError says what is allowed."""
        what, value = f"{self.name} of solver {solver!r}", scalar(given)
        if isinstance(self.default, tuple):
            return self._numbers(what, given)
        if isinstance(self.default, bool):
            value = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
            if not isinstance(value, bool):
                raise ConfigError(f"{what} must be true or false, got {shown(given)}")
            return value
        if isinstance(self.default, str):
            return choice(what, value, self.choices)
        if isinstance(value, str):
            value = self._number(what, value)
        if self.choices:
            if value not in self.choices or isinstance(value, bool):
                raise ConfigError(f"{what} must be {either(map(str, self.choices))}, got {shown(value)}")
            return type(self.default)(value)
        if isinstance(self.default, int):
            low, high = (int(end) if math.isfinite(end) else None for end in (self.low, self.high))
            return integer(what, value, -(2**31) if low is None else low, high)
        return real(what, value, self.low, self.high, infinite=math.isinf(self.high))

    def _number(self, what: str, text: str) -> float | int:
        try:
            return int(text) if isinstance(self.default, int) else float(text)
        except ValueError:
            raise ConfigError(f"{what} must be a number, got {shown(text)}") from None

    def _numbers(self, what: str, given: Any) -> tuple[float, ...]:
        """Return numbers from a list, an array, or text with slashes between them: "0.5/0.5/1"."""
        parts = given.split("/") if isinstance(given, str) else given
        try:
            return tuple(real(f"each of {what}", float(part), self.low, self.high) for part in parts)
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{what} must be numbers, as in 0.5/0.5/1, got {shown(given)}") from None


def read_options(solver: str, options: Sequence[Option], given: Mapping[str, Any]) -> Pairs:
    """Return the given options that differ from the defaults, checked and sorted. ConfigError for others."""
    known = {option.name: option for option in options}
    chosen = []
    for name, value in sorted(given.items()):
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"solver {solver!r} has no option {name!r}; {has}{did_you_mean(name, known)}")
        read = known[name].read(solver, value)
        if read != known[name].default:
            chosen.append((name, read))
    return tuple(chosen)


def split(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of "name:option=value,option=value". ConfigError if it is not written so."""
    name, colon, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(
                f"options of a solver are written"
                f" name:option=value,option=value, as in unipc:order=2, got {shown(text)}"
            )
        options[key] = value
    return name.strip(), options


def written(name: str, chosen: Pairs) -> str:
    """Return "name:option=value,option=value", which :func:`split` reads."""
    return ":".join([name, *[",".join(f"{key}={_text(value)}" for key, value in chosen)][: bool(chosen)]])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
