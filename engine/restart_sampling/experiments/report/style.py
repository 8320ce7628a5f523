"""The looks of every picture: a colour and a marker for each family of samplers, a pattern for each library.

The page (plotly), the pictures of `tune` and those of the documentation (matplotlib, through canvas.py) take their
looks from here. The colours are Okabe and Ito's, which people with any colour vision can tell apart, and no difference
is in colour alone. A hollow marker is a distance of one block of seeds, so its spread is not known.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...common.checks import is_number
from ...common.errors import ConfigError
from ...plan.options import family


@dataclass(frozen=True)
class Look:
    """The looks of a family of samplers: its name in legends, its colour, its marker in plotly and in matplotlib."""

    label: str
    colour: str
    symbol: str
    marker: str


@dataclass(frozen=True)
class Maker:
    """The looks of a library: its name in legends, its hatch (plotly: pattern) of bars, its line (plotly: dash)."""

    label: str
    hatch: str
    pattern: str
    line: str
    dash: str


LOOKS = {
    "ode": Look("ODE", "#0072B2", "circle", "o"),
    "sde": Look("SDE", "#D55E00", "square", "s"),
    "restart": Look("Restart", "#00805f", "diamond", "D"),
    "data": Look("training images", "#222222", "line-ew", "_"),
}
OTHER = Look("other", "#666666", "x", "x")
FAMILIES = {family: look.label for family, look in LOOKS.items() if family != "data"}
MAKERS = {
    "engine": Maker("this engine", "", "", "-", "solid"),
    "diffusers": Maker("diffusers", "///", "/", "--", "dash"),
    "torch": Maker("plain PyTorch loops", "xxx", "x", ":", "dot"),
}
OTHER_MAKER = Maker("others", "...", ".", "-.", "dashdot")
INK, QUIET, GRID, EDGE = "#222222", "#555555", "#e4e4e4", "#999999"
NEUTRAL = "#bbbbbb"  # a swatch that shows a pattern and no family
NETWORK, OUTSIDE = "#b8c4d0", "#a3195b"  # the time of an evaluation: in the network, and everything else
BOX, CHOSEN, NOISE = "#eef1f4", "#cfe0ee", "#dcefe8"  # fills of diagrams: a part, the part in question, noise
SHADES = "Cividis_r"  # of heat maps
GREYS = "gray"  # of grey pictures, dark where they are dark
FLOOR_LINE, FLOOR_DASH = "-", "solid"  # the distance of the training images: dashes tell the libraries apart
DISTURBED = 0.45  # opacity of a speed that was measured while other processes took the processor
HOLLOW = "hollow: one block, spread not known"


def family_of(row: Mapping[str, Any]) -> str:
    """Return "ode", "sde" or "restart": as the row says, else by the plan's options, "ode" for an unknown solver."""
    if row.get("family"):
        return str(row["family"])
    config = row.get("config") or {}
    jumps = bool(row.get("restart") or config.get("restart", "{}") not in (None, "", "{}"))
    try:
        return family(str(config.get("solver")), config.get("s_churn") or 0.0, jumps)
    except ConfigError:  # rows may be of another version, or of another library, with solvers of its own
        return "ode"


def look(family: str) -> Look:
    """Return the looks of a family."""
    return LOOKS.get(family, OTHER)


def maker(row: Mapping[str, Any]) -> Maker:
    """Return the looks of the library that ran a row's sampler."""
    return MAKERS.get(str(row.get("by", "")), OTHER_MAKER)


def rank(family: str) -> int:
    """Return the place of a family in legends and tables."""
    return list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)


def maker_rank(by: object) -> int:
    """Return the place of a maker in legends and tables: the engine first."""
    return list(MAKERS).index(str(by)) if str(by) in MAKERS else len(MAKERS)


def colour(family: str) -> str:
    """Return the colour of a family."""
    return look(family).colour


def hollow(row: Mapping[str, Any]) -> bool:
    """Return whether the distance of a point is of one block of seeds, so that its spread is not known."""
    return row.get("fd") is not None and not row.get("std")


def symbol(row: Mapping[str, Any]) -> str:
    """Return the plotly marker of a point."""
    return look(family_of(row)).symbol + "-open" * hollow(row)


def disturbed(row: Mapping[str, Any]) -> str:
    """Return "2 of 5 rounds disturbed", or "" if none was.

    A round is disturbed if other processes took the processor while its speed was measured.
    """
    rounds = row.get("disturbed")
    if not isinstance(rounds, (int, float)) or not rounds:
        return ""
    return f"{number(rounds)} of {number(row.get('rounds'))} rounds disturbed"


def text(value: object) -> str:
    """Return a text for plotly, which reads tags, with its tags escaped."""
    return html.escape(str(value), quote=False)


def number(value: object) -> str:
    """Return a number for people: four significant digits, thousands with commas, – for none."""
    if value is None or value == "":
        return "–"
    if not is_number(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def log_ticks(values: Iterable[float]) -> list[float]:
    """Return ticks for a logarithmic axis: 1, 2, 5 of each decade, and more if the values span less than one."""
    known = [v for v in values if v > 0 and math.isfinite(v)]
    if not known:
        return []
    low, high = min(known), max(known)
    steps = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    if high / low < 1.6:
        return []
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [s * 10.0**d for d in decades for s in steps if low / 1.5 <= s * 10.0**d <= high * 1.5]


def log_range(values: Iterable[float], pad: float = 0.06) -> tuple[float, float] | None:
    """Return the ends of a logarithmic axis that leaves room around the values; None if there are none."""
    known = [math.log10(v) for v in values if v > 0 and math.isfinite(v)]
    if not known:
        return None
    room = max(pad * (max(known) - min(known)), 0.06)
    return 10 ** (min(known) - room), 10 ** (max(known) + room)
