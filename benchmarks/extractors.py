"""The table of docs/quality.md: the bundled model's samplers by every shipped extractor, on the blocks all share."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.rows import find

SAMPLERS = {
    "dpm++2m@18": "DPM-Solver++(2M)",
    "preset:fashion-mnist-22@22": "Restart, `fashion-mnist-22`",
    "preset:fashion-mnist-27@27": "Restart, `fashion-mnist-27`",
    "preset:fashion-mnist-44@44": "Restart, `fashion-mnist-44`",
    "heun@35": "Heun",
    "preset:cifar10-vp-55@55": "Restart, `cifar10-vp-55`",
    "preset:cifar10-vp-75@75": "Restart, `cifar10-vp-75`",
    "edm-stochastic@127": "EDM stochastic",
}
BEST_SDE = "edm-stochastic@127"
Values = dict[tuple[str, str], dict[int, float]]  # (sampler, extractor) → {first seed of the block: distance}


def values(rows: Iterable[dict[str, Any]]) -> tuple[Values, list[int]]:
    """Return the distances with equal classes of blocks of 1,000, and the first seeds of the blocks that all have."""
    found: Values = {}
    for row in find(rows, kind="quality", n=1000, model="fashion-mnist", dtype="fp32", reference=shipped.REFERENCE):
        name = f"{row['sampler']}@{row['nfe']}"
        if name in SAMPLERS and row["features"] in shipped.NAMES and "fd_balanced" in row:
            found.setdefault((name, row["features"]), {})[row["first_seed"]] = row["fd_balanced"]
    every = [found.get((name, features), {}) for name in SAMPLERS for features in shipped.NAMES]
    return found, sorted(set.intersection(*(set(blocks) for blocks in every)))


def paired(found: Values, shared: list[int], name: str, features: str) -> tuple[float, float]:
    """Return (mean, standard error) of a sampler's distance minus that of the best SDE, block by block."""
    less = [found[name, features][seed] - found[BEST_SDE, features][seed] for seed in shared]
    return statistics.fmean(less), statistics.stdev(less) / len(less) ** 0.5


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return a table with a line for each sampler and a column for each extractor.

    A cell is the mean distance, with its difference to the best SDE in brackets.
    """
    found, shared = values(rows)
    lines = [
        f"Fréchet distance with equal classes, mean over {len(shared)} blocks of 1,000 seeds from {shared[0]:,} on; "
        "in brackets",
        "the difference to the SDE at 127 evaluations, mean over blocks ± standard error. Lower is better.",
        "",
        f"| sampler | NFE | {' | '.join(name.removeprefix('fashion-mnist-') for name in shipped.NAMES)} |",
        f"|---|---|{'---|' * len(shipped.NAMES)}",
    ]
    for name, title in SAMPLERS.items():
        cells = []
        for features in shipped.NAMES:
            mean = statistics.fmean(found[name, features][seed] for seed in shared)
            less, error = paired(found, shared, name, features)
            cells.append(f"{mean:.3f}" + (f" ({less:+.3f} ± {error:.3f})" if name != BEST_SDE else ""))
        lines.append(f"| {title} | {name.rpartition('@')[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)
