r"""One evaluation: the network, the fused update of the row, and the cursors one row on. Every executor runs this body.

It works on static buffers and asks the host for nothing: which row comes next, its coefficients and the network's
c_noise are on the device. So it can be called from a loop, or captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout

from ..program import Entry, Program, write_latent_row
from .lanes import Lanes
from .observer import Observer, Observers

Network = Callable[..., Tensor]
PER_SAMPLE = ("x", "h", "seeds", "first_bad", "cursor", "c_noise")  # of the machine, with a cursor for each sample


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
    ) -> None:
        self.network, self.program, self.lanes, self.n = network, program, lanes, n
        self.per_sample, self.observers = per_sample, Observers() if observers is None else observers
        copies, cursors = (2 if lanes.guided else 1), (n if per_sample else 1)
        self.machine = restart_kernels.Machine(
            lanes.x[:n],
            lanes.h[:n],
            lanes.net_in[: copies * n],
            program.coef,
            program.code,
            lanes.cursor[:cursors],
            lanes.seeds[:n],
            lanes.first_bad[:n],
            lanes.c_noise[:cursors],
        )
        self.c_noise = lanes.c_noise[: copies * n] if per_sample else lanes.c_noise[:1]
        self.twice = per_sample and lanes.guided
        self.conditions = lanes.conditions.of(n)
        self.backend = backend
        self.bound = restart_kernels.bind(self.machine, backend)
        self.F = torch.empty(0, device=lanes.x.device)

    @property
    def parts(self) -> tuple[Evaluation, ...]:
        """The evaluations that make up the batch: this one alone (:class:`Slices` has several)."""
        return (self,)

    def __call__(self) -> None:
        """Launch one evaluation."""
        if self.twice:  # both halves of the network input are at the same level
            self.c_noise[self.n :].copy_(self.c_noise[: self.n])
        if self.observers.network:
            F = self._observed(self.observers.network, "network", self.call_network)
        else:
            F = self.call_network()
        if not F.is_contiguous():
            F = self._contiguous(F)
        run_row, advance = self.bound.run_row, self.bound.advance
        if self.lanes.guided:
            self._update(run_row, advance, F[: self.n], F[self.n :])
        else:
            self._update(run_row, advance, F)

    def call_network(self) -> Tensor:
        """Return the network's output for what the buffers hold."""
        return self.network(self.machine.net_in, self.c_noise, self.conditions.labels, **self.conditions.others)

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
        for observer in observers:
            observer.after(part, self, result)
        return result

    def load(
        self, entry: Entry, seeds: Tensor, conditions: Mapping[str, Tensor] | None = None, latents: Tensor | None = None
    ) -> None:
        """Put a batch of one plan at its start: draw the initial latent and make the first network input.

        Args:
            entry: the plan's table in the program.
            seeds: int64 [k], k ≤ n. Lanes ≥ k are padding with seed 0; their output is discarded.
            conditions: those of each sample by name, [k, …]; None leaves what the lanes have.
            latents: standard-normal start [k, *shape] instead of draw 0.
        """
        m, k = self.machine, len(seeds)
        m.seeds[:k].copy_(seeds)
        m.seeds[k:].zero_()
        m.first_bad.fill_(layout.NEVER)
        m.cursor.fill_(entry.base)
        if conditions is not None:
            self.conditions.fill(conditions)
        bound = self.bound
        if latents is not None:
            m.x[:k].copy_(latents)
            bound = self._given_latent
            write_latent_row(entry, bound.machine.coef, bound.machine.code)
        self._update(bound.run_row, self.bound.advance)

    def result(self, n: int) -> tuple[Tensor, Tensor]:
        """Return copies of x [n, *shape] and first_bad int32 [n] of the first n lanes."""
        return self.machine.x[:n].clone(), self.machine.first_bad[:n].clone()

    def clear(self) -> None:
        """Leave every lane idle and told nothing."""
        self.machine.cursor.fill_(layout.IDLE)
        self.conditions.clear()

    def start(
        self, lanes: Sequence[int], entries: Sequence[Entry], seeds: Tensor, conditions: Mapping[str, Tensor]
    ) -> None:
        """Start samples of possibly different plans on some lanes and leave the others alone. Needs `per_sample`.

        Args:
            lanes: the lane of each new sample.
            entries: the table of each new sample in the program.
            seeds: int64 [len(lanes)].
            conditions: those of each new sample by name, [len(lanes), …].
        """
        m, starter = self.machine, self._starter
        index = torch.tensor(list(lanes), dtype=torch.int64, device=m.x.device)
        rows = torch.tensor([e.base for e in entries], dtype=torch.int32, device=m.x.device)
        m.seeds.index_copy_(0, index, seeds.to(m.x.device))
        m.first_bad.index_fill_(0, index, layout.NEVER)
        self.conditions.start(index, conditions)
        starter.machine.cursor.fill_(layout.IDLE).index_copy_(0, index, rows)
        self._update(starter.run_row, starter.advance)
        m.cursor.copy_(torch.where(starter.machine.cursor >= 0, starter.machine.cursor, m.cursor))

    def taken(self, index: Tensor) -> dict[str, Tensor]:
        """Return copies of everything that belongs to the samples of lanes `index`, int64 [k], for :meth:`put`."""
        state = {name: getattr(self.machine, name)[index] for name in PER_SAMPLE}
        for name, whole in self._doubled().items():
            state[name] = whole.view(self._copies, self.n, *whole.shape[1:])[:, index]
        return state

    def put(self, state: dict[str, Tensor]) -> None:
        """Take over samples that were `taken` from another evaluation of the same buffers, one for each lane."""
        for name in PER_SAMPLE:
            getattr(self.machine, name).copy_(state[name])
        for name, whole in self._doubled().items():
            whole.copy_(state[name].reshape(whole.shape))

    @property
    def _copies(self) -> int:
        return 2 if self.lanes.guided else 1

    def _doubled(self) -> dict[str, Tensor]:
        """Return the tensors that hold each sample twice under guidance, by name."""
        return {"net_in": self.machine.net_in} | {f"condition {name}": t for name, t in self.conditions.own.items()}

    @cached_property
    def _given_latent(self) -> restart_kernels.BoundMachine:
        """The machine that takes x as the latent: a table of one row, and a cursor that stays on it."""
        m = self.machine
        machine = restart_kernels.Machine(
            m.x,
            m.h,
            m.net_in,
            torch.zeros_like(m.coef[:1]),
            torch.zeros_like(m.code[:1]),
            torch.zeros_like(m.cursor[:1]),
            m.seeds,
            m.first_bad,
        )
        return restart_kernels.bind(machine, self.backend)

    @cached_property
    def _starter(self) -> restart_kernels.BoundMachine:
        """The same machine with another cursor, which is idle in every lane but those of new samples."""
        m = self.machine
        machine = restart_kernels.Machine(
            m.x, m.h, m.net_in, m.coef, m.code, torch.full_like(m.cursor, layout.IDLE), m.seeds, m.first_bad, m.c_noise
        )
        return restart_kernels.bind(machine, self.backend)

    def _contiguous(self, F: Tensor) -> Tensor:
        """Return F in element order, copied into a buffer that is made once."""
        if self.F.shape != F.shape or self.F.dtype != F.dtype:
            with torch.inference_mode(False):
                self.F = torch.empty(F.shape, dtype=F.dtype, device=F.device)
        return self.F.copy_(F)
