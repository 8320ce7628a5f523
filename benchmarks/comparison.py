r"""The best of each family at equal evaluations: what a search found, measured on seeds of its own.

    make compare                                 # the search, then this
    python benchmarks/comparison.py --blocks 3   # resumable; appends to results/comparison.jsonl, draws the picture

`search_samplers.py` searches ODE solvers, SDE solvers and Restart with as many trials each, and draws the best of them
again. For every budget the plan of at most that many evaluations that was lowest then is drawn here on seeds of its
own, and all shipped extractors measure the same images. One block of everything comes first, then the second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import search_samplers
import torch
from drawing import Drawer

import restart_sampling as rs
from restart_sampling.experiments.measure import comparison
from restart_sampling.experiments.measure.engine import EngineRunner
from restart_sampling.experiments.measure.evaluator import Evaluator, evaluators_for
from restart_sampling.experiments.measure.rows import Row, append, environment, find, read
from restart_sampling.experiments.report.comparison import picture

RESULTS = Path(__file__).parent / "results"
MODEL, DTYPE, BATCH = "fashion-mnist", "fp32", 50
BUDGETS = (5, 8, 12, 18, 27, 43, 63, 127)
FAMILIES = ("restart", "sde", "ode")
FIRST_SEED, BLOCK = 6_000_000, 1000  # no search draws these seeds
KNOWN = ("kind", "family", "budget", "key", "model_sha256", "dtype", "n", "first_seed", "features", "reference")


def searches(folder: Path) -> dict[str, list[Row]]:
    """Return the trials of each family, which must be as many for each.

    Raises:
        SystemExit: the search is missing, or one family has more trials than another.
    """
    rows = read(folder / "families.jsonl")
    trials = {family: [row for row in rows if row["family"] == family and "trial" in row] for family in FAMILIES}
    counts = {family: len(rows) for family, rows in trials.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise SystemExit(f"the search in {folder} has not ended: {counts}; run make compare")
    return trials


def winners(folder: Path) -> dict[tuple[str, int], Row]:
    """Return for each family and budget the plan of at most that many evaluations that was lowest when drawn again.

    Where the last round of the search has plans of at most that many evaluations, it is the lowest of that round.
    """
    again = [row for row in read(folder / "families.jsonl") if "trial" not in row and row["fd"] is not None]
    last = search_samplers.LAST_SEED if search_samplers.has_ended(again) else None
    found = {}
    for family in FAMILIES:
        for budget in BUDGETS:
            fits = [row for row in again if row["family"] == family and row["nfe"] <= budget]
            fits = [row for row in fits if row["first_seed"] == last] or fits
            if fits:
                found[family, budget] = min(fits, key=lambda row: (row["fd"], row["nfe"], row["plan"]))
    return found


def measure(out: Path, blocks: int, minutes: float, only: set[str], searched: Path) -> None:
    """Append the rows that are missing, block by block, the smallest budgets first; start no block after `minutes`."""
    trials = searches(searched)
    chosen = winners(searched)
    count = len(trials[FAMILIES[0]])
    denoiser, evaluators = rs.load(MODEL), evaluators_for(MODEL, "all")
    drawer, path = Drawer(MODEL, BATCH, DTYPE), out / comparison.FILE
    common = {"kind": comparison.KIND, "by": "engine", "model": MODEL, "dtype": DTYPE, "batch": BATCH, "n": BLOCK}
    common |= {"model_sha256": str(denoiser.info["sha256"])[:12], "trials": count}
    common |= {"tuned_on": ", ".join(search_samplers.TUNERS)}
    known = read(path)
    for one, row, images, labels in training_blocks(evaluators, common, blocks):
        _add(path, known, one, row, images, labels)
    end = time.monotonic() + 60 * minutes
    for k in range(blocks):
        for (family, budget), trial in sorted(chosen.items(), key=lambda item: (item[0][1], item[0][0])):
            if only and f"{family}@{budget}" not in only:
                continue
            plan = rs.Plan.build(**trial["options"])
            runner = EngineRunner(denoiser, plan, BATCH, DTYPE)
            row = common | {
                "family": family,
                "budget": budget,
                "nfe": runner.nfe,
                "key": runner.key,
                "config": trial["options"],
            }
            row |= {"sampler": plan.config.solvers[0].spec, "title": title(plan), "plan": plan.digest}
            row |= {
                "restart": plan.config.restart.to_json() if plan.intervals else "",
                "first_seed": FIRST_SEED + k * BLOCK,
            }
            missing = [one for one in evaluators if not _known(known, row, one)]
            if not missing:
                continue
            if time.monotonic() > end:
                print("the time is over; the same command goes on")
                return
            images, labels = drawer.draw(trial["options"], row["first_seed"], BLOCK)
            said = [f"{_add(path, known, one, row, images, labels):.4f}" for one in missing]
            print(f"block {k}: {family} ≤ {budget}, {runner.nfe} NFE, {row['title']}: {', '.join(said)}", flush=True)


def title(plan: rs.Plan) -> str:
    """Return a plan's solver as readers see it."""
    main, inside = plan.config.solvers
    name = main.label + (f" ({', '.join(f'{key} = {value}' for key, value in main.chosen)})" if main.chosen else "")
    return name + f", {inside.label} inside" * (inside != main)


def training_blocks(evaluators: list[Evaluator], common: Row, blocks: int) -> Iterator[tuple[Any, Row, Any, Any]]:
    """Yield blocks of the training set, which a perfect sampler would draw, where the data set is on this machine."""
    for k in range(blocks):
        for one in evaluators:
            if one.training_set is None:
                continue
            images, labels = one.training_set
            some = torch.from_numpy(np.random.default_rng(k).choice(len(images), BLOCK, replace=False))
            row = common | {
                "family": "data",
                "budget": 0,
                "nfe": 0,
                "key": "train-set",
                "config": {},
                "first_seed": k * BLOCK,
            }
            row |= {"sampler": "train set", "title": "Training set", "plan": "", "restart": "", "by": "data"}
            yield one, row, images[some], labels[some]


def _known(rows: list[Row], row: Row, one: Evaluator) -> bool:
    mine = row | {"features": one.features, "reference": one.reference}
    return bool(find(rows, **{name: mine[name] for name in KNOWN}))


def _add(path: Path, known: list[Row], one: Evaluator, row: Row, images: Any, labels: Any) -> float:
    """Measure and append a row unless it is known; return its distance."""
    mine = row | {"features": one.features, "reference": one.reference}
    if _known(known, row, one):
        return float(find(known, **{name: mine[name] for name in KNOWN})[-1]["fd_balanced"])
    mine |= {"fd_balanced": round(one.fd_balanced(images, labels), 6)} | environment()
    append(path, mine)
    known.append(mine)
    return float(mine["fd_balanced"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", default="", help="cells such as restart@43,sde@127")
    parser.add_argument("--searched", type=Path, default=RESULTS / "search")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.plot_only:
        only = {name for name in arguments.only.split(",") if name}
        measure(arguments.out, arguments.blocks, arguments.minutes, only, arguments.searched)
    found = comparison.comparison(read(arguments.out / comparison.FILE))
    if found is not None:
        picture(found, arguments.out / "comparison.png")
        print("\n".join(comparison.sentences(found)))


if __name__ == "__main__":
    main()
