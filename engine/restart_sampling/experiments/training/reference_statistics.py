"""Compute the shipped statistics of the reference anew, from the images of Fashion-MNIST's test set.

python -m restart_sampling.experiments.training.reference_statistics
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ...models.registry import DATA
from ..datasets import fashion_mnist
from ..measure import shipped
from ..measure.evaluator import Evaluator, save_stats
from ..measure.features import Features
from .command import console, errors_in_one_line


def write_statistics(folder: Path = DATA) -> None:
    """Write mean and covariance of the test set in the features of every shipped extractor to `folder`."""
    images = torch.from_numpy(fashion_mnist("test").images)
    for name in shipped.NAMES:
        evaluator = Evaluator(Features(shipped.extractor(name), name, images[0]), images)
        save_stats(shipped.statistics_of(name, folder), evaluator.stats)


@errors_in_one_line
def main(folder: Annotated[Path, typer.Option(help="Where the files are written.")] = DATA) -> None:
    """Write the statistics of Fashion-MNIST's 10,000 test images, a file for each shipped extractor."""
    write_statistics(folder)
    console.print(f"wrote the statistics of {len(shipped.NAMES)} extractors to {folder}")


if __name__ == "__main__":
    typer.run(main)
