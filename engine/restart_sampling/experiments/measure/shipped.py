r"""The feature extractors that come with the bundled model, and the statistics of its reference.

| name | what it is | what it chose |
|---|---|---|
| `fashion-mnist-classifier` | a small classifier, before its last non-linearity; the default of `bench` | `fashion-mnist-22` |
| `fashion-mnist-resnet` | a residual classifier, trained apart, average over its last feature map | nothing |
| `fashion-mnist-autoencoder` | a denoising autoencoder that never saw a class, its bottleneck | nothing |
| `fashion-mnist-patches` | a classifier of mixed patches; what `tune` uses by default | the plans of `restart-sampling tune` |

All give 64 features. A plan that was chosen by one of them is judged by the others.

The reference is the Fashion-MNIST test set: 10,000 images, 1,000 of each class. Its mean and covariance come with every
extractor (NAME-reference.npz), so that a Fréchet distance needs no data set. Kernel distance, precision and recall need
its images.

    python -m restart_sampling.experiments.measure.shipped        # computes the statistics anew, from the data set
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.registry import DATA

MODEL = "fashion-mnist"
CLASSIFIER, TUNER = "fashion-mnist-classifier", "fashion-mnist-patches"
NAMES = (CLASSIFIER, "fashion-mnist-resnet", "fashion-mnist-autoencoder", TUNER)
REFERENCE = "fashion-mnist test"
SHAPE, CLASSES = (1, 28, 28), 10


class _OfPixels(nn.Module):
    """A method of a network for images in [−1, 1], applied to uint8 images."""

    image_shape = SHAPE

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        return getattr(self.network, self.method)(images.float() / 127.5 - 1)


def extractor(name: str) -> nn.Module:
    """Return the shipped extractor `name`, one of NAMES: uint8 images [n, 1, 28, 28] → features [n, 64]."""
    from ..training.classifier import load_classifier
    from .extractors import load_extractor

    load = load_classifier if name == CLASSIFIER else load_extractor
    return _OfPixels(load(DATA / f"{name}.safetensors"), "features")


def classifier() -> nn.Module:
    """Return the shipped classifier: uint8 images [n, 1, 28, 28] → logits [n, 10]."""
    from ..training.classifier import load_classifier

    return _OfPixels(load_classifier(DATA / f"{CLASSIFIER}.safetensors"), "forward")


def statistics_of(name: str, folder: Path = DATA) -> Path:
    """The file with the statistics of the reference in the features of `name`: mu, sigma and n, as EDM's files have
    them.
    """
    return folder / f"{name}-reference.npz"


def statistics(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(mu float64 [64], sigma float64 [64, 64], number of images) of the reference in the features of `name`."""
    with np.load(statistics_of(name), allow_pickle=False) as arrays:
        return arrays["mu"], arrays["sigma"], int(arrays["n"])


def write_statistics(folder: Path = DATA) -> None:
    """Compute the statistics of every extractor from the data set's images, and write them to `folder`."""
    from ..datasets import fashion_mnist
    from .evaluator import Judge, save_stats
    from .features import Features

    images = torch.from_numpy(fashion_mnist("test").images)
    for name in NAMES:
        judge = Judge(Features(extractor(name), name, images[0]), images)
        save_stats(statistics_of(name, folder), judge.stats)


if __name__ == "__main__":
    write_statistics()
