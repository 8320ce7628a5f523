"""What a run is given: seeds or (seed, plan) pairs, latents, rows. All is checked before it draws; classes are read in
labels.py, other conditions in conditions.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.checks import choice, did_you_mean, integer, shown
from ..common.errors import RestartTypeError, RestartValueError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .noise import seed_tensor
from .results import CALLBACK_FIELDS

Seeds = Iterable[int] | Tensor | Iterable[tuple[int, Plan]] | Iterable[tuple[int, Plan, Mapping[str, Any]]]
Rows = Iterable[int] | None


def split(seeds: Any) -> tuple[Tensor, list[Plan] | None, list[Mapping[str, Any]] | None]:
    """Return the seeds int64 [n] and what (seed, plan) pairs or triples have besides: plans, and conditions by name."""
    if isinstance(seeds, (Tensor, np.ndarray, str, bytes, range, Mapping, Set)) or not isinstance(seeds, Iterable):
        return seed_tensor(seeds), None, None
    given = list(seeds)
    paired = [isinstance(item, (tuple, list)) for item in given]
    if not any(paired):
        return seed_tensor(given), None, None
    if not all(paired) or any(len(item) != 2 and not _is_triple(item) for item in given):
        raise RestartTypeError(
            "seeds must be all integers or all (seed, plan) pairs or (seed, plan, {condition: value}) triples"
        )
    plans = [check_plan(item[1]) for item in given]
    own = [item[2] if len(item) == 3 else {} for item in given]
    return seed_tensor([item[0] for item in given]), plans, own if any(own) else None


def _is_triple(item: Any) -> bool:
    return len(item) == 3 and isinstance(item[2], Mapping)


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
