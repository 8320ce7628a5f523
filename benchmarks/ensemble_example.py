r"""Ensembles of the bundled model: the upper half of an image is given, the lower half is drawn several times.

Each test image of Fashion-MNIST is an input. The members of an input keep its upper half (docs/editing.md) and are told
its class; their lower halves, as bytes, are scored against the image's own. Beside the samplers stand lower halves of
training images of the same class, chosen at random: members of the right law for a forecaster that sees the class
alone.

    python benchmarks/ensemble_example.py    # writes results/ensemble_example.json and docs/ensembles.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.common.images import to_uint8
from restart_sampling.experiments import datasets
from restart_sampling.experiments.measure.ensembles import EnsembleScorer
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import GREYS, LOOKS, NEUTRAL
from restart_sampling.plan.presets import find

PLANS = {
    "DPM++(2M)": {"steps": 22, "solver": "dpm++2m"},
    "DPM++(2M) + Restart": dict(find("fashion-mnist-22").plan_options),
    "RePaint as Restart": {"steps": 12, "solver": "dpm++2m", "restart": "repaint:j=3,r=3"},
}
LABEL = "DPM++(2M) + Restart"  # of the picture
CLASS = "training images of its class"
FAMILIES = {"DPM++(2M)": "ode", CLASS: "data"}  # the others are of Restart
HALF, BATCH, SHOWN = 14, 60, (0, 1, 7)  # rows of an image that are given; images in the picture
PICTURE = RESULTS.parents[1] / "docs" / "ensembles.png"


def drawn(plan: rs.Plan, images: np.ndarray, labels: np.ndarray, members: int) -> np.ndarray:
    """Return images uint8 [inputs, members, 28, 28] with the upper halves of `images`, uint8 [inputs, 28, 28]."""
    den = rs.load("fashion-mnist")
    sampler = rs.Sampler(den, plan, BATCH, compile="off")
    known = torch.from_numpy(images).float().div(127.5).sub(1)[:, None].repeat_interleave(members, 0)
    classes = torch.from_numpy(labels).repeat_interleave(members)
    mask = torch.zeros(1, 28, 28)
    mask[:, HALF:] = 1.0
    x = sampler.run(range(len(known)), classes.tolist(), known=known, mask=mask)
    found: np.ndarray = to_uint8(x)[..., 0].reshape(len(images), members, 28, 28)
    return found


def of_class(labels: np.ndarray, members: int) -> np.ndarray:
    """Return training images uint8 [inputs, members, 28, 28] of these classes, chosen at random."""
    train, rng = datasets.fashion_mnist("train"), np.random.default_rng(0)
    assert train.labels is not None
    places = [rng.choice(np.flatnonzero(train.labels == label), members, replace=False) for label in labels]
    found: np.ndarray = train.images[np.stack(places), 0]
    return found


def scored(drawn: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """Return the scores of lower halves."""
    scorer = EnsembleScorer()
    for members, truth in zip(drawn, images, strict=True):
        scorer.add(members[:, HALF:], truth[HALF:])
    found = scorer.result().row()
    del found["variables"]  # of each row of pixels
    return found


def ensembles(images: np.ndarray, labels: np.ndarray, members: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (name, NFE, images) of each plan, and of training images with 0 NFE."""
    for name, options in PLANS.items():
        plan = rs.Plan.build(**options)
        yield name, plan.nfe, drawn(plan, images, labels, members)
    yield CLASS, 0, of_class(labels, members)


def picture(rows: list[dict[str, Any]], members: np.ndarray, images: np.ndarray, path: Path) -> None:
    """Draw some inputs with members, mean and spread of one sampler, and the rank histograms of all."""
    titles = ("given", "member", "member", "member", "mean", "spread", "truth")
    with canvas.drawing():
        from matplotlib.figure import Figure
        from matplotlib.gridspec import GridSpec

        figure = Figure(figsize=(canvas.WIDTH, 4.6))
        grid = GridSpec(len(SHOWN) + 2, len(titles), figure=figure)
        for line, number in enumerate(SHOWN):
            some, truth = members[number].astype(float), images[number].astype(float)
            given = np.where(np.arange(28)[:, None] < HALF, truth, 40.0)
            panels = (given, *some[:3], some.mean(0), some.std(0, ddof=1), truth)
            for column, (title, panel) in enumerate(zip(titles, panels, strict=True)):
                axes = figure.add_subplot(grid[line, column])
                axes.imshow(panel, cmap=GREYS, vmin=0, vmax=110 if title == "spread" else 255)
                axes.set_axis_off()
                if not line:
                    axes.set_title(title)
        below = grid[len(SHOWN) :, :].subgridspec(1, len(rows))
        top = max(max(row["ranks"]) * len(row["ranks"]) / sum(row["ranks"]) for row in rows)
        for n, row in enumerate(rows):
            axes = figure.add_subplot(below[n])
            ranks = np.array(row["ranks"]) * len(row["ranks"]) / sum(row["ranks"])
            axes.bar(np.arange(len(ranks)), ranks, width=0.9, color=LOOKS[FAMILIES.get(row["name"], "restart")].colour)
            axes.axhline(1, color=NEUTRAL, linewidth=1, zorder=3)
            axes.set_ylim(0, 1.05 * top)
            axes.set_xticks([0, len(ranks) - 1])
            axes.set_title(row["name"].replace(" + ", " +\n").replace(" as ", " as\n").replace(" of ", "\nof "))
            if n:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel("share of truths\n(1 is flat)")
        first = rows[0]
        caption = (
            f"Above: the upper half of a test image is given; {LABEL} draws {first['members']} lower halves. Below: "
            f"how many of the {first['members']} members are below the truth, over the lower halves of "
            f"{first['inputs']} images; ranks of equal bytes are drawn by lot."
        )
        canvas.save(figure, path, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=24, help="test images")
    parser.add_argument("--members", type=int, default=10)
    options = parser.parse_args()
    test = datasets.fashion_mnist("test")
    assert test.labels is not None
    images, labels = test.images[: options.inputs, 0], test.labels[: options.inputs]
    rows, shown = [], np.zeros(0)
    for name, nfe, members in ensembles(images, labels, options.members):
        shown = members if name == LABEL else shown
        rows.append({"name": name, "nfe": nfe, **scored(members, images), **environment()})
        row = rows[-1]
        print(f"{name}, {nfe} NFE: CRPS {row['crps_fair']:.2f}, spread / skill {row['spread_skill']:.2f}")
    (RESULTS / "ensemble_example.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(rows, shown, images, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
