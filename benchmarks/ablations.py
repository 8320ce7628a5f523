r"""Ablations of Restart on the bundled model: K, the interval, N_main. FD-classifier, the same seeds for every row.

python benchmarks/ablations.py --n 1000     # resumable; appends to results/ablation.jsonl and draws results/ablation.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import restart_sampling as rs
from restart_sampling.bench import images as kept
from restart_sampling.bench import quality
from restart_sampling.bench.engine import EngineRunner
from restart_sampling.bench.judge import judge_for
from restart_sampling.bench.rows import append, environment, find, read

RESULTS = Path(__file__).parent / "results"
MODEL = "fashion-mnist"


def experiments() -> list[tuple[str, Any, rs.Plan]]:
    """(experiment, value, plan), cheapest first within each."""
    at = "0.30, 1.0"
    found: list[tuple[str, Any, rs.Plan]] = [("K", 0, rs.Plan.build(steps=18))]
    found += [("K", k, rs.Plan.build(steps=18, restart=f"[3, {k}, {at}]")) for k in (2, 7, 12)]
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
    arguments = parser.parse_args()
    denoiser, judge = rs.load(MODEL), judge_for(MODEL)
    keys = {
        "model": MODEL,
        "model_sha256": str(denoiser.info["sha256"])[:12],
        "dtype": "fp32",
        "n": arguments.n,
    }
    keys |= {"first_seed": arguments.first_seed, "features": judge.features, "reference": judge.reference}
    for experiment, value, plan in experiments():
        row = {
            "kind": "ablation",
            "experiment": experiment,
            "value": value,
            "plan": plan.digest,
            "nfe": plan.nfe,
            **keys,
        }
        if find(read(arguments.out / "ablation.jsonl"), **row):
            continue
        runner = EngineRunner(denoiser, plan, arguments.batch, "fp32")
        images, labels = quality.block_of(
            denoiser, runner, kept.default_folder(), arguments.first_seed, arguments.n, arguments.batch
        )
        measured = judge.measure(images, labels)
        row |= {
            "sampler": "heun+restart" if plan.intervals else "heun",
            "title": "Heun + Restart" if plan.intervals else "Heun",
        }
        row |= {
            "family": "restart" if plan.intervals else "ode",
            "by": "engine",
            "nfe_asked": plan.nfe,
            "batch": arguments.batch,
        }
        row |= {
            "config": plan.config.to_dict(),
            "restart": plan.config.restart.to_json() if plan.intervals else "",
        }
        row |= {name: round(measured[name], 6) for name in ("fd", "fd_balanced", "accuracy")} | environment()
        append(arguments.out / "ablation.jsonl", row)
        print(f"{experiment} = {value}: {plan.nfe} NFE, FD {row['fd_balanced']:.3f}", flush=True)
    plot(read(arguments.out / "ablation.jsonl"), keys, arguments.out / "ablation.png")


def plot(rows: list[dict[str, Any]], keys: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("K", "interval", "N_main")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), constrained_layout=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        points = [row for row in find(rows, **keys) if row["experiment"] == name]
        ax.plot([str(row["value"]) for row in points], [row["fd_balanced"] for row in points], "o-")
        for row in points:
            ax.annotate(
                f"{row['nfe']} NFE",
                (str(row["value"]), row["fd_balanced"]),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=8,
            )
        ax.margins(x=0.15, y=0.12)
        ax.set(xlabel={"interval": "t_min, t_max"}.get(name, name))
    axes[0].set(ylabel="FD-classifier, equal classes")
    figure.suptitle(f"Restart on {MODEL}, n = {keys['n']:,}")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
