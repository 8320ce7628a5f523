"""Checks of numbers that users pass in: one place says what counts as an integer and as a number.

Numbers of Python, NumPy and PyTorch are alike (a tensor or array of no dimension is its value). A bool is not a number,
and NaN never is one."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Collection
from typing import Any

from .errors import ConfigError, RestartError

Show = Callable[[Any], str]


def shown(value: Any) -> str:
    """Return `value` as Python writes it, at most 60 characters."""
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        text = f"a {type(value).__name__} of shape {list(value.shape)}"
    else:
        try:
            text = repr(value)
        except ValueError:  # Python refuses to print integers of thousands of digits
            text = f"a {type(value).__name__} of thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def scalar(value: Any) -> Any:
    """Return the Python number in a NumPy or PyTorch scalar, and anything else as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        try:
            return value.item()
        except (RuntimeError, ValueError):  # a tensor without data
            return value
    return value


def is_integer(value: Any) -> bool:
    """Whether `value` is one integer: not a bool, and not a float of a whole number."""
    value = scalar(value)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(
    name: str,
    value: Any,
    least: int,
    most: int | None = None,
    *,
    also: str = "",
    error: type[RestartError] = ConfigError,
    show: Show = shown,
) -> int:
    """Return `value` as an int in [least, most].

    Args:
        name: what to call it in the message. also: what else is allowed there, such as " or 'auto'".
        error: what is raised. show: how the message writes the value.
    """
    number = scalar(value)
    if not is_integer(number) or number < least:
        raise error(f"{name} must be an integer ≥ {least}{also}, got {show(number)}")
    if most is not None and number > most:
        raise error(f"{name} must be an integer ≤ {most:,}{also}, got {show(number)}")
    return int(number)


def real(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    infinite: bool = False,
    error: type[RestartError] = ConfigError,
    show: Show = shown,
) -> float:
    """Return `value` as a float in [low, high], or (low, high] with `open_low`; infinite only where that is allowed."""
    number = scalar(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise error(f"{name} must be a number, got {show(number)}")
    try:
        found = float(number)
    except OverflowError:
        found = math.inf if scalar(value) > 0 else -math.inf
    bad = math.isnan(found) or found < low or found > high or (open_low and found == low)
    if bad or (math.isinf(found) and not infinite):
        above = f" {'>' if open_low else '≥'} {low:g}" if math.isfinite(low) else ""
        below = f"{' and' if above else ''} ≤ {high:g}" if math.isfinite(high) else ""
        raise error(f"{name} must be a {'' if infinite else 'finite '}number{above}{below}, got {show(number)}")
    return found


def choice(name: str, value: Any, allowed: Collection[str], *, error: type[RestartError] = ConfigError) -> str:
    """Return `value` if it is one of the names `allowed`; the message lists them, and the closest one."""
    if isinstance(value, str) and value in allowed:
        return value
    last = str(value).rsplit(".", 1)[-1]  # torch.bfloat16 is close to bf16
    raise error(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}{did_you_mean(last, allowed)}")


def did_you_mean(given: object, known: Collection[str], otherwise: str = "") -> str:
    """Return the end of a message about a name that is not `known`: the closest one, else what to say instead."""
    close = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    return f"; did you mean {close[0]!r}?" if close else f"; {otherwise}" if otherwise else ""
