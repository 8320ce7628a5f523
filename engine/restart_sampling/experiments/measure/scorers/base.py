"""What a scorer is: a number for each image and its prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Score(Protocol):
    """Scores images: uint8 [n, 3, H, W] and n prompts to float64 [n]."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class Kind:
    """A kind of scorer.

    Attributes:
        name: by which it is asked for, and the field of rows that has its mean.
        title: what it is, with its source.
        files: what its paths are, in order, in words.
        load: makes the scorer of these paths; raises RestartError with the path.
        needs: the pip extra that it needs. modules: what that installs.
    """

    name: str
    title: str
    files: tuple[str, ...]
    load: Callable[[Sequence[Path]], Score]
    needs: str = ""
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scorer:
    """A scorer that is loaded.

    Attributes:
        name: of its field in rows. sha256: of each of its files, 12 digits, by name, for rows.
    """

    name: str
    score: Score
    sha256: dict[str, str]
