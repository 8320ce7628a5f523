"""EDM2's U-Net against the authors' numbers, against a second statement in float64, and its form for sampling."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from support import edm2_golden as golden
from support import edm2_reference as reference
from support.edm2_golden import GOLDEN, SMALL, off

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.edm2 import layers
from restart_sampling.models.edm2.config import summary
from restart_sampling.models.edm2.networks import EDM2Network
from restart_sampling.sampler.network import inference_copy

pytestmark = pytest.mark.usefixtures("one_thread")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


# The authors' numbers


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("form", ["literal", "for sampling"])
def test_outputs_of_the_authors_code(name, form):
    norms, config, labels, half = GOLDEN[name]
    net = golden.network(config, half=half)
    D = golden.denoised(net, labels, net.for_sampling() if form == "for sampling" else None)
    assert D.dtype == torch.float32
    assert off(golden.norms(D), norms) < golden.ROUNDING
    if name == "plain":
        assert off(tuple(D[0].flatten()[:2].tolist()), golden.FIRST) < golden.ROUNDING


def test_logvar_of_the_authors_code():
    net = golden.network()
    assert len(net.state_dict()) == 63 and sum(p.numel() for p in net.parameters()) == 723371
    found = net.logvar(torch.log(torch.tensor(golden.SIGMAS)) / 4)
    assert off(tuple(found.tolist()), golden.LOGVAR) < golden.ROUNDING


def test_gains_from_float16_are_rounded_as_the_authors_code_rounds_them():
    """It divides the gain by √fan_in in float16. Gains that are widened first are another network, by 1e-4."""
    net = golden.network()
    plain = build_network(SMALL)
    plain.load_state_dict({n: t.half().float() for n, t in net.state_dict().items()})
    want = GOLDEN["stored in float16"].norms
    assert off(golden.norms(golden.denoised(golden.network(half=True))), want) < 1e-6
    assert off(golden.norms(golden.denoised(plain)), want) > 2 * golden.ROUNDING


@pytest.mark.parametrize(
    "name, steps", [("unguided", ()), ("guided", tuple(range(6))), ("guided in steps 2 and 3", (2, 3))]
)
def test_samples_of_the_authors_code(name, steps):
    assert off(golden.norms(golden.sampled(*golden.pair(), steps)), golden.SAMPLES[name]) < golden.ROUNDING


@pytest.mark.parametrize("name, scale", [("unguided", 1.0), ("guided", golden.SCALE)])
def test_samples_of_the_engine_are_those_of_the_authors_code(name, scale):
    main, guide = golden.pair()
    plan = rs.Plan.build(steps=golden.STEPS, guidance_scale=scale)
    sampler = rs.Sampler(main.guided_by(guide), plan, batch_size=2, backend="reference", compile="off")
    x = sampler.run(range(2), class_labels=list(golden.CLASSES), latents=golden.latents())
    assert plan.nfe == 11 and off(golden.norms(x), golden.SAMPLES[name]) < golden.ROUNDING


# The published networks

PARAMETERS = {
    "XXS": (64, 31309029, 31307877),
    "XS": (128, 124713253, 124710949),
    "S": (192, 280212837, 280209381),
    "M": (256, 497807781, 497803173),
    "L": (320, 777498085, 777492325),
    "XL": (384, 1119283749, 1119276837),
    "XXL": (448, 1523164773, 1523156709),
}


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("channels", [4, 3], ids=["img512", "img64"])
def test_counts_of_the_published_networks(size, channels):
    C, *counts = PARAMETERS[size]
    config = {"class_name": "Precond", "img_resolution": 64, "img_channels": channels, "model_channels": C}
    for labels, tensors in ((1000, 203), (0, 202)):
        with torch.device("meta"):
            network = build_network(config | {"label_dim": labels})
        count = sum(p.numel() for p in network.parameters())
        assert count == counts[4 - channels] - (0 if labels else 4000 * C)
        assert count == 7580 * C**2 + (9 * (2 * channels + 1) + 4 * labels) * C + 165
        assert len(network.state_dict()) == tensors
        assert sum(b.numel() for b in network.buffers()) == 2 * C + 256
    blocks = [m for m in network.modules() if isinstance(m, layers.Block)]
    assert len(blocks) == 36 and sum(block.heads > 0 for block in blocks) == 15
    assert {block.conv_res1.weight.shape[0] // block.heads for block in blocks if block.heads} == {64}
    assert summary(network.config) == f"EDM2-{size}, {C} channels × [1, 2, 3, 4]"


def test_names_and_order_of_the_state_dict():
    network = build_network(SMALL)
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    names = list(shapes)
    assert names[:6] == [
        "unet.out_gain",
        "unet.emb_fourier.freqs",
        "unet.emb_fourier.phases",
        "unet.emb_noise.weight",
        "unet.emb_label.weight",
        "unet.enc.8x8_conv.weight",
    ]
    last = ["unet.out_conv.weight", "logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"]
    assert names[-4:] == last
    within = {  # of a block: input, output channels, whether it has attention
        "enc.8x8_block0": (32, 32, False),
        "enc.4x4_down": (32, 32, False),
        "enc.4x4_block0": (32, 64, True),
        "dec.4x4_in0": (64, 64, True),
        "dec.4x4_in1": (64, 64, False),
        "dec.4x4_block0": (128, 64, True),
        "dec.4x4_block1": (96, 64, True),
        "dec.8x8_up": (64, 64, False),
        "dec.8x8_block0": (96, 32, False),
        "dec.8x8_block1": (64, 32, False),
    }
    want = {}
    for path, (cin, cout, attention) in within.items():
        want[f"unet.{path}.emb_gain"] = ()
        want[f"unet.{path}.conv_res0.weight"] = (cout, cin if path.startswith("dec") else cout, 3, 3)
        want[f"unet.{path}.emb_linear.weight"] = (cout, 64)
        want[f"unet.{path}.conv_res1.weight"] = (cout, cout, 3, 3)
        if cin != cout:
            want[f"unet.{path}.conv_skip.weight"] = (cout, cin, 1, 1)
        if attention:
            want[f"unet.{path}.attn_qkv.weight"] = (3 * cout, cout, 1, 1)
            want[f"unet.{path}.attn_proj.weight"] = (cout, cout, 1, 1)
    assert [(n, shapes[n]) for n in names[6:-4]] == list(want.items())


# The layers alone


def test_mp_silu_of_a_unit_normal_has_this_magnitude():
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    rms = float(torch.trapezoid(density * layers.mp_silu(x) ** 2, x).sqrt())
    assert abs(rms - 1.00079) < 5e-6


def test_weights_of_sums_and_concatenations():
    assert np.allclose(layers.cat_weights(100, 60, 0.5), (0.894427, 1.154701), rtol=0, atol=5e-7)
    assert np.allclose(layers.sum_weights(0.3), (0.919145, 0.393919), rtol=0, atol=5e-7)
    one, two = torch.ones(1, 100, 1, 1), torch.ones(1, 60, 1, 1)
    assert np.allclose(layers.mp_cat(one, two, 0.5)[0, [0, 99, 100, 159], 0, 0], [0.894427] * 2 + [1.154701] * 2)
    assert np.allclose(float(layers.mp_sum(torch.tensor(1.0), torch.tensor(0.0), 0.3)), 0.919145, atol=5e-7)


def test_eps_is_added_to_the_root_mean_square():
    x = torch.tensor([[3e-4, 4e-4]], dtype=torch.float64)
    rms = math.sqrt((9 + 16) / 2) * 1e-4
    assert torch.allclose(layers.normalize(x, 1), x / (rms + 1e-4), rtol=1e-14, atol=0)
    assert layers.normalize(torch.full((2, 3), 3e4, dtype=torch.float16), 1).isfinite().all()  # squares in float32


def test_a_fresh_network_keeps_magnitudes():
    """With out_gain 1 the blocks return rms 0.82 to 1.04 and F 0.99; D = c_skip·x with gains of 0."""
    network = build_network(SMALL | {"img_resolution": 32, "model_channels": 64, "attn_resolutions": [16]}, seed=0)
    generator = torch.Generator().manual_seed(1)
    x, c_noise, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.zeros(4), torch.eye(5)[:4]
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, layers.Block):
            module.register_forward_hook(lambda m, i, y, n=name: found.update({n: float(y.square().mean().sqrt())}))
    assert float(network(x, c_noise, labels).abs().max()) == 0
    network.unet.out_gain.fill_(1.0)
    F = network(x, c_noise, labels)
    assert min(found.values()) > 0.82 and max(found.values()) < 1.04, found
    assert abs(float(F.square().mean().sqrt()) - 0.99) < 0.06
    sigma = torch.tensor([0.1, 0.5, 2.0, 60.0])
    network.unet.out_gain.zero_()
    D = golden.denoiser(network)(x, sigma, labels)
    assert torch.allclose(D, (0.25 / (sigma**2 + 0.25)).view(4, 1, 1, 1) * x, rtol=1e-6)


def test_initial_weights_are_those_of_their_seed():
    one, same, other = (build_network(SMALL, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert all(not torch.equal(one[n], other[n]) for n, t in one.items() if t.ndim)
    assert all(float(t) == 0 for t in one.values() if not t.ndim)
    w = one["unet.dec.4x4_block0.conv_res0.weight"]
    assert abs(float(w.std()) - 1) < 0.01 and abs(float(w.mean())) < 0.01
    freqs, phases = one["logvar_fourier.freqs"], one["logvar_fourier.phases"]
    assert 4 < float(freqs.std()) < 9 and float(phases.min()) >= 0 and 5 < float(phases.max()) <= 2 * math.pi


def test_forced_normalization_of_training_changes_weights_up_to_eps():
    """A weight of root mean square r becomes w/(r + ε), and is then used as w/(r + ε·(r + ε)), not w/(r + ε)."""
    network = golden.network().double()
    before = {n: m.effective() for n, m in network.named_modules() if isinstance(m, layers.MPConv)}
    layers.normalize_weights(network)
    for name, module in network.named_modules():
        if isinstance(module, layers.MPConv):
            dims, eps = tuple(range(1, module.weight.ndim)), 1e-4
            rms = module.weight.square().mean(dims, keepdim=True).sqrt()
            r = eps * rms / (1 - rms)
            assert torch.allclose(module.effective(), before[name] * (r + eps) / (r + eps * (r + eps)), rtol=1e-9), name


# Odd configs: the second statement in float64, and the form for sampling

ODD: dict[str, dict] = {
    "as published": {"channels_per_head": 64, "model_channels": 64, "channel_mult": [1, 2, 3, 4], "img_resolution": 16},
    "small heads": {"channels_per_head": 8},
    "heads that do not divide": {"channels_per_head": 24, "model_channels": 48},
    "no attention where a level is narrower than a head": {"channels_per_head": 64, "attn_resolutions": [8, 4]},
    "clipped": {"clip_act": 0.9},
    "not clipped": {"clip_act": None},
    "balances": {"res_balance": 0.45, "attn_balance": 0.6, "label_balance": 0.2, "concat_balance": 0.8},
    "no classes": {"label_dim": 0},
    "one class": {"label_dim": 1},
    "two blocks": {"num_blocks": 2, "attn_resolutions": []},
    "three levels with attention": {"channel_mult": [1, 2, 2], "attn_resolutions": [8, 4, 2], "num_blocks": 2},
    "levels that narrow": {"channel_mult": [3, 1], "attn_resolutions": [8]},
    "one level": {"channel_mult": [2], "attn_resolutions": [], "img_channels": 1},
    "wide embedding": {"channel_mult_noise": 2, "channel_mult_emb": 3},
    "odd sizes": {"img_resolution": 12, "img_channels": 5, "model_channels": 24, "attn_resolutions": [6]},
}


def odd(name: str) -> tuple[EDM2Network, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A network in float32, and a batch of three in float64."""
    network = golden.network(ODD[name])
    C, H, W = network.shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, C, H, W, generator=generator, dtype=torch.float64)
    labels = torch.eye(network.label_dim, dtype=torch.float64)[[0, -1, 0]] if network.label_dim else None
    return network, x, torch.tensor([-1.2, 0.3, 0.9], dtype=torch.float64), labels


def options(network: EDM2Network) -> reference.Options:
    return reference.Options(**{name: network.config[name] for name in reference.Options._fields})


@pytest.mark.parametrize("name", ODD)
def test_both_forms_are_the_second_statement(name):
    network, x, c_noise, labels = odd(name)
    want = reference.network(network.state_dict(), x, c_noise, labels, options(network))
    assert float(want.square().mean().sqrt()) > 0.1
    wide = copy.deepcopy(network).double()
    for form in (wide, wide.for_sampling()):
        assert relative(form(x, c_noise, labels), want) < 1e-12
    narrow = labels if labels is None else labels.float()
    for form in (network, network.for_sampling()):
        assert relative(form(x.float(), c_noise.float(), narrow), want) < golden.ROUNDING


@pytest.mark.parametrize("name", ODD)
def test_the_form_for_sampling_is_the_literal_form(name):
    network, x, c_noise, labels = odd(name)
    wide = network.double()
    made = wide.for_sampling()
    assert relative(made(x, c_noise, labels), wide(x, c_noise, labels)) < 1e-12
    assert relative(made(x, c_noise, None), wide(x, c_noise, None)) < 1e-12
    assert relative(made(x, c_noise[:1], labels), wide(x, c_noise[:1].expand(3), labels)) < 1e-12


def test_the_form_for_sampling_has_weights_of_its_own():
    network = golden.network()
    made, before = network.for_sampling(), golden.denoised(network)
    for p in network.parameters():
        p.zero_()
    assert relative(golden.denoised(network, function=made), before) < 1e-6
    assert not any(p.requires_grad for p in made.parameters())


# How it is called


def forms(network: EDM2Network):
    return {"literal": network, "for sampling": network.for_sampling()}


@pytest.mark.parametrize("form", ["literal", "for sampling"])
def test_one_noise_level_is_the_same_as_many(form):
    function = forms(golden.network())[form]
    x, labels = golden.noise(), torch.eye(5)[[1, 3]]
    one = function(x, torch.tensor([0.2]), labels)
    assert relative(function(x, torch.tensor([0.2, 0.2]), labels), one) < 1e-6
    none = function(x, torch.tensor([0.2]), None)
    assert relative(function(x, torch.tensor([0.2]), torch.zeros(1, 5)), none) < 1e-6
    assert relative(function(x, torch.tensor([0.2]), torch.zeros(2, 5)), none) < 1e-6
    assert relative(none, one) > 1e-2
    shared = function(x, torch.tensor([0.2]), labels[:1])
    assert relative(shared[0], one[0]) < 1e-6 and relative(shared[1], one[1]) > 1e-2


@pytest.mark.parametrize("form", ["literal", "for sampling"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("B", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_batch(form, layout, B):
    network, x, c_noise, labels = odd("small heads")
    x, c_noise, labels = x.float()[:B], c_noise.float()[:B], labels.float()[:B]
    function = forms(network.to(memory_format=layout))[form]
    given = x.contiguous(memory_format=layout)
    F = function(given, c_noise, labels)
    assert torch.equal(given, x) and F.shape == x.shape  # the input is as it was
    want = reference.network(network.state_dict(), x, c_noise, labels, options(network))
    assert relative(F, want) < golden.ROUNDING
    for i in range(B):
        alone = function(x[i : i + 1], c_noise[i : i + 1], labels[i : i + 1])
        assert relative(alone[0], F[i]) < 2e-6


@pytest.mark.parametrize(
    "dtype, bound", [(torch.float32, golden.ROUNDING), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
@pytest.mark.parametrize("name", ["plain", "no labels", "clip_act 1", "other balances"])
def test_half_precision_is_no_worse_than_the_literal_form(dtype, bound, name):
    """The copy that samplers run, its convolutions in `dtype`: D against the literal form in float32.

    float16 rounds to 11 bits and bfloat16 to 8, so its bound is 8 times as wide. The literal form in `dtype`, which the
    authors run, is off by 4e-4 to 8e-4 in float16 and by 3e-3 to 7e-3 in bfloat16.
    """
    _, config, labels, _ = GOLDEN[name]
    network = golden.network(config)
    made = inference_copy(network, torch.device("cpu"), dtype, "channels_last")
    kept = {p.dtype for m in made.modules() if getattr(m, "keeps_float32", False) for p in m.parameters()}
    assert kept == {torch.float32}

    def error(form):
        def function(net_in, c_noise, class_labels):
            F = form(net_in.to(dtype), c_noise, class_labels)
            assert F.dtype == dtype
            return F

        return relative(golden.denoised(network, labels, function), golden.denoised(network, labels))

    assert error(made) < bound
    if dtype != torch.float32:
        assert error(made) < 1.1 * error(network)


@pytest.mark.parametrize("form", ["literal", "for sampling"])
def test_wrong_inputs_are_named(form):
    function = forms(golden.network())[form]
    x, c = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    for arguments, message in (
        ((x[:, :2], c), r"net_in must have the shape \[B, 3, 8, 8\], got \[2, 2, 8, 8\]"),
        ((x.int(), c), "net_in must be floating point, got torch.int32"),
        ((x, torch.zeros(3)), r"c_noise must have the shape \[1\] or \[2\], got \[3\]"),
        ((x, c, torch.zeros(2, 4)), r"class_labels must be one-hot \[2, 5\], got the shape \[2, 4\]"),
    ):
        with pytest.raises(rs.RestartError, match=message):
            function(*arguments)
    without = forms(golden.network({"label_dim": 0}))[form]
    with pytest.raises(rs.RestartError, match="this network has no classes: pass None"):
        without(x, c, torch.zeros(2, 0))


def test_samples_of_every_backend_and_batch_are_the_same():
    """A whole run: Restart, classes, lanes that are padding."""
    plan = rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
    den = golden.denoiser(golden.network())
    whole = rs.sample(den, plan, seeds=range(5), class_labels=[0, 1, 2, 3, 4])
    parts = rs.Sampler(den, plan, batch_size=2, backend="reference").run(range(5), class_labels=[0, 1, 2, 3, 4])
    assert whole.isfinite().all() and relative(parts, whole) < golden.ROUNDING


# Configs


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"img_resolution": 9}, "img_resolution 9 must be a multiple of 2 for 2 levels"),
        ({"model_channels": 40, "channels_per_head": 24}, "level 1 has 80 channels, which do not divide into 3 heads"),
        ({"res_balance": 1.0}, "res_balance must be"),
        ({"clip_act": 0.0}, "clip_act must be"),
        ({"model_channels": 4096}, "a level has 8192 channels, at most 4096 are allowed"),
        ({"channel_mult_emb": 64, "model_channels": 2048}, "the embedding is wider than"),
        ({"sigma_data": 0}, "sigma_data must be"),
        ({"num_block": 2}, "an EDM2 network has no num_block; did you mean 'num_blocks'"),
        ({"label_dim": -1}, "label_dim must be"),
        ({"dropout": 2.0}, "dropout must be"),
    ],
)
def test_configs_that_no_network_has(entries, message):
    with pytest.raises(CheckpointError, match=message):
        build_network(SMALL | entries)


def test_the_preconditioning_is_that_of_edm():
    levels = golden.network({"sigma_data": 0.7}).parameterization
    c_skip, c_out, c_in, c_noise = levels.coefficients(np.array([1.3]))
    s = math.sqrt(1.3**2 + 0.7**2)
    assert np.allclose(
        [c_skip[0], c_out[0], c_in[0], c_noise[0]], [0.49 / s**2, 1.3 * 0.7 / s, 1 / s, math.log(1.3) / 4], rtol=1e-14
    )
    assert (levels.sigma_min, levels.sigma_max) == (0.0, math.inf)
