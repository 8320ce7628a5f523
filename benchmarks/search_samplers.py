r"""Search the best ODE sampler, SDE sampler and Restart for budgets of evaluations, each family with the same trials.

For every budget the three families take turns. A trial of a family is a point of its space: a solver with its options,
the exponent rho of the grid, and the noise (eta, churn, S_noise) or the Restart intervals; the main grid has the most
points that the budget pays for. The first trials of a budget are random points, each with the next solver of the list,
so that none is left out; the others change one to three coordinates of one of the family's best points so far, of this
budget or a smaller one. A second round has further trials of the larger budgets, which change points that use more
than half of the budget: what is best there need not be near what is best with few evaluations. Then the best plans of
each budget, and of its upper half, are drawn again, on more and other seeds.

Distances of so few images say little about plans that are close. So the last round is small: of each family the best
that were drawn again, and as many plans as papers and earlier searches found good (GOOD), with 1,000 images each.

The distance of a plan is the geometric mean of two Fréchet distances, classes weighted alike, the same seeds for all:
by the classifier, which tells plans apart best, and by the features of patches, which see the details that a
classifier does not. Seeds and extractors have no part in what benchmarks/comparison.py concludes.

    python benchmarks/search_samplers.py          # about two hours on 2 cores; goes on where the rows end
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from typing import Any

from drawing import Drawer
from where import RESULTS

from restart_sampling.common.errors import ConfigError, NonFiniteError
from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.evaluator import Evaluator, evaluator_for
from restart_sampling.plan.plan import Plan

FILE = RESULTS / "search" / "families.jsonl"
TRIALS = {5: 14, 8: 14, 12: 12, 18: 12, 27: 10, 43: 6, 63: 4, 127: 3}  # budget → trials of each family
MORE = {27: 6, 43: 8, 63: 8, 127: 4}  # budget → trials of each family in the second round
RANDOM = 0.5  # share of the trials of a budget that are random points
IMAGES, FIRST_SEED = 300, 4_000_000
AGAIN, AGAIN_UPPER = 3, 2  # plans of each budget that are drawn again, and those of its upper half
AGAIN_IMAGES, AGAIN_SEED = 600, 5_000_000
BEST, LAST_IMAGES, LAST_SEED = 3, 1000, 5_100_000  # of the last round
TUNERS = (shipped.CLASSIFIER, shipped.TUNER)
FAMILIES = ("ode", "sde", "restart")
ODE = (
    "unipc:order=2", "dpm++2m", "deis", "ipndm:order=2", "dpm++3m", "unipc", "lms:order=3", "res-multistep",
    "exp-heun", "heun", "deis:order=2,variant=log-rho", "ipndm:order=3", "dpm-solver", "unipc:order=1",
    "lms:order=2", "dpm2", "dpm3", "gradient-estimation", "ipndm", "euler", "deis:order=3,variant=log-rho",
    "unipc:variant=bh1", "lms", "heunpp2",
)  # fmt: skip
SDE = (
    "dpm++2m-sde", "sa-solver", "edm-stochastic", "er-sde", "seeds2", "dpm++3m-sde",
    "sa-solver:predictor=2,corrector=2", "euler-ancestral", "dpm++2m-sde:variant=heun", "dpm++sde",
    "edm-stochastic", "er-sde:order=2", "exp-heun:sde=true", "dpm++2s-ancestral", "seeds3",
    "res-multistep:sde=true", "dpm2-ancestral", "dpm++3m-sde:variant=k-diffusion",
)  # fmt: skip
RESTART = ("dpm++2m", "unipc:order=2", "dpm++2m", "deis", "dpm++3m", "heun", "unipc", "ipndm:order=2")
CHURN = {"solver": "edm-stochastic", "s_churn": 30.0, "s_min": 0.01, "s_max": 1.0, "s_noise": 1.007}
# What is known to be good is among the first trials: the churn of the Restart paper, levels at higher noise.
KNOWN: dict[tuple[str, int], tuple[dict[str, Any], ...]] = {
    ("sde", 43): ({"rho": 7.0, **CHURN},),
    ("sde", 127): ({"rho": 7.0, **CHURN},),
    ("restart", 27): ({"solver": "dpm++2m", "rho": 7.0, "restart": [[3, 2, 0.06, 0.3]]},),
    ("restart", 43): (
        {"solver": "dpm++2m", "rho": 7.0, "restart": [[3, 3, 1.0, 3.0], [3, 3, 0.3, 1.0], [3, 3, 0.06, 0.3]]},
        {"solver": "dpm++2m", "rho": 7.0, "restart": [[4, 6, 0.3, 2.0], [3, 3, 0.06, 0.3]]},
    ),
}
# A jump to high noise lowers the distances that see classes, one in low noise those that see details: both, too.
HIGH = {"solver": "deis", "steps": 21, "rho": 4.0, "s_noise": 1.003, "restart_solver": "heun"}
JUMP = [4, 1, 0.8, 6.4]
GOOD: dict[str, tuple[dict[str, Any], ...]] = {
    "ode": (
        {"solver": "dpm++2m", "steps": 18},
        {"solver": "unipc:order=2", "steps": 18},
        {"solver": "deis", "steps": 18},
        {"solver": "heun", "steps": 18},
        {"solver": "dpm++3m", "steps": 24},
        {"solver": "unipc", "steps": 12},
        {"solver": "dpm-solver", "steps": 12},
        {"solver": "heun", "steps": 32},
        {"solver": "deis", "steps": 21, "rho": 4.0},
        {"solver": "deis", "steps": 24},
        {"solver": "deis", "steps": 18, "rho": 5.0},
        {"solver": "deis", "steps": 15},
        {"solver": "lms", "steps": 21, "rho": 4.0},
        {"solver": "lms:order=3", "steps": 24, "rho": 5.0},
        {"solver": "gradient-estimation", "steps": 18},
        {"solver": "ipndm", "steps": 18},
        {"solver": "dpm++2m", "steps": 24},
        {"solver": "deis:order=2", "steps": 18},
    ),
    "sde": (
        {**CHURN, "steps": 18},
        {**CHURN, "steps": 32},
        {**CHURN, "steps": 64},
        {**CHURN, "steps": 32, "s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
        {"solver": "dpm++2m-sde", "steps": 25, "eta": 0.5},
        {"solver": "dpm++2m-sde", "steps": 18, "eta": 0.2},
        {"solver": "sa-solver:predictor=2,corrector=2", "steps": 27, "eta": 0.5},
        {"solver": "er-sde", "steps": 27, "eta": 0.5},
        {"solver": "dpm++2m-sde", "steps": 25, "eta": 0.35},
        {"solver": "dpm++2m-sde", "steps": 25, "eta": 0.7},
        {"solver": "dpm++2m-sde", "steps": 40, "eta": 0.5},
        {"solver": "dpm++2m-sde", "steps": 40, "eta": 0.35},
        {"solver": "dpm++2m-sde", "steps": 32, "eta": 0.5, "rho": 5.0},
        {"solver": "dpm++2m-sde:variant=heun", "steps": 25, "eta": 0.5},
        {"solver": "sa-solver:predictor=2,corrector=2", "steps": 40, "eta": 0.35},
        {**CHURN, "steps": 32, "s_churn": 20.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
        {**CHURN, "steps": 64, "s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
        {**CHURN, "steps": 22, "s_churn": 20.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
    ),
    "restart": (
        {"solver": "dpm++2m", "steps": 18, "restart": [[3, 2, 0.06, 0.3]]},
        {"solver": "unipc:order=2", "steps": 12, "restart": [[4, 2, 0.3, 1.5]]},
        {"solver": "dpm++2m", "steps": 18, "restart": [[4, 2, 0.3, 1.5]]},
        {"solver": "dpm++2m", "steps": 21, "restart": [[3, 2, 0.3, 1.5], [3, 2, 0.06, 0.3]]},
        {"solver": "dpm++2m", "steps": 18, "restart": [[4, 3, 0.2, 1.0]]},
        {"solver": "heun", "steps": 18, "restart": [[3, 5, 0.06, 0.3]]},
        {"solver": "deis", "steps": 21, "restart": [[4, 2, 0.4, 2.0]]},
        {"solver": "dpm++2m", "steps": 18, "restart": [[3, 4, 0.1, 0.5]]},
        {**HIGH, "restart": [JUMP, [3, 2, 0.06, 0.3]]},
        {**HIGH, "restart": [JUMP, [3, 5, 0.06, 0.3]]},
        {**HIGH, "restart": [JUMP, [3, 10, 0.06, 0.3]]},
        {**HIGH, "restart": [JUMP, [3, 3, 0.1, 0.5]]},
        {**HIGH, "restart": [[4, 2, 0.8, 6.4]]},
        {**HIGH, "restart": [[5, 1, 0.8, 6.4], [3, 5, 0.04, 0.2]]},
        {**HIGH, "s_noise": 1.0, "restart": [JUMP, [3, 5, 0.06, 0.3]]},
        {**HIGH, "steps": 15, "restart": [JUMP, [3, 2, 0.06, 0.3]]},
        {"solver": "heun", "steps": 18, "restart": [JUMP, [3, 5, 0.06, 0.3]]},
        {"solver": "dpm++2m", "steps": 18, "restart_solver": "heun", "restart": [JUMP, [3, 5, 0.06, 0.3]]},
    ),
}
RHO = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
LEAST = {"ode": 2, "sde": 2, "restart": 4}  # points of the main grid
T_MIN = (0.04, 0.06, 0.1, 0.14, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
RATIO = (2.0, 3.0, 4.0, 5.0, 8.0)
Point = dict[str, Any]


def coordinates(family: str) -> dict[str, tuple[Any, ...]]:
    """Return the values of each coordinate of a family's points."""
    if family == "ode":
        return {"solver": ODE, "rho": RHO}
    if family == "sde":
        return {
            "solver": SDE, "rho": RHO, "eta": (0.1, 0.2, 0.35, 0.5, 0.7, 1.0), "s_noise": (1.0, 1.0, 1.003, 1.007),
            "s_churn": (2.0, 5.0, 10.0, 20.0, 40.0, 80.0),
            "window": ((0.0, 80.0), (0.01, 1.0), (0.05, 5.0), (0.05, 50.0)),
        }  # fmt: skip
    found: dict[str, tuple[Any, ...]] = {
        "solver": RESTART, "rho": RHO, "restart_solver": (None, None, "heun"), "s_noise": (1.0, 1.0, 1.003),
        "levels": (1, 1, 2, 2, 3),
    }  # fmt: skip
    for k in range(3):
        found |= {f"N{k}": (2, 3, 3, 4), f"K{k}": (1, 2, 3, 4, 6, 8), f"t_min{k}": T_MIN, f"ratio{k}": RATIO}
    return found


def options(family: str, point: Point) -> dict[str, Any]:
    """Return options of Plan.build for a point, but for the points of the main grid."""
    found: dict[str, Any] = {"rho": point["rho"]}
    solver = point["solver"]
    if family == "sde":
        found["s_noise"] = point["s_noise"]
        low, high = point["window"]
        if solver == "edm-stochastic":
            found |= {"s_churn": point["s_churn"], "s_min": low, "s_max": high}
        else:
            found["eta"] = point["eta"]
        if solver.startswith("sa-solver"):
            window = {"tau_min": low, "tau_max": high}
            found["solver_options"] = tuple(window.items())
    if family == "restart":
        found["s_noise"] = point["s_noise"]
        if point["restart_solver"] and point["restart_solver"] != solver:
            found["restart_solver"] = point["restart_solver"]
        intervals = []
        for k in range(point["levels"]):
            t_min = point[f"t_min{k}"]
            intervals.append([point[f"N{k}"], point[f"K{k}"], t_min, round(min(80.0, t_min * point[f"ratio{k}"]), 4)])
        found["restart"] = sorted(intervals, key=lambda interval: -interval[2])
    return {"solver": solver, **found}


def fitted(found: dict[str, Any], budget: int, least: int, calls: bool = False) -> dict[str, Any] | None:
    """Add the most steps, `least` or more, whose plan has at most `budget` evaluations, or network calls."""
    for steps in range(budget, least - 1, -1):
        try:
            plan = Plan.build(steps=steps, **found)
        except ConfigError:
            continue
        if (plan.network_calls if calls else plan.nfe) <= budget:
            return {"steps": steps, **found}
    return None


def random_point(family: str, rng: random.Random) -> Point:
    return {name: rng.choice(values) for name, values in coordinates(family).items()}


def changed(family: str, point: Point, rng: random.Random) -> Point:
    """Return the point with one to three of its coordinates drawn again."""
    return moved(point, coordinates(family), rng)


def moved(point: Point, values: dict[str, tuple[Any, ...]], rng: random.Random) -> Point:
    """Return the point with one to three coordinates of `values` drawn again, none of an interval it does not have."""
    names = [name for name in values if not name[-1].isdigit() or int(name[-1]) < point.get("levels", 0)]
    return {
        **point,
        **{name: rng.choice(values[name]) for name in rng.sample(names, rng.randint(1, min(3, len(names))))},
    }


def trials(rows: list[dict[str, Any]]) -> Iterator[tuple[str, int, int, random.Random]]:
    """Yield (family, budget, number, rng) of the trials that have no row, families in turn."""
    done = {(row["family"], row["budget"], row["trial"]) for row in rows if "trial" in row}
    rounds = [(budget, range(n)) for budget, n in TRIALS.items()]
    rounds += [(budget, range(TRIALS[budget], TRIALS[budget] + n)) for budget, n in MORE.items()]
    for budget, numbers in rounds:
        for number in numbers:
            for family in FAMILIES:
                if (family, budget, number) not in done:
                    yield family, budget, number, random.Random(f"{family} {budget} {number}")


def point_for(
    family: str, budget: int, number: int, rng: random.Random, rows: list[dict[str, Any]], any_solver: bool
) -> Point:
    """Return the point of a trial: random with the next solver of the list, or one of the best so far, changed."""
    least = budget / 2 if number >= TRIALS[budget] else 0
    own = [row for row in rows if row["family"] == family and row["fd"] is not None and row["point"]]
    own = [row for row in own if least < row["nfe"] <= budget]
    if number < RANDOM * TRIALS[budget] or not own:
        point = random_point(family, rng)
        if any_solver:
            return point
        solvers = coordinates(family)["solver"]
        before = sum(math.ceil(RANDOM * n) for b, n in TRIALS.items() if b < budget)
        return {**point, "solver": solvers[(before + number) % len(solvers)]}
    best = sorted(own, key=lambda row: row["fd"])[: 2 + (number % 2)]
    return changed(family, rng.choice(best)["point"], rng)


class Search:
    """The trials so far, and how a plan is measured."""

    def __init__(self) -> None:
        self.evaluators: list[Evaluator] = [evaluator_for("fashion-mnist", name, None) for name in TUNERS]
        self.drawer = Drawer("fashion-mnist", batch=50)
        FILE.parent.mkdir(exist_ok=True)
        self.rows = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
        for row in self.rows:
            row["point"] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["point"].items()}

    def add(self, found: dict[str, Any], n: int, first_seed: int, **facts: Any) -> None:
        """Draw a plan and append its row."""
        plan, fd, fds = Plan.build(**found), None, {}
        try:
            drawn = self.drawer.draw(found, first_seed, n)
            fds = {one.features: round(one.fd_balanced(*drawn), 5) for one in self.evaluators}
            fd = round(math.prod(fds.values()) ** (1 / len(fds)), 5)
        except (ConfigError, NonFiniteError) as error:
            print(facts, error)
        row = {**facts, "fd": fd, "fds": fds, "nfe": plan.nfe, "plan": plan.digest, "n": n, "first_seed": first_seed}
        self.rows.append(row | {"options": found})
        with FILE.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        print(f"{facts['family']} {facts['budget']}: {fd} at {plan.nfe} NFE, {found}", flush=True)

    def trial(self, family: str, budget: int, number: int, rng: random.Random) -> None:
        """Draw the trial `number` of a family and budget: a known plan, a random point, or a change of a good one."""
        known = KNOWN.get((family, budget), ())[number:]
        drawn = {row["plan"] for row in self.rows}
        for attempt in range(500):  # points that do not fit, and plans that have a row, are drawn again
            if known and not attempt:
                point, found = {}, fitted(known[0], budget, least=4)
            else:
                point = point_for(family, budget, number, rng, self.rows, any_solver=attempt > 50)
                found = fitted(options(family, point), budget, LEAST[family])
            if found is not None and Plan.build(**found).digest not in drawn:
                self.add(found, IMAGES, FIRST_SEED, family=family, budget=budget, trial=number, point=point)
                return
        raise SystemExit(f"no point of {family} fits into {budget} evaluations")

    def again(self, family: str, budget: int) -> None:
        """Draw the best trials of at most `budget` evaluations on the second seeds, unless they were."""
        fits = [row for row in self.rows if row["family"] == family and row["nfe"] <= budget and "trial" in row]
        best = sorted((row for row in fits if row["fd"] is not None), key=lambda row: row["fd"])
        upper = [row for row in best if row["nfe"] > budget / 2]
        known = {row["plan"] for row in self.rows if row["first_seed"] == AGAIN_SEED}
        for row in [*best[:AGAIN], *upper[:AGAIN_UPPER]]:
            if row["plan"] not in known:
                known.add(row["plan"])
                self.add(row["options"], AGAIN_IMAGES, AGAIN_SEED, family=family, budget=budget, point={})

    def last(self, family: str) -> None:
        """Draw the last round of a family, as far as it has no rows."""
        for found in candidates(self.rows, family):
            plan = Plan.build(**found)
            if (family, plan.digest) not in last_round(self.rows):
                self.add(found, LAST_IMAGES, LAST_SEED, family=family, budget=plan.nfe, point={})


def candidates(rows: list[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """Return the options of the plans of a family's last round."""
    again = [row for row in rows if row["family"] == family and row["first_seed"] == AGAIN_SEED and row["fd"]]
    best = [row["options"] for row in sorted(again, key=lambda row: row["fd"])[:BEST]]
    return [*best, *({"rho": 7.0, **good} for good in GOOD[family])]


def last_round(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return (family, digest) of the plans that the last round has drawn."""
    return {(row["family"], row["plan"]) for row in rows if row["first_seed"] == LAST_SEED}


def has_ended(rows: list[dict[str, Any]]) -> bool:
    """Return whether the last round has all its rows."""
    due = {(family, Plan.build(**found).digest) for family in FAMILIES for found in candidates(rows, family)}
    return due <= last_round(rows)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    search = Search()
    for family, budget, number, rng in trials(search.rows):
        search.trial(family, budget, number, rng)
    for budget in TRIALS:
        for family in FAMILIES:
            search.again(family, budget)
    for family in FAMILIES:
        search.last(family)


if __name__ == "__main__":
    main()
