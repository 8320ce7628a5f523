r"""The best of each family at each budget, block by block: where Restart wins, ties and loses.

A row of kind "comparison" is the plan that a search chose for one family and one budget, measured by one extractor on
one block of seeds. All plans drew the same blocks, so a difference is the mean over the blocks that both have of their
differences, and its error is the standard error of that mean. Restart wins where its distance is lower by more than
BEYOND standard errors, loses where it is higher by more, and ties otherwise. With fewer than FEWEST blocks nothing is
said: a standard error of two numbers is mostly luck.

Some extractors chose the plans (`tuned_on`); they say how good they are only to themselves. The headline asks all of
the others: Restart wins at a budget if it wins on each of them, and loses if it loses on each.

Restart reaches the best SDE where its mean is no higher on any of the others, and passes it where it wins on all.
The best SDE is, for every extractor by itself, the SDE cell with the lowest mean, of whatever budget.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .rows import find

KIND, FILE = "comparison", "comparison.jsonl"
BEYOND = 2.0  # standard errors
FEWEST = 3  # blocks
WORDS = {-1: "win", 0: "tie", 1: "loss", None: "not known"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """Restart's distance less that of another cell: mean over `blocks` blocks, and its standard error."""

    mean: float
    error: float
    blocks: int

    @property
    def sign(self) -> int | None:
        """−1 if it is more than BEYOND standard errors below 0, 1 if above, 0 if neither; None for too few blocks."""
        if self.blocks < FEWEST:
            return None
        return 0 if abs(self.mean) <= BEYOND * self.error else -1 if self.mean < 0 else 1


@dataclass(frozen=True)
class Cell:
    """A family at a budget: `row` says what ran there, `distances` is extractor → first seed of a block → distance."""

    family: str
    budget: int
    row: Row
    distances: Mapping[str, Mapping[int, float]]

    @property
    def nfe(self) -> int:
        """The evaluations that really ran, at most the budget."""
        return int(self.row["nfe"])

    def mean(self, features: str) -> float:
        """Return the mean distance over the cell's blocks."""
        return statistics.fmean(self.distances[features].values())

    def error(self, features: str) -> float | None:
        """Return the standard error of :meth:`mean`, None for one block."""
        values = list(self.distances[features].values())
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """All cells of one comparison.

    Attributes:
        cells: by (family, budget). floor: extractor → mean distance of training images, {} if it was not measured.
        tuned_on: the extractors that chose the plans. held_out: the others.
        trials: plans that the search of each family drew. n: images of a block.
    """

    cells: Mapping[tuple[str, int], Cell]
    floor: Mapping[str, float]
    tuned_on: tuple[str, ...]
    held_out: tuple[str, ...]
    trials: int
    n: int

    @property
    def features(self) -> tuple[str, ...]:
        """All extractors, those that chose no plan first."""
        return (*self.held_out, *self.tuned_on)

    @property
    def budgets(self) -> list[int]:
        """The budgets of any cell, ascending."""
        return sorted({budget for _, budget in self.cells})

    def difference(self, one: Cell, other: Cell, features: str) -> Difference:
        """Return the distance of `one` less that of `other`, on the blocks of seeds that both have."""
        return paired(one.distances.get(features, {}), other.distances.get(features, {}))

    def against(self, budget: int, family: str) -> dict[str, Difference] | None:
        """Return the differences of Restart to a family at a budget, by extractor; None if a cell is missing."""
        one, other = self.cells.get(("restart", budget)), self.cells.get((family, budget))
        if one is None or other is None:
            return None
        return {features: self.difference(one, other, features) for features in self.features}

    def verdict(self, differences: Mapping[str, Difference]) -> int | None:
        """Return −1 for a win on every held-out extractor, 1 for a loss on each, 0 for neither, None if not known."""
        signs = [differences[features].sign for features in self.held_out]
        if None in signs:
            return None
        return signs[0] if len(set(signs)) == 1 else 0

    def best_sde(self, features: str) -> Cell:
        """Return the SDE cell with the lowest mean by an extractor, over the blocks that all SDE cells have."""
        cells = [cell for (family, _), cell in self.cells.items() if family == "sde"]
        shared = set.intersection(*(set(cell.distances[features]) for cell in cells))

        def mean(cell: Cell) -> float:
            mine = cell.distances[features]
            return statistics.fmean(mine[seed] for seed in shared or mine)

        return min(cells, key=lambda cell: (mean(cell), cell.nfe))

    def over_sde(self, cell: Cell) -> dict[str, Difference]:
        """Return the differences of a cell to the best SDE of each held-out extractor."""
        return {features: self.difference(cell, self.best_sde(features), features) for features in self.held_out}

    def first(self, passes: bool) -> Cell | None:
        """Return the Restart cell of the fewest evaluations that reaches, or passes, the best SDE, or None."""
        restart = sorted((c for (family, _), c in self.cells.items() if family == "restart"), key=lambda c: c.nfe)
        for cell in restart:
            found = self.over_sde(cell).values()
            if all(d.sign == -1 if passes else d.blocks >= FEWEST and d.mean <= 0 for d in found):
                return cell
        return None


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Return the difference of two maps, first seed of a block → distance, on the blocks that both have."""
    less = [one[seed] - other[seed] for seed in sorted(set(one) & set(other))]
    if not less:
        return Difference(math.nan, math.inf, 0)
    error = statistics.stdev(less) / math.sqrt(len(less)) if len(less) > 1 else math.inf
    return Difference(statistics.fmean(less), error, len(less))


def tuners(row: Row) -> tuple[str, ...]:
    """Return the extractors that chose what a row measured; "tuned_on" lists them with commas."""
    return tuple(name for name in str(row.get("tuned_on") or "").split(", ") if name)


def comparison(rows: Iterable[Row]) -> Comparison | None:
    """Return the comparison of rows of kind "comparison", those of the newest search alone; None if there are none."""
    every = find([dict(row) for row in rows], kind=KIND)
    if not any(row["family"] == "restart" for row in every) or not any(row["family"] == "sde" for row in every):
        return None
    every = [{"budget": 0} | row for row in every]  # training images have none
    last = every[-1]
    same = ("model", "model_sha256", "dtype", "n", "reference", "tuned_on")
    every = find(every, **{name: last.get(name) for name in same})
    plans = {(row["family"], row["budget"]): row["key"] for row in every}  # of the newest rows
    every = [row for row in every if plans[row["family"], row["budget"]] == row["key"]]
    distances: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in every:
        mine = distances.setdefault((row["family"], row["budget"]), {})
        mine.setdefault(row["features"], {})[row["first_seed"]] = row["fd_balanced"]
    rows_of = {(row["family"], row["budget"]): row for row in every}
    names = list(dict.fromkeys(row["features"] for row in every))
    whole = {key: found for key, found in distances.items() if set(found) == set(names)}
    cells = {
        key: Cell(*key, rows_of[key], found)
        for key, found in sorted(whole.items())
        if key[0] in ("ode", "sde", "restart")
    }
    floor = {features: statistics.fmean(seeds.values()) for features, seeds in distances.get(("data", 0), {}).items()}
    tuned_on = tuners(last)
    held_out = tuple(name for name in names if name not in tuned_on)
    return Comparison(cells, floor, tuned_on, held_out, int(last.get("trials") or 0), int(last["n"]))


def outcome(found: Comparison, family: str) -> str:
    """Return "wins at 27, loses at 5": Restart against a family at equal evaluations, on every held-out extractor.

    It is "" if no cell has FEWEST blocks.
    """
    signs = {budget: found.verdict(d) for budget in found.budgets if (d := found.against(budget, family))}
    if set(signs.values()) <= {None}:
        return ""
    return ", ".join(
        f"{phrase} at {_listed([str(budget) for budget, one in signs.items() if one == sign])}"
        for sign, phrase in (
            (-1, "wins"),
            (0, "neither wins nor loses on all"),
            (1, "loses"),
            (None, "has too few blocks"),
        )
        if sign in signs.values()
    )


def sentences(found: Comparison) -> list[str]:
    """Return what the comparison says, in whole sentences."""
    said = []
    for family, title in (("ode", "the best ODE"), ("sde", "the best SDE")):
        if told := outcome(found, family):
            said.append(
                f"On {_all(found.held_out)} sets of features that chose no plan, Restart against {title} of as many "
                f"evaluations {told}."
            )
    if not said:
        return ["No two cells share the three blocks of seeds yet that it takes to tell a win from a tie."]
    for passes, word in ((False, "reaches"), (True, "passes")):
        said.append(_first(found, word, found.first(passes)))
    return said


def _first(found: Comparison, word: str, cell: Cell | None) -> str:
    """Return the sentence on the first Restart cell that reaches, or passes, the best SDE at any of the budgets."""
    most = max(found.budgets)
    how = {
        "reaches": "its mean distance is no higher on any of these features",
        "passes": f"its distance is lower by more than {BEYOND:g} standard errors on each of these features",
    }[word]
    if cell is None:
        every = [found.over_sde(one) for (family, _), one in found.cells.items() if family == "restart"]
        measured = all(difference.blocks >= FEWEST for some in every for difference in some.values())
        of = "" if measured else f" that shares {FEWEST} blocks of seeds with it"
        return f"No Restart plan{of} {word} the best SDE of at most {most} evaluations, in the sense that {how}."
    dearest = max(found.best_sde(features).nfe for features in found.held_out)
    return (
        f"Restart {word} the best SDE of at most {most} evaluations with {cell.nfe} evaluations: {how}; that is "
        f"{cell.nfe / dearest:.2f} of the SDE's {dearest}."
    )


def _all(names: Sequence[str]) -> str:
    return "both" if len(names) == 2 else f"all {len(names)}"


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
