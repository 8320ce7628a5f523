r"""Does Restart still help once guidance is good? The winners of search_guidance.py, on seeds of their own.

    python benchmarks/search_guidance.py         # first
    python benchmarks/guidance.py --blocks 10    # resumable; appends to results/guidance.jsonl, draws the picture

A row is the winner of a cell, a method of guidance and a family of samplers, on one block of seeds by one extractor:
the Fréchet distance with equal classes, and precision, recall, density and coverage. All cells draw the same blocks and
all extractors measure the same images. One block of every cell comes first, then the second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import search_guidance
from comparison import title
from drawing import Drawer
from search_guidance import BATCH, CALLS, GUIDE, METHODS, MODEL
from search_samplers import TUNERS
from where import RESULTS

import restart_sampling as rs
from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.comparison import Difference, paired
from restart_sampling.experiments.measure.evaluator import evaluators_for
from restart_sampling.experiments.measure.rows import Row, append, environment, read
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import LOOKS

FILE, PICTURE = "guidance.jsonl", "guidance.png"
FAMILIES = ("ode", "sde", "restart")
FIRST_SEED, BLOCK = 7_000_000, 1000  # no search draws these seeds
HELD_OUT = tuple(name for name in shipped.NAMES if name not in TUNERS)
VALUES = ("fd_balanced", "precision", "recall", "density", "coverage")
TITLES = {
    "plain": "no guidance",
    "cfg": "classifier-free guidance",
    "autoguidance": "autoguidance",
    "autoguidance-interval": "autoguidance in an interval",
}
WIDTH, HEIGHT, APART = 6.4, 2.3, 0.22


class Cell(NamedTuple):
    """A method of guidance with a family of samplers; `rows` is extractor → first seed of a block → row."""

    method: str
    family: str
    rows: Mapping[str, Mapping[int, Row]]

    @property
    def row(self) -> Row:
        """One of the rows, which says what ran."""
        return next(iter(next(iter(self.rows.values())).values()))

    @property
    def blocks(self) -> int:
        return len(next(iter(self.rows.values())))

    def values(self, features: str, name: str = "fd_balanced") -> dict[int, float]:
        """Return first seed of a block → value."""
        return {seed: row[name] for seed, row in self.rows[features].items()}

    def mean(self, features: str, name: str = "fd_balanced") -> float:
        return statistics.fmean(self.values(features, name).values())

    def error(self, features: str) -> float:
        """Return the standard error of the mean distance, 0 for one block."""
        found = list(self.values(features).values())
        return statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0

    def less(self, other: Cell, features: str) -> Difference:
        """Return this cell's distance less another's, block by block."""
        return paired(self.values(features), other.values(features))


def winners(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """Return the winner of every cell of the search. Raises SystemExit if the search has not ended."""
    found = {(m, f): search_guidance.winner(rows, m, f) for m in METHODS for f in FAMILIES}
    if missing := [" ".join(cell) for cell, row in found.items() if row is None]:
        raise SystemExit(f"the search has not ended ({', '.join(missing)}); run python benchmarks/search_guidance.py")
    return {cell: row for cell, row in found.items() if row is not None}


def measure(out: Path, blocks: int, minutes: float) -> None:
    """Append the rows that are missing, block by block; start no cell after `minutes`."""
    chosen = winners(read(search_guidance.FILE))
    evaluators = evaluators_for(MODEL, "all")
    drawers = {guide: Drawer(MODEL, BATCH, guide=guide) for guide in (None, GUIDE)}
    sha256 = {guide: str(rs.load(MODEL, guide=guide).info["sha256"])[:12] for guide in drawers}
    known = {tuple(row[k] for k in ("method", "family", "plan", "first_seed", "features")) for row in read(out / FILE)}
    end = time.monotonic() + 60 * minutes
    for k in range(blocks):
        seed = FIRST_SEED + k * BLOCK
        for (method, family), trial in chosen.items():
            missing = [one for one in evaluators if (method, family, trial["plan"], seed, one.features) not in known]
            if not missing:
                continue
            if time.monotonic() > end:
                print("the time is over; the same command goes on")
                return
            guide = search_guidance.guide_of(method)
            images, labels = drawers[guide].draw(trial["options"], seed, BLOCK)
            row: Row = {"kind": "guidance", "method": method, "family": family, "model": MODEL, "guide": guide}
            row |= {"model_sha256": sha256[guide], "plan": trial["plan"], "config": trial["options"]}
            plan = rs.Plan.build(**trial["options"])
            row |= {"title": title(plan), "restart": plan.config.restart.to_json() if plan.intervals else ""}
            row |= {"nfe": trial["nfe"], "network_calls": trial["network_calls"], "n": BLOCK, "first_seed": seed}
            row |= {"trials": search_guidance.TRIALS, "tuned_on": ", ".join(TUNERS), "calls_allowed": CALLS}
            for one in missing:
                found = one.measure(images, labels)
                values = {name: round(found[name], 6) for name in VALUES}
                append(
                    out / FILE, row | {"features": one.features, "reference": one.reference} | values | environment()
                )
            print(f"block {k}: {method} {family}, {trial['nfe']} NFE", flush=True)


def cells(rows: list[Row]) -> dict[tuple[str, str], Cell]:
    """Return the cells of the newest plans, with the blocks that all of them have by all extractors."""
    newest = {(row["method"], row["family"]): row["plan"] for row in rows}
    rows = [row for row in rows if newest[row["method"], row["family"]] == row["plan"]]
    found: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        mine = found.setdefault((row["method"], row["family"]), {})
        mine.setdefault(row["features"], {})[row["first_seed"]] = row
    shared = set.intersection(*(set(blocks) for some in found.values() for blocks in some.values()))
    return {
        key: Cell(*key, {name: {seed: blocks[seed] for seed in sorted(shared)} for name, blocks in some.items()})
        for key, some in found.items()
    }


def picture(found: dict[tuple[str, str], Cell], target: Path) -> None:
    """Draw the distance by the extractors that chose no plan: a panel each, methods along, families side by side."""
    methods = [method for method in METHODS if (method, "restart") in found]
    with canvas.drawing():
        made, panels = canvas.figure(0.9 + HEIGHT * len(HELD_OUT), rows=len(HELD_OUT), width=WIDTH, sharex=True)
        for features, panel in zip(HELD_OUT, panels, strict=True):
            for n, family in enumerate(FAMILIES):
                some = [found[method, family] for method in methods]
                canvas.points(
                    panel,
                    [at + APART * (n - 1) for at in range(len(methods))],
                    [cell.mean(features) for cell in some],
                    family,
                    yerr=[cell.error(features) for cell in some],
                    linestyle="",
                )
            panel.set_title(features.removeprefix("fashion-mnist-"))
            panel.set_ylabel("Fréchet distance\n(lower is better)")
            panel.grid(visible=False, axis="x")
        panels[-1].set_xticks(range(len(methods)), [TITLES[method].replace(" ", "\n", 1) for method in methods])
        canvas.legend(made, [family for family in FAMILIES if family in LOOKS])
        blocks = found["plain", "restart"].blocks
        caption = (
            f"At most {CALLS} network calls per image, those of the guide among them. The plan of each point is the "
            f"best of {search_guidance.TRIALS} trials, measured on other seeds by features that chose no plan: mean "
            f"and standard error over {blocks} blocks of {BLOCK:,} images."
        )
        canvas.save(made, target, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.plot_only:
        measure(arguments.out, arguments.blocks, arguments.minutes)
    if rows := read(arguments.out / FILE):
        picture(cells(rows), arguments.out / PICTURE)


if __name__ == "__main__":
    main()
