r"""The best of each family at equal evaluations: the rows, the picture and what they say.

    make compare                     # the search, the measurement on fresh seeds, then this
    python benchmarks/comparison.py  # writes results/comparison.jsonl and results/comparison.png

search_samplers.py drew as many plans of each family for every budget, and compare_samplers.py measured the best of each
on seeds of its own by all shipped extractors. A row of comparison.jsonl is one family and budget on one block of seeds
by one extractor; a plan that is the best for several budgets stands in each of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import compare_samplers

from restart_sampling.experiments.measure import comparison
from restart_sampling.experiments.measure.rows import Row, append, find, read
from restart_sampling.experiments.report.comparison import picture
from restart_sampling.plan.plan import Plan

RESULTS = Path(__file__).parent / "results"
KEPT = ("family", "by", "nfe", "key", "plan", "config", "restart", "model", "model_sha256", "dtype", "batch", "n")
KEPT += ("first_seed", "features", "reference", "fd_balanced", "device", "threads", "torch", "python", "git")


def assembled(searched: Sequence[Row], measured: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of comparison.jsonl, training images first.

    Args:
        searched: rows of the search. measured: rows of kind "quality" of the plans that it chose.

    Raises:
        ValueError: a family had more trials at a budget than another.
    """
    trials = _trials(searched)
    tuned_on = str(searched[0]["features"])
    more = {"kind": comparison.KIND, "tuned_on": tuned_on, "trials": sum(trials.values())}
    known = {(row["sampler"], row["features"], row["first_seed"]): row for row in measured}
    training = [row for (sampler, *_), row in known.items() if sampler == "train set"]
    for row in training:
        yield more | {"budget": 0, "trials_at_budget": 0, "title": "Training set"} | _kept(row)
    for (budget, family), winner in sorted(compare_samplers.winners(list(searched)).items()):
        named = {"budget": budget, "trials_at_budget": trials[budget], "title": title(Plan.build(**winner["options"]))}
        for (sampler, *_), row in known.items():
            if sampler == f"{family}:{winner['plan']}":
                yield more | named | _kept(row)


def _trials(searched: Sequence[Row]) -> dict[int, int]:
    """Return budget → trials of each family, which must be as many."""
    counts = {
        budget: {family: len(find(searched, family=family, budget=budget)) for family in ("ode", "sde", "restart")}
        for budget in sorted({row["budget"] for row in searched})
    }
    for budget, of in counts.items():
        if len(set(of.values())) > 1:
            raise ValueError(f"the search drew {of} plans for {budget} evaluations; the families must have as many")
    return {budget: of["ode"] for budget, of in counts.items()}


def title(plan: Plan) -> str:
    """Return a plan's solvers as readers see them."""
    main, inside = plan.config.solvers
    name = main.label + (f" ({', '.join(f'{key} = {value}' for key, value in main.chosen)})" if main.chosen else "")
    return name + f", {inside.label} inside" * (inside != main)


def _kept(row: Row) -> Row:
    return {name: row[name] for name in KEPT if name in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    searched = [json.loads(line) for line in compare_samplers.SEARCH.read_text().splitlines()]
    rows = list(assembled(searched, read(compare_samplers.OUT / compare_samplers.FILE)))
    path = out / comparison.FILE
    path.unlink(missing_ok=True)
    for row in rows:
        append(path, row)
    found = comparison.comparison(rows)
    if found is not None:
        picture(found, out / "comparison.png")
        print("\n".join(comparison.sentences(found)))


if __name__ == "__main__":
    main()
