r"""Measure the best ODE sampler, SDE sampler and Restart of each budget on fresh seeds, by four feature extractors.

The plans are those that benchmarks/search_samplers.py found: for a budget and a family, the one with the lowest
distance of all that take at most that many evaluations. All draw the same seeds, block by block, so their rows are
paired: the first block of every plan first. The patches chose the plans; the other three extractors had no part in it.
Rows that exist are not measured again.

    python benchmarks/compare_samplers.py --blocks 3              # 15 minutes a block on 2 cores
    python benchmarks/compare_samplers.py --blocks 10 --most 30   # more blocks of plans of at most 30 evaluations
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

from where import RESULTS

from restart_sampling.experiments.measure import image_cache
from restart_sampling.experiments.measure.candidate import Candidate, fields
from restart_sampling.experiments.measure.engine import EngineRunner
from restart_sampling.experiments.measure.evaluator import evaluators_for
from restart_sampling.experiments.measure.quality import FILE, block_of, training_rows
from restart_sampling.experiments.measure.rows import append, environment, read
from restart_sampling.models.registry import load_model
from restart_sampling.plan.plan import Plan

SEARCH, OUT = RESULTS / "search" / "families.jsonl", RESULTS / "comparison"
FIRST_SEED, BLOCK, MODEL, DTYPE, BATCH = 5_000_000, 1000, "fashion-mnist", "fp32", 125
Row = dict[str, Any]


def winners(rows: list[Row]) -> dict[tuple[int, str], Row]:
    """Return (budget, family) → the row of the search with the lowest distance of all within the budget."""
    found = {}
    for budget, family in sorted({(row["budget"], row["family"]) for row in rows}):
        within = [r for r in rows if r["family"] == family and r["nfe"] <= budget and r["fd"] is not None]
        if within:
            found[budget, family] = min(within, key=lambda row: (row["fd"], row["nfe"]))
    return found


def searched() -> list[Row]:
    """Return the rows of the search."""
    return [json.loads(line) for line in SEARCH.read_text().splitlines()]


def candidate_of(row: Row, plan: Plan) -> Candidate:
    """Return the plan of a row of the search as a candidate; its name is family:digest."""
    solver = plan.config.solvers[0]
    title = solver.label + " + Restart" * bool(plan.intervals)
    return Candidate(f"{row['family']}:{row['plan']}", row["family"], "engine", title, solver.source, partial(_none))


def _none(*arguments: Any) -> None:
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=3, help="blocks of 1,000 seeds")
    parser.add_argument("--most", type=int, default=10_000, help="leave out plans of more evaluations")
    arguments = parser.parse_args()
    denoiser = load_model(MODEL, "cpu")
    evaluators = evaluators_for(MODEL, "all", None)
    chosen = {row["plan"]: row for row in winners(searched()).values()}
    plans = {digest: Plan.build(**row["options"]) for digest, row in chosen.items()}
    work = sorted(plans, key=lambda digest: plans[digest].nfe)
    for block in range(arguments.blocks):
        for digest in work:
            plan, row = plans[digest], chosen[digest]
            if plan.nfe > arguments.most:
                continue
            runner = EngineRunner(denoiser, plan, BATCH, DTYPE)
            candidate, drawn = candidate_of(row, plan), None
            common = fields(candidate, runner, denoiser, MODEL, kind="quality", nfe=plan.nfe, batch=BATCH, dtype=DTYPE)
            common |= {"n": BLOCK, "first_seed": FIRST_SEED + BLOCK * block}
            for one in evaluators:
                mine = {**common, "features": one.features, "reference": one.reference}
                names = ("sampler", "features", "reference", "first_seed", "key")
                if any(all(r[name] == mine[name] for name in names) for r in read(OUT / FILE)):
                    continue
                drawn = drawn or block_of(
                    denoiser, runner, image_cache.default_folder(), common["first_seed"], BLOCK, BATCH
                )
                mine |= {name: round(value, 6) for name, value in one.measure(*drawn).items()}
                append(OUT / FILE, mine | environment(denoiser.device))
                print(f"block {block}: {candidate.name} {candidate.title}, {plan.nfe} NFE, {one.features}: "
                      f"{mine['fd_balanced']}", flush=True)  # fmt: skip
            if not block and digest == work[0]:
                for one in evaluators:
                    if one.training_set is not None:
                        training_rows(common, one, one.training_set, 10 * BLOCK, BLOCK, OUT, denoiser.device)


if __name__ == "__main__":
    main()
