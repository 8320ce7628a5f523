r"""Feature extractors for small images that had no part in training the bundled classifier, one architecture a class.

A Fréchet distance says how two image sets differ in the features it looks at and nothing more, so a claim about
samplers needs several. These differ from the bundled classifier (classifier.py) and from each other in architecture,
training and layer:

| name | architecture | trained to | features, always 64 |
|---|---|---|---|
| `fashion-mnist-resnet` | residual network, 7 convolutions | tell the classes | average over the last feature map |
| `fashion-mnist-autoencoder` | strided convolutions, linear bottleneck | restore noisy images, without classes | bottleneck |
| `fashion-mnist-patches` | 4×4 patches, depthwise and pointwise layers | tell the classes | average over patches |

Features are divided by one number, so that the training set's variances sum to their count, 64: the distances of
different extractors are of one order of magnitude. All take images float [B, 1, 28, 28] in [−1, 1] and give [B, 64].

Training is in train_extractors.py; the files hold what gives features, not the heads and the decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import extractor_files as stored

KEY = "restart_sampling_extractor"
WIDTH = 64  # features of every extractor


class Extractor(nn.Module):
    """What all share: `features`, the scale they are divided by, and `card`, how it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """[B, 1, 28, 28] in [−1, 1] → [B, 64], not scaled."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """[B, 1, 28, 28] in [−1, 1] → the features [B, 64]."""
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
    """Three residual blocks of 32, 48 and 64 channels on a stem of 16; the average of the last map."""

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
    """The bottleneck [B, 64] → images; needed in training alone."""

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
    """7×7 patches of 4×4 pixels, four mixing layers; the average over patches before the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, WIDTH, 4, stride=4)
        self.mix = nn.Sequential(*(_Mix(WIDTH) for _ in range(4)))

    def embed(self, images: Tensor) -> Tensor:
        return self.mix(self.cut(images)).mean((2, 3))


ARCHITECTURES: dict[str, type[Extractor]] = {"resnet": ResNet, "autoencoder": Autoencoder, "patches": Patches}


def save_extractor(extractor: Extractor, path: Path) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    stored.save(extractor, path, KEY)


def load_extractor(path: str | Path) -> Extractor:
    """Return the extractor stored by :func:`save_extractor`, float32, eval mode. Raises CheckpointError."""
    return stored.load(path, KEY, "a feature extractor", lambda card, _: ARCHITECTURES[card["architecture"]]())
