"""Blocks of docs/paper-experiments.md: the synthetic mixture, and the ablations on images."""

from __future__ import annotations

import csv
import statistics

import synthetic_curves
from synthetic_curves import FAMILIES

from restart_sampling.experiments.measure.rows import find
from restart_sampling.experiments.report import select

from ._markdown import RESULTS, prose, table
from .quality import all_rows

PAGE = "docs/paper-experiments.md"


def mixture() -> str:
    with (RESULTS / "synthetic_mixture.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def mean(column: str, family: str, value: float) -> tuple[int, float]:
        """Return (NFE, mean error) of one configuration."""
        some = [row for row in rows if row["family"] == family and float(row["value"]) == value]
        return int(some[0]["nfe"]), statistics.fmean(float(row[column]) for row in some)

    none, most = 0, int(max(float(row["value"]) for row in rows if row["family"] == "restart"))
    errors = {
        name: [mean(name, "restart", K)[1] for K in (none, most)] for name in ("total", "contracted", "additional")
    }
    (few, restart), (many, ode) = mean("total", "restart, grid × 2", 2), mean("total", "ode", 4)
    churn = min(mean("contracted", "sde", value)[1] for value in (5, 10, 20, 40, 80))
    contracted = min(mean("contracted", "restart, grid × 2", K)[1] for K in (1, 2, 4, 9))
    return prose(
        f"From K = {none} to K = {most} the contracted error falls from {errors['contracted'][0]:.3f} to",
        f"{errors['contracted'][1]:.3f} and the additional error grows from {errors['additional'][0]:.3f} to",
        f"{errors['additional'][1]:.3f}, as the paper finds. In this run, with Euler steps, Restart on the grid with",
        f"twice the points reaches at {few} evaluations about the total error of the ODE at {many} ({restart:.3f} and",
        f"{ode:.3f}). Churn at {many} contracts further than Restart does (to {churn:.3f}, Restart to",
        f"{contracted:.3f}): the paper's ranking of the two is not reproduced here.",
    )


def synthetic() -> str:
    rows = synthetic_curves.load(RESULTS / "synthetic_curves.csv")
    found = synthetic_curves.claim(rows)
    every = synthetic_curves.means(rows, experiment="curve")
    best = {name: min((r for r in every if r["family"] == name), key=lambda r: r["total"]) for name in FAMILIES}
    floor = statistics.fmean(r["total"] for r in find(rows, family=synthetic_curves.FLOOR))
    lowest = ", ".join(
        f"{title} {r['total']:.3f} ± {r['std']:.3f} at {r['nfe']} NFE"
        for title, r in zip(FAMILIES.values(), best.values(), strict=True)
    )
    if found.fraction is None:
        verdict = f"Restart does not reach the best SDE; it does in {found.reached} of {found.blocks} runs."
    else:
        lowest_run = f", with fractions from {found.low:.2f} on" if found.low is not None else ""
        (_, _, nfe, _), error = found.as_good[0]
        between = ""
        if found.between is not None:
            low, high = found.between
            between = f", interpolated between {low} and {high} NFE {found.nfe_restart:.0f} and {found.fraction:.2f}"
        verdict = (
            f"Restart's mean error is as low as the best SDE's at {nfe} NFE ({error:.3f}), {nfe / found.nfe_sde:.2f} "
            f"of its evaluations{between}; run by run, interpolated, Restart reaches the best SDE in {found.reached} "
            f"of {found.blocks}{lowest_run}."
        )
    runs = f"{found.blocks} runs of {found.n:,} samples ({floor:.3f} for two samples of the data)"
    return f"{prose(f'Lowest W1 to the data over {runs}: {lowest}.')}\n\n{prose(verdict)}"


def ablations() -> str:
    rows = all_rows()
    n = find(rows, experiment="K")[0]["n"]
    about = prose(
        f"One interval [3, K, t_min, t_max] with Heun, blocks of n = {n:,}, the same seeds; 18 points but for N_main,",
        "which has K = 1; the interval is 0.3 to 1 unless the row says otherwise (`python benchmarks/ablations.py`):",
    )
    lines = []
    for point in select.ablation_points(rows):
        if "equal classes" in point["basis"]:
            spread = f" ± {point['std']:.2f}" if point["std"] is not None else ""
            fd, right = f"{point['fd']:.2f}{spread}", f"{100 * point['accuracy']:.1f} %"
            lines.append((point["experiment"], point["value"], point["nfe"], fd, right, point["blocks"]))
    made = table(["varied", "value", "NFE", "FD, equal classes", "right class", "blocks"], lines)
    return f"{about}\n\n{made}"
