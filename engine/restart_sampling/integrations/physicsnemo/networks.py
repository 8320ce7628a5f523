r"""A preconditioned network of PhysicsNeMo as a denoiser.

Its networks are D themselves, and are called in one of three ways, which their `forward` shows by the names of its
arguments:

| the first arguments | called here as | networks |
|---|---|---|
| x, img_lr (or x_lr), sigma | net(x, img_lr, sigma, **others) | EDMPrecondSuperResolution, EDMPrecondSR: CorrDiff |
| x, sigma (or t), condition | net(x, sigma, condition=…, **others) | EDMPrecond, and any `DiffusionModel` |
| x, sigma | net(x, sigma, **others) | VPPrecond, VEPrecond, iDDPMPrecond |

where x is float32 [B, *shape], sigma float32 [B], and `others` are class_labels, one-hot [B, label_dim], of a network
that has classes and takes them, and whatever other conditions are declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.checks import shown
from ...common.errors import RestartTypeError, RestartValueError
from ...models import parameterization as parameterizations
from ...models.conditions import CLASS, Condition
from ...models.denoiser import Denoiser
from ...models.parameterization import Parameterization

IMAGES = ("img_lr", "x_lr")  # what the second argument is called where it is the condition


class Network(torch.nn.Module):
    """D of a network of PhysicsNeMo, called as the engine calls networks.

    Args:
        net: the network, a module or a function.
    """

    def __init__(self, net: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = net
        self.parameter_names, self.takes_any = _parameters(net)
        first = list(self.parameter_names)[:2]
        self.image = first[1] if len(first) > 1 and first[1] in IMAGES else None

    @property
    def condition(self) -> str | None:
        """What the condition is called: "img_lr" or "condition"; None for a network that has none."""
        if self.image is not None:
            return IMAGES[0]
        return "condition" if "condition" in self.parameter_names else None

    @property
    def takes_classes(self) -> bool:
        """Whether class_labels may be given by name."""
        return CLASS in self.parameter_names

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, **given: Tensor) -> Tensor:
        """Return D [B, *shape] of the state `net_in` at the levels `c_noise`, [1] or [B]."""
        sigma = c_noise.expand(len(net_in))
        if class_labels is not None:
            given[CLASS] = class_labels
        if self.image is None:
            return self.net(net_in, sigma, **given)
        return self.net(net_in, given.pop(IMAGES[0]), sigma, **given)


def denoiser_of(
    net: Callable[..., Tensor],
    shape: tuple[int, ...] | None = None,
    *,
    condition: tuple[int, ...] | None = None,
    shared: bool = False,
    null: Any = None,
    conditions: Mapping[str, Condition] | None = None,
    name: str | None = None,
) -> Denoiser:
    """Return the denoiser that a preconditioned network of PhysicsNeMo is.

    Args:
        net: the network; see the table at the top for how it is called.
        shape: of a sample; by default (img_out_channels or img_channels, *img_resolution) of the network.
        condition: shape of its low-resolution image or other condition, [C, H, W]; by default (img_in_channels,
            *img_resolution) of a network that is given img_lr, and none for others.
        shared: one condition serves all samples of a run, as CorrDiff draws all members of one input. By default each
            sample has its own, as jobs with several inputs need.
        null: the condition's null, for guidance, as of `rs.Condition`.
        conditions: what else the network is given by name, such as lead_time_label.
        name: what messages and run.json call it; by default the network's class.

    Raises:
        RestartTypeError, RestartValueError: it cannot be called so, or a shape is not known.
    """
    if not callable(net):
        raise RestartTypeError(f"net must be a network of PhysicsNeMo or a function, got {shown(net)}")
    network, title = Network(net), name or _title(net)
    shape = _shape(net, ("img_out_channels", "img_channels")) if shape is None else shape
    if shape is None:
        raise RestartValueError(f"{title} does not say what its samples are; give shape=(C, H, W)")
    if network.image is not None and condition is None:
        condition = _shape(net, ("img_in_channels",))
        if condition is None:
            raise RestartValueError(f"{title} is given {network.image}; say of which shape as condition=(C, H, W)")
    told: dict[str, Condition] = {}
    if condition is not None:
        if network.condition is None:
            raise RestartValueError(
                f"{title} takes neither img_lr nor condition, but {', '.join(network.parameter_names)}; declare what "
                "it takes in conditions"
            )
        told[network.condition] = Condition(condition, null=null, shared=shared)
    for given in conditions or {}:
        if given not in network.parameter_names and not network.takes_any:
            raise RestartValueError(f"{title} takes no {given}, but {', '.join(network.parameter_names)}")
    label_dim = int(getattr(net, "label_dim", 0) or 0) if network.takes_classes else 0
    return Denoiser(
        network,
        _levels(net),
        shape,
        label_dim,
        name=title,
        info={"network": _title(net)},
        conditions={**told, **(conditions or {})},
    )


def _levels(net: Any) -> Parameterization:
    """Return the levels that a network knows; it is D itself, so that it has no coefficients here."""
    low, high = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", float("inf")))
    found = parameterizations.denoiser(low, high)
    if not callable(round_sigma := getattr(net, "round_sigma", None)):
        return found

    def rounded(sigma: np.ndarray) -> np.ndarray:
        levels: np.ndarray = round_sigma(torch.from_numpy(np.array(sigma, np.float64))).double().cpu().numpy()
        return levels

    return replace(found, round_sigma=rounded)


def _shape(net: Any, channels: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return (C, H, W) by the first of these attributes that a network has, and its img_resolution."""
    count = next((getattr(net, name) for name in channels if getattr(net, name, None) is not None), None)
    size = getattr(net, "img_resolution", None)
    if count is None or size is None:
        return None
    return (int(count), *((int(size),) * 2 if isinstance(size, int) else map(int, size)))


def _parameters(net: Any) -> tuple[tuple[str, ...], bool]:
    """Return the names of a network's arguments, and whether it takes any others by name."""
    function = net.forward if isinstance(net, torch.nn.Module) else net
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise RestartTypeError(f"the arguments of {_title(net)} cannot be read; wrap it in a function") from None
    named = tuple(p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY))
    return named, any(p.kind == p.VAR_KEYWORD for p in found)


def _title(net: Any) -> str:
    return str(getattr(net, "__name__", None) or type(net).__name__)
