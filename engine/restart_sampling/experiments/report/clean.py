"""Rows from files as the report can use them: known kinds, fields of the right type, text that can be printed.

Files of rows are read from any folder, edited by hand, merged and cut short, so nothing in them is certain. A field of
the wrong type is dropped; a row that then lacks what its kind needs is left out and counted. Infinity and NaN, which
JSON files may hold, count as missing. Text loses what no terminal and no page can show, and very long text is cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...common.checks import is_number

LONGEST = 400  # characters of a text; the longest of our own are command lines
LARGEST = 1e300

TEXT = (
    "kind",
    "sampler",
    "title",
    "family",
    "by",
    "source",
    "key",
    "plan",
    "restart",
    "model",
    "guide",
    "model_sha256",
    "dtype",
    "features",
    "reference",
    "classes",
    "device",
    "torch",
    "python",
    "restart_sampling",
    "git",
    "rotation",
    "experiment",
    "seeds",
    "conditions",
    "label",
    "preset",
    "why",
    "study",
    "best_preset",
    "heun",
    "command",
    "code",
    "tuned_on",
)
WHOLE = (
    "nfe",
    "network_calls",
    "nfe_asked",
    "batch",
    "n",
    "first_seed",
    "blocks",
    "fd_block_n",
    "threads",
    "rounds",
    "disturbed",
    "budget",
    "trial",
    "trials",
    "inputs",
    "members",
    "final_n",
    "finalists",
    "better",
)
NUMBERS = (
    "fd",
    "fd_balanced",
    "kid",
    "kid_std",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
    "crps",
    "crps_fair",
    "crps_fair_error",
    "spread",
    "rmse",
    "spread_skill",
    "rank_deviation",
    "std",
    "samples_per_s",
    "samples_per_s_q1",
    "samples_per_s_q3",
    "ratio",
    "ms_per_evaluation",
    "ms_outside_network",
    "launches_per_evaluation",
    "bytes_per_evaluation",
    "first_result_s",
    "peak_memory_mb",
    "seconds",
    "fd_first",
    "fd_std",
    "fd_best_preset",
    "fd_best_preset_std",
    "fd_heun",
    "fd_heun_std",
    "fd_final",
    "fd_search",
    "fd_search_best_preset",
)
NEEDED = {
    "quality": ("sampler", "nfe", "n"),
    "pooled": ("sampler", "nfe", "n"),
    "speed": ("sampler", "nfe", "samples_per_s"),
    "ablation": ("experiment", "value", "nfe", "n"),
    "trial": ("nfe",),
    "tuned": ("budget", "nfe"),
    "ensemble": ("sampler", "nfe", "inputs", "members", "crps_fair", "spread", "rmse"),
    "comparison": ("family", "nfe", "n", "features", "first_seed", "fd_balanced", "tuned_on"),
    "against": (),
}
POSITIVE = ("n", "fd_block_n", "samples_per_s", "samples_per_s_q1", "samples_per_s_q3", "budget")


def cleaned(rows: Iterable[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows that can be used, and a sentence for each reason why others were left out."""
    usable: list[dict[str, Any]] = []
    why: Counter[str] = Counter()
    for row in rows:
        found = _row(row)
        if isinstance(found, str):
            why[found] += 1
        else:
            usable.append(found)
    return usable, [f"{count:,} row{'s' * (count > 1)} left out: {reason}." for reason, count in why.items()]


def printable(text: str, longest: int = LONGEST) -> str:
    """Return the text without lone surrogates and control characters, cut with an ellipsis to `longest` characters."""
    safe = text[: longest + 1].encode("utf-8", "replace").decode()
    safe = "".join(" " if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 else c for c in safe)
    return safe if len(safe) <= longest else safe[: longest - 1] + "…"


def _row(row: Any) -> dict[str, Any] | str:
    """Return the row with its good fields, or why it is left out."""
    if not isinstance(row, Mapping):
        return "not an object"
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in NEEDED:
        return "not written by bench or tune"
    found = {}
    for name, value in row.items():
        check = CHECKS.get(name, _anything)
        good = check(value)
        if good is not None and not (name in POSITIVE and good <= 0):
            found[name] = good
    missing = [name for name in NEEDED[kind] if name not in found]
    if missing:
        return f"kind {kind} without a usable {' and '.join(missing)}"
    return found


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return value if is_number(value) and abs(value) < LARGEST else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 <= number < 2**63 and number == int(number) else None


def _anything(value: Any) -> Any:
    """Return a field that the report does not know: text, a number, or lists and objects of these, up to 6 deep."""
    return _value(value, 6)


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (int, float)):
        return _number(value)
    if depth and isinstance(value, Mapping):
        return {printable(str(name)): _value(inner, depth - 1) for name, inner in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_value(inner, depth - 1) for inner in value]
    return None


def _object(value: Any) -> dict[str, Any] | None:
    return _value(value, 4) if isinstance(value, Mapping) else None


def _variable(value: Any) -> str | float | None:
    """Return what an ablation varies: a number or a text."""
    return _text(value) if isinstance(value, str) else _number(value)


CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(TEXT, _text),
    **dict.fromkeys(WHOLE, _whole),
    **dict.fromkeys(NUMBERS, _number),
    "config": _object,
    "value": _variable,
}
CHECKS |= {f"{name}_{end}": _number for name in NUMBERS for end in ("mean", "block_mean", "block_std")}
CHECKS |= {f"{name}_std": _number for name in NUMBERS}
