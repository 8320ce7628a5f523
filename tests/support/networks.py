"""A network of one convolution."""

from __future__ import annotations

import torch
from torch import nn

import restart_sampling as rs
from restart_sampling.models.parameterization import edm

SHAPE = (3, 8, 8)


class Tiny(nn.Module):
    """One convolution, so that compiling takes a second. `breaks` makes torch.compile fail."""

    def __init__(self, breaks: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3, generator=generator) / 5)
        self.breaks, self.seen = breaks, None

    def forward(self, net_in, c_noise, class_labels=None):
        if self.breaks:
            torch._dynamo.graph_break()
        y = nn.functional.conv2d(net_in, self.weight.to(net_in.dtype), padding=1)
        return torch.tanh(y) * c_noise.cos().to(y.dtype).view(-1, 1, 1, 1)


def tiny(device, **options):
    return rs.Denoiser(Tiny(**options).to(device), edm(0.5), SHAPE, name="tiny")
