r"""Search plain sampling, classifier-free guidance and autoguidance, each with the best ODE, SDE and Restart sampler.

A cell is a method of guidance and a family of samplers. Every cell has as many trials, and every plan has at most CALLS
network calls per image, in which a call of the guide counts as much as one of the network: a guided ODE has half of the
evaluations that a plain one has. The first trials of a cell are the family's best points of the search without guidance
(search_samplers.py), with a random weight and share of the calls; the others change one to three coordinates of one of
the cell's best points so far: the sampler's, the share, the weight or the interval. The best of each cell are drawn
again on more and other seeds.

The distance of a plan is that of search_samplers.py. Seeds and two of the extractors have no part in what
benchmarks/guidance.py concludes.

    python benchmarks/search_guidance.py      # goes on where the rows end
"""

from __future__ import annotations

import argparse
import json
import math
import random
from typing import Any

import search_samplers
from drawing import Drawer
from search_samplers import FAMILIES, LEAST, TUNERS, Point, fitted, moved
from where import RESULTS

from restart_sampling.common.errors import ConfigError, NonFiniteError
from restart_sampling.experiments.measure.evaluator import Evaluator, evaluator_for
from restart_sampling.experiments.measure.rows import Row, append, read
from restart_sampling.plan.plan import Plan

FILE = RESULTS / "search" / "guidance.jsonl"
MODEL, GUIDE = "fashion-mnist-edm2", "fashion-mnist-edm2-guide"
CALLS = 36  # network calls per image
TRIALS, FIRST, IMAGES, FIRST_SEED = 16, 6, 300, 4_200_000
AGAIN, AGAIN_IMAGES, AGAIN_SEED = 3, 600, 5_200_000  # plans of each cell that are drawn again
BATCH = 50
SCALES = (1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
LOW, HIGH = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8), (0.8, 1.5, 3.0, 6.0, 12.0, 25.0)
SHARES = {"share": (1.0, 1.0, 0.75, 0.5)}  # of CALLS: more points of the grid need not be better
METHODS: dict[str, dict[str, tuple[Any, ...]]] = {  # coordinates that a method has beside the sampler's
    "plain": SHARES,
    "cfg": SHARES | {"scale": SCALES},
    "autoguidance": SHARES | {"scale": SCALES},
    "autoguidance-interval": SHARES | {"scale": SCALES, "low": LOW, "high": HIGH},
}


def guide_of(method: str) -> str | None:
    """Return the guide's name; without one the network guides itself, told no class."""
    return GUIDE if method.startswith("autoguidance") else None


def options(family: str, point: Point) -> dict[str, Any] | None:
    """Return options of Plan.build with the most points that fit the point's share of CALLS; None if none does."""
    found = search_samplers.options(family, point)
    if "scale" in point:
        found["guidance_scale"] = point["scale"]
    if "low" in point:
        if point["low"] >= point["high"]:
            return None
        found["guidance_interval"] = (point["low"], point["high"])
    return fitted(found, int(CALLS * point.get("share", 1)), LEAST[family], calls=True)


def known(rows: list[Row], family: str) -> list[Point]:
    """Return the family's best points of the search without guidance, the last round's before those of earlier ones.

    They differ in more than points of the main grid, and fit CALLS when each of their evaluations is guided.
    """
    points = {row["plan"]: row["point"] for row in rows if row["point"]}
    again = [row for row in rows if row["family"] == family and "trial" not in row and row["fd"] and row["nfe"] >= 12]
    best = sorted((row for row in again if row["plan"] in points), key=lambda row: (-row["n"], row["fd"]))
    found: dict[str, Point] = {}
    for row in best:
        point = _tuples(points[row["plan"]])
        if options(family, point | {"scale": SCALES[-1]}) is not None:
            found.setdefault(json.dumps(search_samplers.options(family, point)), point)
    return list(found.values())[:FIRST]


def _tuples(point: Point) -> Point:
    """Return a point as it was before JSON made lists of its tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in point.items()}


def of_cell(rows: list[Row], method: str, family: str, first_seed: int) -> list[Row]:
    """Return a cell's rows of one round, the lowest distance first."""
    mine = [row for row in rows if (row["method"], row["family"], row["first_seed"]) == (method, family, first_seed)]
    return sorted((row for row in mine if row["fd"] is not None), key=lambda row: row["fd"])


def winner(rows: list[Row], method: str, family: str) -> Row | None:
    """Return the row of the cell's best plan of those drawn again, or None before all have been."""
    again = of_cell(rows, method, family, AGAIN_SEED)
    return again[0] if len(again) == AGAIN else None


class Search:
    """The trials so far, and how a plan is measured."""

    def __init__(self) -> None:
        self.evaluators: list[Evaluator] = [evaluator_for(MODEL, name, None) for name in TUNERS]
        self.drawers = {guide: Drawer(MODEL, BATCH, guide=guide) for guide in (None, GUIDE)}
        self.known = {family: known(read(search_samplers.FILE), family) for family in FAMILIES}
        self.rows = read(FILE)

    def add(self, method: str, family: str, found: dict[str, Any], n: int, first_seed: int, **facts: Any) -> None:
        """Draw a plan and append its row."""
        plan, fds = Plan.build(**found), {}
        try:
            drawn = self.drawers[guide_of(method)].draw(found, first_seed, n)
            fds = {one.features: round(one.fd_balanced(*drawn), 5) for one in self.evaluators}
        except (ConfigError, NonFiniteError) as error:
            print(facts, error)
        fd = round(math.prod(fds.values()) ** (1 / len(fds)), 5) if fds else None
        row = {"method": method, "family": family, **facts, "fd": fd, "fds": fds, "nfe": plan.nfe}
        row |= {"network_calls": plan.network_calls, "plan": plan.digest, "n": n, "first_seed": first_seed}
        append(FILE, row | {"options": found})
        self.rows.append(json.loads(json.dumps(row | {"options": found})))
        print(f"{method} {family}: {fd} at {plan.nfe} NFE, {plan.network_calls} calls, {found}", flush=True)

    def trial(self, method: str, family: str, number: int) -> None:
        """Draw a trial of a cell: a known point with a random weight and share, or a change of one of the best."""
        rng = random.Random(f"{method} {family} {number}")
        drawn = {row["plan"] for row in of_cell(self.rows, method, family, FIRST_SEED)}
        own = METHODS[method]
        while True:  # points that do not fit, and plans that have a row, are drawn again
            if number < FIRST:
                point = self.known[family][number] | {name: rng.choice(values) for name, values in own.items()}
            else:
                best = of_cell(self.rows, method, family, FIRST_SEED)[: 2 + number % 2]
                point = moved(_tuples(rng.choice(best)["point"]), search_samplers.coordinates(family) | own, rng)
            found = options(family, point)
            if found is not None and Plan.build(**found).digest not in drawn:
                self.add(method, family, found, IMAGES, FIRST_SEED, trial=number, point=point)
                return

    def again(self, method: str, family: str) -> None:
        """Draw the cell's best trials on the second seeds, unless they were."""
        done = {row["plan"] for row in of_cell(self.rows, method, family, AGAIN_SEED)}
        for row in of_cell(self.rows, method, family, FIRST_SEED)[:AGAIN]:
            if row["plan"] not in done:
                self.add(method, family, row["options"], AGAIN_IMAGES, AGAIN_SEED)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    search = Search()
    cells = [(method, family) for method in METHODS for family in FAMILIES]
    done = {(row["method"], row["family"], row["trial"]) for row in search.rows if "trial" in row}
    for number in range(TRIALS):
        for method, family in cells:
            if (method, family, number) not in done:
                search.trial(method, family, number)
    for method, family in cells:
        search.again(method, family)


if __name__ == "__main__":
    main()
