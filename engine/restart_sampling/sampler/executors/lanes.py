r"""Lanes: the static buffers of a batch, one lane for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from restart_kernels import layout

from ..table import Table
from .conditions import ConditionLanes, Conditions


class Needs(NamedTuple):
    """What the plans of a sampler need of its buffers.

    Attributes:
        guided: whether net_in has two halves.
        registers: history registers, at least 1, so that plans of one register and of none share captured graphs.
        noises: noise terms of a row.
        pasted, weighed: whether rows paste a known image, or weigh two outputs of the network.
    """

    guided: bool = False
    registers: int = 1
    noises: int = 1
    pasted: bool = False
    weighed: bool = False

    def with_tables(self, tables: Sequence[Table]) -> Needs:
        """Return what these tables need besides; whether they are guided is up to them alone."""
        return Needs(
            any(table.plan.config.guided for table in tables),
            max(self.registers, *(table.registers for table in tables)),
            max(self.noises, *(table.noises for table in tables)),
            self.pasted or any(table.pasted for table in tables),
            self.weighed or any(table.weighed for table in tables),
        )


@dataclass(frozen=True)
class Lanes:
    """The static buffers of `size` samples, made once.

    Attributes:
        x, h, h2, h3: registers [size, *shape], the history registers as far as they are needed.
        net_in: network input [size, *shape], or [2·size, *shape] under guidance, the unconditional half last.
        conditions: what the network is told of each sample, [len(net_in), …] by name.
        seeds: int64 [size].
        first_bad: int32 [size], the first table row whose result was not finite.
        cursor: int32 [size], the table row that is next; negative in an idle lane.
        c_noise: [len(net_in)].
        guided: whether net_in has two halves.
        known, mask: the known image and its mask [size, *shape]; None where no plan pastes.
        mix: the weights of two outputs [size, 2]; None where no guidance method makes them.
        noises: noise terms of a row, 1 or 2.
    """

    x: Tensor
    h: Tensor | None
    net_in: Tensor
    conditions: ConditionLanes
    seeds: Tensor
    first_bad: Tensor
    cursor: Tensor
    c_noise: Tensor
    guided: bool
    h2: Tensor | None = None
    h3: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    mix: Tensor | None = None
    noises: int = 1

    @classmethod
    @torch.inference_mode(False)
    def make(
        cls,
        size: int,
        shape: tuple[int, ...],
        conditions: Conditions,
        needs: Needs,
        device: torch.device,
        net_dtype: torch.dtype,
        register_dtype: torch.dtype,
    ) -> Lanes:
        """Make the buffers, every lane idle."""
        copies = 2 if needs.guided else 1

        def zeros(*sizes: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*sizes, dtype=dtype, device=device)

        def register(needed: bool) -> Tensor | None:
            return zeros(size, *shape, dtype=register_dtype) if needed else None

        return cls(
            x=zeros(size, *shape, dtype=register_dtype),
            h=register(needs.registers > 0),
            h2=register(needs.registers > 1),
            h3=register(needs.registers > 2),
            known=register(needs.pasted),
            mask=register(needs.pasted),
            mix=zeros(size, 2, dtype=register_dtype) if needs.weighed else None,
            noises=needs.noises,
            net_in=zeros(copies * size, *shape, dtype=net_dtype),
            conditions=ConditionLanes(conditions, size, copies),
            seeds=zeros(size, dtype=torch.int64),
            first_bad=zeros(size, dtype=torch.int32),
            cursor=zeros(size, dtype=torch.int32).fill_(layout.IDLE),
            c_noise=zeros(copies * size, dtype=register_dtype),
            guided=needs.guided,
        )

    def __len__(self) -> int:
        return len(self.x)
