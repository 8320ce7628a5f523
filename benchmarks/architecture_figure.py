"""The figure of docs/architecture.md: a plan's rows along its noise levels, and the machine that runs one row.

python benchmarks/architecture_figure.py     # draws docs/architecture.png
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.patches import Rectangle

import restart_sampling as rs
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import BOX, CHOSEN, EDGE, INK, NOISE, look

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "architecture.png"
ODE, JUMP = look("ode").colour, look("restart").colour


def main() -> None:
    with canvas.drawing():
        figure, (path, machine) = canvas.figure(5.8, 2, height_ratios=[1, 1.35])
        figure.get_layout_engine().set(hspace=0.1)
        draw_rows(path, rs.Plan.build(steps=6, sigma_min=0.02, restart="[3, 2, 0.3, 3.0]"))
        draw_machine(machine)
        canvas.save(figure, PICTURE)
    print(PICTURE)


def draw_rows(axes: Any, plan: rs.Plan) -> None:
    """One dot for each evaluation at its level; a jump is a line up between two of them."""
    rows = plan.rows
    axes.set_yscale("log")
    for (i, row), (j, after) in pairwise(enumerate(rows)):
        jump, inside = after.sigma > row.sigma, row.interval is not None and after.interval is not None
        colour, style = (JUMP, ":" if jump else "-") if jump or inside else (ODE, "-")
        axes.plot([i, j], [row.sigma, after.sigma], style, color=colour, lw=2.2 if jump else 1.2, zorder=2)
    for inside in (False, True):
        some = [(i, row.sigma) for i, row in enumerate(rows) if (row.interval is not None) == inside]
        shown = look("restart" if inside else "ode")
        axes.plot(*zip(*some, strict=True), shown.marker, color=shown.colour, ms=5.5, zorder=3)
    first = next(i for i, row in enumerate(rows) if row.noise)
    axes.annotate(
        f"a jump: noise added by row {first},\nno row of its own",
        (first + 0.5, (plan.intervals[0].t_min * plan.intervals[0].t_max) ** 0.5),  # the middle of the jump
        xytext=(first + 0.8, 14),
        color=JUMP,
        arrowprops={"arrowstyle": "-", "color": JUMP, "lw": 0.8, "relpos": (0, 0)},
        va="bottom",
    )
    axes.annotate("main grid", (2.5, 60), color=ODE)
    axes.set(xlabel="row (one network evaluation each)", ylabel="noise level σ", ylim=(0.012, 200))
    axes.set_xticks(range(0, len(rows), 2))
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.set_title(f"a plan: {plan.nfe} rows, one Restart interval with K = {plan.intervals[0].K}")


def draw_machine(axes: Any) -> None:
    """The loop of one evaluation: the network, then the fused step that reads one row of the table."""
    axes.set(xlim=(0, 101), ylim=(0, 60))
    axes.axis("off")
    axes.set_title("the machine: what one row does, for every lane of the batch")

    def box(x: float, y: float, width: float, height: float, text: str, colour: str = BOX, **options: Any) -> None:
        axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=EDGE, lw=1))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **options)

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str = INK, style: str = "-|>") -> None:
        lines = {"arrowstyle": style, "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=lines)

    axes.text(11, 55, "table, one for a plan", ha="center", va="center")
    for k, name in enumerate(("latent", "…", "row i", "row i + 1", "…", "last row")):
        colour, weight = (CHOSEN, "bold") if name == "row i" else (BOX, "normal")
        box(0, 44 - 8 * k, 22, 8, name, colour, weight=weight)
    axes.text(11, 0.5, "cursor of a lane → row", ha="center", va="center")
    arrow((22, 32), (35, 32), ODE)
    axes.text(28.5, 34, "row i", ha="center", va="bottom", color=ODE)

    box(35, 24, 43, 16, "fused step\n$y = Y_X x + Σ\\,Y_H h + Y_F F + S\\,ε$")
    box(43, 49, 27, 9, "network F")
    box(37, 3, 15, 9, "x")
    box(61, 3, 15, 9, "h, h2, h3")
    box(86, 26, 13, 12, "ε(seed,\ndraw)", NOISE)
    arrow((47, 49), (47, 40))
    axes.text(45.5, 44.5, "F", ha="right", va="center")
    arrow((66, 40), (66, 49))
    axes.text(67.5, 44.5, "net_in ← $c_{in}$ y", ha="left", va="center")
    for middle in (44.5, 68.5):
        arrow((middle, 24), (middle, 12), style="<|-|>")
    axes.text(56.5, 18, "registers", ha="center", va="center")
    arrow((87, 32), (78, 32), JUMP)


if __name__ == "__main__":
    main()
