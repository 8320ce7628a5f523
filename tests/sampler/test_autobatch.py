"""The batch that is chosen: what it depends on, and what it never exceeds."""

from __future__ import annotations

import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import RestartValueError
from restart_sampling.models import build_network
from restart_sampling.sampler.autobatch import (
    ALIVE,
    CPU_BYTES,
    CUDA_BYTES,
    CUDA_SHARE,
    choose_batch,
    largest_activation,
)


def plain(shape=(3, 32, 32)) -> rs.Denoiser:
    return rs.Denoiser.from_function(lambda x, sigma: x, shape=shape)


@pytest.fixture(scope="module")
def bundled() -> rs.Denoiser:
    return rs.load("fashion-mnist")


def test_the_largest_activation_is_seen(bundled):
    # The input of dec.28x28_block0: 32 channels from below, 16 of the skip connection.
    assert largest_activation(bundled) == 48 * 28 * 28
    assert largest_activation(plain()) == 3 * 32 * 32
    assert not any(m._forward_hooks for m in bundled.network.modules())


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_are_even_and_within_the_limit(bundled, threads, monkeypatch):
    """The bundled network may run in slices: the limit is that of a thread, times the threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    limit = CPU_BYTES // (48 * 28 * 28 * 4)
    assert 32 <= limit <= 64
    limit *= threads
    for total in (1, 2, 31, limit, limit + 1, 64, 100, 1000):
        batch = choose_batch(bundled, total, "cpu")
        calls = -(-total // batch)
        assert 1 <= batch <= min(total, limit)
        assert calls == -(-total // limit)  # no more calls than at the limit
        assert batch * calls - total < calls  # no call has a sample more than it needs
    assert choose_batch(bundled, 64, "cpu") == 32 * threads


def test_a_guided_run_counts_every_sample_twice(bundled):
    assert choose_batch(bundled, 10**6, "cpu", guided=True) <= choose_batch(bundled, 10**6, "cpu") / 2 + 1


def test_a_guide_has_a_batch_of_its_own(bundled):
    """The two are called one after the other, so the larger one decides."""
    wide = rs.Denoiser(
        build_network(bundled.network.config | {"model_channels": 64}), *list(vars(bundled).values())[1:4]
    )
    alone = [choose_batch(den, 10**6, "cpu") for den in (bundled, wide)]
    assert alone[1] < alone[0]
    assert choose_batch(bundled.guided_by(bundled), 10**6, "cpu", guided=True) == alone[0]
    assert choose_batch(bundled.guided_by(wide), 10**6, "cpu", guided=True) == alone[1]
    assert choose_batch(bundled.guided_by(wide), 10**6, "cpu") == alone[0]


def test_an_activation_beyond_the_limit_is_one_sample_a_call():
    assert choose_batch(plain((16, 512, 512)), 100, "cpu") == 1


def test_free_memory_bounds_the_batch_on_cuda(bundled):
    def batch(free: int, **options) -> int:
        return choose_batch(bundled, 10**6, "cuda", free_memory=lambda device: free, **options)

    sizes = [batch(free << 20) for free in (0, 10, 100, 1000, 80_000)]
    assert sizes[0] == 1 and sizes == sorted(sizes)
    for free in (100 << 20, 1000 << 20):
        assert batch(free) * ALIVE * 48 * 28 * 28 * 4 <= CUDA_SHARE * free
    assert batch(1 << 40) * 48 * 28 * 28 * 4 <= CUDA_BYTES
    assert batch(100 << 20, dtype=torch.bfloat16) > 1.8 * batch(100 << 20)


def test_the_memory_that_is_assumed_holds_for_the_networks(bundled):
    """Skip connections alive together, of networks shaped like the published ones, stay below half of ALIVE."""
    cifar = {
        "class_name": "EDMPrecond",
        "model_type": "SongUNet",
        "img_resolution": 32,
        "img_channels": 3,
        "model_channels": 16,
        "channel_mult": [2, 2, 2],
        "num_blocks": 4,
        "attn_resolutions": [16],
    }
    adm = {
        "class_name": "EDMPrecond",
        "model_type": "DhariwalUNet",
        "img_resolution": 64,
        "img_channels": 3,
        "model_channels": 64,
        "channel_mult": [1, 2, 3, 4],
        "num_blocks": 3,
        "attn_resolutions": [16, 8],
    }
    networks = [build_network(config) for config in (cifar, adm)]
    for network in [*networks, bundled.network]:
        r = network.img_resolution
        shape = (network.img_channels, r, r)
        stack: list[int] = []

        def see(module, inputs, output, stack=stack):
            stack.append(output.numel())

        hooks = [m.register_forward_hook(see) for m in network.model.enc.values()]
        denoiser = rs.Denoiser(network, network.parameterization, shape, network.label_dim)
        largest = largest_activation(denoiser)
        for hook in hooks:
            hook.remove()
        assert sum(stack) <= ALIVE / 2 * largest


def test_the_same_run_chooses_the_same_batch_and_leaves_no_trace(bundled):
    before = {n: t.clone() for n, t in bundled.network.state_dict().items()}
    assert len({choose_batch(bundled, 777, "cpu") for _ in range(3)}) == 1
    assert all(torch.equal(t, before[n]) for n, t in bundled.network.state_dict().items())


@pytest.mark.parametrize("total", [0, -1, 1.5, True, "8"])
def test_totals_that_are_none_are_named(bundled, total):
    with pytest.raises(RestartValueError, match="total must be an integer"):
        choose_batch(bundled, total, "cpu")
