r"""Train the classifier whose 64 features the bundled model is evaluated by; its architecture is in extractors.py.

python -m restart_sampling.experiments.training.classifier --out classifier.safetensors   # 3 epochs, a few minutes
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from ..datasets import Images, fashion_mnist
from ..measure.extractors import Classifier, save_classifier
from .command import console, errors_in_one_line
from .epochs import batches, scaled, share_right, shifted, tensors


def accuracy(classifier: Classifier, images: Images) -> float:
    """Return the share of `images` whose class the classifier tells."""
    return share_right(classifier, images)


def train_classifier(images: Images, epochs: int = 3, batch: int = 128, lr: float = 3e-3, seed: int = 0) -> Classifier:
    """Return a classifier of `images`, trained with Adam, a one-cycle rate and random shifts by up to 2 pixels.

    The weights depend on `seed`, and torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(images.images.shape[1], len(images.classes))
    pixels, labels = tensors(images)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    for index, share in batches(len(pixels), batch, epochs, rng):
        x = shifted(scaled(pixels[index]), 2, rng)
        optimizer.param_groups[0]["lr"] = lr * share
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(classifier(x), labels[index]).backward()
        optimizer.step()
    classifier.card = {"data": images.name, "classes": list(images.classes), "epochs": epochs, "batch": batch, "lr": lr}
    classifier.card["seed"] = seed
    return classifier.eval().requires_grad_(False)


@errors_in_one_line
def main(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("classifier.safetensors"),
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate of Adam.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train on Fashion-MNIST's 60,000 training images; the accuracy is that on its 10,000 test images."""
    train, test = fashion_mnist("train"), fashion_mnist("test")
    classifier = train_classifier(train, epochs, batch, lr, seed)
    classifier.card["test_accuracy"] = round(accuracy(classifier, test), 4)
    save_classifier(classifier, out)
    console.print(f"wrote {out}: test accuracy {classifier.card['test_accuracy']:.4f}")


if __name__ == "__main__":
    typer.run(main)
