r"""One evaluation: the network, the fused update of the row, and the cursors one row on. Every executor runs this body.

It works on static buffers and asks the host for nothing: which row comes next, its coefficients and the network's
c_noise are on the device. So it can be called from a loop, or captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout

from ...plan.guidance import BOTH, NONE, ONE
from ..packed import sent
from ..program import Entry, Program
from .lanes import Lanes
from .observer import Observer, Observers

Network = Callable[..., Tensor]
Arguments = tuple[Tensor, Tensor, "Tensor | None", dict[str, Tensor]]
# Of the machine, with a cursor for each sample.
PER_SAMPLE = ("x", "h", "h2", "h3", "known", "mask", "mix", "seeds", "first_bad", "cursor")


class Evaluation:
    """Network, update and advance on the first `n` lanes; a call runs one evaluation for every live sample.

    Args:
        network: F, called as network(net_in, c_noise, class_labels, **other conditions).
        program: the table.
        lanes: the buffers; this evaluation owns their first `n` lanes while it runs.
        n: lanes of the batch.
        backend: a backend of restart_kernels.
        per_sample: each sample has its own cursor, so rows of different plans share the batch; else one cursor serves
            all samples and the network gets a single c_noise.
        observers: are told of every part.
        guide: another network, which gives the second output of guidance (autoguidance); default: the network itself.

    Attributes:
        kind: what a call asks of the network unless it says so: NONE, ONE output, or BOTH of guidance.
    """

    def __init__(
        self,
        network: Network,
        program: Program,
        lanes: Lanes,
        n: int,
        backend: str,
        per_sample: bool = False,
        observers: Observers | None = None,
        guide: Network | None = None,
    ) -> None:
        self.network, self.program, self.lanes, self.n = network, program, lanes, n
        self.per_sample, self.observers = per_sample, Observers() if observers is None else observers
        self.guide, self.kind = guide, BOTH if lanes.guided else ONE
        copies, cursors = self._copies, (n if per_sample else 1)

        def own(whole: Tensor | None) -> Tensor | None:
            return None if whole is None else whole[:n]

        # Both halves of the network's input are at the same level.
        self.c_noise = lanes.c_noise[: copies * n] if per_sample else lanes.c_noise[:1]
        self.machine = restart_kernels.Machine(
            lanes.x[:n],
            own(lanes.h),
            lanes.net_in[: copies * n],
            program.coef,
            program.code,
            lanes.cursor[:cursors],
            lanes.seeds[:n],
            lanes.first_bad[:n],
            self.c_noise,
            own(lanes.h2),
            own(lanes.h3),
            own(lanes.known),
            own(lanes.mask),
            own(lanes.mix),
            lanes.noises,
        )
        self.conditions = lanes.conditions.of(n)
        # What the network is given of the first half of its input and of both, and the guide of the second.
        told = lanes.conditions.conditions
        self._first, self._both = self._given(0, n, told.declared), self._given(0, copies * n, told.declared)
        self._second = self._given(n, 2 * n, told.guide)
        self.backend = backend
        self.bound = restart_kernels.bind(self.machine, backend)
        self._copied: dict[int, Tensor] = {}

    @property
    def parts(self) -> tuple[Evaluation, ...]:
        """The evaluations that make up the batch: this one alone (:class:`Slices` has several)."""
        return (self,)

    def __call__(self, kind: int | None = None) -> None:
        """Launch one evaluation of a kind; default: `self.kind`."""
        kind = self.kind if kind is None else kind
        outputs: tuple[Tensor, ...] = ()
        if kind != NONE and self.observers.network:
            outputs = self._observed(self.observers.network, "network", self.call_network, kind)
        elif kind != NONE:
            outputs = self.call_network(kind)
        F = [f if f.is_contiguous() else self._contiguous(i, f) for i, f in enumerate(outputs)]
        if kind == BOTH and len(F) == 1:
            F = [F[0][: self.n], F[0][self.n :]]
        if len(F) == 2 and self.machine.mix is not None:
            self.bound.weigh(*F)
        self._update(self.bound.run_row, self.bound.advance, *F)

    def call_network(self, kind: int | None = None) -> tuple[Tensor, ...]:
        """Return the network's output for what the buffers hold: for BOTH, of both halves in one, or one of each."""
        kind = self.kind if kind is None else kind
        if kind == BOTH and self.guide is not None:
            return self._called(self.network, self._first), self._called(self.guide, self._second)
        return (self._called(self.network, self._both if kind == BOTH else self._first),)

    def _called(self, network: Network, given: Arguments) -> Tensor:
        net_in, c_noise, labels, others = given
        return network(net_in, c_noise, labels, **others)

    def _given(self, start: int, stop: int, names: Collection[str]) -> Arguments:
        """Return what a network with the conditions of these names is given of some rows of the input."""
        labels, others = self.conditions.given(start, stop, names)
        c_noise = self.c_noise[: stop - start] if self.per_sample else self.c_noise
        return self.machine.net_in[start:stop], c_noise, labels, others

    def _update(self, run_row: Callable[..., None], advance: Callable[[], None], *F: Tensor) -> None:
        """Launch the fused update of the row and move the cursors on."""
        observers = self.observers
        if observers.update:
            self._observed(observers.update, "update", run_row, *F)
        else:
            run_row(*F)
        if observers.advance:
            self._observed(observers.advance, "advance", advance)
        else:
            advance()

    def _observed(self, observers: list[Observer], part: str, launch: Callable[..., Any], *arguments: Any) -> Any:
        """Launch one part and tell its observers."""
        for observer in observers:
            observer.before(part, self)
        result = launch(*arguments)
        F = torch.cat(result) if isinstance(result, tuple) and len(result) == 2 else result[0] if result else None
        for observer in observers:
            observer.after(part, self, F)
        return result

    def load(
        self,
        entry: Entry,
        seeds: Tensor,
        conditions: Mapping[str, Tensor] | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Put a batch of one plan at its start: make the first state and the first network input.

        Args:
            entry: the plan's table in the program.
            seeds: int64 [k], k ≤ n. Lanes ≥ k are padding with seed 0; their output is discarded.
            conditions: those of each sample by name, [k, …]; None leaves what the lanes have.
            given: registers that the run begins with, [k, *shape] by name: x, known, mask.
        """
        m, k = self.machine, len(seeds)
        m.seeds[:k].copy_(seeds)
        m.seeds[k:].zero_()
        m.first_bad.fill_(layout.NEVER)
        m.cursor.fill_(entry.base)
        if conditions is not None:
            self.conditions.fill(conditions)
        for name, value in (given or {}).items():
            getattr(m, name)[:k].copy_(value)
        self._update(self.bound.run_row, self.bound.advance)

    def result(self, n: int) -> tuple[Tensor, Tensor]:
        """Return copies of x [n, *shape] and first_bad int32 [n] of the first n lanes."""
        return self.machine.x[:n].clone(), self.machine.first_bad[:n].clone()

    def clear(self) -> None:
        """Leave every lane idle and told nothing."""
        self.machine.cursor.fill_(layout.IDLE)
        self.conditions.clear()

    def start(
        self,
        lanes: Sequence[int],
        entries: Sequence[Entry],
        seeds: Tensor,
        conditions: Mapping[str, Tensor],
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Start samples of possibly different plans on some lanes and leave the others alone. Needs `per_sample`.

        Args:
            lanes: the lane of each new sample.
            entries: the table of each new sample in the program.
            seeds: int64 [len(lanes)].
            conditions: those of each new sample by name, [len(lanes), …].
            given: registers that they begin with, as in `load`.
        """
        m, starter = self.machine, self._starter
        told = torch.tensor(list(lanes), dtype=torch.int64), torch.tensor([e.base for e in entries], dtype=torch.int32)
        index, rows, seeds, *values = sent(m.x.device, *told, seeds, *conditions.values())
        m.seeds.index_copy_(0, index, seeds)
        m.first_bad.index_fill_(0, index, layout.NEVER)
        self.conditions.start(index, dict(zip(conditions, values, strict=True)))
        for name, value in (given or {}).items():
            register = getattr(m, name)
            register.index_copy_(0, index, value.to(register))
        starter.machine.cursor.fill_(layout.IDLE).index_copy_(0, index, rows)
        self._update(starter.run_row, starter.advance)
        m.cursor.copy_(torch.where(starter.machine.cursor >= 0, starter.machine.cursor, m.cursor))

    def taken(self, index: Tensor) -> dict[str, Tensor]:
        """Return copies of everything that belongs to the samples of lanes `index`, int64 [k], for :meth:`put`."""
        state = {name: tensor[index] for name, tensor in self._single().items()}
        for name, whole in self._doubled().items():
            state[name] = whole.view(self._copies, self.n, *whole.shape[1:])[:, index]
        return state

    def put(self, state: dict[str, Tensor]) -> None:
        """Take over samples that were `taken` from another evaluation of the same buffers, one for each lane."""
        for name, tensor in self._single().items():
            tensor.copy_(state[name])
        for name, whole in self._doubled().items():
            whole.copy_(state[name].reshape(whole.shape))

    @property
    def _copies(self) -> int:
        return 2 if self.lanes.guided else 1

    def _single(self) -> dict[str, Tensor]:
        """Return the tensors of the machine that hold each sample once, by name."""
        found = {name: getattr(self.machine, name) for name in PER_SAMPLE}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _doubled(self) -> dict[str, Tensor]:
        """Return the tensors that hold each sample twice under guidance, by name."""
        told = {"net_in": self.machine.net_in, "c_noise": self.c_noise}
        return told | {f"condition {name}": t for name, t in self.conditions.own.items()}

    @cached_property
    def _starter(self) -> restart_kernels.BoundMachine:
        """The same machine with another cursor, which is idle in every lane but those of new samples."""
        machine = replace(self.machine, cursor=torch.full_like(self.machine.cursor, layout.IDLE))
        return restart_kernels.bind(machine, self.backend)

    def _contiguous(self, place: int, F: Tensor) -> Tensor:
        """Return an output in element order, copied into a buffer that is made once."""
        buffer = self._copied.get(place)
        if buffer is None or buffer.shape != F.shape or buffer.dtype != F.dtype:
            with torch.inference_mode(False):
                buffer = self._copied[place] = torch.empty(F.shape, dtype=F.dtype, device=F.device)
        return buffer.copy_(F)
