r"""Scores of images that exist: the values of evaluator.py for a stream of images, in constant memory.

Features are summed up batch by batch, class by class: their number, mean and centred second moments in float64, joined
as by Chan, Golub and LeVeque (Updating formulae and a pairwise algorithm for computing sample variances, 1979). Their
Fréchet distance is that of all images at once, up to rounding. With all classes weighted alike, w_i = 1/(C·n_c) for C
classes,

    μ = Σ_c μ_c / C,    Σ = Σ_c [M_c + n_c (μ_c − μ)(μ_c − μ)ᵀ] / (C·n_c) / (1 − Σ_c 1/(C²·n_c)).

Kernel distance, precision, recall, density and coverage need the features of single images. They are stored for up to
STORED images; of more images these five are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...common.errors import RestartValueError
from . import shipped
from .distances import NEAREST, Stats, kid, manifolds
from .evaluator import Evaluator

STORED = 10_000
FEWEST = NEAREST + 2  # prdc takes NEAREST + 1 neighbours of an image among all others


@dataclass
class Moments:
    """Number, mean and Σ (x − mean)(x − mean)ᵀ of features, in float64."""

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    second: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, features: Tensor) -> None:
        """Add features [n, d], n ≥ 1."""
        values = features.double().numpy()
        n, mean = len(values), values.mean(0)
        centred = values - mean
        self.join(Moments(n, mean, centred.T @ centred))

    def join(self, other: Moments) -> None:
        """Add what `other` has seen."""
        if not self.n:
            self.n, self.mean, self.second = other.n, other.mean, other.second
            return
        n, apart = self.n + other.n, other.mean - self.mean
        self.second = self.second + other.second + np.outer(apart, apart) * (self.n * other.n / n)
        self.mean = self.mean + apart * (other.n / n)
        self.n = n

    def stats(self) -> Stats:
        """Return mean and unbiased covariance."""
        return Stats(self.mean, self.second / (self.n - 1), self.n)


class Scorer:
    """Adds up images, and returns what `Evaluator.measure` returns for all of them together.

    Args:
        evaluator: features and reference.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.n, self.unlabelled, self.right = evaluator, 0, 0, 0
        self.classes: dict[int, Moments] = {}
        self.stored: list[Tensor] | None = []  # features, None for too many images

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Add uint8 images [n, C, H, W] with classes int64 [n], −1 for none.

        Raises RestartValueError for a class that the reference does not have.
        """
        found = self.evaluator.embed(images)
        groups = labels if self.evaluator.balanced else torch.full_like(labels, -1)
        for label in groups.unique().tolist():
            if label >= shipped.CLASSES:
                raise RestartValueError(
                    f"an image has class {label}, and the reference has the classes 0 .. {shipped.CLASSES - 1}"
                )
            self.classes.setdefault(label, Moments()).add(found[groups == label])
        self.n += len(images)
        self.unlabelled += int((labels < 0).sum())
        if self.evaluator.classifier is not None and not self.unlabelled:
            with torch.no_grad():
                self.right += int((self.evaluator.classifier(images).argmax(1) == labels).sum())
        if self.stored is not None:
            self.stored = [*self.stored, found] if self.n <= STORED else None

    def result(self) -> dict[str, float]:
        """Return fd, and what else the reference and the classes allow. Raises RestartValueError below 2 images."""
        if self.n < 2:
            raise RestartValueError(f"a Fréchet distance needs at least 2 images, got {self.n}")
        everything = Moments()
        for label in sorted(self.classes):
            everything.join(self.classes[label])
        found = {"fd": self.evaluator.fd_of(everything.stats())}
        labelled = not self.unlabelled
        if self.evaluator.balanced and labelled:
            found["fd_balanced"] = self.evaluator.fd_of(balanced(list(self.classes.values())))
        if self.stored is not None and self.evaluator.real is not None:
            fake = torch.cat(self.stored)
            found |= kid(self.evaluator.real, fake)
            if self.n >= FEWEST:
                found |= manifolds(self.evaluator.real, fake)
        if self.evaluator.classifier is not None and labelled:
            found["accuracy"] = self.right / self.n
        return found

    def notes(self) -> list[str]:
        """Return what is left out, and why."""
        found = [self.evaluator.note] if self.evaluator.note else []
        if self.unlabelled:
            what = (
                "no image has" if self.unlabelled == self.n else f"{self.unlabelled:,} of {self.n:,} images do not have"
            )
            found.append(f"{what} a class: the distance with classes weighted alike and the accuracy are left out")
        if self.stored is None and self.evaluator.real is not None:
            found.append(f"kernel distance, precision and recall are left out of more than {STORED:,} images")
        if self.n < FEWEST and self.evaluator.real is not None:
            found.append(f"precision, recall, density and coverage need at least {FEWEST} images")
        return found


def balanced(classes: list[Moments]) -> Stats:
    """Return statistics of all classes with each weighted alike; see the formula at the top."""
    C = len(classes)
    mean = np.sum([m.mean for m in classes], axis=0) / C
    second = sum((m.second + m.n * np.outer(m.mean - mean, m.mean - mean)) / (C * m.n) for m in classes)
    correction = 1 - sum(1 / (C * C * m.n) for m in classes)
    return Stats(mean, np.asarray(second) / correction, sum(m.n for m in classes))


def score(evaluators: list[Evaluator], batches: Iterable[tuple[Tensor, Tensor]]) -> list[Scorer]:
    """Read a stream of (images, classes) once for all evaluators, and return a scorer for each."""
    scorers = [Scorer(evaluator) for evaluator in evaluators]
    for images, labels in batches:
        for scorer in scorers:
            scorer.add(images, labels)
    return scorers
