"""What a run is given: seeds or (seed, plan) pairs, class labels, latents, rows. All is checked before it draws."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.checks import choice, did_you_mean, integer, is_integer, scalar, shown
from ..common.errors import RestartTypeError, RestartValueError
from ..common.terminal import listed
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .noise import class_labels as labels_of_seeds
from .noise import holds_values, seed_tensor
from .results import CALLBACK_FIELDS

Seeds = Iterable[int] | Tensor | Iterable[tuple[int, Plan]]
Rows = Iterable[int] | None
Labels = int | str | Iterable[int] | Iterable[str] | Tensor | None


def split(seeds: Any) -> tuple[Tensor, list[Plan] | None]:
    """Return the seeds int64 [n] and, when (seed, plan) pairs were given, their plans."""
    if isinstance(seeds, (Tensor, np.ndarray, str, bytes, range, Mapping, Set)) or not isinstance(seeds, Iterable):
        return seed_tensor(seeds), None
    given = list(seeds)
    paired = [isinstance(item, (tuple, list)) for item in given]
    if not any(paired):
        return seed_tensor(given), None
    if not all(paired) or any(len(item) != 2 for item in given):
        raise RestartTypeError("seeds must be all integers or all (seed, plan) pairs")
    for item in given:
        check_plan(item[1])
    return seed_tensor([seed for seed, _ in given]), [plan for _, plan in given]


def check_denoiser(denoiser: Any) -> Denoiser:
    """Return `denoiser`, or say how a Denoiser is made."""
    if isinstance(denoiser, Denoiser):
        return denoiser
    raise RestartTypeError(
        f"the first argument must be a Denoiser, got {type(denoiser).__name__}; use rs.load or Denoiser.from_function"
    )


def check_plan(plan: Any) -> Plan:
    """Return `plan`, or say how a Plan is made."""
    if isinstance(plan, Plan):
        return plan
    how = f"use rs.preset({plan!r})" if isinstance(plan, str) else "use rs.Plan.build or rs.preset"
    raise RestartTypeError(f"plan must be a Plan, got {shown(plan)}; {how}")


def labels(denoiser: Denoiser, seeds: Tensor, given: Labels) -> Tensor | None:
    """Return the classes int64 [n] on the CPU, or None for an unconditional network.

    Args:
        denoiser: what the classes belong to.
        seeds: int64 [n].
        given: a class for all or one for each seed, by number or by name; None: drawn from each seed.
    """
    classes, name = denoiser.label_dim, denoiser.name
    if classes == 0:
        if given is not None:
            raise RestartValueError(f"class_labels were given, but {name!r} has no classes; leave them out")
        return None
    if given is None:
        return labels_of_seeds(seeds, classes)
    found = torch.as_tensor(_numbers(denoiser, given)).cpu()
    if found.ndim == 2 and found.shape[1] == classes:
        raise RestartTypeError(
            f"class_labels have shape {list(found.shape)}, as one-hot rows have; give class numbers, "
            "class_labels.argmax(1)"
        )
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool or found.ndim > 1:
        raise RestartTypeError(
            f"class_labels must be integers, one or one per seed, got {found.dtype} of shape {list(found.shape)}"
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
        return torch.as_tensor(given)
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise RestartTypeError(f"class_labels must be a class or one for each seed, got {shown(given)}")
    numbers = []
    for i, item in enumerate(given):
        if isinstance(item, str):
            numbers.append(class_number(denoiser, item))
        elif is_integer(item) and abs(scalar(item)) < 2**63:
            numbers.append(int(scalar(item)))
        elif isinstance(item, (list, tuple)) or getattr(item, "ndim", None):
            raise RestartTypeError(
                f"class_labels[{i}] is {shown(item)}; give one class number for each seed, not one-hot rows"
            )
        else:
            raise RestartTypeError(f"class_labels[{i}] must be an integer or the name of a class, got {shown(item)}")
    return torch.tensor(numbers, dtype=torch.int64)


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


def latents(given: Any, total: int, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Return the standard-normal start of `total` samples without its gradient, or None."""
    if given is None:
        return None
    wanted = (total, *shape)
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.layout != torch.strided:
        got = f"{given.dtype} in {given.layout}" if isinstance(given, Tensor) else type(given).__name__
        raise RestartTypeError(f"latents must be a floating tensor of shape {wanted}, got {got}")
    if tuple(given.shape) != wanted:
        raise RestartValueError(f"latents must have shape {wanted}, got {tuple(given.shape)}")
    if given.device != device:
        raise RestartValueError(f"latents are on {given.device}, the sampler on {device}; move them there")
    if not bool(torch.isfinite(given).all()):
        raise RestartValueError("latents hold NaN or infinite values; give standard-normal noise")
    return given.detach()


def rows(given: Rows, nfe: int) -> list[int] | None:
    """Return the rows of a plan that are asked for, from 0; None for all.

    Args:
        given: an iterable of row numbers, or None.
        nfe: how many rows the plan has; of several plans, the longest.
    """
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise RestartTypeError(f"rows must be row numbers of the plan, such as range(4) or [3], got {shown(given)}")
    return [integer("a row", row, 0, nfe - 1, error=RestartValueError) for row in given]


def fields(given: Any, callback: Any) -> tuple[str, ...]:
    """Return what a callback asks for of each row, names out of CALLBACK_FIELDS."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise RestartTypeError(f"callback_fields must be names such as ('x', 'D'), got {shown(given)}")
    found = tuple(given)
    for name in found:
        choice("a callback field", name, CALLBACK_FIELDS, error=RestartValueError)
    if found and callback is None:
        raise RestartValueError("callback_fields were given without a callback; give both, or use Sampler.trace")
    return found


def parted(
    options: dict[str, Any], one: Callable[..., Any], other: Callable[..., Any], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keyword arguments of two callables apart. Raises RestartTypeError for one that neither has."""
    of_one, of_other = (inspect.signature(function).parameters.keys() - {"self"} for function in (one, other))
    check_names(options, sorted({*of_one, *of_other}), what)
    second = {name: value for name, value in options.items() if name in of_other}
    return {name: value for name, value in options.items() if name not in second}, second


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise RestartTypeError for a keyword argument that `what` does not have, with the closest one it has."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known, f"its arguments are {', '.join(known)}")
            raise RestartTypeError(f"{what} has no argument {name!r}{hint}")
