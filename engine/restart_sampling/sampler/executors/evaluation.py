r"""One evaluation: the network, the fused step, and the cursor one row on. Every executor runs this body and nothing
else.

All of it works on static buffers and asks the host for nothing: which row comes next, its coefficients and the
network's c_noise are on the device. So the body may be called from a loop, or captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout

from ..program import Entry, Program, write_latent_row

Network = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
PER_SAMPLE = ("x", "h", "seeds", "first_bad", "cursor", "c_noise")  # of the machine, with a cursor for each sample


@dataclass(frozen=True)
class Lanes:
    """The static buffers of `size` samples: what a batch needs, made once.

    Attributes:
        x, h: registers [size, *shape]; net_in: network input [size or 2·size, *shape].
        labels: float one-hot [size or 2·size, label_dim], or None; under guidance the second half stays zero.
        seeds int64, first_bad int32, cursor int32: [size]; c_noise as long as net_in.
    """

    x: Tensor
    h: Tensor
    net_in: Tensor
    labels: Tensor | None
    seeds: Tensor
    first_bad: Tensor
    cursor: Tensor
    c_noise: Tensor
    guided: bool

    @classmethod
    @torch.inference_mode(False)
    def make(
        cls,
        size: int,
        shape: tuple[int, ...],
        label_dim: int,
        guided: bool,
        device: torch.device,
        net_dtype: torch.dtype,
        register_dtype: torch.dtype,
    ) -> Lanes:
        copies = 2 if guided else 1
        label_dtype = torch.float64 if register_dtype == torch.float64 else torch.float32

        def zeros(*sizes: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*sizes, dtype=dtype, device=device)

        return cls(
            x=zeros(size, *shape, dtype=register_dtype),
            h=zeros(size, *shape, dtype=register_dtype),
            net_in=zeros(copies * size, *shape, dtype=net_dtype),
            labels=zeros(copies * size, label_dim, dtype=label_dtype) if label_dim else None,
            seeds=zeros(size, dtype=torch.int64),
            first_bad=zeros(size, dtype=torch.int32),
            cursor=zeros(size, dtype=torch.int32).fill_(layout.IDLE),
            c_noise=zeros(copies * size, dtype=register_dtype),
            guided=guided,
        )

    def __len__(self) -> int:
        return len(self.x)


class Evaluation:
    """Network, step, advance on the first `n` lanes; calling it runs one evaluation for every live sample.

    Args:
        network: F, called as network(net_in, c_noise, labels).
        program: the table.
        lanes: the buffers; this evaluation owns their first `n` samples while it runs.
        n: samples of the batch.
        backend: a backend of restart_kernels.
        per_sample: each sample has its own cursor (rows of different plans share the batch), else one serves all and
            the network gets a single c_noise.
    """

    def __init__(
        self, network: Network, program: Program, lanes: Lanes, n: int, backend: str, per_sample: bool = False
    ) -> None:
        self.network, self.program, self.lanes, self.n = network, program, lanes, n
        self.per_sample = per_sample
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
        self.labels = None if lanes.labels is None else lanes.labels[: copies * n]
        self.backend = backend
        self.stepper = restart_kernels.bind(self.machine, backend)
        self.F = torch.empty(0, device=lanes.x.device)

    def __call__(self) -> None:
        m = self.machine
        if self.twice:  # both halves of the network input are at the same level
            self.c_noise[self.n :].copy_(self.c_noise[: self.n])
        F = self.network(m.net_in, self.c_noise, self.labels)
        if not F.is_contiguous():
            F = self._contiguous(F)
        if self.lanes.guided:
            self.stepper.run_row(F[: self.n], F[self.n :])
        else:
            self.stepper.run_row(F)
        self.stepper.advance()

    def load(self, entry: Entry, seeds: Tensor, labels: Tensor | None, latents: Tensor | None = None) -> None:
        """Put a batch of one plan at its start: the initial latent drawn, the first network input made.

        Args:
            seeds: int64 [k], k ≤ n; lanes ≥ k are padding with seed 0; their output is discarded.
            labels: int64 [k] or None.
            latents: standard-normal start [k, *shape] instead of draw 0.
        """
        m, k = self.machine, len(seeds)
        m.seeds[:k].copy_(seeds)
        m.seeds[k:].zero_()
        m.first_bad.fill_(layout.NEVER)
        m.cursor.fill_(entry.base)
        if labels is not None:
            self._set_labels(slice(0, k), labels)
        if latents is None:
            self.stepper.run_row()
        else:
            m.x[:k].copy_(latents)
            stepper = self._given_latent
            write_latent_row(entry, stepper.machine.coef, stepper.machine.code)
            stepper.run_row()
        self.stepper.advance()

    def result(self, n: int) -> tuple[Tensor, Tensor]:
        """x [n, *shape] and first_bad int32 [n] of the first n samples, copied."""
        return self.machine.x[:n].clone(), self.machine.first_bad[:n].clone()

    def start(self, lanes: Sequence[int], entries: Sequence[Entry], seeds: Tensor, labels: Tensor | None) -> None:
        """Start samples of possibly different plans on some lanes, the others untouched. Needs `per_sample`.

        Args:
            lanes, entries: lane and plan of each new sample; seeds int64 and labels int64 [len(lanes)].
        """
        m, starter = self.machine, self._starter
        index = torch.tensor(list(lanes), dtype=torch.int64, device=m.x.device)
        rows = torch.tensor([e.base for e in entries], dtype=torch.int32, device=m.x.device)
        m.seeds.index_copy_(0, index, seeds.to(m.x.device))
        m.first_bad.index_fill_(0, index, layout.NEVER)
        if labels is not None:
            self._set_labels(index, labels)
        starter.machine.cursor.fill_(layout.IDLE).index_copy_(0, index, rows)
        starter.run_row()
        starter.advance()
        m.cursor.copy_(torch.where(starter.machine.cursor >= 0, starter.machine.cursor, m.cursor))

    def taken(self, index: Tensor) -> dict[str, Tensor]:
        """Return copies of everything that belongs to the samples of lanes `index`, int64 [k]; :meth:`put` goes on with
        them.
        """
        state = {name: getattr(self.machine, name)[index] for name in PER_SAMPLE}
        for name, whole in self._doubled().items():
            state[name] = whole.view(self._copies, self.n, *whole.shape[1:])[:, index]
        return state

    def put(self, state: dict[str, Tensor]) -> None:
        """Go on with the samples that another evaluation of the same lanes gave, as many as this one has lanes."""
        for name in PER_SAMPLE:
            getattr(self.machine, name).copy_(state[name])
        for name, whole in self._doubled().items():
            whole.copy_(state[name].reshape(whole.shape))

    @property
    def _copies(self) -> int:
        return 2 if self.lanes.guided else 1

    def _doubled(self) -> dict[str, Tensor]:
        """The tensors that hold each sample twice under guidance."""
        return {"net_in": self.machine.net_in} | ({} if self.labels is None else {"labels": self.labels})

    @cached_property
    def _given_latent(self) -> restart_kernels.BoundMachine:
        """The step that takes x as the latent: a table of one row, and a cursor that stays on it."""
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
        """The same machine with a cursor of its own, so that only new samples move."""
        m = self.machine
        machine = restart_kernels.Machine(
            m.x, m.h, m.net_in, m.coef, m.code, torch.full_like(m.cursor, layout.IDLE), m.seeds, m.first_bad, m.c_noise
        )
        return restart_kernels.bind(machine, self.backend)

    def _set_labels(self, where: slice | Tensor, labels: Tensor) -> None:
        """One-hot rows of the conditional half.

        The other one is zero: where it begins depends on n, so it is cleared.
        """
        assert self.labels is not None
        hot = torch.nn.functional.one_hot(labels, self.labels.shape[1]).to(self.labels)
        self.labels[: self.n][where] = hot
        self.labels[self.n :].zero_()

    def _contiguous(self, F: Tensor) -> Tensor:
        """F in element order, copied into a buffer that is made once."""
        if self.F.shape != F.shape or self.F.dtype != F.dtype:
            with torch.inference_mode(False):
                self.F = torch.empty(F.shape, dtype=F.dtype, device=F.device)
        return self.F.copy_(F)
