"""Analytic denoisers as raw networks under EDM's preconditioning, for samplers that run on nothing else."""

from __future__ import annotations

import restart_sampling as rs
from restart_sampling.models import parameterization

SHAPE = (1, 4, 4)
SIGMA_DATA = 0.5


class Raw:
    """The raw network F of a denoiser D under EDM's preconditioning; counts its calls.

    With `labels_matter`, D is raised by 100 times the class.
    """

    def __init__(self, D, labels_matter=False):
        self.D, self.calls, self.labels_matter = D, 0, labels_matter

    def __call__(self, net_in, c_noise, labels):
        self.calls += 1
        sigma = (4 * c_noise.double()).exp().reshape(-1, *[1] * (net_in.ndim - 1))
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        x = net_in.double() * total
        D = self.D(x, sigma.reshape(-1).expand(len(x)))
        if self.labels_matter:
            D = D + 100.0 * labels.double().argmax(1).reshape(-1, 1, 1, 1)
        return ((D - SIGMA_DATA**2 / total**2 * x) / (sigma * SIGMA_DATA / total)).to(net_in.dtype)


def denoiser(D, label_dim=0, labels_matter=False):
    """Return a Denoiser of images of SHAPE whose raw network is that of D."""
    return rs.Denoiser(Raw(D, labels_matter), parameterization.edm(SIGMA_DATA), SHAPE, label_dim, name="exact")
