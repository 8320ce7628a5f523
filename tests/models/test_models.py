"""EDM networks: the published names, shapes and counts; and that every part of the forward pass does what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import edm_reference
from support.operations import Operations
from torch.utils.flop_counter import FlopCounterMode

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, RestartTypeError, RestartValueError
from restart_sampling.models import build_network
from restart_sampling.models.edm.layers import Block, ResampleConv2d, low_pass, resample

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "augment_dim": 9,
    "channel_mult": [2, 2, 2],
}
NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
FFHQ = {**CIFAR, "img_resolution": 64, "channel_mult": [1, 2, 2, 2]}
IMAGENET = {"class_name": "EDMPrecond", "img_resolution": 64, "img_channels": 3, "label_dim": 1000}
OLD = {**CIFAR, "channel_mult": [1, 2, 2, 2], "augment_dim": 0}

PUBLISHED = {
    "cifar10 ddpm++ uncond": (CIFAR, 55_733_891, 425),
    "cifar10 ddpm++ cond": ({**CIFAR, "label_dim": 10}, 55_735_299, 427),
    "cifar10 ncsn++ uncond": ({**CIFAR, **NCSNPP}, 56_397_827, 432),
    "cifar10 ncsn++ cond": ({**CIFAR, **NCSNPP, "label_dim": 10}, 56_400_643, 434),
    "ffhq ddpm++": (FFHQ, 61_805_571, 553),
    "ffhq ncsn++": ({**FFHQ, **NCSNPP}, 62_761_091, 563),
    "imagenet64 adm": (IMAGENET, 295_899_267, 553),
    "baseline cifar10 vp": ({**OLD, "class_name": "VPPrecond"}, 61_804_419, 552),
    "baseline cifar10 ve": ({**OLD, **NCSNPP, "class_name": "VEPrecond"}, 62_758_787, 562),
    "baseline imagenet64 adm": ({**IMAGENET, "class_name": "iDDPMPrecond"}, 295_904_454, 554),
}
SMALL = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 4,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
ADM = {
    "class_name": "iDDPMPrecond",
    "model_type": "DhariwalUNet",
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 4,
    "model_channels": 32,
    "channel_mult": [1, 4],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
VARIANTS = {
    "ddpm++": SMALL,
    "ncsn++": {**SMALL, **NCSNPP},
    "fourier skip skip": {**SMALL, **NCSNPP, "encoder_type": "skip", "decoder_type": "skip"},
    "standard skip": {**SMALL, "decoder_type": "skip", "label_dim": 0},
    "residual [1, 1]": {**SMALL, "encoder_type": "residual", "class_name": "VPPrecond"},
    "adm": ADM,
    "adm unconditional": {**ADM, "label_dim": 0, "class_name": "EDMPrecond"},
}


ROUNDING = 1e-5  # float32 through these networks; a wrong formula shows as 1e-3 or more


def random_network(config: dict, seed: int = 0):
    """A network in which every weight matters: the layers that start near zero are drawn anew."""
    network = build_network(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, p in network.named_parameters():
        if p.dim() > 1 and float(p.std()) < 1e-3:
            p.normal_(0.0, 1 / math.sqrt(p[0].numel()), generator=generator)
        elif "norm" in name:
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network


def inputs(network, B: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    r, C = network.img_resolution, network.img_channels
    x = torch.from_numpy(rng.standard_normal((B, C, r, r), dtype=np.float32))
    c_noise = torch.from_numpy(rng.standard_normal(B, dtype=np.float32))
    labels = torch.eye(network.label_dim)[torch.arange(B) % network.label_dim] if network.label_dim else None
    return x, c_noise, labels


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_published_checkpoints(name):
    config, parameters, tensors = PUBLISHED[name]
    with torch.device("meta"):
        network = build_network(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_names_order_and_shapes_of_song_unet():
    state = build_network({**SMALL, **NCSNPP, "augment_dim": 9}).state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    names = list(shapes)
    assert names[:9] == [
        "model.map_noise.freqs",
        "model.map_label.weight",
        "model.map_label.bias",
        "model.map_augment.weight",
        "model.map_layer0.weight",
        "model.map_layer0.bias",
        "model.map_layer1.weight",
        "model.map_layer1.bias",
        "model.enc.16x16_conv.weight",
    ]
    assert shapes["model.map_noise.freqs"] == (16,)
    assert shapes["model.map_label.weight"] == (32, 4)
    assert shapes["model.map_augment.weight"] == (32, 9)
    assert shapes["model.map_layer0.weight"] == (64, 32)
    assert shapes["model.enc.8x8_aux_residual.weight"] == (16, 3, 3, 3)
    inside = [n.removeprefix("model.enc.8x8_down.") for n in names if n.startswith("model.enc.8x8_down.")]
    assert inside == [
        "norm0.weight",
        "norm0.bias",
        "conv0.weight",
        "conv0.bias",
        "conv0.resample_filter",
        "affine.weight",
        "affine.bias",
        "norm1.weight",
        "norm1.bias",
        "conv1.weight",
        "conv1.bias",
        "skip.weight",
        "skip.bias",
        "skip.resample_filter",
    ]
    assert names.index("model.enc.8x8_down.norm0.weight") < names.index("model.enc.8x8_aux_residual.weight")
    assert names.index("model.dec.8x8_in0.qkv.weight") < names.index("model.dec.16x16_up.norm0.weight")
    assert [n for n in names if "aux_norm" in n or "aux_conv" in n] == [
        "model.dec.16x16_aux_norm.weight",
        "model.dec.16x16_aux_norm.bias",
        "model.dec.16x16_aux_conv.weight",
        "model.dec.16x16_aux_conv.bias",
    ]
    # Attention in the decoder: in0 always, then only the last block of a level.
    attention = [n.split(".")[2] for n in names if n.startswith("model.dec.") and n.endswith("qkv.weight")]
    assert attention == ["8x8_in0", "8x8_block1"]


def test_names_of_adm_and_the_levels_first():
    state = build_network(ADM).state_dict()
    names = list(state)
    assert names[0] == "u" and state["u"].shape == (1001,)
    assert names[5:7] == ["model.map_label.weight", "model.enc.16x16_conv.weight"]
    assert names[-4:] == [
        "model.out_norm.weight",
        "model.out_norm.bias",
        "model.out_conv.weight",
        "model.out_conv.bias",
    ]
    assert state["model.out_conv.weight"].shape == (6, 32, 3, 3)
    assert "model.enc.8x8_down.skip.resample_filter" in names and "model.enc.8x8_down.skip.weight" not in names
    attention = [n.split(".")[2] for n in names if n.startswith("model.dec.") and n.endswith("qkv.weight")]
    assert attention == ["8x8_in0", "8x8_block0", "8x8_block1"]


def test_skip_decoder_has_an_image_at_every_level():
    names = [n.split(".")[2] for n in build_network(VARIANTS["standard skip"]).state_dict() if ".dec." in n]
    order = list(dict.fromkeys(n for n in names if "aux" in n))
    assert order == ["8x8_aux_norm", "8x8_aux_conv", "16x16_aux_up", "16x16_aux_norm", "16x16_aux_conv"]


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_runs_and_is_finite(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    y = network(x, c_noise, labels)
    assert y.shape == x.shape and y.dtype == torch.float32 and torch.isfinite(y).all()
    assert float(y.std()) > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_equals_the_formulas_written_a_second_time(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    adm = network.config["model_type"] == "DhariwalUNet"
    want = edm_reference.network(network.state_dict(), x, c_noise, labels, adm)[:, :3]
    # Not 1e-15: the table of frequencies is float32.
    assert relative(network(x.double(), c_noise.double(), labels), want) < 1e-6
    assert relative(network(x, c_noise, labels), want) < ROUNDING


@pytest.mark.parametrize("name", VARIANTS)
def test_one_c_noise_for_the_batch_equals_one_each(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    one = network(x, c_noise[:1], labels)
    assert relative(one, network(x, c_noise[:1].expand(3), labels)) < ROUNDING
    assert relative(network(x, c_noise, labels), one) > 1e-3  # c_noise matters


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_a_batch_are_independent(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    together = network(x, c_noise, labels)
    for i in range(3):
        alone = network(x[i : i + 1], c_noise[i : i + 1], None if labels is None else labels[i : i + 1])
        assert relative(alone, together[i : i + 1]) < ROUNDING


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++", "adm"])
def test_labels_matter_and_none_means_zeros(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    with_class = network(x, c_noise, labels)
    assert relative(network(x, c_noise, labels.roll(1, 1)), with_class) > 1e-3
    none = network(x, c_noise)
    assert relative(none, network(x, c_noise, torch.zeros(3, 4))) < ROUNDING
    assert relative(none, with_class) > 1e-3


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++", "adm"])
def test_gradient_mode_and_memory_format_do_not_change_the_result(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    plain = network(x, c_noise, labels)
    network.requires_grad_(True)
    assert relative(network(x, c_noise, labels).detach(), plain) < ROUNDING
    with torch.no_grad():
        before = x.clone()
        assert relative(network(x, c_noise, labels), plain) < ROUNDING
        assert torch.equal(x, before)  # in-place activations never reach the input
        network.to(memory_format=torch.channels_last)
        assert relative(network(x.to(memory_format=torch.channels_last), c_noise, labels), plain) < ROUNDING


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++", "adm"])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_the_input_chooses_the_dtype(name, dtype, bound):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    y = network(x.to(dtype), c_noise, labels)
    assert y.dtype == dtype
    error = relative(y, network(x, c_noise, labels))
    assert 0 < error < bound


def test_box_filter_is_the_mean_and_the_repetition_of_pixels():
    f = low_pass([1, 1])
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert f.tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]
    depthwise = f.expand(3, -1, -1, -1)
    assert torch.allclose(resample(x, f, up=False), F.conv2d(x, depthwise, stride=2, groups=3), atol=1e-6)
    up = F.conv_transpose2d(x, 4 * depthwise, stride=2, groups=3)
    assert torch.equal(resample(x, f, up=True), up)


def test_four_tap_filter():
    f = low_pass([1, 3, 3, 1])
    assert f.shape == (1, 1, 4, 4) and float(f[0, 0, 0, 0]) == 1 / 64 and float(f[0, 0, 1, 1]) == 9 / 64
    ones = torch.ones(1, 1, 8, 8)
    assert torch.allclose(resample(ones, f, up=False)[..., 1:-1, 1:-1], torch.ones(2, 2))
    assert torch.allclose(resample(ones, f, up=True)[..., 1:-1, 1:-1], torch.ones(14, 14))
    # A point spreads as the outer product of [1, 3, 3, 1]/4 when going up.
    point = torch.zeros(1, 1, 4, 4)
    point[0, 0, 1, 1] = 1
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    assert torch.allclose(resample(point, f, up=True)[0, 0, 1:5, 1:5], torch.outer(row, row))


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_the_formula_with_qkv_innermost(heads):
    generator = torch.Generator().manual_seed(0)
    block = Block(128, 128, 8, heads=heads)
    for p in block.requires_grad_(False).parameters():
        p.data.normal_(0, 0.2, generator=generator)
    x = torch.randn(2, 128, 3, 3, generator=generator)
    h = block.norm2(x)
    w = block.qkv.weight[:, :, 0, 0]
    qkv = (torch.einsum("oc,bcp->bop", w, h.flatten(2)) + block.qkv.bias[:, None]).reshape(
        2 * heads, 128 // heads, 3, 9
    )
    q, k, v = qkv.unbind(2)
    weights = torch.einsum("bcq,bck->bqk", q, k / math.sqrt(128 // heads)).softmax(2)
    a = torch.einsum("bqk,bck->bcq", weights, v).reshape(2, 128, 3, 3)
    assert relative(block.attention(x), block.proj(a)) < 1e-5


def test_noise_embeddings():
    song = build_network(SMALL).model.map_noise(torch.tensor([2.0]))[0]
    adm = build_network(ADM).model.map_noise(torch.tensor([2.0]))[0]
    f_song = 10000 ** (-np.arange(8) / 7)  # the last frequency is exactly 1/10000
    f_adm = 10000 ** (-np.arange(16) / 16)
    assert np.allclose(song, np.concatenate([np.sin(2 * f_song), np.cos(2 * f_song)]), atol=1e-6)
    assert np.allclose(adm, np.concatenate([np.cos(2 * f_adm), np.sin(2 * f_adm)]), atol=1e-6)
    fourier = build_network({**SMALL, **NCSNPP}, seed=0).model.map_noise
    f = 2 * np.pi * fourier.freqs.double().numpy()
    assert 5 < float(fourier.freqs.std()) < 30
    want = np.concatenate([np.sin(0.1 * f), np.cos(0.1 * f)])
    assert np.allclose(fourier(torch.tensor([0.1]))[0], want, atol=1e-4)


def test_drawn_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    a = build_network(SMALL, seed=3).state_dict()
    state = torch.get_rng_state()
    b = build_network(SMALL, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert all(torch.equal(a[n], b[n]) for n in a)
    other = build_network(SMALL, seed=4).state_dict()
    assert not torch.equal(a["model.map_layer0.weight"], other["model.map_layer0.weight"])
    assert not build_network(SMALL).state_dict()["model.map_layer0.weight"].any()


def test_parameterization_of_each_class():
    edm = build_network({**SMALL, "sigma_data": 0.7}).parameterization
    c = edm.coefficients(1.0)
    assert edm.name == "edm" and math.isclose(c.c_skip, 0.49 / 1.49) and edm.sigma_max == math.inf
    vp = build_network({**SMALL, "class_name": "VPPrecond", "sigma_min": 0.0009765625}).parameterization
    assert vp.name == "vp" and vp.sigma_min == 0.0009765625 and math.isclose(vp.sigma_max, 152.167, rel_tol=1e-5)
    ve = build_network({**SMALL, "class_name": "VEPrecond"}).parameterization
    assert (ve.name, ve.sigma_min, ve.sigma_max) == ("ve", 0.02, 100.0)
    network = build_network(ADM)
    network.u[0] = 12345.0  # the stored levels are used, not recomputed ones
    assert network.parameterization.name == "iddpm" and network.parameterization.sigma_max == 12345.0


def test_passes_over_the_activations_of_the_bundled_network():
    network, B = rs.load("fashion-mnist").network, 32
    x, labels = torch.randn(B, 1, 28, 28), torch.eye(10)[:1]
    with torch.no_grad(), Operations(B * 16 * 49) as operations:
        network(x, torch.zeros(1), labels)
    most = {
        "convolution": 63,
        "native_group_norm": 47,
        "add_": 46,
        "silu_": 43,
        "mul_": 25,
        "cat": 9,
        "avg_pool2d": 4,
        "upsample_nearest2d": 4,
        "_scaled_dot_product_flash_attention_for_cpu": 4,
        "addmm": 4,
        "bmm": 4,
        "_unsafe_view": 4,
        "add": 4,  # the products of q, k and v, in one way or another
    }
    more = {name: n for name, n in operations.count.items() if n > most.get(name, 0)}
    assert not more  # above all no clone and no copy: activations keep their layout and dtype


def test_a_pointwise_convolution_comes_before_the_repetition_of_pixels():
    up = ResampleConv2d(8, 8, 1, [1, 1], up=True).requires_grad_(False)
    up.draw(torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as flops:
        y = up(x)
    assert flops.get_total_flops() == 2 * x.numel() * 8
    assert relative(y, F.conv2d(resample(x, up.resample_filter, up=True), up.weight, up.bias)) < 1e-6
    filtered = ResampleConv2d(8, 8, 1, [1, 3, 3, 1], up=True).requires_grad_(False)
    filtered.bias.fill_(1.0)  # not darkened at the border: the filter still comes first
    assert torch.equal(filtered(x), torch.ones(2, 8, 8, 8))


@pytest.mark.parametrize("name", ["ncsn++", "adm"])
def test_the_network_is_one_graph(name):
    network = random_network(VARIANTS[name])
    x, c_noise, labels = inputs(network)
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend="eager")
    with torch.inference_mode():
        assert relative(compiled(x, c_noise[:1], labels), network(x, c_noise[:1], labels)) < ROUNDING


def test_one_c_noise_is_embedded_once():
    model = build_network(VARIANTS["standard skip"], seed=0).model
    assert model.embed(torch.zeros(1), None).shape[0] == 1
    labelled = build_network(SMALL, seed=0).model
    assert labelled.embed(torch.zeros(1), torch.eye(4)).shape[0] == 4


BAD_CONFIGS = [
    ({"class_name": "StylePrecond"}, "class_name must be one of EDMPrecond"),
    ({"model_type": "UNet"}, "model_type must be one of SongUNet, DhariwalUNet"),
    ({"channel_mlt": [1]}, "did you mean 'channel_mult'"),
    ({"model_channels": 0}, r"model_channels must be an integer ≥ 4, got 0"),
    ({"model_channels": 16.5}, "model_channels must be an integer"),
    ({"model_channels": True}, "model_channels must be an integer"),
    ({"model_channels": 10**9}, "model_channels"),
    ({"channel_mult": []}, "channel_mult must be a list of 1 to 8"),
    ({"channel_mult": [1, 2] * 50}, "channel_mult must be a list of 1 to 8"),
    ({"channel_mult": "1,2"}, "channel_mult must be a list"),
    ({"channel_mult": [1, 64], "model_channels": 128}, "at most 4096"),
    ({"img_resolution": 15}, "multiple of 2"),
    ({"num_blocks": 10**6}, "num_blocks"),
    ({"sigma_data": float("nan")}, "sigma_data must be a finite number"),
    ({"sigma_data": 0}, "sigma_data"),
    ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min 2 must be below sigma_max 1"),
    ({"encoder_type": "resnet"}, "encoder_type must be one of standard, skip, residual"),
    ({"resample_filter": [1, -1]}, "resample_filter must be symmetric"),
    ({"use_fp16": 1}, "use_fp16 must be true or false"),
    ({"pfgm": True}, "pfgm=true"),
    ({"model_channels": 18}, "do not divide"),
    ({"model_channels": 5}, "even width"),
]


@pytest.mark.parametrize("change, message", BAD_CONFIGS)
def test_bad_configs_are_named(change, message):
    with pytest.raises(CheckpointError, match=message), torch.device("meta"):
        build_network({**SMALL, **change})


def test_missing_entries_and_wrong_types():
    with pytest.raises(CheckpointError, match="img_resolution is missing"):
        build_network({k: v for k, v in SMALL.items() if k != "img_resolution"})
    with pytest.raises(CheckpointError, match="expected an object, got list"):
        build_network([])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="multiple of 64"):
        build_network({**ADM, "channel_mult": [1, 3]})


def test_a_complete_config_builds_the_same_network():
    network = build_network(VARIANTS["ncsn++"])
    again = build_network(network.config)
    assert again.config == network.config
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in network.state_dict().items()}


def test_wrong_inputs_are_named():
    network = build_network(SMALL)
    x, c_noise, labels = inputs(network)
    with pytest.raises(RestartTypeError, match="floating point"):
        network(x.int(), c_noise)
    with pytest.raises(RestartValueError, match=r"\[B, 3, 16, 16\], got \[3, 3, 16, 8\]"):
        network(x[..., :8], c_noise)
    with pytest.raises(RestartValueError, match=r"c_noise must have the shape \[1\] or \[3\], got \[2\]"):
        network(x, c_noise[:2])
    with pytest.raises(RestartValueError, match=r"one-hot \[3, 4\]"):
        network(x, c_noise, labels[:, :3])
    with pytest.raises(RestartValueError, match="no classes"):
        build_network(VARIANTS["standard skip"])(x, c_noise, labels)
