"""EDM2 networks with weights of a formula, as golden numbers of the original code were computed with them.

u(k)_j = frac(43758.5453·sin(12.9898·j + 78.233·k)) in float64, j the flat index; k is the place of a tensor in the
state dict, counted from a first number. A scalar is 0.5 + u, frequencies are 4π(u − 0.5), phases 2π·u, others u − 0.5.
"""

from __future__ import annotations

import math

import numpy as np
import torch

import restart_sampling as rs
from restart_sampling.models import build_network

CONFIG = dict(
    class_name="Precond", img_resolution=8, img_channels=3, label_dim=5, model_channels=32, channel_mult=[1, 2],
    num_blocks=1, attn_resolutions=[4], channels_per_head=16, logvar_channels=128,
)  # fmt: skip


def u(k, *shape):
    j = np.arange(math.prod(shape), dtype=np.float64)
    v = 43758.5453 * np.sin(12.9898 * j + 78.233 * k)
    return torch.from_numpy(v - np.floor(v)).reshape(shape)


def weights(name, k, shape):
    v = u(k, *shape)
    if name.endswith("freqs"):
        return 4 * math.pi * (v - 0.5)
    if name.endswith("phases"):
        return 2 * math.pi * v
    return 0.5 + v if not shape else v - 0.5


def network(first=0, **config):
    net = build_network(CONFIG | config)
    state = net.state_dict()
    net.load_state_dict({name: weights(name, first + k, t.shape).float() for k, (name, t) in enumerate(state.items())})
    return net


def denoiser(first=0, name="denoiser", **config):
    net = network(first, **config)
    return rs.Denoiser(net, net.parameterization, net.shape, net.label_dim, name=name)
