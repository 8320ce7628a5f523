r"""Edits of a run: what it begins with instead of noise, and the image that it keeps where a mask says so."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..common.checks import choice, shown
from ..common.errors import RestartTypeError, RestartValueError
from ..models.conditions import as_tensor
from .inputs import check_names
from .program import WHOLE, Begin
from .table import PASTES, PLAIN, Variant


@dataclass(frozen=True)
class Edits:
    """The edits of a request, checked.

    Attributes:
        variant: how the tables of its plans are made.
        begin: (strength, sigma), where they begin.
        tensors: what goes into the lanes, [n, *shape] by the name of its register: x, known, mask.
    """

    variant: Variant = PLAIN
    begin: Begin = WHOLE
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def take(self, places: slice | Tensor) -> dict[str, Tensor]:
        """Return what belongs to the samples at some places of the request: a slice, or int64 on the CPU."""
        if isinstance(places, slice):
            return {name: tensor[places] for name, tensor in self.tensors.items()}
        return {name: tensor[places.to(tensor.device)] for name, tensor in self.tensors.items()}


@dataclass(frozen=True)
class Asked:
    """The edits as `Sampler.run` was given them."""

    latents: Any = None
    start: Any = None
    strength: float | None = None
    sigma: float | None = None
    known: Any = None
    mask: Any = None
    paste: str = "initial"

    def read(self, n: int, shape: tuple[int, ...], device: torch.device) -> Edits:
        """Return the edits of n samples, checked.

        Raises:
            RestartTypeError, RestartValueError: one sentence about what does not fit.
        """
        choice("paste", self.paste, PASTES, error=RestartValueError)
        if self.latents is not None and self.start is not None:
            raise RestartValueError("latents and start were given; a run begins with one of them")
        if self.start is None and (self.strength is not None or self.sigma is not None):
            raise RestartValueError("strength and sigma say where a run from a given image begins; give start as well")
        if self.start is not None and self.strength is None and self.sigma is None:
            raise RestartValueError("a run from a given image needs one of strength and sigma, got neither")
        if (self.known is None) != (self.mask is None):
            raise RestartValueError("known and mask go together: the image, and where it is free (1) or kept (0)")
        pastes = self.known is not None
        if not pastes and self.paste != "initial":
            raise RestartValueError("paste says which noise a known image gets; give known and mask as well")
        if pastes and self.latents is not None and self.paste == "initial":
            raise RestartValueError(
                "with latents the initial noise is not the seed's, so the known image cannot have it; use paste='fresh'"
            )
        tensors: dict[str, Tensor] = {}
        start = "noise"
        if self.latents is not None:
            start, tensors["x"] = "latents", latents(self.latents, n, shape, device)
        if self.start is not None:
            start, tensors["x"] = "image", image("start", self.start, n, shape, device)
        if pastes:
            tensors["known"] = image("known", self.known, n, shape, device)
            tensors["mask"] = mask(self.mask, n, shape, device)
        begin = WHOLE if self.start is None else (self.strength, self.sigma)
        soft = pastes and bool(((tensors["mask"] != 0) & (tensors["mask"] != 1)).any())
        return Edits(Variant(start, self.paste if pastes else None, soft), begin, tensors)


def asked(edits: dict[str, Any], what: str) -> Asked:
    """Return edits that were given as keyword arguments of `what`. Raises RestartTypeError for others."""
    check_names(edits, [field.name for field in fields(Asked)], what)
    return Asked(**edits)


def latents(given: Any, n: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the standard-normal start of n samples without its gradient."""
    wanted = (n, *shape)
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


def image(name: str, given: Any, n: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return an image for each of n samples [n, *shape], from [n, *shape] or from [*shape] for all."""
    wanted = f"{name} must be a floating tensor {list(shape)}, or {[n, *shape]} with one for each sample"
    value = _floats(wanted, given)
    if tuple(value.shape) not in (shape, (n, *shape)):
        raise RestartValueError(f"{wanted}, got {list(value.shape)}")
    return _placed(name, value, given, device).expand(n, *shape)


def mask(given: Any, n: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the mask of n samples [n, *shape], from any shape that stretches to [*shape] or, in front, to n."""
    wanted = f"mask must be numbers in [0, 1] of a shape that stretches to {list(shape)} or {[n, *shape]}"
    value = as_tensor(wanted, given)
    value = value.detach() if value.is_floating_point() else value.to(torch.float32)  # bool, or integers 0 and 1
    try:
        found = value.expand(n, *shape) if value.ndim > len(shape) else value.expand(shape).expand(n, *shape)
    except RuntimeError:
        raise RestartValueError(f"{wanted}, got {list(value.shape)}") from None
    if found.numel() and not bool(((value >= 0) & (value <= 1)).all()):
        low, high = float(value.min()), float(value.max())
        raise RestartValueError(f"{wanted}, got values from {low:g} to {high:g}: 1 is free, 0 is kept")
    return _placed("mask", found, given, device)


def _floats(wanted: str, given: Any) -> Tensor:
    value = as_tensor(wanted, given)
    if not value.is_floating_point():
        raise RestartTypeError(f"{wanted}, got {value.dtype}; images are in [-1, 1], x / 127.5 - 1 of bytes")
    return value.detach()


def _placed(name: str, value: Tensor, given: Any, device: torch.device) -> Tensor:
    if isinstance(given, Tensor) and value.device != device:
        raise RestartValueError(f"{name} is on {value.device}, the sampler on {device}; move it there")
    if not bool(torch.isfinite(value).all()):
        raise RestartValueError(f"{name} holds NaN or infinite values, got {shown(value)}")
    return value.to(device)
