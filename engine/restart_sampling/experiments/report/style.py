"""How things look, in every picture of the package: one colour and one marker for each family, one pattern for its
library.

All pictures take their looks from here: the report's page (plotly), the pictures of `tune`, and those in the
documentation (matplotlib, through canvas.py). The colours are Okabe and Ito's, which people with any colour vision can
tell apart; and no difference is in colour alone.

A hollow marker is a distance of one block of seeds: its spread is not known.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...common.checks import is_number
from ...plan.options import family


@dataclass(frozen=True)
class Look:
    """A family of samplers: its name in legends, its colour, and its marker in plotly (`symbol`) and matplotlib
    (`marker`).
    """

    label: str
    colour: str
    symbol: str
    marker: str


@dataclass(frozen=True)
class Maker:
    """The library that runs a sampler.

    Its name, hatches of bars in matplotlib (`hatch`) and plotly (`pattern`), and lines (`line`, `dash`).
    """

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
FLOOR_LINE, FLOOR_DASH = "-", "solid"  # the distance of the training images: dashes tell the libraries apart
DISTURBED = 0.45  # opacity of a speed that was measured while other processes took the processor
HOLLOW = "hollow: one block, spread not known"


def family_of(row: Mapping[str, Any]) -> str:
    """ "ode", "sde" or "restart": as the row says, else by its configuration."""
    if row.get("family"):
        return str(row["family"])
    config = row.get("config") or {}
    jumps = bool(row.get("restart") or config.get("restart", "{}") not in (None, "", "{}"))
    return family(str(config.get("solver")), config.get("s_churn") or 0.0, jumps)


def look(family: str) -> Look:
    return LOOKS.get(family, OTHER)


def maker(row: Mapping[str, Any]) -> Maker:
    return MAKERS.get(str(row.get("by", "")), OTHER_MAKER)


def rank(family: str) -> int:
    """Place of a family in legends and tables."""
    return list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)


def maker_rank(by: object) -> int:
    """Place of a maker in legends and tables: the engine first."""
    return list(MAKERS).index(str(by)) if str(by) in MAKERS else len(MAKERS)


def colour(family: str) -> str:
    return look(family).colour


def hollow(row: Mapping[str, Any]) -> bool:
    """Whether the distance of a point is of one block of seeds, so that its spread is not known."""
    return row.get("fd") is not None and not row.get("std")


def symbol(row: Mapping[str, Any]) -> str:
    """The plotly marker of a point."""
    return look(family_of(row)).symbol + "-open" * hollow(row)


def disturbed(row: Mapping[str, Any]) -> str:
    """ "2 of 5 rounds disturbed" where other processes took the processor while a speed was measured; "" where none
    did.
    """
    rounds = row.get("disturbed")
    if not isinstance(rounds, (int, float)) or not rounds:
        return ""
    return f"{number(rounds)} of {number(row.get('rounds'))} rounds disturbed"


def text(value: object) -> str:
    """A text as plotly shows it: plotly reads tags, so they are escaped."""
    return html.escape(str(value), quote=False)


def number(value: object) -> str:
    """A number for people: four significant digits, thousands with commas, – for none."""
    if value is None or value == "":
        return "–"
    if not is_number(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def log_ticks(values: Iterable[float]) -> list[float]:
    """Tick values for a logarithmic axis: 1, 2, 5 of each decade, and more where the values span less than one."""
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
    """(low, high) of a logarithmic axis that leaves room around the values; None where there are none."""
    known = [math.log10(v) for v in values if v > 0 and math.isfinite(v)]
    if not known:
        return None
    room = max(pad * (max(known) - min(known)), 0.06)
    return 10 ** (min(known) - room), 10 ** (max(known) + room)
