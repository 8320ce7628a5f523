"""Blocks of docs/measuring.md: why distances weight classes alike."""

from __future__ import annotations

import statistics

from restart_sampling.experiments.measure.rows import find

from ._markdown import prose
from .quality import all_rows

PAGE = "docs/measuring.md"


def spread() -> str:
    def deviations(sampler: str, **given: object) -> tuple[int, float, float]:
        """Return the number of blocks of 1,000, and the standard deviation of fd and of fd_balanced over them."""
        rows = find(all_rows(), sampler=sampler, n=1000, features="fashion-mnist-classifier", kind="quality", **given)
        blocks = {row["first_seed"]: row for row in rows if "fd_balanced" in row}.values()
        return (len(blocks), *(statistics.stdev(row[name] for row in blocks) for name in ("fd", "fd_balanced")))

    n, fd, balanced = deviations("dpm++2m+restart", restart='{"0": [3, 2, 0.3, 1.0]}')
    of_training, fd_training, balanced_training = deviations("train set")
    return prose(
        "Seeds ask for classes at random, so a block of 1,000 has some more of one class than of another, and with",
        "features of a classifier that is most of the noise of fd. `fd_balanced` takes it out (post-stratification):",
        f"over {n} blocks of the bundled model's samples the standard deviation falls from {fd:.2f} to {balanced:.2f},",
        f"over {of_training} blocks of training images from {fd_training:.2f} to {balanced_training:.2f}. Samplers are",
        "ranked by it where there is one.",
    )
