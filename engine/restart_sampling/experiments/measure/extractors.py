r"""The networks whose features are compared: a classifier and three extractors for small images, and their files.

A Fréchet distance says how two image sets differ in the features it looks at and nothing more, so a claim about
samplers needs several. These networks differ in architecture, training and layer:

| name | architecture | trained to | features, always 64 |
|---|---|---|---|
| `fashion-mnist-classifier` | three convolutions | tell the classes | linear layer, before its non-linearity |
| `fashion-mnist-resnet` | residual network, 7 convolutions | tell the classes | average over the last feature map |
| `fashion-mnist-autoencoder` | strided convolutions | restore noisy images, without classes | linear bottleneck |
| `fashion-mnist-patches` | 4×4 patches, depthwise and pointwise layers | tell the classes | average over patches |

All take images float [B, 1, 28, 28] in [−1, 1] and give [B, 64]. The Fréchet distance (Heusel et al., arXiv 1706.08500)
of Inception's 2048 features is "FID" and needs 50,000 images; with these 64 about 2,000 are enough. The features of the
three extractors are divided by one number, so that the training set's variances sum to their count, 64: their distances
are of one order of magnitude.

They are trained in training/classifier.py and training/train_extractors.py. The files of the extractors hold what gives
features, not the heads and the decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import extractor_files

CLASSIFIER_KEY, EXTRACTOR_KEY = "restart_sampling_classifier", "restart_sampling_extractor"  # of a file's card
WIDTH = 64  # features of every network


class Classifier(nn.Module):
    """A small classifier: images float [B, channels, 28, 28] in [−1, 1] → logits [B, classes].

        3×3 conv 32 · norm · relu · pool → 3×3 conv 64 · norm · relu · pool → 3×3 conv 64 · norm · relu · pool
        → linear 64 (the features) · relu · linear (the classes)

    The features are taken before the last non-linearity, where they are closer to Gaussian. `card` says how it was
    trained.
    """

    num_features = WIDTH

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
        """Return the features [B, 64] of images [B, channels, 28, 28] in [−1, 1]."""
        return self.feature(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu())


class Extractor(nn.Module):
    """An extractor: `features`, the scale they are divided by, and `card`, which says how it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Return the features [B, 64] of images [B, 1, 28, 28] in [−1, 1], not scaled."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Return the features [B, 64] of images [B, 1, 28, 28] in [−1, 1]."""
        return self.embed(images) / self.scale


class _Residual(nn.Module):
    """x → relu(skip(x) + conv(relu(norm(conv(x))))), the first convolution with stride 2."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(cin, cout, 3, stride=2, padding=1), nn.Conv2d(cout, cout, 3, padding=1))
        self.norm, self.last = nn.GroupNorm(4, cout), nn.GroupNorm(4, cout)
        self.skip = nn.Conv2d(cin, cout, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.norm(self.first(x)).relu())
        return (self.skip(x) + self.last(y)).relu()


class ResNet(Extractor):
    """Three residual blocks of 32, 48 and 64 channels on a stem of 16; features are averages of the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
        self.blocks = nn.Sequential(_Residual(16, 32), _Residual(32, 48), _Residual(48, WIDTH))

    def embed(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images)).mean((2, 3))


class Autoencoder(Extractor):
    """Two strided convolutions and a linear bottleneck; :class:`Decoder` is its other half."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 48, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
        )
        self.bottleneck = nn.Linear(48 * 7 * 7, WIDTH)

    def embed(self, images: Tensor) -> Tensor:
        return self.bottleneck(self.body(images))


class Decoder(nn.Module):
    """The bottleneck [B, 64] → images [B, 1, 28, 28]; needed in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 48 * 7 * 7)
        self.body = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose2d(48, 24, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(24, 1, 4, stride=2, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.body(self.up(features).unflatten(1, (48, 7, 7)))


class _Mix(nn.Module):
    """Mixes patches (depthwise 5×5), then channels (pointwise), each added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.channels = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
        self.norms = nn.ModuleList([nn.GroupNorm(1, width), nn.GroupNorm(1, width)])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.patches(self.norms[0](x))
        return x + self.channels(self.norms[1](x))


class Patches(Extractor):
    """7×7 patches of 4×4 pixels and four mixing layers; features are averages over the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, WIDTH, 4, stride=4)
        self.mix = nn.Sequential(*(_Mix(WIDTH) for _ in range(4)))

    def embed(self, images: Tensor) -> Tensor:
        return self.mix(self.cut(images)).mean((2, 3))


ARCHITECTURES: dict[str, type[Extractor]] = {"resnet": ResNet, "autoencoder": Autoencoder, "patches": Patches}


def save_extractor(extractor: Extractor, path: Path) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    extractor_files.save(extractor, path, EXTRACTOR_KEY)


def load_extractor(path: str | Path) -> Extractor:
    """Return the extractor stored by :func:`save_extractor`, float32, eval mode. Raises CheckpointError."""
    return extractor_files.load(
        path, EXTRACTOR_KEY, "a feature extractor", lambda card, _: ARCHITECTURES[card["architecture"]]()
    )


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    extractor_files.save(classifier, path, CLASSIFIER_KEY)


def load_classifier(path: str | Path) -> Classifier:
    """Return the classifier stored by :func:`save_classifier`, float32, eval mode. Raises CheckpointError."""

    def make(card: dict[str, Any], tensors: dict[str, Tensor]) -> Classifier:
        return Classifier(tensors["body.0.weight"].shape[1], tensors["head.weight"].shape[0])

    return extractor_files.load(path, CLASSIFIER_KEY, "a classifier", make)
