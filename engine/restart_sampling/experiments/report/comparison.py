"""The picture and the table of the best of each family at each budget, from measure/comparison.py.

A panel for each set of features that chose no plan, the distance along the evaluations, a line for each family.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..measure.comparison import WORDS, Cell, Comparison, Difference
from . import canvas
from .columns import Table
from .samples import Picture
from .series import Series, intervals_of, options_of
from .style import number

BEST = {"ode": "best ODE", "sde": "best SDE", "restart": "Restart"}
HEIGHT = 2.15  # of a panel, in inches
TITLES = {"restart": "Restart", "ode": "ODE", "sde": "SDE"}


def picture(found: Comparison, target: Path | BinaryIO) -> None:
    """Draw the comparison as a PNG. Raises BackendError if matplotlib is not installed."""
    names = found.held_out
    with canvas.drawing():
        made, panels = canvas.figure(0.9 + HEIGHT * len(names), rows=len(names), sharex=True, squeeze=False)
        for features, panel in zip(names, panels[:, 0], strict=True):
            _panel(found, features, panel)
        panels[-1, 0].set_xlabel("network evaluations per image")
        one_block = any(cell.error(name) is None for cell in found.cells.values() for name in names)
        canvas.legend(made, [family for family, _ in found.cells], one_block=one_block)
        blocks = sorted({len(cell.distances[names[0]]) for cell in found.cells.values()})
        several = f"{blocks[0]} to {blocks[-1]}" if blocks[0] != blocks[-1] else str(blocks[0])
        caption = (
            f"At each budget the plan that {found.trials} trials of each family found by {_and(found.tuned_on)}, "
            f"measured on other seeds: mean and standard error over {several} blocks of {found.n:,} images, all "
            f"classes alike."
        )
        canvas.save(made, target, caption)


def _panel(found: Comparison, features: str, panel: Any) -> None:
    cells = list(found.cells.values())
    canvas.log_axis(panel, "x", found.budgets, 0.04)
    floor = found.floor.get(features)
    canvas.log_axis(panel, "y", [cell.mean(features) for cell in cells] + ([floor] if floor else []), 0.08)
    panel.set_xticks(found.budgets, [str(budget) for budget in found.budgets])
    lines = []
    for family, name in BEST.items():
        rows = [_point(cell, features) for cell in cells if cell.family == family]
        if rows:
            lines.append(Series(name, tuple(sorted(rows, key=lambda row: row["nfe"]))))
            canvas.curve(panel, lines[-1], "nfe")
    if floor:
        canvas.floor(panel, floor, "training images")
    panel.set_ylabel("Fréchet distance\n(lower is better)")
    panel.set_title(_short(features))
    canvas.name(panel, lines, "nfe")


def _point(cell: Cell, features: str) -> dict[str, Any]:
    """Return what canvas.curve draws of a cell, at its budget."""
    return {
        "nfe": cell.budget,
        "fd": cell.mean(features),
        "std": cell.error(features),
        "family": cell.family,
        "by": "engine",
    }


def shown(found: Comparison) -> Picture:
    """Return the picture for the page."""
    buffer = io.BytesIO()
    picture(found, buffer)
    width = int(canvas.WIDTH * canvas.DPI / 2)
    height = int((0.9 + HEIGHT * len(found.held_out)) * canvas.DPI / 2)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    said = "Fréchet distance of the best ODE, the best SDE and the best Restart along the evaluations"
    return Picture(uri, width, height, said, said)


def table(found: Comparison) -> Table:
    """Return a line for each budget and rival: Restart's distance less the rival's by extractor, and the verdict."""
    names = found.features
    chose = [f"{_short(name)} (chose the plans)" for name in found.tuned_on]
    columns = ["budget", "Restart against", *map(_short, found.held_out), *chose]
    lines = []
    for budget in found.budgets:
        for family in ("ode", "sde"):
            differences = found.against(budget, family)
            if differences is None:
                continue
            cells = [_told(differences[name]) for name in names]
            verdict = WORDS[found.verdict(differences)]
            lines.append((str(budget), f"best {TITLES[family]}", *cells, verdict))
    return Table((*columns, "on all that chose none"), tuple(lines))


def plans(found: Comparison) -> Table:
    """Return a line for each family and budget: the plan that was found, and its distances."""
    names = found.features
    lines = []
    for budget in found.budgets:
        for family in ("restart", "sde", "ode"):
            cell = found.cells.get((family, budget))
            if cell is None:
                continue
            means = [f"{cell.mean(name):.3f}" for name in names]
            count = str(len(cell.distances[names[0]]))
            lines.append((str(budget), TITLES[family], described(cell.row), str(cell.nfe), *means, count))
    return Table(("budget", "family", "plan", "NFE", *map(_short, names), "blocks"), tuple(lines))


def described(row: Mapping[str, Any]) -> str:
    """Return a plan in words, from a row with its title, its options (`config`) and its intervals (`restart`)."""
    config = row["config"]
    words = [str(row["title"]), f"{config.get('steps')} points"]
    if "rho" in config:
        words.append(f"rho {number(config['rho'])}")
    words.append(options_of(config))
    if config.get("s_churn"):
        words.append(f"S_churn {number(config['s_churn'])}")
    if row.get("restart"):
        words.append(intervals_of(row))
    return ", ".join(word for word in words if word)


def _told(difference: Difference) -> str:
    """Return "−0.012 ± 0.004, win"."""
    if difference.blocks < 2:
        return f"{difference.mean:+.3f}".replace("-", "−")
    return f"{difference.mean:+.3f} ± {difference.error:.3f}, {WORDS[difference.sign]}".replace("-", "−")


def _short(features: str) -> str:
    return features.removeprefix("fashion-mnist-")


def _and(names: Sequence[str]) -> str:
    return " and ".join(map(_short, names))
