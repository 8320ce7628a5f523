"""Networks whose norms are one kernel: as exact as with PyTorch's operators, with fewer launches, on CUDA alone."""

from __future__ import annotations

import pytest
import torch
from support.edm2_golden import SMALL as EDM2
from support.operations import Operations
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")

from restart_kernels.norm import operators
from restart_kernels.norm import triton as kernels
from restart_sampling.models import build_network, norms
from restart_sampling.models.edm.layers import GroupNorm

pytestmark = pytest.mark.usefixtures("one_thread")

EDM = {"class_name": "EDMPrecond"} | {
    name: EDM2[name]
    for name in (
        "img_resolution",
        "img_channels",
        "label_dim",
        "model_channels",
        "channel_mult",
        "num_blocks",
        "attn_resolutions",
    )
}
CONFIGS = {"ddpm++": {**EDM, "model_type": "SongUNet"}, "adm": {**EDM, "model_type": "DhariwalUNet"}, "edm2": EDM2}


@pytest.fixture
def on_gpu(device, monkeypatch):
    """The device. Tensors of the CPU count as CUDA's, and the operators run Triton's kernels, in its interpreter."""
    if device.type == "cpu":
        monkeypatch.setattr(operators, "reference", kernels)
        monkeypatch.setattr(norms, "fused", lambda x: x.dtype in norms.FLOATS and not torch.is_grad_enabled())
    return device


def network(name, device):
    """With random weights everywhere, also in layers that begin near zero."""
    made = build_network(CONFIGS[name], seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.ndim == 0:  # EDM2's gains
            parameter.fill_(0.7)
    for module in made.modules():
        if getattr(module, "weight", None) is not None and module.weight.ndim == 4:
            module.weight.normal_(generator=generator).div_(module.weight[0].numel() ** 0.5)
        if isinstance(module, GroupNorm):
            module.weight.add_(torch.randn(len(module.weight), generator=generator) / 4)
            module.bias.add_(torch.randn(len(module.bias), generator=generator) / 4)
    return made.to(device)


def given(device, dtype=torch.float32):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    told = (x, torch.tensor([0.3, -0.4]), torch.eye(5)[[1, 4]])
    return tuple(value.to(device, dtype) for value in told)


def sampled(net):
    """The network as samplers run it."""
    return net.for_sampling() if hasattr(net, "for_sampling") else net


@pytest.mark.parametrize("name", CONFIGS)
def test_as_exact_as_with_pytorchs_operators(name, on_gpu, monkeypatch):
    """The error against the float64 network is at most twice that of PyTorch's operators in float32."""
    net = network(name, on_gpu)
    with torch.inference_mode():
        fused = sampled(net)(*given(on_gpu))
        monkeypatch.setattr(norms, "fused", lambda x: False)
        plain = sampled(net)(*given(on_gpu))
        wide = sampled(net.double())(*given(on_gpu, torch.float64))
    size = wide.abs().max()
    assert size > 0.1
    own, theirs = ((y.double() - wide).abs().max() for y in (fused, plain))
    assert own <= 2 * theirs + 1e-7 * size


@pytest.mark.parametrize("name", CONFIGS)
def test_every_norm_is_one_operator(name, on_gpu, monkeypatch):
    net = sampled(network(name, on_gpu))
    with torch.inference_mode(), Operations() as fused:
        net(*given(on_gpu))
    monkeypatch.setattr(norms, "fused", lambda x: False)
    with torch.inference_mode(), Operations() as plain:
        net(*given(on_gpu))
    if name == "edm2":
        blocks = len([1 for block in net.unet.enc.values() if hasattr(block, "conv_res0")])
        assert fused.count["restart::pixel_norm"] == blocks > 2
    else:
        count = sum(isinstance(module, GroupNorm) for module in net.modules())
        assert fused.count["restart::group_norm"] == count > 9
        assert not fused.count["group_norm"]
        assert plain.count["group_norm"] == count
        silu = plain.count["silu_"] - fused.count["silu_"]
        assert silu == count - sum(name.endswith("norm2") for name, _ in net.named_modules())
    assert sum(fused.count.values()) < sum(plain.count.values())


def test_only_on_cuda_without_gradients_and_outside_of_a_compiler(monkeypatch):
    x = torch.ones(1, 8, 2, 2)
    with torch.no_grad():
        assert not norms.fused(x)
    with FakeTensorMode():
        there = torch.ones(1, 8, 2, 2, device="cuda")
        assert not norms.fused(there)
        with torch.no_grad():
            assert norms.fused(there) and norms.fused(there.bfloat16())
            assert not norms.fused(there.double())
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert not norms.fused(there)
            monkeypatch.undo()
            monkeypatch.setattr("restart_kernels.why_not", lambda backend, device: "triton is not installed")
            assert not norms.fused(there)


def test_gradients_are_those_of_pytorchs_operators():
    """Training: vectors are added in place to what a convolution gave, which autograd allows."""
    norm = GroupNorm(8, 1e-5)
    x, vectors = torch.randn(2, 8, 3, 3, dtype=torch.float64), torch.randn(3, 2, 8, dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda x, vectors: norm(x * 1.0, *vectors, act=True), (x.requires_grad_(), vectors.requires_grad_())
    )
