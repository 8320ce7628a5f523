"""Series: the points of one sampler that a line may join, and the name that stands beside them.

Points of one sampler whose Restart intervals stand in different places are in different series: joined by a line, they
would look like one curve along NFE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...common.checks import is_number
from ...common.errors import RestartError
from ...plan.notation import RestartConfig
from .style import family_of, maker_rank, number, rank

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """The points of a line, by NFE, and their name."""

    name: str
    rows: tuple[Row, ...]


def title_of(row: Row) -> str:
    """Return the name of a row's sampler as readers see it."""
    return str(row.get("title") or row.get("sampler") or "?")


def intervals_of(row: Row) -> str:
    """Return a row's Restart intervals as "[3, 2, 0.3, 1] [9, 1, 2, 5]"; text that is no notation stays as it is."""
    text = row.get("restart") or ""
    try:
        found = RestartConfig.parse(text or None).intervals
    except RestartError:
        return str(text)
    return " ".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in found)


def options_of(config: Mapping[str, Any]) -> str:
    """Return the noise and the guidance of a plan in words, "" if both are the defaults.

    >>> options_of({"eta": 0.5, "guidance_scale": 2.0, "guidance_interval": [0.2, None], "guidance": "apg"})
    'eta 0.5, guidance 2 (apg) from sigma 0.2 on'
    """
    words = []
    if config.get("eta", 1.0) != 1.0:
        words.append(f"eta {number(config['eta'])}")
    first, end = _two(config.get("eta_window"))
    if is_number(end):
        words.append(f"noise in steps {number(first)}–{number(end - 1)}")
    method = str(config.get("guidance", "cfg"))
    if config.get("guidance_scale", 1.0) != 1.0 or method == "cfg++":
        own = {"apg_eta": "eta", "apg_norm": "norm", "zero_init": "zero_init", "guidance_rescale": "rescale"}
        parts = [method] * (method != "cfg") + [
            f"{word} {number(config[k])}" for k, word in own.items() if config.get(k)
        ]
        text = f"guidance {number(config.get('guidance_scale', 1.0))}" + f" ({', '.join(parts)})" * bool(parts)
        low, high = _two(config.get("guidance_interval"))
        if high is not None:
            text += f" at sigma {number(low)}–{number(high)}"
        elif low:
            text += f" from sigma {number(low)} on"
        if config.get("guidance_interval_rounding") == "grid":
            text += " of whole steps"
        words.append(text)
    return ", ".join(words)


def _two(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 else (None, None)


def where_of(row: Row) -> str:
    """Return between which noise levels a row's Restart intervals stand, as "0.06–0.3"; "" if there are none."""
    try:
        found = RestartConfig.parse(row.get("restart") or None).intervals
    except RestartError:
        return str(row.get("restart") or "")
    return ", ".join(f"{i.t_min:g}–{i.t_max:g}" for i in found)


def series_of(points: Iterable[Row]) -> list[Series]:
    """Return a series for each sampler and place of its intervals, the engine's first.

    The name of a series contains the place if the sampler has several.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for point in points:
        found.setdefault((str(point.get("by", "")), str(point.get("sampler")), where_of(point)), []).append(point)
    places: dict[tuple[str, str], int] = {}
    for by, sampler, _ in found:
        places[by, sampler] = places.get((by, sampler), 0) + 1

    def order(key: tuple[str, str, str]) -> tuple[Any, ...]:
        return maker_rank(key[0]), rank(family_of(found[key][0])), *key[1:]

    return [
        Series(
            title_of(found[key][-1]) + f", {key[2]}" * (places[key[:2]] > 1 and bool(key[2])),
            tuple(sorted(found[key], key=lambda r: r["nfe"])),
        )
        for key in sorted(found, key=order)
    ]
