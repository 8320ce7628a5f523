"""Block of docs/training.md: the two bundled models on the same blocks of seeds."""

from __future__ import annotations

import statistics

from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.comparison import paired
from restart_sampling.experiments.measure.rows import find, read

from ._markdown import RESULTS, prose, signed, table

PAGE = "docs/training.md"
MODELS = ("fashion-mnist", "fashion-mnist-edm2")
SAMPLER = "preset:fashion-mnist-22"


def bundled() -> str:
    """Return the distances of both models by each extractor, beside those of training images."""
    rows = find(read(RESULTS / "bundled" / "quality.jsonl"), kind="quality", n=1000, reference=shipped.REFERENCE)
    lines, blocks = [], set()
    for features in shipped.NAMES:
        mine = find(rows, features=features)
        images = [row["fd_balanced"] for row in mine if row["sampler"] == "train set" and row["model"] == MODELS[0]]
        old, new = (
            {row["first_seed"]: row["fd_balanced"] for row in find(mine, sampler=SAMPLER, model=model)}
            for model in MODELS
        )
        less = paired(new, old)
        blocks.add(less.blocks)
        means = (f"{statistics.fmean(values):.3f}" for values in (images, old.values(), new.values()))
        difference = f"{signed(less.mean)} ± {less.error:.3f}"
        lines.append((features.removeprefix("fashion-mnist-"), *means, difference))
    (count,) = blocks
    said = prose(
        f"Fréchet distance with equal classes of {count} blocks of 1,000 images, the same seeds for both, drawn by "
        f"`{SAMPLER.removeprefix('preset:')}`; the difference is the mean over blocks ± standard error. `make bundled` "
        "measures it again."
    )
    columns = ("features", "training images", *(f"`{model}`" for model in MODELS), "difference")
    return f"{said}\n\n{table(columns, lines)}"
