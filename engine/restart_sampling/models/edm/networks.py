r"""The networks of EDM files: F of D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise) (arXiv 2206.00364, eq. 7).

:class:`EDMNetwork` is the state-dict root of a checkpoint: one child `model`, and for iDDPM the buffer `u` of
noise levels. It computes F only. The four coefficients are in :mod:`restart_sampling.models.parameterization`, where
training, sampling and the fused step all read them.

A network is described by a flat JSON-able dict, its config: `class_name` and that class's arguments, the
arguments of the model, and the stored attributes `sigma_min`, `sigma_max` (None: without limit),
`sigma_data`. :func:`complete_config` fills in the defaults of the checkpoint format and refuses what is
unknown or out of bounds, since configs come from files.

| class_name     | network is fed | default model | extra keys |
|----------------|----------------|---------------|------------|
| `EDMPrecond`   | ln(σ)/4        | DhariwalUNet  | sigma_data, pfgmpp, D |
| `VPPrecond`    | (M−1)·t(σ)     | SongUNet      | beta_d, beta_min, M, epsilon_t |
| `VEPrecond`    | ln(σ/2)        | SongUNet      | – |
| `iDDPMPrecond` | M−1−j          | DhariwalUNet  | C_1, C_2, M; of 2·C0 outputs the first C0 are F |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...common.errors import RestartTypeError, RestartValueError
from .. import parameterization
from .config import complete_config, model_arguments
from .dhariwal_unet import DhariwalUNet
from .layers import initialize
from .song_unet import SongUNet


class EDMNetwork(nn.Module):
    """A raw network with the state-dict names of EDM checkpoints.

    Attributes: `config` (complete), `img_resolution`, `img_channels`, `label_dim`. Weights are zeros until
    loaded or drawn: use :func:`build_network`.
    """

    u: Tensor
    concurrent = True  # forward keeps no state, so several threads may call it at once

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = complete_config(config)
        self.img_resolution: int = self.config["img_resolution"]
        self.img_channels: int = self.config["img_channels"]
        self.label_dim: int = self.config["label_dim"]
        iddpm = self.config["class_name"] == "iDDPMPrecond"
        if iddpm:
            levels = parameterization.iddpm_levels(*(self.config[k] for k in ("M", "C_1", "C_2")))
            self.register_buffer("u", torch.tensor(levels, dtype=torch.float32))
        model = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[self.config["model_type"]]
        self.model: SongUNet | DhariwalUNet = model(
            self.img_resolution,
            self.img_channels,
            self.img_channels * (2 if iddpm else 1),
            self.label_dim,
            **model_arguments(self.config),
        )

    @property
    def parameterization(self) -> parameterization.Parameterization:
        """c_skip, c_out, c_in, c_noise and the noise levels this network knows."""
        c = self.config
        limits = {k: c[k] for k in ("sigma_min", "sigma_max") if c[k] is not None}
        if c["class_name"] == "EDMPrecond":
            return parameterization.edm(c["sigma_data"], **limits)
        if c["class_name"] == "VPPrecond":
            return parameterization.vp(c["beta_d"], c["beta_min"], c["M"], c["epsilon_t"], **limits)
        if c["class_name"] == "VEPrecond":
            return parameterization.ve(**limits)
        return parameterization.iddpm(self.u.detach().cpu().numpy(), **limits)

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """F [B, C0, H, W] in the dtype of `net_in`; the fused step widens it while loading (2 bytes per element less).

        net_in: c_in·x [B, C0, H, W]; its dtype (float32, bfloat16, float16, float64) is the one computed in.
        c_noise: float [1], shared by the batch and cheaper, or [B]. class_labels: float one-hot [B or 1,
        label_dim]; None means no class (zeros), and is the only choice when label_dim is 0. Raises
        RestartTypeError or RestartValueError for a wrong dtype or shape.
        """
        self._check(net_in, c_noise, class_labels)
        wide = torch.promote_types(net_in.dtype, torch.float32)
        if self.label_dim and class_labels is None:
            class_labels = torch.zeros(1, self.label_dim, dtype=wide, device=net_in.device)
        elif class_labels is not None:
            class_labels = class_labels.to(wide)
        F = self.model(net_in, c_noise.to(wide), class_labels)
        return F[:, : self.img_channels]

    def _check(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None) -> None:
        r = self.img_resolution
        if not net_in.is_floating_point():
            raise RestartTypeError(f"net_in must be floating point, got {net_in.dtype}")
        if net_in.dim() != 4 or tuple(net_in.shape[1:]) != (self.img_channels, r, r):
            want = f"[B, {self.img_channels}, {r}, {r}]"
            raise RestartValueError(f"net_in must have the shape {want}, got {list(net_in.shape)}")
        B = net_in.shape[0]
        if c_noise.dim() != 1 or c_noise.shape[0] not in (1, B):
            raise RestartValueError(f"c_noise must have the shape [1] or [{B}], got {list(c_noise.shape)}")
        if class_labels is None:
            return
        if not self.label_dim:
            raise RestartValueError("class_labels given, but this network has no classes: pass None")
        if class_labels.dim() != 2 or class_labels.shape[0] not in (1, B) or class_labels.shape[1] != self.label_dim:
            want = f"one-hot [{B}, {self.label_dim}]"
            raise RestartValueError(f"class_labels must be {want}, got the shape {list(class_labels.shape)}")


def build_network(config: Mapping[str, Any], seed: int | None = None) -> EDMNetwork:
    """The network that `config` describes, in eval mode, float32, on the CPU (or the default device).

    Weights are zeros, to be loaded; with `seed` they are drawn as in EDM, the same for the same seed.
    Raises CheckpointError for an unknown, missing or out-of-bounds entry.
    """
    network = EDMNetwork(config)
    if seed is not None:
        initialize(network, seed)
    return network.eval().requires_grad_(False)
