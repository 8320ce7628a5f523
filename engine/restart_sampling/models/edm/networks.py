r"""The networks of EDM files: F of D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise) (arXiv 2206.00364, eq. 7).

:class:`EDMNetwork` is the state-dict root of a checkpoint: one child `model`, the U-Net, and for iDDPM the buffer `u`
of noise levels. It computes F only. The four coefficients are in :mod:`restart_sampling.models.parameterization`, where
training, sampling and the fused step all read them, and `families/edm.py` says which belong to which class_name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.errors import CheckpointError
from .. import parameterization
from ..family import Network
from ..network_input import check_images
from ..tensors import counted
from .config import UNETS, unet_arguments


class EDMNetwork(Network):
    """A raw network with the state-dict names of EDM checkpoints.

    Weights are zeros until they are loaded or drawn: use :func:`restart_sampling.models.build_network`.

    Attributes:
        config: complete. img_resolution, img_channels, label_dim: as in the config.
    """

    outputs: ClassVar[int] = 1  # the U-Net's output channels over img_channels; the first img_channels are F
    concurrent = True  # forward keeps no state, so several threads may call it at once

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.img_resolution: int = self.config["img_resolution"]
        self.img_channels: int = self.config["img_channels"]
        self.model = UNETS[self.config["model_type"]].network(
            self.img_resolution,
            self.img_channels,
            self.img_channels * self.outputs,
            self.label_dim,
            **unet_arguments(self.config),
        )

    @property
    def augmented_dim(self) -> int | None:
        """D of a PFGM++ network, None for diffusion."""
        return self.config["D"] if self.config.get("pfgmpp") else None

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return F [B, C, H, W], see :class:`~restart_sampling.models.family.Network`."""
        check_images(self.shape, self.label_dim, net_in, c_noise, class_labels)
        wide = torch.promote_types(net_in.dtype, torch.float32)
        if self.label_dim and class_labels is None:
            class_labels = torch.zeros(1, self.label_dim, dtype=wide, device=net_in.device)
        elif class_labels is not None:
            class_labels = class_labels.to(wide)
        F = self.model(net_in, c_noise.to(wide), class_labels)
        return F[:, : self.img_channels]


class IDDPMNetwork(EDMNetwork):
    """An iDDPM network, which predicts a variance too; its noise levels are the buffer `u`, falling to 0."""

    outputs = 2
    u: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        levels = parameterization.iddpm_levels(*(self.config[k] for k in ("M", "C_1", "C_2")))
        self.register_buffer("u", torch.tensor(levels, dtype=torch.float32))


def check_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless filters in a file are the config's, `own`, and noise levels fall to 0."""
    filters = [n for n in own if n.endswith("resample_filter")]
    other = [n for n in filters if not torch.allclose(tensors[n].float().cpu(), own[n].cpu(), rtol=1e-3, atol=1e-4)]
    if other:
        raise CheckpointError(counted("not the filter that the config describes", other))
    if (u := tensors.get("u")) is not None and not (bool((u[:-1] > u[1:]).all()) and float(u[-1]) == 0):
        raise CheckpointError("the noise levels u do not fall to 0")
