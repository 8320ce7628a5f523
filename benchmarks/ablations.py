r"""Ablations of Restart on the bundled model: K in two intervals, the interval, and N_main, all on the same seeds.

    python benchmarks/ablations.py     # resumable; appends to results/ablation.jsonl and draws results/ablation.png

The distance is that of the bundled classifier's features. A block of seeds that `restart-sampling bench` has measured
with the same plan is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import restart_sampling as rs
from restart_sampling.experiments.measure import image_cache, quality
from restart_sampling.experiments.measure.engine import EngineRunner
from restart_sampling.experiments.measure.evaluator import evaluator_for
from restart_sampling.experiments.measure.rows import append, environment, find, read
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.select import ablation_points
from restart_sampling.experiments.report.style import family_of

RESULTS = Path(__file__).parent / "results"
MODEL = "fashion-mnist"
PAPER = "K, 0.06 to 0.3"  # the paper's interval for CIFAR-10 VP
BLOCKS = {PAPER: 3}  # of seeds; others have one


def experiments() -> list[tuple[str, Any, rs.Plan]]:
    """Return (experiment, value, plan), cheapest first within each experiment."""
    at = "0.30, 1.0"
    found: list[tuple[str, Any, rs.Plan]] = [("K", 0, rs.Plan.build(steps=18))]
    found += [("K", k, rs.Plan.build(steps=18, restart=f"[3, {k}, {at}]")) for k in (2, 7, 12)]
    found += [(PAPER, 0, rs.Plan.build(steps=18))]
    found += [(PAPER, k, rs.Plan.build(steps=18, restart=f"[3, {k}, 0.06, 0.30]")) for k in (2, 5)]
    intervals = ((0.06, 0.14), (0.06, 0.30), (0.14, 0.30), (0.30, 1.0), (1.0, 3.0))
    found += [
        ("interval", f"{low}, {high}", rs.Plan.build(steps=18, restart=f"[3, 2, {low}, {high}]"))
        for low, high in intervals
    ]
    found += [("N_main", n, rs.Plan.build(steps=n, restart=f"[3, 1, {at}]")) for n in (9, 14, 18, 24)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true", help="draw the picture of the rows that exist")
    arguments = parser.parse_args()
    if arguments.plot_only:
        rows = find(read(arguments.out / "ablation.jsonl"), kind="ablation", n=arguments.n)
        plot(rows, rows[-1], arguments.out / "ablation.png")
        return
    denoiser, evaluator = rs.load(MODEL), evaluator_for(MODEL)
    keys = {"model": MODEL, "model_sha256": str(denoiser.info["sha256"])[:12], "dtype": "fp32", "n": arguments.n}
    keys |= {"features": evaluator.features, "reference": evaluator.reference}
    work = [
        (*what, arguments.first_seed + block * arguments.n)
        for what in experiments()
        for block in range(BLOCKS.get(what[0], 1))
    ]
    for experiment, value, plan, first_seed in work:
        row = {
            "kind": "ablation",
            "experiment": experiment,
            "value": value,
            "plan": plan.digest,
            "nfe": plan.nfe,
            "first_seed": first_seed,
            **keys,
        }
        if find(read(arguments.out / "ablation.jsonl"), **row):
            continue
        same = {name: row[name] for name in ("plan", "first_seed", *keys)}
        known = find(read(arguments.out / quality.FILE), kind="quality", by="engine", **same)
        if known:
            measured, where = known[-1], {name: known[-1][name] for name in environment()}
        else:
            runner = EngineRunner(denoiser, plan, arguments.batch, "fp32")
            images, labels = quality.block_of(
                denoiser, runner, image_cache.default_folder(), first_seed, arguments.n, arguments.batch
            )
            measured, where = evaluator.measure(images, labels), environment()
        sampler, title = ("heun+restart", "Heun + Restart") if plan.intervals else ("heun", "Heun")
        row |= {"sampler": sampler, "title": title, "family": "restart" if plan.intervals else "ode", "by": "engine"}
        row |= {"nfe_asked": plan.nfe, "batch": arguments.batch}
        row |= {"config": plan.config.to_dict(), "restart": plan.config.restart.to_json() if plan.intervals else ""}
        row |= {name: round(measured[name], 6) for name in ("fd", "fd_balanced", "accuracy")} | where
        append(arguments.out / "ablation.jsonl", row)
        print(f"{experiment} = {value}: {plan.nfe} NFE, seeds {first_seed} …, FD {row['fd_balanced']:.3f}", flush=True)
    plot(find(read(arguments.out / "ablation.jsonl"), **keys), keys, arguments.out / "ablation.png")


def plot(rows: list[dict[str, Any]], keys: dict[str, Any], path: Path) -> None:
    """Draw FD with equal classes: mean and standard deviation over the blocks of seeds, the NFE under each value."""
    titles = {
        "K": "K jumps, interval 0.3 to 1",
        PAPER: f"{PAPER[0]} jumps, interval 0.06 to 0.3",
        "interval": "interval, two jumps",
        "N_main": "main grid's points, one jump",
    }
    every = [point for point in ablation_points(rows) if "equal classes" in point["basis"]]
    with canvas.drawing():
        figure, axes = canvas.figure(5.6, 2, 2, sharey=True)
        for ax, (name, title) in zip(axes.flat, titles.items(), strict=True):
            points = find(every, experiment=name)
            for family in sorted({family_of(p) for p in points}):
                some = [(x, p) for x, p in enumerate(points) if family_of(p) == family]
                canvas.points(
                    ax,
                    [x for x, _ in some],
                    [p["fd"] for _, p in some],
                    family,
                    yerr=[p["std"] for _, p in some],
                    linestyle="" if name == "interval" else "-",
                )
            ax.set_xticks(range(len(points)), [_tick(p) for p in points], fontsize=canvas.SMALL)
            ax.margins(x=0.12, y=0.12)
            blocks = points[0]["blocks"] if points else 1
            ax.set(title=title, xlabel="same 1,000 seeds" if blocks == 1 else f"same {blocks} blocks of 1,000 seeds")
        for ax in axes[:, 0]:
            ax.set_ylabel("FD, equal classes\n(lower is better)")
        canvas.legend(figure, [family_of(p) for p in every], one_block=canvas.has_hollow(every))
        caption = f"{MODEL}, features {keys['features']}, Heun; the number under a value is its NFE. "
        caption += "Bars: standard deviation."
        canvas.save(figure, path, caption)


def _tick(row: dict[str, Any]) -> str:
    """Return the varied value, an interval on two lines, and the NFE under it."""
    return str(row["value"]).replace(", ", "\nto ") + f"\n({row['nfe']})"


if __name__ == "__main__":
    main()
