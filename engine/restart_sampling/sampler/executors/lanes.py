r"""Lanes: the static buffers of a batch, one lane for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from restart_kernels import layout

from .conditions import ConditionLanes, Conditions


@dataclass(frozen=True)
class Lanes:
    """The static buffers of `size` samples, made once.

    Attributes:
        x, h: registers [size, *shape].
        net_in: network input [size, *shape], or [2·size, *shape] under guidance, the unconditional half last.
        conditions: what the network is told of each sample, [len(net_in), …] by name.
        seeds: int64 [size].
        first_bad: int32 [size], the first table row whose result was not finite.
        cursor: int32 [size], the table row that is next; negative in an idle lane.
        c_noise: [len(net_in)].
        guided: whether net_in has two halves.
    """

    x: Tensor
    h: Tensor
    net_in: Tensor
    conditions: ConditionLanes
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
        conditions: Conditions,
        guided: bool,
        device: torch.device,
        net_dtype: torch.dtype,
        register_dtype: torch.dtype,
    ) -> Lanes:
        """Make the buffers, every lane idle."""
        copies = 2 if guided else 1

        def zeros(*sizes: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*sizes, dtype=dtype, device=device)

        return cls(
            x=zeros(size, *shape, dtype=register_dtype),
            h=zeros(size, *shape, dtype=register_dtype),
            net_in=zeros(copies * size, *shape, dtype=net_dtype),
            conditions=ConditionLanes(conditions, size, copies),
            seeds=zeros(size, dtype=torch.int64),
            first_bad=zeros(size, dtype=torch.int32),
            cursor=zeros(size, dtype=torch.int32).fill_(layout.IDLE),
            c_noise=zeros(copies * size, dtype=register_dtype),
            guided=guided,
        )

    def __len__(self) -> int:
        return len(self.x)
