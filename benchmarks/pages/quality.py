"""Blocks of docs/quality.md: how good the bundled model's samples are, by sampler."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import extractors
import search_samplers

from restart_sampling.experiments.measure import agreement, comparison, shipped
from restart_sampling.experiments.measure.rows import find, read
from restart_sampling.experiments.report import comparison as shown
from restart_sampling.experiments.report import pairs_table, quality_table, tuned_table
from restart_sampling.experiments.report.series import intervals_of

from ._markdown import RESULTS, listed, load, prose, signed, table

PAGE = "docs/quality.md"
SDE = extractors.BEST_SDE
RESTART = tuple(name for name in extractors.SAMPLERS if name.startswith("preset:"))


def all_rows() -> list[dict[str, Any]]:
    """Return the rows of quality and of the ablations."""
    return [row for name in ("quality.jsonl", "ablation.jsonl") for row in read(RESULTS / name)]


class Verdict(NamedTuple):
    """One Restart plan beside the best SDE: mean difference and standard error, by extractor.

    An extractor measures a difference where it is larger than two standard errors.
    """

    sampler: str
    nfe: int
    differences: dict[str, tuple[float, float]]

    def said(self, sign: int) -> list[str]:
        """Return what the extractors measure of one sign: −1 below the SDE, 1 above it, 0 no difference."""
        return [
            f"{name} ({signed(mean)} ± {error:.3f})"
            for name, (mean, error) in self.differences.items()
            if (0 if abs(mean) <= 2 * error else 1 if mean > 0 else -1) == sign
        ]


def verdicts() -> Iterator[Verdict]:
    """Yield the measured Restart plans beside the best SDE on the blocks of seeds that all samplers share."""
    found, shared = extractors.values(read(RESULTS / "quality.jsonl"))
    for sampler in RESTART:
        preset, _, nfe = sampler.removeprefix("preset:").rpartition("@")
        differences = {
            name.removeprefix("fashion-mnist-"): extractors.paired(found, shared, sampler, name)
            for name in shipped.NAMES
        }
        yield Verdict(preset, int(nfe), differences)


def summary() -> str:
    found, shared = extractors.values(read(RESULTS / "quality.jsonl"))
    nfe = SDE.rpartition("@")[2]
    lines = [
        prose(
            f"Restart beside the SDE of its paper, EDM's stochastic sampler, at {nfe} evaluations: mean difference of",
            f"the Fréchet distances ± its standard error over the same {len(shared)} blocks of 1,000 seeds; below is",
            "better.",
        ),
        "",
    ]
    phrases = {-1: "below by", 1: "above by", 0: "no difference beyond two standard errors by"}
    for verdict in verdicts():
        said = [f"{phrase} {listed(verdict.said(sign))}" for sign, phrase in phrases.items() if verdict.said(sign)]
        lines.append(prose(f"`{verdict.sampler}` at {verdict.nfe} evaluations: {'; '.join(said)}.", bullet="* "))
    means = {
        name: [statistics.fmean(found[name, features][seed] for seed in shared) for features in shipped.NAMES]
        for name in extractors.SAMPLERS
    }
    odes = [name for name in extractors.SAMPLERS if name not in (*RESTART, SDE)]
    all_lower = [
        name for name in RESTART if all(a < b for ode in odes for a, b in zip(means[name], means[ode], strict=True))
    ]
    if all_lower:
        plans = listed([f"{name.rpartition('@')[2]}" for name in all_lower])
        titles = listed([f"{extractors.SAMPLERS[name]} at {name.rpartition('@')[2]}" for name in odes])
        lines += [
            "",
            prose(f"The means of Restart at {plans} evaluations are below those of {titles} by all extractors."),
        ]
    below_all = [v.sampler for v in verdicts() if len(v.said(-1)) == len(shipped.NAMES)]
    if not below_all:
        lines += ["", prose("None of these plans is measurably below that SDE by all of them.")]
    return "\n".join(lines)


def best_of_each() -> str:
    """The comparison of the families at equal evaluations, in sentences, a picture and two tables."""
    found = comparison.comparison(read(RESULTS / comparison.FILE))
    if found is None:
        return prose("It was not measured yet; `make compare` does.")
    trials = found.trials
    counts = sorted({len(seeds) for cell in found.cells.values() for seeds in cell.distances.values()})
    blocks = f"{counts[0]} to {counts[-1]}" if counts[0] != counts[-1] else str(counts[0])
    about = prose(
        f"`make compare` drew {trials} plans of each family: ODE solvers, SDE solvers, Restart on ODE solvers. It drew",
        f"the best again, beside {len(search_samplers.GOOD['ode'])} of each family that papers and earlier searches",
        "found good. For every budget it chose the plan of at most that many evaluations that was lowest then,",
        f"by the geometric mean of the distances by {listed(found.tuned_on)}. Each was measured on seeds that no",
        f"search drew, {blocks} blocks of {found.n:,} images. A cell is Restart's distance less the other's over the",
        f"same blocks, mean ± standard error, lower is better; a win or a loss is beyond {comparison.BEYOND:g}",
        "standard errors.",
    )
    picture = "![The best of each family along the evaluations](../benchmarks/results/comparison.png)"
    said = [prose(sentence, bullet="* ") for sentence in comparison.sentences(found)]
    tables = [shown.table(found).markdown(), shown.plans(found).markdown()]
    return "\n\n".join([about, "\n".join(said), picture, *tables])


def machines() -> str:
    found = load("machines.json")
    blocks, here = found["blocks"], found["here"]
    there = ", ".join(dict.fromkeys(block["device"] for block in blocks))
    return prose(
        f"{len(blocks)} blocks of {blocks[0]['n']:,} samples ({blocks[0]['sampler']}, {blocks[0]['nfe']} NFE), drawn",
        f"on {there} and again on {here['device']}: their distances, of about",
        f"{statistics.fmean(b['fd_balanced'] for b in blocks):.1f}, differ by at most {found['moved']:.1g}",
        "(`benchmarks/machines.py`).",
    )


def by_extractor() -> str:
    return extractors.table(read(RESULTS / "quality.jsonl"))


def distances() -> str:
    rows = all_rows()
    n = find(rows, experiment="K")[0]["n"]
    about = prose(
        "Fréchet distance of the bundled model's samples to the test set, on the features of a small classifier",
        "(FD-classifier, not FID; lower is better). The first FD is of seeds that all rows share, so it compares.",
        "Beside it stands the mean over all blocks of a row, where there are more: it is better known, and compares",
        "only with rows of as many blocks. All classes are weighted alike, which takes out how often seeds happen to",
        "ask for a class; ± is the standard deviation over blocks of seeds where there are several. All samplers",
        "begin from the same latents, draw 0 of the seed; noise along the way is each one's own. `make quality` adds",
        "what is missing.",
    )
    return f"{about}\n\n{quality_table(find(rows, n=n), by='engine')}"


def pooled() -> str:
    rows = find(all_rows(), kind="pooled")
    # The last row of equal samples counts.
    several = {(r["sampler"], r["nfe"], r["key"], r["features"], r["n"]): r for r in rows if r["blocks"] > 1}
    lines = [
        prose(
            "All blocks together, classes weighted alike; a distance falls with the number of samples, so only those",
            "of one line compare:",
        ),
        "",
    ]
    for features, n in sorted({(r["features"], r["n"]) for r in several.values()}, key=lambda key: (key[0], -key[1])):
        mine = sorted((r for r in several.values() if (r["features"], r["n"]) == (features, n)), key=_distance)
        told = ", ".join(f"{r['title']}{_interval(r)} at {r['nfe']} NFE {_distance(r):.2f}" for r in mine)
        lines.append(prose(f"{features}, {n:,} samples: {told}.", bullet="* "))
    return "\n".join(lines)


def _distance(row: dict[str, Any]) -> float:
    return float(row["fd_balanced"] if row.get("fd_balanced") is not None else row["fd"])


def _interval(row: dict[str, Any]) -> str:
    """Return the interval of a sampler whose name does not say it."""
    return f" {intervals_of(row)}" if row["restart"] and not row["sampler"].startswith("preset:") else ""


def claims() -> str:
    about = prose(
        "Of the rows of `make quality` alone, which are the presets, some plans around them and few SDE solvers; the",
        "families with a search each are compared above:",
    )
    said = map(prose, agreement.sentences([*all_rows(), *read(RESULTS / "tune.jsonl")]))
    return "\n\n".join([about, *said])


def pairs() -> str:
    about = prose("On the same blocks of seeds, with classes weighted alike, mean difference and its standard error:")
    return f"{about}\n\n{pairs_table(all_rows()).markdown()}"


def tuned() -> str:
    rows = read(RESULTS / "tune.jsonl")
    trials, found = find(rows, kind="trial"), find(rows, kind="tuned")
    newest = {row["budget"]: row for row in found}
    plans = {newest[budget]["plan"]: newest[budget] for budget in sorted(newest)}
    about = prose(
        f"`make tune` drew {len(trials)} plans, {trials[0]['n']:,} images each, and measured what it found on fresh",
        "seeds beside the best preset within the budget and plain Heun at it: FD-classifier with equal classes, mean",
        f"and standard deviation over blocks of {found[0]['n']:,} seeds.",
    )
    commands = "\n".join(["```", *(row["command"] for row in plans.values()), "```"])
    picture = "![Every plan that was drawn, and what was found](../benchmarks/results/pareto.png)"
    return "\n\n".join([about, tuned_table(rows), commands, picture])


def repeats() -> str:
    """How the number of jumps in the paper's low interval acts on each solver, by the trials of the search."""
    trials = find(read(RESULTS / "tune.jsonl"), kind="trial")
    solvers = (
        ("heun", None, "Heun"),
        ("dpm++2m", None, "DPM-Solver++(2M)"),
        ("dpm++2m", "heun", "the same, Heun inside"),
    )
    found: dict[tuple[str, int], tuple[int, float]] = {}
    for row in trials:
        options = row["config"]
        for solver, inside, title in solvers:
            if (options["steps"], options["solver"], options.get("restart_solver")) != (18, solver, inside):
                continue
            for k in (2, 5, 10):
                if row["restart"] == f'{{"0": [3, {k}, 0.06, 0.3]}}':
                    found[title, k] = row["nfe"], row["fd"]
    lines = [
        [
            title,
            *(f"{found[title, k][1]:.2f} ({found[title, k][0]})" if (title, k) in found else "–" for k in (2, 5, 10)),
        ]
        for _, _, title in solvers
    ]
    about = prose(
        f"FD-classifier of {trials[0]['n']:,} images in the search (NFE in brackets), 18 points and one interval",
        "[3, K, 0.06, 0.3]:",
    )
    return f"{about}\n\n{table(['solver', 'K = 2', 'K = 5', 'K = 10'], lines)}"
