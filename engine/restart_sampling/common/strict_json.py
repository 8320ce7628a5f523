"""JSON of files that may have been edited or damaged: `loads` refuses what `json.loads` lets through.

Refused, always as ValueError with one short reason: NaN and infinities (also as `1e999`), text with lone surrogates
(which neither a terminal nor a file can encode), and nesting beyond MAX_DEPTH."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 64  # of lists and objects; what this package writes has 4


def loads(text: str | bytes) -> Any:
    """Return the value in `text`; bytes are UTF-8. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(value)
    return value


def is_clean(text: str) -> bool:
    """Whether `text` can be encoded: it has no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check(value: Any) -> None:
    """Raise ValueError for deep nesting and lone surrogates. Iterative, since the depth is not known to be small."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii() and not is_clean(item):
                raise ValueError("it holds text that is not valid Unicode (a lone surrogate)")
        if not below:
            return
        level = below
    raise ValueError("it is nested too deeply")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


# Made once: `json.loads` with hooks makes one for each call, which takes longer than to decode a line of a manifest.
_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_finite)
