r"""The network of EDM2 files: F of D(x; σ) = c_skip·x + c_out·F(c_in·x; ln(σ)/4) (arXiv 2312.02696, eq. 1).

:class:`EDM2Network` is the state-dict root of a checkpoint: the child `unet`, and the head `logvar_…` that predicts how
uncertain the loss is at a noise level. Training uses the head, sampling does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..family import Network
from ..network_input import check_images
from .config import unet_arguments
from .layers import MPConv, MPFourier, normalize_weights
from .sampling import SamplingUNet
from .unet import UNet


class EDM2Network(Network):
    """A raw network with the state-dict names of EDM2's checkpoints.

    Weights are zeros until they are loaded or drawn: use :func:`restart_sampling.models.build_network`.
    """

    concurrent = True  # forward keeps no state, so several threads may call it at once

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        # Its authors' training never leaves the class out; their guide is a network without classes.
        self.class_null = 0.0 if self.config["label_dropout"] else None
        self.unet = UNet(**unet_arguments(self.config))
        self.logvar_fourier = MPFourier(self.config["logvar_channels"])
        self.logvar_linear = MPConv(self.config["logvar_channels"], 1)

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return F [B, C, H, W], see :class:`~restart_sampling.models.family.Network`."""
        return call(self.unet, self.shape, self.label_dim, net_in, c_noise, class_labels)

    def constrain(self) -> None:
        """Normalize all weights in place (arXiv 2312.02696, Algorithm 1)."""
        normalize_weights(self)

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Return the logarithm of the loss's variance at c_noise [N] → [N]; only training asks for it."""
        found: Tensor = self.logvar_linear(self.logvar_fourier(c_noise))
        return found[:, 0]

    def for_sampling(self) -> nn.Module:
        """Return the same F as a module with weights of its own, in which all that weights alone decide is done."""
        return ForSampling(self)


class ForSampling(nn.Module):
    """What :meth:`EDM2Network.for_sampling` returns; called as the network itself is."""

    concurrent = True

    def __init__(self, network: EDM2Network) -> None:
        super().__init__()
        self.shape, self.label_dim = network.shape, network.label_dim
        self.unet = SamplingUNet(network.unet)

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return F; see :meth:`EDM2Network.forward`."""
        return call(self.unet, self.shape, self.label_dim, net_in, c_noise, class_labels)


def call(
    unet: nn.Module,
    shape: tuple[int, ...],
    label_dim: int,
    net_in: Tensor,
    c_noise: Tensor,
    class_labels: Tensor | None,
) -> Tensor:
    """Check what a network is given, and return its F with noise level and class in float32 or wider."""
    check_images(shape, label_dim, net_in, c_noise, class_labels)
    wide = torch.promote_types(net_in.dtype, torch.float32)
    labels = None if class_labels is None else class_labels.to(wide)
    F: Tensor = unet(net_in, c_noise.to(wide), labels)
    return F
