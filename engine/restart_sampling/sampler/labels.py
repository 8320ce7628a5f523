"""Classes as a run is given them: numbers, names or rows, for all samples or for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..common.checks import did_you_mean, is_integer, scalar, shown
from ..common.errors import RestartTypeError, RestartValueError
from ..common.terminal import listed
from ..models.conditions import as_tensor, holds_values
from ..models.denoiser import Denoiser
from .noise import class_labels as labels_of_seeds

Labels = int | str | Iterable[int] | Iterable[str] | Tensor | None


def read(denoiser: Denoiser, seeds: Tensor, given: Labels) -> Tensor | None:
    """Return classes int64 [n] on the CPU, or rows float32 [n, classes] where rows were given; None without classes.

    Args:
        denoiser: what the classes belong to.
        seeds: int64 [n].
        given: a class for all or one for each seed, by number or by name; or rows [n, classes], or [1, classes] for
            all, which are taken as they are: one-hot, or any other finite numbers. None: drawn from each seed.

    Raises:
        RestartTypeError, RestartValueError: anything else.
    """
    if denoiser.label_dim == 0:
        if given is not None:
            raise RestartValueError(f"class_labels were given, but {denoiser.name!r} has no classes; leave them out")
        return None
    return labels_of_seeds(seeds, denoiser.label_dim) if given is None else _read(denoiser, seeds, given)


def _read(denoiser: Denoiser, seeds: Tensor, given: Any) -> Tensor:
    """Return what was given as classes int64 [n] on the CPU, or as rows float32 [n, classes]."""
    classes, name = denoiser.label_dim, denoiser.name
    found = torch.as_tensor(_numbers(denoiser, given))
    if found.ndim == 2:
        return _rows(found, classes, len(seeds))
    found = found.cpu()
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool or found.ndim > 1:
        raise RestartTypeError(
            f"class_labels must be integers, one or one per seed, or rows [{len(seeds)}, {classes}], got {found.dtype} "
            f"of shape {list(found.shape)}"
        )
    if found.ndim == 1 and len(found) != len(seeds):
        raise RestartValueError(
            f"{len(found)} class_labels were given for {len(seeds)} seeds; give one, or one per seed"
        )
    found = found.to(torch.int64).expand(len(seeds))
    if len(found) and not (int(found.min()) >= 0 and int(found.max()) < classes):
        bad = int(found.min()) if int(found.min()) < 0 else int(found.max())
        raise RestartValueError(f"class {bad} does not exist: {name!r} has classes 0..{classes - 1}")
    return found


def of_samples(denoiser: Denoiser, seeds: Tensor, values: Sequence[Any]) -> Any:
    """Return what `read` takes, from one class or row [classes] for each sample; None is drawn from its seed."""
    if not denoiser.label_dim:
        return values
    found = list(values)
    if any(value is None for value in values):
        drawn = labels_of_seeds(seeds, denoiser.label_dim).tolist()
        found = [own if value is None else value for own, value in zip(drawn, values, strict=True)]
    if not any(map(_is_row, found)):
        return found
    rows = []
    for value in found:
        given = as_tensor("class_labels of a sample", value)[None] if _is_row(value) else value
        row = _read(denoiser, seeds[:1], given)
        rows.append(one_hot(row, denoiser.label_dim) if row.ndim == 1 else row.cpu())
    return torch.cat(rows)


def numbers_of(rows: Tensor) -> Tensor | None:
    """Return the classes int64 [n] on the CPU of one-hot rows; None if a row is another one."""
    numbers = rows.argmax(1) if len(rows) else rows.new_zeros(0, dtype=torch.int64)
    return numbers.cpu() if torch.equal(one_hot(numbers, rows.shape[1]).to(rows), rows) else None


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return float32 one-hot rows [n, classes]."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def class_number(denoiser: Denoiser, text: str) -> int:
    """Return the number of the class called `text`, upper and lower case alike.

    Raises:
        RestartValueError: there is none; the message has the closest name, and all of them or the first few.
    """
    lowered = [name.lower() for name in denoiser.classes]
    if text.lower() in lowered:
        return lowered.index(text.lower())
    hint = did_you_mean(text, denoiser.classes, any_case=True)
    named = f" ({listed(denoiser.classes, 20)})" if lowered else ", by number alone: it has no names for them"
    raise RestartValueError(
        f"class {shown(text)} does not exist: {denoiser.name!r} has classes 0..{denoiser.label_dim - 1}{named}{hint}"
    )


def _rows(found: Tensor, classes: int, n: int) -> Tensor:
    """Return rows float32 [n, classes], checked."""
    if found.shape[1] != classes or len(found) not in (1, n) or found.is_complex():
        raise RestartValueError(
            f"class_labels must be classes, or rows [{n}, {classes}] or [1, {classes}], got {found.dtype} of shape "
            f"{list(found.shape)}"
        )
    found = found.detach().to(torch.float32)
    if not bool(torch.isfinite(found).all()):
        raise RestartValueError(f"class_labels hold NaN or infinite values in rows of {classes} classes")
    return found.expand(n, classes)


def _numbers(denoiser: Denoiser, given: Any) -> Any:
    """Return `given` as a tensor or an int, with the number of each class that is named."""
    if is_integer(given):
        given = [given]
        return _numbers(denoiser, given)[0]
    if isinstance(given, Tensor):
        if not holds_values(given):
            raise RestartTypeError(f"class_labels must be an ordinary tensor of integers, got {shown(given)}")
        return given
    if isinstance(given, str):
        return class_number(denoiser, given)
    if hasattr(given, "dtype") and getattr(given.dtype, "kind", "") in "iubf":
        return as_tensor("class_labels", given)
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise RestartTypeError(f"class_labels must be a class or one for each seed, got {shown(given)}")
    given = list(given)
    if given and all(map(_is_row, given)):
        return as_tensor("class_labels must be classes, or rows of as many numbers as there are classes", given)
    numbers = []
    for i, item in enumerate(given):
        if isinstance(item, str):
            numbers.append(class_number(denoiser, item))
        elif is_integer(item) and abs(scalar(item)) < 2**63:
            numbers.append(int(scalar(item)))
        else:
            raise RestartTypeError(f"class_labels[{i}] must be an integer or the name of a class, got {shown(item)}")
    return torch.tensor(numbers, dtype=torch.int64)


def _is_row(item: Any) -> bool:
    """Whether an item is a row rather than one class."""
    return isinstance(item, (list, tuple)) or bool(getattr(item, "ndim", 0))
