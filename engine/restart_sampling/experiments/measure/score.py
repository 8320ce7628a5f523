r"""Scores of images that exist: the distances of judge.py, of a stream of images in constant memory.

Features are summed up batch by batch, class by class: their number, mean and centred second moments in float64, joined
as Chan, Golub and LeVeque do (Updating formulae and a pairwise algorithm, 1979). The Fréchet distance of them is that
of all images at once, up to rounding. With all classes weighted alike, w_i = 1/(C·n_c) for C classes,

    μ = Σ_c μ_c / C,    Σ = Σ_c [M_c + n_c (μ_c − μ)(μ_c − μ)ᵀ] / (C·n_c) / (1 − Σ_c 1/(C²·n_c)).

Kernel distance, precision, recall, density and coverage look at single images: up to KEPT images their features are
kept, and of more these five are left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...common.errors import RestartValueError
from . import shipped
from .evaluator import NEAREST, Judge, Stats, kid, manifolds

KEPT = 10_000
FEWEST = NEAREST + 2  # prdc takes NEAREST + 1 neighbours of an image among all others


@dataclass
class Moments:
    """Number, mean and Σ (x − mean)(x − mean)ᵀ of features, in float64."""

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    second: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, features: Tensor) -> None:
        """Take in features [n, d], n ≥ 1."""
        values = features.double().numpy()
        n, mean = len(values), values.mean(0)
        centred = values - mean
        self.join(Moments(n, mean, centred.T @ centred))

    def join(self, other: Moments) -> None:
        """Take in what `other` has seen."""
        if not self.n:
            self.n, self.mean, self.second = other.n, other.mean, other.second
            return
        n, apart = self.n + other.n, other.mean - self.mean
        self.second = self.second + other.second + np.outer(apart, apart) * (self.n * other.n / n)
        self.mean = self.mean + apart * (other.n / n)
        self.n = n

    def stats(self) -> Stats:
        """Mean and unbiased covariance."""
        return Stats(self.mean, self.second / (self.n - 1), self.n)


class Scorer:
    """Takes in images and gives what `Judge.measure` gives of all of them together.

    Args:
        judge: features and reference.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge, self.n, self.unlabelled, self.right = judge, 0, 0, 0
        self.classes: dict[int, Moments] = {}
        self.kept: list[Tensor] | None = []

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take in uint8 images [n, C, H, W] with classes int64 [n], −1 where there is none."""
        found = self.judge.embed(images)
        groups = labels if self.judge.balanced else torch.full_like(labels, -1)
        for label in groups.unique().tolist():
            if label >= shipped.CLASSES:
                raise RestartValueError(
                    f"an image has class {label}, and the reference has the classes 0 .. {shipped.CLASSES - 1}"
                )
            self.classes.setdefault(label, Moments()).add(found[groups == label])
        self.n += len(images)
        self.unlabelled += int((labels < 0).sum())
        if self.judge.classifier is not None and not self.unlabelled:
            with torch.no_grad():
                self.right += int((self.judge.classifier(images).argmax(1) == labels).sum())
        if self.kept is not None:
            self.kept = [*self.kept, found] if self.n <= KEPT else None

    def result(self) -> dict[str, float]:
        """fd, and what else can be had. RestartValueError: fewer than 2 images."""
        if self.n < 2:
            raise RestartValueError(f"a Fréchet distance needs at least 2 images, got {self.n}")
        everything = Moments()
        for label in sorted(self.classes):
            everything.join(self.classes[label])
        found = {"fd": self.judge.fd_of(everything.stats())}
        labelled = not self.unlabelled
        if self.judge.balanced and labelled:
            found["fd_balanced"] = self.judge.fd_of(balanced(list(self.classes.values())))
        if self.kept is not None and self.judge.real is not None:
            fake = torch.cat(self.kept)
            found |= kid(self.judge.real, fake)
            if self.n >= FEWEST:
                found |= manifolds(self.judge.real, fake)
        if self.judge.classifier is not None and labelled:
            found["accuracy"] = self.right / self.n
        return found

    def notes(self) -> list[str]:
        """What is left out, and why."""
        found = [self.judge.note] if self.judge.note else []
        if self.unlabelled:
            what = (
                "no image has" if self.unlabelled == self.n else f"{self.unlabelled:,} of {self.n:,} images do not have"
            )
            found.append(f"{what} a class: the distance with classes weighted alike and the accuracy are left out")
        if self.kept is None and self.judge.real is not None:
            found.append(f"kernel distance, precision and recall are left out of more than {KEPT:,} images")
        if self.n < FEWEST and self.judge.real is not None:
            found.append(f"precision, recall, density and coverage need at least {FEWEST} images")
        return found


def balanced(classes: list[Moments]) -> Stats:
    """Statistics of all classes with each weighted alike; see the module."""
    C = len(classes)
    mean = np.sum([m.mean for m in classes], axis=0) / C
    second = sum((m.second + m.n * np.outer(m.mean - mean, m.mean - mean)) / (C * m.n) for m in classes)
    correction = 1 - sum(1 / (C * C * m.n) for m in classes)
    return Stats(mean, np.asarray(second) / correction, sum(m.n for m in classes))


def score(judges: list[Judge], batches: Iterable[tuple[Tensor, Tensor]]) -> list[Scorer]:
    """Read a stream of (images, classes) once for all judges."""
    scorers = [Scorer(judge) for judge in judges]
    for images, labels in batches:
        for scorer in scorers:
            scorer.add(images, labels)
    return scorers
