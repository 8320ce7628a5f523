r"""Quality against NFE on the paper's synthetic mixture: ODE, SDE and Restart, and Restart's K, interval and main grid.

Data and network are those of synthetic_mixture.py (arXiv 2306.14878, section 5.1); every sampler runs on EDM's grid.
The error is W1(samples, data) by minimum-weight matching; two samples of the data have one too, the floor. Every family
is swept as the paper sweeps it (appendix C.5), each configuration on the same seeds, and a family's curve is the lowest
mean error with at most so many evaluations. The claim is computed as for images (experiments/measure/claims.py).

    python benchmarks/synthetic_curves.py    # half an hour on 2 cores; resumable; writes results/synthetic_curves.*
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import synthetic_mixture as synthetic
import torch

import restart_sampling as rs
from restart_sampling.experiments.measure.claims import Fraction, fraction
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.front import front
from restart_sampling.experiments.report.style import look

RESULTS = Path(__file__).parent / "results"
INTERVAL, WIDER = (1.0, 1.5), (1.0, 3.0)  # the paper's, and a longer one
FAMILIES = {"ode": "ODE", "sde": "SDE (churn)", "restart": "Restart"}
FLOOR = "floor"


@dataclass(frozen=True)
class Configuration:
    """A sampler in an experiment: "curve", "K", "interval" or "N_main"."""

    experiment: str
    family: str
    solver: str
    steps: int
    s_churn: float = 0.0
    N: int = 0
    K: int = 0
    t_min: float = 0.0
    t_max: float = 0.0

    def plan(self) -> rs.Plan:
        """Return the plan of this configuration."""
        options: dict[str, Any] = {"solver": self.solver, "steps": self.steps}
        if self.s_churn:
            options |= {"s_churn": self.s_churn}
        if self.K:
            options |= {"restart": [[self.N, self.K, self.t_min, self.t_max]]}
        return rs.Plan.build(**options)

    @property
    def sampler(self) -> str:
        """A name that tells configurations apart."""
        jump = f" [{self.N}, {self.K}, {self.t_min:g}, {self.t_max:g}]" if self.K else ""
        churn = f" S_churn {self.s_churn:g}" if self.s_churn else ""
        return f"{self.solver} {self.steps}{churn}{jump}"


def configurations() -> Iterator[Configuration]:
    """Yield all configurations; one that is in two experiments is listed in both and measured once."""
    t_min, t_max = INTERVAL
    for solver in ("euler", "heun"):
        for steps in (12, 18, 36, 72, 144):
            yield Configuration("curve", "ode", solver, steps)
            for s_churn in (0.2 * steps, 0.5 * steps, 20.0, 60.0):
                yield Configuration("curve", "sde", solver, steps, s_churn=round(s_churn, 2))
        for steps in (12, 18, 36, 72):
            for N in (3, 6):
                for K in (2, 5, 15):
                    for low, high in (INTERVAL, WIDER):
                        yield Configuration("curve", "restart", solver, steps, 0.0, N, K, low, high)
    yield Configuration("K", "ode", "euler", 36)
    for K in (1, 2, 5, 10, 20, 40):
        yield Configuration("K", "restart", "euler", 36, 0.0, 3, K, t_min, t_max)
    for low, high in ((0.1, 0.15), (0.1, 0.6), (0.5, 0.75), (0.5, 1.0), (1.0, 1.5), (1.0, 3.0), (3.0, 4.5), (3.0, 9.0)):
        yield Configuration("interval", "restart", "euler", 36, 0.0, 3, 10, low, high)
    for steps in (12, 18, 24, 36, 72, 144):
        yield Configuration("N_main", "restart", "euler", steps, 0.0, 3, 10, t_min, t_max)


def draw(denoiser: rs.Denoiser, plan: rs.Plan, n: int, seed: int) -> np.ndarray:
    """Draw n samples in R^20, float64."""
    base = 10_000_000 * seed
    x = rs.Sampler(denoiser, plan, batch_size=n).run(range(base, base + n))
    return x.view(n, 20).double().numpy()


def total(samples: np.ndarray, seed: int) -> float:
    """Return W1 between samples and as many fresh points of the data."""
    return synthetic.W1(samples, synthetic.make_data(len(samples), seed=1000 + seed))


COLUMNS = [*(field.name for field in fields(Configuration)), "nfe", "seed", "n", "total"]
KEY = COLUMNS[1:9]


def measure(n: int, runs: int, train_steps: int, path: Path) -> None:
    """Append the rows that `path` does not have yet, configuration by configuration."""
    torch.set_num_threads(1)
    denoiser = synthetic.train(train_steps)
    rows = load(path)
    known = {tuple(row[k] for k in (*KEY, "seed", "n")): row["total"] for row in rows}
    done = {(row["experiment"], *(row[k] for k in (*KEY, "seed", "n"))) for row in rows}

    def write(some: list[dict[str, Any]]) -> None:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(some)

    if not any(row["family"] == FLOOR for row in rows):
        write(
            [
                {
                    **dict.fromkeys(COLUMNS, 0),
                    "experiment": FLOOR,
                    "family": FLOOR,
                    "solver": "data",
                    "seed": seed,
                    "n": n,
                    "total": round(synthetic.floor(n, seed), 5),
                }
                for seed in range(runs)
            ]
        )
    with ProcessPoolExecutor(2) as pool:  # the matching is what takes long, not the sampling
        for c in configurations():
            plan, own = c.plan(), {k: getattr(c, k) for k in COLUMNS[:9]}
            missing = [s for s in range(runs) if (c.experiment, *(own[k] for k in KEY), s, n) not in done]
            values = {s: known[own_key] for s in missing if (own_key := (*(own[k] for k in KEY), s, n)) in known}
            fresh = [s for s in missing if s not in values]
            values |= zip(fresh, pool.map(total, [draw(denoiser, plan, n, s) for s in fresh], fresh), strict=True)
            some = [{**own, "nfe": plan.nfe, "seed": s, "n": n, "total": round(values[s], 5)} for s in missing]
            if some:
                write(some)
                known |= {(*(own[k] for k in KEY), row["seed"], n): row["total"] for row in some}
                mean = np.mean([row["total"] for row in some])
                print(f"{c.experiment:<9}{c.sampler:<40}{plan.nfe:>5} NFE  W1 {mean:.3f}", flush=True)


def load(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file with numbers as numbers, none if there is no file."""
    if not path.exists():
        return []
    whole = ("steps", "N", "K", "nfe", "seed", "n")
    real = ("s_churn", "t_min", "t_max", "total")
    with path.open(newline="") as file:
        return [
            {k: int(v) if k in whole else float(v) if k in real else v for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def as_quality(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of the curve for `claims.fraction`: W1 stands for the Fréchet distance, a run for a block."""
    return [
        {
            "kind": "quality",
            "family": r["family"],
            "nfe": r["nfe"],
            "fd": r["total"],
            "first_seed": r["seed"],
            "n": r["n"],
            "sampler": Configuration(**{k: r[k] for k in COLUMNS[:9]}).sampler,
        }
        for r in rows
        if r["experiment"] == "curve"
    ]


def claim(rows: list[dict[str, Any]]) -> Fraction:
    """Return the share of the best SDE's evaluations with which Restart reaches its error."""
    found = fraction(as_quality(rows))
    if found is None:
        raise SystemExit("no rows: run python benchmarks/synthetic_curves.py")
    return found


def means(rows: list[dict[str, Any]], **given: Any) -> list[dict[str, Any]]:
    """Return a row for each configuration: mean and std of `total` over the runs."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if all(row[k] == v for k, v in given.items()):
            groups.setdefault(tuple(row[k] for k in COLUMNS[:9]), []).append(row)
    found = []
    for some in groups.values():
        totals = [row["total"] for row in some]
        std = statistics.stdev(totals) if len(totals) > 1 else 0.0
        found.append({**some[0], "total": statistics.fmean(totals), "std": std})
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the curves and the three ablations."""
    base = float(np.mean([r["total"] for r in rows if r["family"] == FLOOR]))
    runs = len({r["seed"] for r in rows})
    (without,) = means(rows, experiment="K", family="ode")
    with canvas.drawing():
        figure, ((curve, ks), (intervals, mains)) = canvas.figure(6.4, 2, 2)
        for family in FAMILIES:
            every = means(rows, experiment="curve", family=family)
            best = front(every, lambda row: row["nfe"], lambda row: row["total"])
            shown = look(family)
            curve.plot(
                [r["nfe"] for r in every],
                [r["total"] for r in every],
                shown.marker,
                color=shown.colour,
                alpha=0.3,
                ms=2.5,
            )
            canvas.points(
                curve,
                [r["nfe"] for r in best],
                [r["total"] for r in best],
                family,
                yerr=[r["std"] for r in best],
                linestyle="-",
                markersize=4,
            )
        canvas.log_axis(curve, "x", [r["nfe"] for r in rows if r["experiment"] == "curve"])
        curve.set(xlabel="NFE", title="lowest within so many NFE")
        for axis, experiment, title, tick in (
            (ks, "K", "K jumps, 1 to 1.5", "{K}"),
            (mains, "N_main", "points of the main grid, K = 10", "{steps}"),
            (intervals, "interval", "interval, K = 10", "{t_min:g}–\n{t_max:g}"),
        ):
            key = {"K": "K", "N_main": "steps"}.get(experiment)
            some = means(rows, experiment=experiment)
            some = sorted(some, key=lambda r: r[key]) if key else some
            for family in sorted({r["family"] for r in some}):
                mine = [(x, r) for x, r in enumerate(some) if r["family"] == family]
                canvas.points(
                    axis,
                    [x for x, _ in mine],
                    [r["total"] for _, r in mine],
                    family,
                    yerr=[r["std"] for _, r in mine],
                    linestyle="-" if key else "",
                )
            axis.set_xticks(
                range(len(some)), [f"{tick.format(**r)}\n({r['nfe']})" for r in some], fontsize=canvas.SMALL - 0.5
            )
            axis.set(title=title, xlabel="(NFE under the value)")
        intervals.axhline(without["total"], color=look("ode").colour, lw=1)
        intervals.annotate(
            "no Restart, same grid",
            (1, without["total"]),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -10),
            textcoords="offset points",
            ha="right",
            fontsize=canvas.SMALL,
            color=look("ode").colour,
        )
        for axis in (curve, ks, intervals, mains):
            canvas.floor(axis, base, "two samples of the data")
        for axis in (curve, intervals):
            axis.set_ylabel("W1 to the data\n(lower is better)")
        canvas.legend(figure, list(FAMILIES))
        canvas.save(figure, path, f"Euler in the ablations. Bars: standard deviation over {runs} runs. SDE: churn.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="samples per set")
    parser.add_argument("--runs", type=int, default=5, help="repetitions with other seeds")
    parser.add_argument("--train-steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true", help="draw the picture of the rows that are there")
    arguments = parser.parse_args()
    path = arguments.out / "synthetic_curves.csv"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.plot_only:
        measure(arguments.n, arguments.runs, arguments.train_steps, path)
    rows = load(path)
    plot(rows, arguments.out / "synthetic_curves.png")
    print(claim(rows))


if __name__ == "__main__":
    sys.exit(main())
