"""How things look, in every figure: a colour for each family, a marker for each sampler, a pattern for who runs it.

The colours are Okabe and Ito's, which people with any colour vision can tell apart; and no difference is in colour alone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

FAMILIES = {"ode": "ODE", "sde": "SDE", "restart": "Restart"}
COLOURS = {"ode": "#0072B2", "sde": "#D55E00", "restart": "#00805f"}
OTHER = "#666666"
PATTERNS = {"engine": "", "diffusers": "/", "torch": "x"}
DASHES = {"engine": "solid", "diffusers": "dash", "torch": "dot"}
SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "pentagon", "hexagon",
    "triangle-left", "triangle-right", "hourglass", "bowtie",
)  # fmt: skip
SDE_SOLVERS = ("edm-stochastic", "ddpm")


def family_of(row: Mapping[str, Any]) -> str:
    """ "ode", "sde" or "restart": as the row says, else by its configuration."""
    if row.get("family"):
        return str(row["family"])
    config = row.get("config") or {}
    if row.get("restart") or config.get("restart"):
        return "restart"
    return "sde" if config.get("solver") in SDE_SOLVERS or config.get("s_churn") else "ode"


def rank(family: str) -> int:
    """Place of a family in legends and tables."""
    return list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)


def colour(family: str) -> str:
    return COLOURS.get(family, OTHER)


def symbols(samplers: Iterable[str]) -> dict[str, str]:
    """A marker for each sampler; "-open" where a library or a plain loop runs it."""
    found = {}
    for i, name in enumerate(sorted(set(samplers))):
        found[name] = SYMBOLS[i % len(SYMBOLS)] + ("-open" if "/" in name else "")
    return found


def text(value: object) -> str:
    """A text as plotly shows it: plotly reads tags, so they are escaped."""
    return html.escape(str(value), quote=False)


def number(value: object) -> str:
    """A number for people: four significant digits, thousands with commas, – for none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
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
