r"""Observers: the one place to time, count or record the parts of an evaluation.

`Sampler.observed(observer)` attaches one for as long as a `with` block lasts:

    class Calls(Observer):
        parts = ("network",)
        n = 0

        def after(self, part, evaluation, F=None):
            self.n += 1

    with sampler.observed(calls := Calls()):
        sampler.run(range(64))

Without an observer nothing is called and nothing is added to an evaluation. A replayed graph calls no Python, so a
sampler that replays graphs refuses observers.
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
    """Is told of the parts of every evaluation that the host launches.

    The parts are "network"; "update", the fused update of the row; and "advance", which moves the cursors on. The
    update that makes the initial latent has no network call before it. Calls come from the thread that launches (each
    slice of a batch has its own), and on CUDA they say that a part was launched, not that it is finished.

    Attributes:
        parts: those that it is told of.
    """

    parts: tuple[str, ...] = PARTS

    def before(self, part: str, evaluation: Evaluation | None) -> None:
        """Be told that a part begins. `evaluation` is None outside of the engine, see :func:`observed_network`."""

    def after(self, part: str, evaluation: Evaluation | None, F: Tensor | None = None) -> None:
        """Be told that a part ended; `F` is what the network returned, None for other parts."""


class Observers:
    """The observers of evaluations, by part; the evaluations of a sampler share one."""

    def __init__(self) -> None:
        self.network: list[Observer] = []
        self.update: list[Observer] = []
        self.advance: list[Observer] = []

    @contextmanager
    def attached(self, observer: Observer) -> Iterator[None]:
        """Have `observer` among them while the context lasts."""
        lists: list[list[Observer]] = [getattr(self, part) for part in observer.parts]
        for observers in lists:
            observers.append(observer)
        try:
            yield
        finally:
            for observers in lists:
                observers.remove(observer)


class _ObservedNetwork:
    """A network whose calls an observer is told of; else it is the network."""

    def __init__(self, network: Any, observer: Observer) -> None:
        self.network, self.observer = network, observer

    def __call__(self, *arguments: Any, **conditions: Any) -> Any:
        self.observer.before("network", None)
        F = self.network(*arguments, **conditions)
        self.observer.after("network", None, F)
        return F

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


@contextmanager
def observed_network(owner: Any, observer: Observer) -> Iterator[None]:
    """Tell `observer` of every call of `owner.network` while the context lasts: for loops that are not the engine's."""
    network = owner.network
    owner.network = _ObservedNetwork(network, observer)
    try:
        yield
    finally:
        owner.network = network
