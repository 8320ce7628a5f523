"""Checks of values that users pass in: one place says what counts as an integer, a number and a known name.

Numbers of Python, NumPy and PyTorch are alike: a tensor or array of no dimension counts as its value. A bool is not a
number, and NaN never is one."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeGuard

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


def is_number(value: Any, *, infinite: bool = False) -> TypeGuard[float]:
    """Whether `value` is one real number: not a bool, not NaN, and infinite only where that is allowed."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return bool(value == value and (infinite or abs(value) < math.inf))  # type: ignore[operator]  # NaN ≠ NaN


def is_count(value: object, below: int = 2**63) -> TypeGuard[int]:
    """Whether a value of a JSON file is an integer in [0, below): a number of images, bytes or workers, or a seed."""
    return type(value) is int and 0 <= value < below


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
        name: what to call it in the message.
        also: what else is allowed there, such as " or 'auto'".
        error: the class of error that is raised.
        show: how the message writes the value.
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
    """Return `value` as a float in [low, high], or (low, high] with `open_low`; infinite only where that is allowed.

    The other arguments are those of `integer`.
    """
    number = scalar(value)
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
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


def did_you_mean(
    given: object, known: Collection[str], otherwise: str = "", *, most: int = 1, any_case: bool = False
) -> str:
    """Return the end of a message about a name that is not `known`: the closest ones, else what to say instead.

    Args:
        given: the name; anything but text is close to none.
        known: the names that are allowed.
        otherwise: what the message says where no name is close.
        most: how many close names are listed.
        any_case: compare without regard to upper and lower case.

    >>> did_you_mean("huen", ("euler", "heun"))
    "; did you mean 'heun'?"
    """
    close: list[str] = []
    if isinstance(given, str):
        names = {name.lower() if any_case else name: name for name in known}
        found = difflib.get_close_matches(given.lower() if any_case else given, names, n=most)
        close = [repr(names[name]) for name in found]
    if close:
        return f"; did you mean {either(close)}?"
    return f"; {otherwise}" if otherwise else ""


def either(names: Iterable[str]) -> str:
    """Return names as a sentence lists them: "npz, wds or parquet"."""
    *some, last = names
    return f"{', '.join(some)} or {last}" if some else last
