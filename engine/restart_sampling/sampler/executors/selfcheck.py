r"""The self-check of captures: replays compute what eager launches compute.

The captured lengths are run one after the other, once at the start of a plan and once at its end, eagerly and by
replay, from the same samples. Every register must agree to the bit; for a network that does not repeat itself, up to
the difference of two eager runs. There are two places because a network that asks the host about the noise level has
the answer frozen in a capture. The check costs at most 2 × 15 eager and 2 × 15 replayed evaluations for a batch size,
however many plans follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..program import Entry
from .evaluation import Evaluation

REGISTERS = ("x", "h", "h2", "h3", "net_in")
WATCHED = (*REGISTERS, "cursor", "first_bad", "c_noise")
State = dict[str, Tensor]


class SelfCheck:
    """The states that eager launches lead to, computed when it is made; replays are compared with them.

    Overwrites the batch's buffers. `lengths` are the captured numbers of evaluations, or UNTIL_IDLE alone.
    """

    def __init__(self, evaluation: Evaluation, entry: Entry, lengths: Iterable[tuple[int, int]]) -> None:
        self.evaluation, self.entry = evaluation, entry
        self.lengths = sorted(lengths)  # the shortest first: each has live rows even at the end of a short plan
        self.rows = sum(length for length, _ in self.lengths) or entry.nfe
        self.expected = {start: self._eager(start) for start in sorted({0, max(0, entry.nfe - self.rows)})}

    def compare(self, replays: Mapping[tuple[int, int], Callable[[], None]]) -> None:
        """Raise RuntimeError if a replay does not do what eager launches did."""
        for start, expected in self.expected.items():
            begin(self.evaluation, self.entry, start)
            for length in self.lengths:
                replays[length]()
            found = _state(self.evaluation)
            different = [name for name, eager in expected.items() if not _equal(found[name], eager)]
            again = self._eager(start) if different else {}
            for name in different:
                difference = _distance(found[name], expected[name])
                scatter = _distance(again[name], expected[name])  # not 0 for a network that does not repeat itself
                if not difference <= 4 * scatter:
                    raise RuntimeError(
                        f"a replay of {self.rows} evaluations gives another {name} than eager launches "
                        f"(largest difference {difference:.3g})"
                    )

    def _eager(self, start: int) -> State:
        begin(self.evaluation, self.entry, start)
        for length, kind in self.lengths:
            for _ in range(length or self.rows):
                self.evaluation(kind)
        return _state(self.evaluation)


def begin(evaluation: Evaluation, entry: Entry, start: int = 0) -> None:
    """Put samples of seeds 0 … n − 1 and class 0 before row `start` of the plan, with every register known.

    Other conditions have their defaults or nulls; shared ones stay as they are. Of a known image half is mixed in, so
    that it does not hide what the network returned.
    """
    m = evaluation.machine
    seeds = torch.arange(evaluation.n, device=m.x.device)
    for name in REGISTERS:
        if (register := getattr(m, name)) is not None:
            register.zero_()
    if m.known is not None and m.mask is not None:
        m.known.zero_()
        m.mask.fill_(0.5)
    evaluation.conditions.fill_for_nothing()
    evaluation.load(entry, seeds)
    if start:
        m.x.copy_(m.net_in[: evaluation.n])  # of about the scale of data, as x is at low noise
        m.cursor.fill_(entry.base + start)
        evaluation.bound.advance()


def addresses(evaluation: Evaluation) -> tuple[int, ...]:
    """Return the addresses of all tensors that a captured graph refers to, those of the networks among them."""
    tensors: list[Tensor] = [*evaluation.machine.tensors, *evaluation.conditions.tensors]
    networks: tuple[Any, ...] = (evaluation.network, evaluation.guide)
    for network in networks:
        if isinstance(network, nn.Module):
            tensors += [*network.parameters(), *network.buffers()]
        elif hasattr(network, "tensors"):
            tensors += network.tensors()
    return tuple(t.data_ptr() for t in tensors)


def _state(evaluation: Evaluation) -> State:
    m = evaluation.machine
    return {name: getattr(m, name).clone() for name in WATCHED if getattr(m, name) is not None}


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(_same(a, b).all())


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference; NaN if only one of two values is finite."""
    return torch.where(_same(a, b), 0.0, (a.double() - b.double()).abs()).max().item()
