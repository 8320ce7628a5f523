r"""The evaluator: how good images are, by one set of features and against one reference.

| value | what it is |
|---|---|
| fd | Fréchet distance |
| fd_balanced | the same, with all classes that were asked for counting alike; the one to rank samplers by |
| kid, kid_std | kernel distance |
| precision, recall, density, coverage | of the features' manifolds |
| accuracy | share of images that a classifier puts into the class that was asked for |

The distances are defined in distances.py. fd_balanced needs a reference with as many images of each class. With a
reference of statistics alone (mu, sigma) there are only fd, fd_balanced and accuracy. The shipped extractors come with
the statistics of the Fashion-MNIST test set, which are used if the data set is not on this machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import CheckpointError, ConfigError, RestartTypeError, RestartValueError
from ...common.files import NPZ_DAMAGE, file_sha256, write_atomically
from ...models import registry
from .. import datasets
from . import shipped
from .distances import Stats, equal_classes, frechet, kid, manifolds, stats_of
from .features import Features, named_features

if TYPE_CHECKING:
    from .image_sets import ImageSet

CHUNK = 500  # images that the extractor sees at once


class Evaluator:
    """Features and a reference, loaded once.

    Args:
        features: the extractor. reference: uint8 images [N, C, H, W] or `Stats`. name: of the reference, for rows.
        classifier: uint8 [n, C, H, W] → logits, for accuracy; or None.
        balanced: the reference has equally many images of every class that may be asked for.

    Attributes:
        extractor, features: the extractor and its name. reference: the reference's name. stats: its statistics.
        real: features of its images float32 [N, d], or None if it has statistics alone.
        training_set: (images, classes) of the training set, which a perfect sampler would draw from; or None.
        note: what is left out, and why; "" if nothing is.

    Raises RestartValueError if the reference's statistics are of another number of features.
    """

    def __init__(
        self,
        features: Features,
        reference: Tensor | Stats,
        classifier: nn.Module | None = None,
        name: str = "reference",
        balanced: bool = False,
    ) -> None:
        self.extractor, self.classifier, self.reference = features, classifier, name
        self.balanced = balanced
        self.features = features.name
        self.training_set: tuple[Tensor, Tensor] | None = None
        self.note = ""
        self.real: Tensor | None = None
        if isinstance(reference, Stats):
            d = features.num_features
            if reference.mu.shape != (d,) or reference.sigma.shape != (d, d):
                raise RestartValueError(
                    f"reference {name!r} is of {reference.mu.shape} features and {features.name!r} gives {d}; use the "
                    f"extractor that the reference was made with"
                )
            self.stats = reference
        else:
            self.real = self.embed(reference)
            self.stats = stats_of(self.real)

    def embed(self, images: Tensor) -> Tensor:
        """Return features float32 [n, d] of uint8 images [n, C, H, W]."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise RestartTypeError(f"images must be uint8 [n, C, H, W], got {images.dtype} {tuple(images.shape)}")
        return torch.cat([self.extractor(part) for part in images.split(CHUNK)])

    def fd(self, images: Tensor) -> float:
        """Return the Fréchet distance of uint8 images [n, C, H, W], n ≥ 2, to the reference."""
        return self.fd_of(stats_of(self.embed(images)))

    def fd_balanced(self, images: Tensor, labels: Tensor) -> float:
        """Return :meth:`fd` with weights by which every class in `labels`, int64 [n], counts alike."""
        return self.fd_of(stats_of(self.embed(images), equal_classes(labels)))

    def fd_of(self, found: Stats) -> float:
        """Return the Fréchet distance of statistics to the reference."""
        return frechet(self.stats, found, self.extractor)

    def measure(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Return every value of the module's table that this reference and these labels allow.

        Args:
            images: uint8 [n, C, H, W]. labels: classes that were asked for, int64 [n], or None.
        """
        fake = self.embed(images)
        found = {"fd": self.fd_of(stats_of(fake))}
        if self.balanced and labels is not None:
            found["fd_balanced"] = self.fd_of(stats_of(fake, equal_classes(labels)))
        if self.real is not None:
            found |= kid(self.real, fake) | manifolds(self.real, fake)
        if self.classifier is not None and labels is not None and bool((labels >= 0).all()):
            guess = torch.cat([self.classifier(part).argmax(1) for part in images.split(CHUNK)])
            found["accuracy"] = float((guess == labels).double().mean())
        return found


def evaluators_for(
    model: str, features: str | None = None, reference: str | Path | None = None, shape: Sequence[int] | None = None
) -> list[Evaluator]:
    """Return the evaluators of a model, one for each name in `features`; "all" stands for the shipped extractors."""
    if features is None:
        return [evaluator_for(model, None, reference, shape)]
    return [evaluator_for(model, name, reference, shape) for name in _names(features)]


def evaluator_for(
    model: str, features: str | None = None, reference: str | Path | None = None, shape: Sequence[int] | None = None
) -> Evaluator:
    """Return the evaluator of a model. The bundled models have features and a reference; others need both.

    Args:
        features: as `load_features` reads it. reference: an .npz with images (`arr_0`) or with `mu` and `sigma`.
        shape: (C, H, W) of its images, which a reference of `mu` and `sigma` does not say; None loads the model to see.

    Raises ConfigError if features or reference are missing.
    """
    bundled = model in shipped.MODELS
    if features is None and not bundled:
        raise ConfigError(
            f"quality of {model!r} needs --features (a shipped extractor, FILE.py:NAME, package.module:NAME or a "
            f"TorchScript file) and --reference (.npz)"
        )
    network, name = named_features(shipped.CLASSIFIER if features is None else features)
    own = name in shipped.NAMES
    classifier = shipped.classifier() if own and bundled else None
    if reference is not None:
        found, label = load_reference(Path(reference))
        sample = found[0] if isinstance(found, Tensor) else _blank(shape or registry.load_model(model).shape)
        return Evaluator(Features(network, name, sample), found, classifier, label)
    if not bundled:
        raise ConfigError(f"quality of {model!r} needs --reference, an .npz with images (arr_0) or with mu and sigma")
    return fashion_mnist_evaluator(network, name, classifier)


def evaluators_of(features: str, reference: str | Path | None, images: ImageSet) -> list[Evaluator]:
    """Return the evaluators of images on the disk; the reference is Fashion-MNIST's test set if none is given.

    Raises ConfigError if the reference's images differ in shape from these.
    """
    known = None if reference is None else load_reference(Path(reference))
    evaluators = []
    for name in _names(features):
        network, label = named_features(name)
        classifier = shipped.classifier() if label in shipped.NAMES else None
        if known is None:
            evaluators.append(fashion_mnist_evaluator(network, label, classifier))
            continue
        sample = images.sample()
        found, title = known
        if isinstance(found, Tensor) and found.shape[1:] != sample.shape:
            raise ConfigError(
                f"the reference has images of {list(found.shape[1:])}, and these are of {list(sample.shape)} "
                f"[C, H, W]; give a reference of the same size"
            )
        evaluators.append(Evaluator(Features(network, label, sample), found, classifier, title))
    return evaluators


def fashion_mnist_evaluator(network: nn.Module, name: str, classifier: nn.Module | None = None) -> Evaluator:
    """Return the evaluator by features `network`, called `name`, with Fashion-MNIST's test set as the reference.

    If the data set is not on this machine, a shipped extractor uses its statistics, and `note` says what is left out.
    Raises ConfigError for another extractor then.
    """
    try:
        images, _ = _tensors(datasets.fashion_mnist("test"))
        training_set = _tensors(datasets.fashion_mnist("train"))
    except datasets.DataError as error:
        if name not in shipped.NAMES:
            raise ConfigError(f"features {name!r} need the images of the reference, or --reference: {error}") from error
        stats = Stats(*shipped.statistics(name))
        evaluator = Evaluator(
            Features(network, name, _blank(shipped.SHAPE)), stats, classifier, shipped.REFERENCE, balanced=True
        )
        evaluator.note = (
            "the reference is the shipped statistics; kernel distance, precision, recall and training images are left "
            f"out: {error}"
        )
        return evaluator
    evaluator = Evaluator(Features(network, name, images[0]), images, classifier, shipped.REFERENCE, balanced=True)
    evaluator.training_set = training_set
    return evaluator


def load_reference(path: Path) -> tuple[Tensor | Stats, str]:
    """Return (images or statistics, a name with 12 digits of the file's SHA-256) of an .npz. Raises CheckpointError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
            digest = file_sha256(path)[:12]
            label = f"{path.name} {digest}"
            if {"mu", "sigma"} <= names:
                n = int(arrays["n"]) if "n" in names else 50_000
                return Stats(arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64), n), label
            if "arr_0" in names and arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].ndim == 4:
                return torch.from_numpy(arrays["arr_0"].transpose(0, 3, 1, 2).copy()), label
    except NPZ_DAMAGE as error:
        raise CheckpointError(f"cannot read the reference {path}: {error}") from error
    raise CheckpointError(
        f"{path} holds {', '.join(sorted(names))}; a reference has mu and sigma, or arr_0 with uint8 images "
        f"[N, H, W, C]"
    )


def save_stats(path: Path, stats: Stats) -> None:
    """Write statistics in the form of EDM's reference files: mu, sigma, and n."""
    write_atomically(path, lambda file: np.savez(file, mu=stats.mu, sigma=stats.sigma, n=np.array(stats.n)))


def _names(features: str) -> list[str]:
    """Return the extractors of a list, each once; "all" stands for the shipped ones."""
    asked = [name.strip() for name in features.split(",") if name.strip()]
    names = [name for each in asked for name in (shipped.NAMES if each == "all" else (each,))]
    if not names:
        raise RestartValueError(f"--features names no extractor, got {features!r}; give one, or all")
    return list(dict.fromkeys(names))


def _blank(shape: Sequence[int]) -> Tensor:
    """Return a black image uint8 [C, H, W], to count features with."""
    return torch.zeros(*shape, dtype=torch.uint8)


def _tensors(data: datasets.Images) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.images), torch.from_numpy(np.asarray(data.labels)).long()


def __getattr__(name: str) -> Any:
    """Give `judge_for`, the name of :func:`evaluator_for` until 0.2, with a DeprecationWarning."""
    if name != "judge_for":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "judge_for is now evaluator_for; the old name goes with the next release", DeprecationWarning, stacklevel=2
    )
    return evaluator_for
