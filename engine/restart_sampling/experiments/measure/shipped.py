r"""The feature extractors that come with the bundled models, and the statistics of its reference.

| name | what it is | what was chosen by it |
|---|---|---|
| `fashion-mnist-classifier` | a small classifier; the default of `bench` | `fashion-mnist-22`, `-27` |
| `fashion-mnist-resnet` | a residual classifier, trained apart | nothing |
| `fashion-mnist-autoencoder` | a denoising autoencoder that never saw a class | nothing |
| `fashion-mnist-patches` | a classifier of mixed patches, `tune`'s default | `fashion-mnist-27` and `-44`; by `tune` |

Their architectures are in extractors.py. A plan that was chosen by one of them is evaluated by the others.

The reference is the Fashion-MNIST test set: 10,000 images, 1,000 of each class. Its mean and covariance come with every
extractor (NAME-reference.npz), so that a Fréchet distance needs no data set. Kernel distance, precision and recall need
its images. `python -m restart_sampling.experiments.training.reference_statistics` computes the statistics anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.registry import BUNDLED, DATA
from .extractors import load_classifier, load_extractor

MODELS = tuple(BUNDLED)  # all of one data set
MODEL = MODELS[0]  # what `bench` and `tune` take by default
CLASSIFIER, TUNER = "fashion-mnist-classifier", "fashion-mnist-patches"
NAMES = (CLASSIFIER, "fashion-mnist-resnet", "fashion-mnist-autoencoder", TUNER)
REFERENCE = "fashion-mnist test"
SHAPE, CLASSES = (1, 28, 28), 10


class _OnPixels(nn.Module):
    """Applies a method of a network for images in [−1, 1] to uint8 images."""

    image_shape = SHAPE

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        return getattr(self.network, self.method)(images.float() / 127.5 - 1)


def extractor(name: str) -> nn.Module:
    """Return the shipped extractor `name`, one of NAMES: uint8 images [n, 1, 28, 28] → features [n, 64]."""
    load = load_classifier if name == CLASSIFIER else load_extractor
    return _OnPixels(load(DATA / f"{name}.safetensors"), "features")


def classifier() -> nn.Module:
    """Return the shipped classifier: uint8 images [n, 1, 28, 28] → logits [n, 10]."""
    return _OnPixels(load_classifier(DATA / f"{CLASSIFIER}.safetensors"), "forward")


def statistics_of(name: str, folder: Path = DATA) -> Path:
    """Return the file with the reference's statistics in the features of `name`: mu, sigma and n, as EDM names them."""
    return folder / f"{name}-reference.npz"


def statistics(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (mu float64 [64], sigma float64 [64, 64], images) of the reference in the features of `name`."""
    with np.load(statistics_of(name), allow_pickle=False) as arrays:
        return arrays["mu"], arrays["sigma"], int(arrays["n"])
