r"""What a network's config may hold: names, types, defaults and bounds of its entries.

A config is a flat object of plain JSON, and it comes from files. Every family of networks states its entries in a table
of :class:`Field`, and :func:`complete` checks a config against it. The bounds keep a damaged or hostile file from
asking for absurd memory; every published network is far inside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..common.checks import choice, did_you_mean, integer, real, shown
from ..common.errors import CheckpointError

REQUIRED = object()  # the default of an entry that has none


class Field(NamedTuple):
    """One entry of a config.

    Attributes:
        kind: "int", "float", "bool", "ints", "floats", or a tuple of the names to choose from.
        default: the value of an entry that is missing, or REQUIRED.
        limits: lowest and highest number, both allowed; of lists, of their elements.
        length: fewest and most elements of a list.
        optional: None is allowed, and so is infinity, which is stored as None.
    """

    kind: str | tuple[str, ...]
    default: Any
    limits: tuple[float, float] = (-math.inf, math.inf)
    length: tuple[int, int] = (1, 8)
    optional: bool = False


def complete(config: Mapping[str, Any], fields: Mapping[str, Field], name: str | None = None) -> dict[str, Any]:
    """Return a copy of `config` with every default filled in, checked; plain JSON without NaN or infinity.

    Args:
        fields: the entries besides `class_name`, in the order in which the copy has them.
        name: what to call the network in messages, by default its class.

    Raises:
        CheckpointError: names the entry, what was given and what is allowed.
    """
    unknown = sorted(str(key) for key in config if key != "class_name" and key not in fields)
    if unknown:
        listed = ", ".join(unknown[:20])
        raise _wrong(f"{name or config['class_name']} has no {listed}{did_you_mean(unknown[0], fields)}")
    result: dict[str, Any] = {"class_name": config["class_name"]}
    for key, field in fields.items():
        value = config.get(key, field.default)
        if value is REQUIRED:
            raise _wrong(f"{key} is missing")
        result[key] = checked(key, value, field)
    return result


def checked(key: str, value: Any, field: Field) -> Any:
    """Return `value` of the entry `key` in plain JSON types. Raises CheckpointError."""
    name = f"network config: {key}"
    if field.optional and (value is None or value == math.inf):
        return None
    if isinstance(field.kind, tuple):
        return choice(name, value, field.kind, error=CheckpointError)
    if field.kind == "bool":
        if not isinstance(value, bool):
            raise CheckpointError(f"{name} must be true or false, got {shown(value)}")
        return value
    if field.kind in ("ints", "floats"):
        low, high = field.length
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            raise CheckpointError(f"{name} must be a list of {low} to {high} numbers, got {shown(value)}")
        return [_number(f"{name}[{i}]", v, field, field.kind == "ints") for i, v in enumerate(value)]
    return _number(name, value, field, field.kind == "int")


def _number(name: str, value: Any, field: Field, whole: bool) -> float:
    low, high = field.limits
    if whole:
        return integer(name, value, int(low), int(high), error=CheckpointError)
    return real(name, value, low, high, error=CheckpointError)


def _wrong(what: str) -> CheckpointError:
    return CheckpointError(f"network config: {what}")
