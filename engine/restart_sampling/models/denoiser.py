r"""A denoiser: a raw network F, its parameterization, and the shape of its samples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..common.checks import choice, integer, real, shown
from ..common.devices import check_device
from ..common.errors import RestartTypeError, RestartValueError
from . import parameterization as parameterizations
from .conditions import CLASS, Condition, check_known, declared, missing
from .guided import guided
from .network_output import check
from .parameterization import Parameterization
from .tensors import tensors_sha256

NetworkFunction = Callable[..., Tensor]


@dataclass(frozen=True, repr=False)
class Denoiser:
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise, conditions).

    Attributes:
        network: F. Called as network(net_in [B, *shape], c_noise float32 [1] or [B], class_labels float one-hot
            [B, label_dim] or None), with each other condition [B, …] by keyword; returns F [B, *shape] in any floating
            dtype.
        parameterization: the four coefficients and the noise levels the network knows.
        shape: of one sample, (C, H, W) for an image; any number of dimensions will do.
        label_dim: number of classes, 0 for an unconditional network.
        classes: names of the classes, if known.
        name: what messages and run.json call it.
        info: whatever else is known about it; see `models.registry.load_model`.
        augmented_dim: D of a PFGM++ network (arXiv 2302.04265), whose noise has a heavier tail (sampler/pfgmpp.py);
            None for diffusion, its limit D → ∞.
        conditions: what else the network is told, by name (`conditions.py`). With classes `class_labels` is the first.
        guide: the network that gives the second output of guidance, see `guided_by`; None for this network.
        encode: returns the conditions of a prompt by name, [*shape] each; None for a network that takes no prompts. If
            it has `to(device)`, a job moves it to where it samples; that returns False, and nothing moves, if it does
            not fit there.
        truncation: returns what `encode` leaves out of a prompt, in words that follow the prompt ("has 93 tokens, and
            …"), or "" if it reads all of it; None if that is not known.
    """

    network: NetworkFunction
    parameterization: Parameterization
    shape: tuple[int, ...]
    label_dim: int = 0
    classes: tuple[str, ...] = ()
    name: str = "denoiser"
    info: dict[str, Any] = field(default_factory=dict, repr=False)
    augmented_dim: int | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict, repr=False)
    guide: Denoiser | None = field(default=None, repr=False)
    encode: Callable[[str], Mapping[str, Tensor]] | None = field(default=None, repr=False)
    truncation: Callable[[str], str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise RestartTypeError(
                f"network must be a module or a function F(net_in, c_noise, labels), got {shown(self.network)}"
            )
        if not isinstance(self.parameterization, Parameterization):
            raise RestartTypeError(
                f"parameterization must be a Parameterization, got {shown(self.parameterization)}; "
                "for a function that returns D use Denoiser.from_function"
            )
        put = partial(object.__setattr__, self)
        put("shape", _sizes(self.shape))
        put("label_dim", integer("label_dim", self.label_dim, 0, 2**31 - 1, error=RestartValueError))
        conditions, label_dim = declared(self.conditions, self.label_dim)
        put("conditions", conditions)
        put("label_dim", label_dim)
        if (D := self.augmented_dim) is not None:
            put("augmented_dim", integer("augmented_dim", D, 1, also=" or None", error=RestartValueError))

    @classmethod
    def from_function(
        cls,
        fn: Callable[..., Tensor],
        shape: tuple[int, ...],
        *,
        sigma_min: float = 0.0,
        sigma_max: float = float("inf"),
        label_dim: int = 0,
        process: str = "ve",
        name: str | None = None,
        augmented_dim: int | None = None,
        conditions: Mapping[str, Condition] | None = None,
    ) -> Denoiser:
        """Return the denoiser that the function `fn` is.

        Args:
            fn: called as fn(x [B, *shape] float32, sigma float32 [B], **conditions), returns D of the shape of x, in
                any floating dtype. Conditions are [B, …] each, class_labels=one-hot [B, label_dim] among them when
                label_dim > 0. (With float64 registers all floats are float64.) It runs under torch.no_grad; inside
                `with torch.enable_grad()` it may take gradients, see docs/denoisers.md. x and the conditions are
                buffers that are overwritten later, so copy what you want to keep.
            shape: of one sample, e.g. (3, 32, 32).
            sigma_min, sigma_max: the lowest and the highest noise level that fn knows.
            label_dim: number of classes, 0 for an unconditional denoiser.
            process: "ve" if x = x₀ + σε, "flow" if x = (1 − t)x₀ + tε (sigma is then t).
            name: what messages and run.json call it, by default the function's name.
            augmented_dim: D of a PFGM++ denoiser.
            conditions: what fn is told besides the class, by name.

        Raises:
            RestartTypeError: fn cannot be called. RestartValueError: another argument is out of its range.
        """
        if not callable(fn):
            raise RestartTypeError(f"from_function needs a function fn(x, sigma, **cond), got {type(fn).__name__}")

        def network(net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None, **given: Tensor) -> Tensor:
            sigma = c_noise.expand(net_in.shape[0])
            if class_labels is not None:
                given[CLASS] = class_labels
            if not torch.is_grad_enabled():
                # A view of its own, so that requires_grad_() on it does not stick to the sampler's buffer.
                net_in = net_in.detach()
            return fn(net_in, sigma, **given)

        low = real("sigma_min", sigma_min, 0.0, error=RestartValueError)
        high = real("sigma_max", sigma_max, 0.0, infinite=True, error=RestartValueError)
        if low >= high:
            raise RestartValueError(f"sigma_min must be below sigma_max, got {low:g} and {high:g}")
        choice("process", process, ("ve", "flow"), error=RestartValueError)
        levels = replace(parameterizations.denoiser(low, high), process=process)
        return cls(
            network,
            levels,
            shape,
            label_dim,
            name=name or str(getattr(fn, "__name__", "function")),
            augmented_dim=augmented_dim,
            conditions={} if conditions is None else conditions,
        )

    def guided_by(self, other: Denoiser, *, null: bool = False) -> Denoiser:
        """Return this denoiser guided by another one, as in autoguidance (`guided.py`, arXiv 2406.02507).

        The weight and the levels are the plan's `guidance_scale` and `guidance_interval`.

        Args:
            other: of the same shape and parameterization, such as a smaller or less trained network. Its conditions
                are the network's or fewer; it is told those it has.
            null: tell the guide the nulls instead of each sample's conditions.

        Returns:
            A denoiser with this one's network, whose `guide` is `other`. Its `info` has "guide", what is known of the
            guide; "sha256" is of the two files together, and "network_sha256" of this one's.

        Raises:
            RestartTypeError, RestartValueError: the two do not fit together.
        """
        return guided(self, other, null)

    def __repr__(self) -> str:
        told = f", {self.label_dim} classes" if self.label_dim else ""
        told += "".join(f", {name} {spec}" for name, spec in self.conditions.items() if name != CLASS)
        network = type(self.network).__name__ if self.parameters else "function"
        count = f" of {sum(p.numel() for p in self.parameters):,} parameters" if self.parameters else ""
        guide = "" if self.guide is None else f", guided by {self.guide.name!r}"
        return f"Denoiser({self.name!r}, shape={self.shape}{told}, {network}{count} on {self.device}{guide})"

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The network's parameters; empty for a plain function."""
        return tuple(self.network.parameters()) if isinstance(self.network, torch.nn.Module) else ()

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters; the CPU for a plain function."""
        parameters = self.parameters
        return parameters[0].device if parameters else torch.device("cpu")

    def weights_sha256(self) -> str:
        """Return the SHA-256 of the network's tensors as they are in memory, hex; "" for a plain function.

        It is the one that `restart-sampling models inspect` prints of the tensors in a file; with a guide, that of the
        two together.
        """
        own = tensors_sha256(self.network.state_dict()) if isinstance(self.network, torch.nn.Module) else ""
        if self.guide is None:
            return own
        return hashlib.sha256(f"{own} {self.guide.weights_sha256()}".encode()).hexdigest()

    def to(self, device: str | torch.device) -> Denoiser:
        """Move the network, and its guide, to `device`, in place as for any module, and return this denoiser.

        Raises BackendError: the device is not there.
        """
        device = check_device(device)
        if isinstance(self.network, torch.nn.Module):
            self.network.to(device)
        if self.guide is not None:
            self.guide.to(device)
        return self

    def __call__(
        self, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None = None, **conditions: Tensor
    ) -> Tensor:
        """Return D(x; σ), evaluated plainly, for training and tests; samplers fold the coefficients into their rows.

        The coefficients are computed on the host, so a `sigma` on a GPU is copied to the CPU, which synchronizes.

        Args:
            x: [B, *shape]. sigma: a number or [B]. class_labels: float one-hot [B, label_dim] or None.
            **conditions: the others by name, each [B, …], or without B one for all.

        Raises:
            RestartValueError: a condition is missing, or the network has none of that name.
        """
        levels = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).cpu().numpy()
        shape = (-1,) + (1,) * (x.ndim - 1)
        c_skip, c_out, c_in, c_noise = (
            torch.from_numpy(c).to(x.device, x.dtype) for c in self.parameterization.coefficients(levels)
        )
        net_in = c_in.view(shape) * x
        labels, others = self._told(x, class_labels, conditions)
        F = self.network(net_in, c_noise, labels, **others)
        return c_skip.view(shape) * x + c_out.view(shape) * check(F, net_in).to(x.dtype)

    def _told(
        self, x: Tensor, class_labels: Tensor | None, given: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return class_labels as the network is given them, and the other conditions, given or by default."""
        check_known(self.name, self.conditions, given)
        if class_labels is not None and not self.label_dim:
            check_known(self.name, self.conditions, [CLASS])
        found: dict[str, Tensor] = {}
        for name, spec in self.conditions.items():
            value = given.get(name)
            if value is None:
                value = spec.constant if spec.table is None else spec.picked(class_labels)
            if name != CLASS and value is None:
                raise missing(self.name, name, spec)
            if name != CLASS and value is not None:
                told = spec.widened() if x.dtype == torch.float64 else spec
                found[name] = value.to(x.device, told.dtype).expand(len(x), *spec.shape)
        return class_labels if CLASS in self.conditions else None, found


def _sizes(shape: Any) -> tuple[int, ...]:
    """Return the shape of a sample as positive integers."""
    try:
        sizes = tuple(shape)
        if not sizes:
            raise TypeError
        return tuple(integer("a size", size, 1, error=RestartValueError) for size in sizes)
    except (TypeError, RestartValueError):
        raise RestartValueError(f"shape must be positive integers such as (3, 32, 32), got {shown(shape)}") from None
