"""Samples to pixels: every backend equals the rule in numpy's float32 to the last bit; and the ring of host buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import restart_kernels as rk
from restart_kernels.dispatch import BACKENDS
from restart_sampling.jobs.pixels import HostRing

SHAPES = [(2, 1, 28, 28), (3, 3, 32, 32), (2, 3, 5, 7), (1, 4, 9, 3), (5, 2, 1, 1), (1, 16, 16, 16)]


@pytest.fixture(params=BACKENDS)
def backend(request, device):
    if request.param not in rk.available_backends(device):
        pytest.skip(f"no {request.param} backend on {device}")
    return request.param


def rule(x: np.ndarray) -> np.ndarray:
    """Return uint8 [B, H, W, C]: 127.5·x + 128 in float32, both operations rounded, clipped, truncated."""
    levels = (x.astype(np.float32) * np.float32(127.5)).astype(np.float32) + np.float32(128)
    return np.trunc(np.clip(levels, 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rule(backend, device, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.8
    made = rk.pixels(x.to(device), backend=backend)
    assert made.is_contiguous() and made.dtype == torch.uint8
    np.testing.assert_array_equal(made.cpu().numpy(), rule(x.numpy()))


def test_ends_and_borders(backend, device):
    """−1 is 0 (0.5 truncated), 1 is 255; infinities are clipped; both sides of every border between two levels."""
    borders = (torch.arange(1, 256, dtype=torch.float64) - 128) / 127.5
    near = borders.to(torch.float32)
    far = torch.tensor([torch.inf])
    values = torch.cat(
        [-far, torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30]), far, near, near.nextafter(far), near.nextafter(-far)]
    )
    x = values.reshape(1, 1, 1, -1)
    made = rk.pixels(x.to(device), backend=backend).cpu().numpy()
    np.testing.assert_array_equal(made, rule(x.numpy()))
    assert made.flatten()[:7].tolist() == [0, 0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_samples_are_widened_first(backend, device, dtype):
    x = torch.linspace(-1, 1, 96).reshape(1, 3, 4, 8).to(dtype)
    made = rk.pixels(x.to(device), backend=backend).cpu().numpy()
    np.testing.assert_array_equal(made, rule(x.float().numpy()))


def test_strides_do_not_matter(backend, device):
    x = torch.rand(2, 3, 8, 6, device=device).contiguous(memory_format=torch.channels_last)
    assert torch.equal(rk.pixels(x, backend=backend), rk.pixels(x.contiguous(), backend="reference"))


def test_no_samples(backend, device):
    assert rk.pixels(torch.empty(0, 3, 4, 4, device=device), backend=backend).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("x", [torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.int64)])
def test_what_is_no_sample(x):
    with pytest.raises(rk.KernelError, match=r"samples float \[B, C, H, W\]"):
        rk.pixels(x)


def test_the_ring_gives_batches_in_any_order(device):
    """As in the pipeline, the next batch is taken before the last is fetched, and slots are reused."""
    ring = HostRing("uint8", slots=2)
    batches = [torch.rand(n, 3, 4, 4, device=device) * 2 - 1 for n in (5, 7, 2, 7)]
    waiting = None
    found = []
    for x in batches:
        fetch, waiting = waiting, ring.take(x)
        if fetch is not None:
            found.append(fetch())
    found.append(waiting())
    for x, array in zip(batches, found, strict=True):
        np.testing.assert_array_equal(array, rule(x.cpu().numpy()))
