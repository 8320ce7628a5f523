"""Draw the loss of the training runs of the bundled models from benchmarks/results/NAME-loss.csv.

    python benchmarks/loss_curve.py RUN/loss.csv fashion-mnist-edm2    # take the rows of a run over
    python benchmarks/loss_curve.py                                    # draw those that are there

A point is the mean of ‖F − target‖² per element over 50 steps, at the images seen so far. Curves of runs whose noise
levels were distributed differently cannot be compared, so every distribution has its panel.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

from where import RESULTS

from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import LOOKS
from restart_sampling.models.registry import BUNDLED, read_model

PICTURE = "loss.png"
COLOURS = tuple(look.colour for look in LOOKS.values())


class Curve(NamedTuple):
    """A run: the model's name, the mean and standard deviation of ln sigma, images seen and losses."""

    name: str
    levels: tuple[float, float]
    images: list[int]
    losses: list[float]


def curves(folder: Path) -> list[Curve]:
    """Return the curves of the bundled models whose rows are in `folder`."""
    found = []
    for name, path in BUNDLED.items():
        table = folder / f"{name}-loss.csv"
        if not table.exists():
            continue
        training = read_model(path).card["training"]
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        images = [int(row["step"]) * int(training["batch"]) for row in rows]
        losses = [float(row["loss"]) for row in rows]
        found.append(Curve(name, (training["P_mean"], training["P_std"]), images, losses))
    return found


def picture(found: list[Curve], target: Path) -> None:
    """Draw the curves, a panel for each distribution of noise levels."""
    panels = sorted({curve.levels for curve in found})
    with canvas.drawing():
        made, axes = canvas.figure(0.5 + 2.2 * len(panels), rows=len(panels), squeeze=False)
        for levels, panel in zip(panels, axes[:, 0], strict=True):
            some = [curve for curve in found if curve.levels == levels]
            canvas.log_axis(panel, "y", [loss for curve in some for loss in curve.losses[2:]])
            for colour, curve in zip(COLOURS, some, strict=False):
                panel.plot([n / 1e6 for n in curve.images], curve.losses, color=colour, linewidth=1, label=curve.name)
            panel.set_title(f"ln sigma ~ N({levels[0]:g}, {levels[1]:g}²)".replace("-", "−"))
            panel.set_ylabel("loss")
            panel.legend()
        axes[-1, 0].set_xlabel("million images seen")
        canvas.save(made, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path, nargs="?", help="loss.csv of a run")
    parser.add_argument("name", nargs="?", help="the bundled model that it is of")
    arguments = parser.parse_args()
    if arguments.table is not None:
        (RESULTS / f"{arguments.name}-loss.csv").write_text(arguments.table.read_text())
    picture(curves(RESULTS), RESULTS / PICTURE)


if __name__ == "__main__":
    main()
