r"""Observers: the one place to time, count or record the parts of an evaluation.

`Sampler.observed(observer)` attaches one for as long as a `with` block lasts:

    class Calls(Observer):
        def __init__(self):
            self.n = 0

        def after(self, part, evaluation, F=None):
            self.n += part == "network"

    with sampler.observed(calls := Calls()):
        sampler.run(range(64))

With no observer attached an evaluation does what it does otherwise. A replayed graph calls no Python, so a sampler that
replays graphs refuses observers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .evaluation import Evaluation

PARTS = ("network", "update", "advance")


class Observer:
    """Is told of the parts of every evaluation that the host launches; a subclass overrides what it wants to know.

    The parts are "network"; "update", the fused update of the row; and "advance", which moves the cursors on. The
    update that makes the initial latent has no network call before it. Calls come from the thread that launches (each
    slice of a batch has its own), and on CUDA they say that a part was launched, not that it is finished.
    """

    def before(self, part: str, evaluation: Evaluation | None) -> None:
        """Be told that a part begins. `evaluation` is None for loops outside of the engine, see :class:`Observed`."""

    def after(self, part: str, evaluation: Evaluation | None, F: Tensor | None = None) -> None:
        """Be told that a part ended; `F` is what the network returned, None for other parts."""


class Observed:
    """A network whose calls an observer is told of, for loops that are not the engine's; else it is the network."""

    def __init__(self, network: Any, observer: Observer) -> None:
        self.network, self.observer = network, observer

    def __call__(self, *arguments: Any) -> Any:
        self.observer.before("network", None)
        F = self.network(*arguments)
        self.observer.after("network", None, F)
        return F

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


@contextmanager
def attached(observer: Observer, observers: list[Observer]) -> Iterator[None]:
    """Have `observer` in the list that evaluations share, while the context lasts."""
    observers.append(observer)
    try:
        yield
    finally:
        observers.remove(observer)
