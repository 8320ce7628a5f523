r"""Search the best ODE sampler, SDE sampler and Restart for budgets of evaluations, each family with the same trials.

For every budget the three families take turns. A trial of a family is a point of its space: a solver with its options,
the exponent rho of the grid, and the noise (eta, churn, S_noise) or the Restart intervals; the main grid has the most
points that the budget pays for. The first trials of a budget are random points, each with the next solver of the list,
so that none is left out; the others change one to three coordinates of the family's best point so far, of this budget
or a smaller one. The distance of a point is that of `tune`: on one extractor, the same seeds for all, classes weighted
alike. Seeds and extractor have no part in what benchmarks/comparison.py measures.

    python benchmarks/search_samplers.py          # about half an hour on 2 cores; goes on where the rows end
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from typing import Any

from where import RESULTS

from restart_sampling.common.errors import ConfigError, NonFiniteError
from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.evaluator import evaluator_for
from restart_sampling.experiments.tune.objective import Objective
from restart_sampling.models.registry import load_model
from restart_sampling.plan.plan import Plan

FILE = RESULTS / "search" / "families.jsonl"
TRIALS = {5: 14, 8: 14, 12: 12, 18: 12, 27: 10, 43: 6, 63: 4, 127: 3}  # budget → trials of each family
RANDOM = 0.5  # share of the trials of a budget that are random points
IMAGES, FIRST_SEED = 300, 3_000_000
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
# What is known to be good is among the first trials: the churn of the Restart paper, levels at higher noise.
KNOWN: dict[tuple[str, int], tuple[dict[str, Any], ...]] = {
    ("sde", 43): (
        {"solver": "edm-stochastic", "rho": 7.0, "s_churn": 30.0, "s_min": 0.01, "s_max": 1.0, "s_noise": 1.007},
    ),
    ("sde", 127): (
        {"solver": "edm-stochastic", "rho": 7.0, "s_churn": 30.0, "s_min": 0.01, "s_max": 1.0, "s_noise": 1.007},
    ),
    ("restart", 27): ({"solver": "dpm++2m", "rho": 7.0, "restart": [[3, 2, 0.06, 0.3]]},),
    ("restart", 43): (
        {"solver": "dpm++2m", "rho": 7.0, "restart": [[3, 3, 1.0, 3.0], [3, 3, 0.3, 1.0], [3, 3, 0.06, 0.3]]},
        {"solver": "dpm++2m", "rho": 7.0, "restart": [[4, 6, 0.3, 2.0], [3, 3, 0.06, 0.3]]},
    ),
}
RHO = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
T_MIN = (0.04, 0.06, 0.1, 0.14, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0)
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


def options(family: str, point: Point, budget: int) -> dict[str, Any] | None:
    """Return options of Plan.build for a point, with the most points of the main grid that fit; None if none does."""
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
        if point["restart_solver"]:
            found["restart_solver"] = point["restart_solver"]
        intervals = []
        for k in range(point["levels"]):
            t_min = point[f"t_min{k}"]
            intervals.append([point[f"N{k}"], point[f"K{k}"], t_min, round(min(80.0, t_min * point[f"ratio{k}"]), 4)])
        found["restart"] = sorted(intervals, key=lambda interval: -interval[2])
    return _fitted({"solver": solver, **found}, budget, least=4 if family == "restart" else 2)


def _fitted(found: dict[str, Any], budget: int, least: int) -> dict[str, Any] | None:
    """Add the most steps whose plan has at most `budget` evaluations."""
    for steps in range(budget, least - 1, -1):
        try:
            if Plan.build(steps=steps, **found).nfe <= budget:
                return {"steps": steps, **found}
        except ConfigError:
            continue
    return None


def random_point(family: str, rng: random.Random) -> Point:
    return {name: rng.choice(values) for name, values in coordinates(family).items()}


def changed(family: str, point: Point, rng: random.Random) -> Point:
    """Return the point with one to three of its coordinates drawn again."""
    values = coordinates(family)
    names = [name for name in values if not name[-1].isdigit() or int(name[-1]) < point.get("levels", 0)]
    return {
        **point,
        **{name: rng.choice(values[name]) for name in rng.sample(names, rng.randint(1, min(3, len(names))))},
    }


def trials(rows: list[dict[str, Any]]) -> Iterator[tuple[str, int, int, random.Random]]:
    """Yield (family, budget, number, rng) of the trials that have no row, families in turn."""
    done = {(row["family"], row["budget"], row["trial"]) for row in rows}
    for budget, n in TRIALS.items():
        for number in range(n):
            for family in FAMILIES:
                if (family, budget, number) not in done:
                    yield family, budget, number, random.Random(f"{family} {budget} {number}")


def point_for(
    family: str, budget: int, number: int, rng: random.Random, rows: list[dict[str, Any]], any_solver: bool
) -> Point:
    """Return the point of a trial: random with the next solver of the list, or one of the best so far, changed."""
    own = [row for row in rows if row["family"] == family and row["fd"] is not None and row["point"]]
    if number < RANDOM * TRIALS[budget] or not own:
        point = random_point(family, rng)
        if any_solver:
            return point
        solvers = coordinates(family)["solver"]
        before = sum(math.ceil(RANDOM * n) for b, n in TRIALS.items() if b < budget)
        return {**point, "solver": solvers[(before + number) % len(solvers)]}
    best = sorted(own, key=lambda row: row["fd"])[: 2 + (number % 2)]
    return changed(family, rng.choice(best)["point"], rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    denoiser = load_model("fashion-mnist", "cpu")
    evaluator = evaluator_for("fashion-mnist", shipped.TUNER, None)
    objective = Objective(denoiser, evaluator, n=IMAGES, first_seed=FIRST_SEED, batch=150, halving=False)
    FILE.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    for row in rows:
        row["point"] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["point"].items()}
    for family, budget, number, rng in trials(rows):
        found, point = None, {}
        known = KNOWN.get((family, budget), ())[number:]
        for attempt in range(500):  # points that do not fit, and plans that have a row, are drawn again
            if known and not attempt:
                found = _fitted(known[0], budget, least=4)
            else:
                point = point_for(family, budget, number, rng, rows, any_solver=attempt > 50)
                found = options(family, point, budget)
            key = None if found is None else Plan.build(**found).digest
            if found is not None and key not in {row["plan"] for row in rows}:
                break
        if found is None:
            continue
        plan = Plan.build(**found)
        try:
            fd = round(objective.value(plan).fd or math.nan, 5)
        except (ConfigError, NonFiniteError) as error:
            print(family, budget, number, error)
            fd = None
        row = {"family": family, "budget": budget, "trial": number, "fd": fd, "nfe": plan.nfe, "plan": plan.digest}
        row |= {"features": evaluator.features, "n": IMAGES, "first_seed": FIRST_SEED, "options": found, "point": point}
        rows.append(row)
        with FILE.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{family} {budget} #{number}: {fd} at {plan.nfe} NFE, {found}", flush=True)


if __name__ == "__main__":
    main()
