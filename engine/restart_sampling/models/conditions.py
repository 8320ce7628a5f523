r"""Conditions: what a network is told besides the state and the noise level, by name.

A class, the embeddings of a prompt, a low-resolution image, a time of day: each is a :class:`Condition` with a shape, a
dtype and a null, and `Denoiser.conditions` has them by name. A sampler gives every sample its own values, except those
of a shared condition, which all samples have in common. Under guidance the network sees each sample twice, with its
conditions and with their nulls; a null is a value that the network was trained with, never assumed to be zero.

The class is the condition `class_labels`: a float32 row [classes], one-hot as a rule, whose null is the row of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.checks import did_you_mean, either, integer, shown
from ..common.errors import RestartTypeError, RestartValueError

CLASS = "class_labels"
SAME = "same"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)
RESERVED = ("x", "sigma", "net_in", "c_noise", "self")  # what networks and functions are given by these names


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """What a network is told of every sample, or of all of them together.

    Attributes:
        shape: of one sample's value; () for a number.
        dtype: what the network is given: a float, an integer or torch.bool. With float64 registers floats are float64.
        null: the value without the condition, for guidance: a number, or a tensor of `shape`; "same" gives both halves
            of guidance the sample's own value. None: the network knows none, and plans with guidance are refused.
        shared: whether one value serves all samples of a run, which has no null.
        default: the value where a run gives none: a number, a tensor of `shape`, or a tensor [classes, *shape] with a
            row for each class of the denoiser, which class_labels then pick.

    Numbers become tensors of `shape`.

    Raises:
        RestartTypeError, RestartValueError: an attribute that is none of these.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    null: float | Tensor | str | None = None
    shared: bool = False
    default: float | Tensor | None = None

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put("shape", _sizes(self.shape))
        if not isinstance(self.dtype, torch.dtype) or self.dtype not in DTYPES:
            raise RestartTypeError(
                f"dtype of a condition must be torch.{either(map(_short, DTYPES))}, got {shown(self.dtype)}"
            )
        if not isinstance(self.shared, bool):
            raise RestartTypeError(f"shared must be True or False, got {shown(self.shared)}")
        if self.shared and self.null is not None:
            raise RestartValueError("a shared condition is the same in both halves of guidance; leave its null out")
        if isinstance(self.null, str) and self.null != SAME:
            raise RestartTypeError(f"null must be a number, a tensor, {SAME!r} or None, got {shown(self.null)}")
        if self.null is not None and not isinstance(self.null, str):
            put("null", self._constant("null", self.null, ((), self.shape)))
        if self.default is not None:
            classes = getattr(self.default, "shape", ())[:1] if not self.shared else ()
            put("default", self._constant("default", self.default, ((), self.shape, (*classes, *self.shape))))

    def __repr__(self) -> str:
        null = "shared" if self.shared else "without a null" if self.null is None else "with a null"
        return f"Condition({self}, {null})"

    def __str__(self) -> str:
        return _form(self.dtype, self.shape)

    @property
    def table(self) -> Tensor | None:
        """The default with a row for each class, [classes, *shape]; None where there is none or another one."""
        by_class = isinstance(self.default, Tensor) and self.default.ndim > len(self.shape)
        return self.default if by_class and isinstance(self.default, Tensor) else None

    @property
    def constant(self) -> Tensor | None:
        """The default that is one for all, [*shape]; None where there is none or another one."""
        return self.default if isinstance(self.default, Tensor) and self.table is None else None

    def picked(self, labels: Tensor | None) -> Tensor | None:
        """Return the rows of the table [B, *shape] that one-hot rows [B, classes] pick, and nulls for rows of zeros.

        Without labels a table of one row is that row. None where there is no such row, or no null.
        """
        table, null = self.table, self.null
        if table is None or labels is None:
            return table[0] if table is not None and len(table) == 1 else None
        labels = labels.to(table.device)
        rows, told = table[labels.argmax(1)], labels.any(1)
        if isinstance(null, Tensor):
            return torch.where(told.view(-1, *[1] * len(self.shape)), rows, null.to(rows))
        return rows if isinstance(null, str) or bool(told.all()) else None

    def widened(self) -> Condition:
        """Return the condition as a network of float64 is given it."""
        return replace(self, dtype=torch.float64) if self.dtype in FLOATS else self

    def read(
        self, name: str, value: Any, n: int | None, device: torch.device | None = None, *, unread: bool = False
    ) -> Tensor:
        """Return the values of n samples as a tensor [n, *shape] of this dtype, checked; a view where one serves all.

        Args:
            name: what the condition is called.
            value: [n, *shape], or [*shape] for all: a tensor, an array, or numbers in lists.
            n: None for one value alone, [*shape] or [1, *shape], which is returned as [*shape].
            device: where it must be, if it is a tensor, and where it goes, if it is none.
            unread: leave its numbers unchecked, for values that are read again with others: looking waits for a GPU.

        Raises:
            RestartTypeError, RestartValueError: one sentence with the name, what was declared and what was given.
        """
        found = as_tensor(f"condition {name!r} must be {self._wanted(n)}", value)
        given = _form(found.dtype, found.shape)
        tensors = isinstance(value, Tensor) or _holds_tensors(value)
        written = not tensors and not hasattr(value, "dtype")
        if not _fits(found.dtype, self.dtype, written):
            raise RestartTypeError(f"condition {name!r} must be {self._wanted(n)}, got {given}")
        rows = 1 if n is None else n
        if tuple(found.shape) not in (self.shape, (rows, *self.shape)):
            text = f"condition {name!r} must be {self._wanted(n)}, got {given}"
            if tuple(found.shape[1:]) == self.shape and found.ndim:
                text += f": {len(found)} for {rows} sample{'' if rows == 1 else 's'}"
            raise RestartValueError(text)
        if device is not None and found.device != device:
            if tensors:
                raise RestartValueError(
                    f"condition {name!r} must be {self._wanted(n)}, on {device} as the sampler, got {given} on "
                    f"{found.device}; move it there"
                )
            found = found.to(device)
        if not unread:
            found = self._converted(f"condition {name!r}, declared {self}, given as {given},", found)
        elif self.dtype in FLOATS:
            found = found.to(self.dtype)
        return found.reshape(self.shape) if n is None else found.expand(n, *self.shape)

    def _wanted(self, n: int | None) -> str:
        if n is None:
            return str(self)
        return f"{_form(self.dtype, (n, *self.shape))}, or {list(self.shape)} for all samples"

    def _constant(self, what: str, value: Any, shapes: Iterable[tuple[int, ...]]) -> Tensor:
        """Return a null or a default as a tensor of this dtype, checked."""
        found = as_tensor(f"{what} of a condition must be a number or a tensor", value)
        if not _fits(found.dtype, self.dtype, found.ndim == 0 and not isinstance(value, Tensor)):
            raise RestartTypeError(f"{what} of a condition of {self} must be of its kind, got {_form_of(found)}")
        if tuple(found.shape) not in shapes:
            raise RestartValueError(f"{what} of a condition of {self} must have its shape, got {_form_of(found)}")
        found = self._converted(f"{what} of a condition of {self}", found)
        return found.expand(self.shape) if found.ndim == 0 else found

    def _converted(self, what: str, found: Tensor) -> Tensor:
        """Return a tensor in this dtype, without gradient. Raises where a value has no place in it."""
        if self.dtype in INTEGERS and found.numel():
            limits = torch.iinfo(self.dtype)
            if int(found.min()) < limits.min or int(found.max()) > limits.max:
                raise RestartValueError(f"{what} holds integers outside of {_short(self.dtype)}")
        found = found.detach().to(self.dtype)
        if self.dtype in FLOATS and not bool(torch.isfinite(found).all()):
            raise RestartValueError(f"{what} holds NaN or infinite values")
        return found


def declared(conditions: Any, label_dim: int) -> tuple[dict[str, Condition], int]:
    """Return the conditions of a denoiser, checked and with class_labels first, and its number of classes.

    With classes the network is given class_labels, unless a class picks rows of another condition's default.

    Raises:
        RestartTypeError, RestartValueError: names or numbers of classes that do not fit.
    """
    if not isinstance(conditions, Mapping):
        raise RestartTypeError(f"conditions must be a dict of rs.Condition by name, got {shown(conditions)}")
    for name, spec in conditions.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise RestartValueError(
                f"a condition's name must be one of Python other than {either(RESERVED)}, got {shown(name)}"
            )
        if not isinstance(spec, Condition):
            raise RestartTypeError(f"condition {name!r} must be an rs.Condition, got {shown(spec)}")
    counts = {name: len(spec.table) for name, spec in conditions.items() if spec.table is not None}
    if CLASS in conditions:
        spec = conditions[CLASS]
        wide = spec.dtype in (torch.float32, torch.float64)
        if len(spec.shape) != 1 or not wide or spec.shared or spec.default is not None:
            raise RestartValueError(
                f"condition {CLASS!r} must be float32 [classes] for each sample, without a default, got {spec!r}"
            )
        counts[CLASS] = spec.shape[0]
    for name, count in counts.items():
        label_dim = label_dim or count
        if count != label_dim:
            raise RestartValueError(f"condition {name!r} is for {count} classes, and the denoiser has {label_dim}")
    if label_dim and not counts:
        return {CLASS: Condition((label_dim,), null=0.0), **conditions}, label_dim
    return {name: conditions[name] for name in sorted(conditions, key=lambda name: name != CLASS)}, label_dim


def check_known(denoiser: str, conditions: Mapping[str, Condition], given: Iterable[Any]) -> None:
    """Raise RestartValueError for a name that the denoiser of this name has no condition of."""
    for name in given:
        if name not in conditions:
            there = f"its conditions are {', '.join(conditions)}" if conditions else "it has none; leave it out"
            hint = did_you_mean(name, conditions, there)
            raise RestartValueError(f"{denoiser!r} has no condition {shown(name)}{hint}")


def missing(denoiser: str, name: str, spec: Condition) -> RestartValueError:
    """Return the error about a condition that was not given."""
    rows = "" if spec.shared else f", or [{', '.join(map(str, ('n', *spec.shape)))}] for n samples"
    return RestartValueError(
        f"condition {name!r} of {denoiser!r} is missing; give conditions={{{name!r}: {spec}}}{rows}"
    )


def placeholders(conditions: Mapping[str, Condition], n: int, device: torch.device) -> dict[str, Tensor]:
    """Return values [n, *shape] for evaluations whose result is not kept: class 0, defaults, else nulls, else zeros."""
    found = {}
    for name, spec in conditions.items():
        value = torch.zeros(spec.shape, dtype=spec.dtype, device=device)
        if name == CLASS:
            value[0] = 1
        for example in (spec.constant, None if spec.table is None else spec.table[0], spec.null):
            if isinstance(example, Tensor) and name != CLASS:
                value.copy_(example)
                break
        found[name] = value.expand(n, *spec.shape)
    return found


def as_tensor(what: str, value: Any) -> Tensor:
    """Return numbers in any form as a tensor; a tensor as it is. Raises RestartTypeError: "`what`, got …"."""
    if isinstance(value, Tensor):
        if not holds_values(value) or value.is_complex():
            raise RestartTypeError(f"{what}, got {shown(value)} that is not an ordinary one of real numbers")
        return value
    try:
        if _holds_tensors(value):
            return as_tensor(what, torch.stack(list(value)))
        array = np.array(value, order="C")
        if array.dtype.kind not in "biuf":
            raise TypeError
        if array.dtype.kind == "u":
            array = array.astype(np.int64) if array.max(initial=0) < 2**63 else array
        return torch.from_numpy(array)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise RestartTypeError(f"{what}, got {shown(value)}") from None


def holds_values(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one: not meta, sparse or quantized."""
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Tensor) for item in value)


def _fits(dtype: torch.dtype, to: torch.dtype, written: bool) -> bool:
    """Whether numbers of `dtype` may be given for `to`: of its kind, or integers written in Python for a float."""
    if to == torch.bool or dtype == torch.bool:
        return to == dtype
    return dtype.is_floating_point == (to in FLOATS) or (written and to in FLOATS)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _form(dtype: torch.dtype, shape: Iterable[int]) -> str:
    return f"{_short(dtype)} {list(shape)}"


def _form_of(tensor: Tensor) -> str:
    return _form(tensor.dtype, tensor.shape)


def _sizes(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(integer("a size", size, 1, 2**31 - 1, error=RestartValueError) for size in tuple(shape))
    except (TypeError, RestartValueError):
        raise RestartValueError(
            f"shape of a condition must be positive integers such as (77, 768), or () for a number, got {shown(shape)}"
        ) from None
