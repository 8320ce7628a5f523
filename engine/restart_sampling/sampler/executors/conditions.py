r"""The buffers of conditions: what the network is told of every lane, at addresses that stay.

They are filled when samples are loaded or started, and an evaluation reads them as they are: it allocates nothing and
asks the host for nothing, so a captured graph serves any conditions. Under guidance the second half of a batch holds
the nulls, and so do lanes without a sample. A shared condition has one buffer for all lanes, which is expanded to them.
A guide, another network that gives the second output of guidance, is told those of the conditions that it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...models.conditions import CLASS, SAME, Condition, placeholders


class Conditions:
    """What the lanes of a sampler have in common: the declared conditions, their nulls, and those that are shared.

    Args:
        declared: the conditions by name, in the dtypes that the network is given.
        device: where the buffers are.
        guide: names of those that the guide is told; by default the second half is told all of them.

    Attributes:
        nulls: [*shape] for each condition of a sample, zeros where none is declared.
        shared: the buffers [*shape] of shared conditions.
    """

    @torch.inference_mode(False)
    def __init__(
        self, declared: Mapping[str, Condition], device: torch.device, guide: Collection[str] | None = None
    ) -> None:
        self.declared, self.device = dict(declared), device
        self.guide = frozenset(declared if guide is None else guide)
        self.nulls: dict[str, Tensor] = {}
        self.shared: dict[str, Tensor] = {}
        for name, spec in declared.items():
            buffer = torch.zeros(spec.shape, dtype=spec.dtype, device=device)
            value = spec.default if spec.shared else spec.null
            if isinstance(value, Tensor):
                buffer.copy_(value)
            (self.shared if spec.shared else self.nulls)[name] = buffer
        self._mark: object = None

    def share(self, values: Mapping[str, Tensor], mark: object) -> None:
        """Fill the buffers of shared conditions, unless they hold the values of this mark already."""
        if mark is not self._mark:
            for name, buffer in self.shared.items():
                buffer.copy_(values[name])
            self._mark = mark


class ConditionLanes:
    """The conditions of `size` lanes, [copies·size, *shape] by name, all of them null; `of` gives those of a batch."""

    @torch.inference_mode(False)
    def __init__(self, conditions: Conditions, size: int, copies: int) -> None:
        self.conditions, self.copies = conditions, copies
        self.buffers = {
            name: null.expand(copies * size, *null.shape).clone() for name, null in conditions.nulls.items()
        }

    def of(self, n: int) -> BatchConditions:
        """Return the conditions of the first n lanes."""
        return BatchConditions(self, n)


class BatchConditions:
    """The conditions of a batch of n lanes, as the network is given them.

    Attributes:
        labels: class_labels, [copies·n, classes]; None for a network that is not told a class.
        others: the other conditions [copies·n, *shape] by name.
        own: those of them, and class_labels, that each lane has its own of.
    """

    def __init__(self, lanes: ConditionLanes, n: int) -> None:
        conditions, self.n, self.copies = lanes.conditions, n, lanes.copies
        self.conditions, rows = conditions, lanes.copies * n
        self.own = {name: buffer[:rows] for name, buffer in lanes.buffers.items()}
        told = {
            name: self.own[name] if name in self.own else conditions.shared[name].expand(rows, *spec.shape)
            for name, spec in conditions.declared.items()
        }
        self.labels = told.pop(CLASS, None)
        self.others = told

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that the network is given."""
        return (*(() if self.labels is None else (self.labels,)), *self.others.values())

    def given(self, start: int, stop: int, names: Collection[str]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return class_labels and the others of these names, of some rows of the network's input."""
        labels = self.labels[start:stop] if self.labels is not None and CLASS in names else None
        return labels, {name: whole[start:stop] for name, whole in self.others.items() if name in names}

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Give the first k lanes their values [k, *shape] and all others the null.

        `class_labels` may be classes int64 [k], which become one-hot rows.
        """
        for name, whole in self.own.items():
            null, value = self.conditions.nulls[name], values[name]
            k = len(value)
            if name == CLASS and value.ndim == 1:
                _write_one_hot(whole[:k], value)
            else:
                whole[:k].copy_(value)
            whole[k : self.n].copy_(null)
            if self.copies == 2:
                whole[self.n :].copy_(whole[: self.n] if self._keeps(name) else null)

    def clear(self) -> None:
        """Give every lane the null."""
        for name, whole in self.own.items():
            whole.copy_(self.conditions.nulls[name])

    def start(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Give the lanes `index`, int64 [k] on the device, their values [k, *shape], and leave the others alone."""
        for name, whole in self.own.items():
            value = values[name]
            if name == CLASS and value.ndim == 1:
                rows = whole.new_zeros(len(value), whole.shape[1])
                _write_one_hot(rows, value)
                value = rows
            value = value.to(whole)
            whole.index_copy_(0, index, value)
            if self.copies == 2 and self._keeps(name):
                whole.index_copy_(0, index + self.n, value)

    def fill_for_nothing(self) -> None:
        """Give every lane values that the network takes, for evaluations whose result is not kept."""
        self.fill(placeholders(self.conditions.declared, self.n, self.conditions.device))

    def _keeps(self, name: str) -> bool:
        """Whether both halves of guidance have the sample's own value."""
        null = self.conditions.declared[name].null
        return isinstance(null, str) and null == SAME


def _write_one_hot(rows: Tensor, labels: Tensor) -> None:
    """Write one-hot rows for classes int64 [k] into `rows` [k, classes]."""
    rows.zero_().scatter_(1, labels.to(rows.device)[:, None], 1.0)
