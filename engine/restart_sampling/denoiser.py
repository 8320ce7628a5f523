r"""A denoiser: a raw network F, its parameterization, and what shape it draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import parameterization as parameterizations
from .devices import check_device as check_device
from .errors import RestartTypeError, RestartValueError
from .parameterization import Parameterization

NetworkFunction = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise, class_labels).

    Attributes:
        network: F. Called as network(net_in [B, C, H, W], c_noise float32 [1] or [B], class_labels float one-hot
            [B, label_dim] or None), returns F [B, C, H, W] in any floating dtype.
        parameterization: the four coefficients and the noise levels the network knows.
        shape: (C, H, W) of one sample.
        label_dim: number of classes, 0 for an unconditional network.
        classes: names of the classes, if known.
        name: where it came from, for messages and run.json.
        augmented_dim: D of a PFGM++ network (arXiv 2302.04265), whose noise has a heavier tail (pfgmpp.py); None for
            diffusion, its limit D → ∞.
    """

    network: NetworkFunction
    parameterization: Parameterization
    shape: tuple[int, ...]
    label_dim: int = 0
    classes: tuple[str, ...] = ()
    name: str = "denoiser"
    info: dict[str, Any] = field(default_factory=dict, repr=False)
    augmented_dim: int | None = None

    def __post_init__(self) -> None:
        if not self.shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.shape):
            raise RestartValueError(
                f"shape must be positive integers such as (3, 32, 32), got {self.shape!r}"
            )

        if self.augmented_dim is not None and (
            isinstance(self.augmented_dim, bool)
            or not isinstance(self.augmented_dim, int)
            or self.augmented_dim < 1
        ):
            raise RestartValueError(
                f"augmented_dim must be an integer ≥ 1 or None, got {self.augmented_dim!r}"
            )

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
    ) -> Denoiser:
        """Wrap any denoiser function.

        Args:
            fn: called as fn(x [B, *shape] float32, sigma float32 [B], **cond), returns D of the shape of x. `cond` is
                class_labels=one-hot [B, label_dim] when label_dim > 0. (With float64 registers x and sigma are float64.)
            shape: shape of one sample, e.g. (3, 32, 32).
            sigma_min, sigma_max: noise levels fn knows.
            process: "ve" if x = x₀ + σε, "flow" if x = (1 − t)x₀ + tε (sigma is then t).
            augmented_dim: D of a PFGM++ denoiser.
        """
        if not callable(fn):
            raise RestartTypeError(
                f"from_function needs a function fn(x, sigma, **cond), got {type(fn).__name__}"
            )

        def network(net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
            sigma = c_noise.expand(net_in.shape[0])
            cond = {} if class_labels is None else {"class_labels": class_labels}
            return fn(net_in, sigma, **cond)

        levels = replace(parameterizations.denoiser(sigma_min, sigma_max), process=process)
        return cls(
            network, levels, tuple(shape), label_dim, name=name or str(getattr(fn, "__name__", "function")),
            augmented_dim=augmented_dim,
        )  # fmt: skip

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The network's parameters; empty for a plain function."""
        return tuple(self.network.parameters()) if isinstance(self.network, torch.nn.Module) else ()

    @property
    def device(self) -> torch.device:
        """Where the network lives; the CPU for a plain function."""
        parameters = self.parameters
        return parameters[0].device if parameters else torch.device("cpu")

    def to(self, device: str | torch.device) -> Denoiser:
        """The same denoiser with its network on `device` (moved in place, as modules are)."""
        device = check_device(device)
        if isinstance(self.network, torch.nn.Module):
            self.network.to(device)
        return self

    def __call__(self, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None = None) -> Tensor:
        """D(x; σ) evaluated plainly: x [B, *shape], sigma a number or [B], labels one-hot. For training and tests.

        The coefficients are made on the host, so a `sigma` on a GPU is copied to the CPU (a sync). Samplers do not come here.
        """
        levels = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).cpu().numpy()
        shape = (-1,) + (1,) * (x.ndim - 1)
        c_skip, c_out, c_in, c_noise = (
            torch.from_numpy(c).to(x.device, x.dtype) for c in self.parameterization.coefficients(levels)
        )
        F = self.network(c_in.view(shape) * x, c_noise, class_labels)
        return c_skip.view(shape) * x + c_out.view(shape) * F.to(x.dtype)
