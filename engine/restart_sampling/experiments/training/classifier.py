r"""A small classifier, whose 64 features make a Fréchet distance for small images.

The Fréchet distance (Heusel et al., arXiv 1706.08500) compares mean and covariance of features of two image
sets. With Inception's 2048 features it is "FID" and needs 50,000 images; with these 64 it is called
"FD-classifier", and about 2,000 are enough. The features are taken before the last non-linearity, where they
are closer to Gaussian.

    3×3 conv 32 · norm · relu · pool → 3×3 conv 64 · norm · relu · pool → 3×3 conv 64 · norm · relu · pool
    → linear 64 (the features) · relu · linear (the classes)

    python -m restart_sampling.experiments.training.classifier --out classifier.safetensors       # 3 epochs, a few
    minutes
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from ...common.errors import RestartError
from ...common.terminal import plain_console
from ..datasets import Images, fashion_mnist
from ..measure import extractor_files as stored

KEY = "restart_sampling_classifier"
console = plain_console(stderr=True)


class Classifier(nn.Module):
    """Images float [B, channels, 28, 28] in [−1, 1] → logits [B, classes]. `card` says how it was trained."""

    num_features = 64

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        layers: list[nn.Module] = []
        for cin, cout in ((channels, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.GroupNorm(8, cout), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.feature = nn.Linear(64 * 3 * 3, self.num_features)
        self.head = nn.Linear(self.num_features, classes)

    def features(self, images: Tensor) -> Tensor:
        """[B, channels, 28, 28] in [−1, 1] → the features [B, 64], before the non-linearity."""
        return self.feature(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu())


def accuracy(classifier: Classifier, images: Images) -> float:
    """Share of `images` whose class is right."""
    pixels, labels = torch.from_numpy(images.images), torch.from_numpy(np.asarray(images.labels))
    with torch.no_grad():
        guesses = [classifier(part / 127.5 - 1).argmax(1) for part in pixels.float().split(1000)]
    return float((torch.cat(guesses) == labels).float().mean())


def train_classifier(images: Images, epochs: int = 3, batch: int = 128, lr: float = 3e-3, seed: int = 0) -> Classifier:
    """Adam, a one-cycle rate (up for a tenth, then a cosine to 0), random shifts by up to 2 pixels.

    The weights depend on `seed` and leave torch's global generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(images.images.shape[1], len(images.classes))
    pixels, labels = torch.from_numpy(images.images), torch.from_numpy(np.asarray(images.labels))
    rng = np.random.default_rng(seed)
    per_epoch = len(pixels) // batch
    total = max(epochs * per_epoch, 1)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(pixels)))
        at = step % per_epoch * batch
        index = order[at : at + batch]
        x = pixels[index].float() / 127.5 - 1
        dy, dx = rng.integers(0, 5, 2)
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
        done = step / total
        scale = done / 0.1 if done < 0.1 else 0.5 * (1 + np.cos(np.pi * (done - 0.1) / 0.9))
        optimizer.param_groups[0]["lr"] = lr * max(scale, 0.01)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(classifier(x), labels[index]).backward()
        optimizer.step()
    classifier.card = {"data": images.name, "classes": list(images.classes), "epochs": epochs, "batch": batch, "lr": lr}
    classifier.card["seed"] = seed
    return classifier.eval().requires_grad_(False)


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    stored.save(classifier, path, KEY)


def load_classifier(path: str | Path) -> Classifier:
    """The classifier stored by :func:`save_classifier`, float32, eval mode. Raises CheckpointError."""

    def make(card: dict[str, Any], tensors: dict[str, Tensor]) -> Classifier:
        return Classifier(tensors["body.0.weight"].shape[1], tensors["head.weight"].shape[0])

    return stored.load(path, KEY, "a classifier", make)


def main(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("classifier.safetensors"),
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate of Adam.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train on Fashion-MNIST's 60,000 training images; the accuracy is that on its 10,000 test images."""
    try:
        train, test = fashion_mnist("train"), fashion_mnist("test")
        classifier = train_classifier(train, epochs, batch, lr, seed)
        classifier.card["test_accuracy"] = round(accuracy(classifier, test), 4)
        save_classifier(classifier, out)
        console.print(f"wrote {out}: test accuracy {classifier.card['test_accuracy']:.4f}", highlight=False)
    except RestartError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
