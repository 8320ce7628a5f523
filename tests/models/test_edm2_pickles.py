"""EDM2 snapshots: what is read is right, down to gains and encoder, and a network with other formulas is refused.

The fixtures are forged by hand (`edm2_forge.py`) and read here by the standard library's pickle as well. The outputs of
the network in them are those of the authors' code (`edm2_golden.py`)."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support import edm2_forge as forge
from support import edm2_golden as golden
from support import edm2_live
from support import edm2_reference as reference
from support.commands import run
from support.edm2_golden import GOLDEN, SMALL, off
from support.pickle_forge import Call, Global, Plainly, flattened, persistent

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network, save_safetensors
from restart_sampling.models.files.pickles.checkpoint import read
from restart_sampling.models.files.pickles.machine import Machine
from restart_sampling.models.files.weights import KEY
from restart_sampling.models.tensors import tensors_sha256

pytestmark = pytest.mark.usefixtures("one_thread")

LATENTS = SMALL | {"img_channels": 4}


@pytest.fixture(scope="module")
def small():
    return golden.network()


@pytest.fixture(scope="module")
def snapshot(small):
    return forge.snapshot(small)


def load(content: bytes):
    """Network of a snapshot given as bytes."""
    return read("x.pkl", memoryview(content)).network()


def written(path, content):
    path.write_bytes(content)
    return path


# What is read is right


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_outputs_are_those_of_the_authors_code(tmp_path, small, protocol):
    """With tensors in float16, in which files have them, and the gains rounded as the authors' code rounds them."""
    den = rs.load(written(tmp_path / "edm2-img64-s-1073741-0.075.pkl", forge.snapshot(small, protocol)))
    D = golden.denoised(den.network)
    assert off(golden.norms(D), GOLDEN["stored in float16"].norms) < golden.ROUNDING
    assert off(golden.norms(golden.denoised(den.network, function=den.network.for_sampling())), golden.norms(D)) < 1e-5
    assert den.shape == (3, 8, 8) and den.label_dim == 5 and den.augmented_dim is None
    assert {p.dtype for p in den.parameters} == {torch.float32}


@pytest.mark.parametrize(
    "name", ["plain", "no labels", "clip_act 1", "other balances"], ids=lambda name: name.replace(" ", "-")
)
def test_float32_snapshots_are_the_same_network(name):
    norms, config, labels, _ = GOLDEN[name]
    network = golden.network(config)
    mine = load(forge.snapshot(network, half=False))
    want = network.state_dict()
    assert mine.state_dict().keys() == want.keys()
    assert all(torch.equal(t, want[n]) for n, t in mine.state_dict().items())
    assert off(golden.norms(golden.denoised(mine, labels)), norms) < golden.ROUNDING
    assert {n: mine.config[n] for n in config} == dict(config)


@pytest.mark.parametrize(
    "config",
    [
        {"label_dim": 0},
        {"channel_mult": [1, 2, 2], "attn_resolutions": [8, 4, 2], "num_blocks": 2},
        {"channels_per_head": 64, "dropout": 0.1, "use_fp16": False, "sigma_data": 0.7},
        {"clip_act": None, "channel_mult_emb": 3, "channel_mult_noise": 2},
    ],
    ids=["no classes", "three levels", "other arguments", "no clipping"],
)
def test_outputs_are_those_of_the_second_statement(config):
    network = golden.network(config)
    content = forge.snapshot(network)
    mine = load(content)
    assert mine.config == network.config
    # A gain reaches the weight as float16(gain/√fan_in): the second statement is given that, in float64.
    state = {n: t.half() for n, t in network.state_dict().items()}
    for name, tensor in state.items():
        layer = {"emb_gain": "emb_linear", "out_gain": "out_conv"}.get(name.rpartition(".")[2])
        if layer:
            root = state[f"{name.rpartition('.')[0]}.{layer}.weight"][0].numel() ** 0.5
            state[name] = (tensor / root).double() * root
    options = reference.Options(**{n: network.config[n] for n in reference.Options._fields})
    x, c_noise = golden.noise(), torch.tensor([-0.7, 0.4])
    labels = torch.eye(5)[[1, 3]] if network.label_dim else None
    want = reference.network(state, x, c_noise, labels, options)
    for form in (mine, mine.for_sampling()):
        assert float((form(x, c_noise, labels).double() - want).norm() / want.norm()) < golden.ROUNDING


def test_gains_are_rounded_and_nothing_else():
    """With 96 channels of the embedding, √fan_in is no power of two, so dividing by it rounds."""
    network = golden.network({"channel_mult_emb": 3})
    mine, moved = load(forge.snapshot(network)).state_dict(), 0
    for name, t in network.state_dict().items():
        if t.ndim:
            assert torch.equal(mine[name], t.half().float()), name
            continue
        weight = mine[name.replace("emb_gain", "emb_linear.weight").replace("out_gain", "out_conv.weight")]
        root = weight[0].numel() ** 0.5
        stored = np.float16(float(t))
        assert float(mine[name]) == pytest.approx(float(np.float16(stored / np.float64(root))) * root, rel=1e-7)
        moved += abs(float(mine[name]) / float(stored) - 1) > 1e-5
    assert moved > 8  # of 11


def test_the_forged_files_are_what_pickle_reads(small):
    for module in ("numpy.core", "numpy._core"):
        content = forge.snapshot(build_network(LATENTS, seed=0), encoder=forge.vae(module=module))
        value = Plainly(io.BytesIO(content)).load()
        assert list(value) == ["encoder", "dataset_kwargs", "loss_fn", "ema"]
        scale = value["encoder"]["state"]["scale"]
        assert scale.dtype == np.float32 and scale.tolist() == np.float32(forge.SCALE).tolist()
        assert [value[n]["class_name"] for n in ("encoder", "loss_fn", "ema")] == [
            "StabilityVAEEncoder",
            "EDM2Loss",
            "Precond",
        ]
    value = Plainly(io.BytesIO(forge.snapshot(small))).load()
    theirs, want = dict(flattened(value["ema"])), small.state_dict()
    assert theirs.keys() == want.keys()
    assert all(torch.equal(t, want[n].half()) for n, t in theirs.items())


@pytest.mark.parametrize("vae", [False, True], ids=["rgb", "vae"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_snapshots_by_the_pickler_itself(protocol, vae):
    """Live torch modules and NumPy arrays, pickled by Python: what surrounds the network is not written by hand."""
    network = golden.network({"img_channels": 4} if vae else None)
    content = edm2_live.snapshot(network, protocol, vae)
    checkpoint = read("x.pkl", memoryview(content))
    mine, want = checkpoint.network().state_dict(), load(forge.snapshot(network)).state_dict()
    assert list(mine) == list(want) and all(torch.equal(mine[n], want[n]) for n in want)
    assert checkpoint.encoder is not None and checkpoint.encoder.kind == ("vae" if vae else "rgb")
    assert checkpoint.encoder.scale == (tuple(np.float32(forge.SCALE).tolist()) if vae else ())


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_as_numpy_writes_them(protocol, dtype):
    from restart_sampling.models.files.pickles.encoders import _vector

    values = np.array(forge.SCALE, dtype)
    record = Machine(memoryview(pickle.dumps(values, protocol))).run().value
    assert _vector(record, "scale", 0) == tuple(values.tolist())


# The encoder


def test_the_encoder_is_kept_on_every_way(tmp_path, capsys):
    """From the snapshot to the denoiser, into a converted file, and from there to the denoiser again."""
    network = build_network(LATENTS, seed=0)
    network.unet.out_gain.fill_(1.0)
    source = written(tmp_path / "edm2-img512-xs-2147483-0.135.pkl", forge.snapshot(network, encoder=forge.vae()))
    want = {
        "kind": "vae",
        "name": "stabilityai/sd-vae-ft-mse",
        "scale": np.float32(forge.SCALE).tolist(),
        "bias": np.float32(forge.BIAS).tolist(),
    }
    old = rs.load(source)
    assert old.info["encoder"] == old.info["card"]["encoder"] == want
    target = tmp_path / "x.safetensors"
    code, out, err = run(capsys, "convert", source, target)
    assert code == 0, err
    new = rs.load(target)
    assert new.info["encoder"] == new.info["card"]["encoder"] == want
    for file in (source, target):
        code, out, _ = run(capsys, "models", "inspect", file)
        assert code == 0
        assert "encoder     vae stabilityai/sd-vae-ft-mse: samples are latents of 4 channels" in out
    code, out, _ = run(capsys, "models", target)
    assert code == 0 and "encoder     kind vae, name stabilityai/sd-vae-ft-mse" in out


def test_the_encoder_of_pixels_and_none(tmp_path, small):
    den = rs.load(written(tmp_path / "x.pkl", forge.snapshot(small)))
    assert den.info["encoder"] == {"kind": "rgb"}
    no_state = persistent("StandardRGBEncoder", None)
    assert rs.load(written(tmp_path / "x.pkl", forge.snapshot(small, encoder=no_state))).info["encoder"] == {
        "kind": "rgb"
    }
    den = rs.load(written(tmp_path / "x.pkl", forge.snapshot(small, encoder=None)))
    assert den.info["encoder"] is None and "encoder" not in den.info["card"]
    assert rs.load("fashion-mnist").info["encoder"] is None


def changed(**changes):
    return lambda: forge.vae(**changes)


def shaped(*state):
    array = forge.array(forge.SCALE)
    return lambda: forge.vae(scale=Call(array.dotted, array.args, (*state, *array.state[len(state) :])))


BIG = Call("numpy.dtype", ("f4", False, True), (3, ">", None, None, None, -1, -1, 0))
ENCODERS = {
    "a class nobody knows": (lambda: persistent("MyEncoder", {}), "an encoder of the class MyEncoder is not supported"),
    "a module of another kind": (lambda: {"vae_name": "x"}, "the encoder is not a persistent object"),
    "a number": (lambda: 3, "the encoder is not a persistent object"),
    "another version": (lambda: persistent("StandardRGBEncoder", {}, version=5), "another version than 6"),
    "no name": (changed(vae_name=...), "does not say the name of its autoencoder"),
    "a name that is a number": (changed(vae_name=3), "does not say the name of its autoencoder"),
    "a name that is an address": (changed(vae_name="https://host/x"), "the name of an encoder must be that of"),
    "a name that is a path": (changed(vae_name="../../x"), "the name of an encoder must be that of"),
    "a name with content": (changed(vae_name="a\x1b[31m/b"), "the name of an encoder must be that of"),
    "no scale": (changed(scale=...), "the encoder's scale is not a list of numbers as NumPy writes them"),
    "a scale that is a list": (changed(scale=[1.0] * 4), "the encoder's scale is not a list of numbers"),
    "a scale that is a dtype": (changed(scale=BIG), "the encoder's scale is not a list of numbers"),
    "scales of other numbers": (changed(bias=forge.array(forge.BIAS[:3])), "has 4 scales and 3 biases"),
    "three channels": (
        changed(scale=forge.array(forge.SCALE[:3]), bias=forge.array(forge.BIAS[:3])),
        "latents of 3 channels, and the network's samples have 4",
    ),
    "a scale of 0": (changed(scale=forge.array((1.0, 0.0, 1.0, 1.0))), "scale must not be 0"),
    "a scale that is nan": (changed(scale=forge.array((1.0, float("nan"), 1.0, 1.0))), r"the encoder's scale\[1\]"),
    "a bias that is infinite": (changed(bias=forge.array((float("inf"),) * 4)), r"the encoder's bias\[0\]"),
    "no numbers": (changed(scale=forge.array(()), bias=forge.array(())), "the encoder's scale is not a list"),
    "two dimensions": (shaped(1, (2, 2)), "the encoder's scale is not a list"),
    "a length of 2^60": (shaped(1, (2**60,)), "the encoder's scale is not a list"),
    "a negative length": (shaped(1, (-4,)), "the encoder's scale is not a list"),
    "a length that is true": (shaped(1, (True,)), "the encoder's scale is not a list"),
    "fewer bytes than numbers": (shaped(1, (5,)), "the encoder's scale is not a list"),
    "big-endian numbers": (shaped(1, (4,), BIG), "the encoder's scale is not a list"),
    "no dtype": (shaped(1, (4,), None), "the encoder's scale is not a list"),
    "numbers as text": (shaped(1, (4,), forge.array(()).state[2], False, "abc"), "bytes are needed"),
    "state of two": (lambda: forge.vae(scale=Call("numpy.core.multiarray._reconstruct", (), (1, 2))), "is not a list"),
    "an array class that is called": (lambda: Call("numpy.ndarray", (4,)), "something is called that must not be"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_that_are_not_what_they_have_to_be(name):
    encoder, message = ENCODERS[name]
    content = forge.snapshot(build_network(LATENTS, seed=0), encoder=encoder())
    with pytest.raises(CheckpointError, match=message) as info:
        load(content)
    assert str(info.value).startswith("x.pkl: ") and str(info.value).isprintable() and len(str(info.value)) < 400


@pytest.mark.parametrize(
    "entry, message",
    [
        ("rgb", "the card's encoder must be an object"),
        ({"kind": "ldm"}, "the encoder's kind must be one of rgb, vae, got 'ldm'"),
        ({"name": "a/b"}, "the card's encoder must be an object"),
        ({"kind": "rgb", "scale": [1.0]}, "of the kind rgb has no name, scale or bias"),
        ({"kind": "vae", "name": "a/b", "scale": [1.0], "bias": [0.0], "factor": 1}, "must be an object"),
        ({"kind": "vae", "name": "a/b", "scale": [1.0], "bias": [0.0]}, "latents of 1 channels"),
        ({"kind": "vae", "name": "a/b", "scale": 1.0, "bias": [0.0]}, "the encoder's scale must be a list"),
        ({"kind": "vae", "name": "a/b", "scale": ["1"], "bias": [0.0]}, r"the encoder's scale\[0\] must be a number"),
        ({"kind": "vae", "name": "", "scale": [1.0], "bias": [0.0]}, "the name of an encoder must be"),
    ],
)
def test_cards_with_an_encoder_that_is_none(tmp_path, small, entry, message):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, small, {"encoder": entry})
    with pytest.raises(CheckpointError, match=message) as info:
        rs.load(path)
    assert str(info.value).startswith(str(path))


# Converted and looked into


def test_a_converted_file_is_the_same_network_bit_for_bit(tmp_path, snapshot, capsys):
    source, target = written(tmp_path / "edm2.pkl", snapshot), tmp_path / "x.safetensors"
    code, out, err = run(capsys, "convert", source, target)
    assert code == 0, err
    old, new = rs.load(source), rs.load(target)
    one, two = old.network.state_dict(), new.network.state_dict()
    assert list(one) == list(two) and all(torch.equal(one[n], two[n]) and two[n].dtype == torch.float32 for n in one)
    assert sum(not t.ndim for t in two.values()) == 11  # the gains among them
    assert tensors_sha256(one) == tensors_sha256(two) and tensors_sha256(one) in out
    assert new.network.config == old.network.config
    assert torch.equal(golden.denoised(old.network), golden.denoised(new.network))
    with safe_open(target, framework="pt") as file:
        card = json.loads(file.metadata()[KEY])["card"]
    assert card["encoder"] == {"kind": "rgb"} and card["source"]["file"] == "edm2.pkl"
    assert card["source"]["kind"] == "pickle, key ema" and tmp_path.as_posix() not in json.dumps(card)
    assert new.info["notes"] == old.info["notes"] and "is not a known version of EDM2" in new.info["notes"][0]
    plan = rs.Plan.build(steps=3, restart="[3, 1, 0.3, 1.0]")
    x = rs.sample(new, plan, seeds=range(2), class_labels=[1, 3])
    assert x.isfinite().all() and torch.equal(x, rs.sample(old, plan, seeds=range(2), class_labels=[1, 3]))


def test_inspect_says_what_is_inside(tmp_path, small, snapshot, capsys):
    path = written(tmp_path / "edm2.pkl", snapshot)
    code, out, _ = run(capsys, "models", "inspect", path)
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0 and rows["loadable"] == "yes"
    assert rows["kind"] == "snapshot (pickle), network under ema"
    assert rows["class"] == "Precond (edm preconditioning)"
    assert rows["network"] == "EDM2, 32 channels × [1, 2]" and rows["sample"] == "3 × 8 × 8" and rows["labels"] == "5"
    assert rows["parameters"] == "723,371 in 63 tensors" and rows["sigma"] == "0 .. inf"
    assert rows["encoder"] == "rgb: samples are pixels" and rows["use_fp16"] == "yes"
    assert rows["D"] == "none (diffusion)" and rows["code"].startswith("unknown, SHA-256 ")
    assert rows["tensors"] == f"SHA-256 {tensors_sha256(load(snapshot).state_dict())}"
    assert "is not a known version of EDM2" in rows["note"]
    code, out, _ = run(capsys, "models", path)
    assert code == 0 and "encoder     kind rgb" in out and "5" in out


# Memory


def test_tensors_are_converted_one_after_the_other(snapshot, monkeypatch):
    """Otherwise the float16 copies of all of them would be there with the float32 ones: half as much again."""
    from restart_sampling.models.files.pickles.tensors import Spec

    alive, most, make = [0], [0], Spec.make

    class Counted:
        def __init__(self, tensor):
            self.size = tensor.nbytes
            alive[0] += self.size
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= self.size

    def counted(self):
        tensor = make(self)
        tensor.counted = Counted(tensor)
        return tensor

    monkeypatch.setattr(Spec, "make", counted)
    network = load(snapshot)
    largest = max(p.numel() for p in network.parameters())
    assert 2 * largest <= most[0] < 6 * largest  # bytes; all tensors together are 16 times the largest
    assert alive[0] < 200  # gains alone are waiting


def test_a_config_cannot_ask_for_memory(small, monkeypatch):
    """A file of 1.5 MB says that its network has 10^10 weights: shapes are compared before any of them is made."""
    from restart_sampling.models.files.pickles import networks

    seen = []
    build = networks.build_network
    monkeypatch.setattr(networks, "build_network", lambda config: seen.append(build(config)) or seen[-1])
    true = forge.Forge(small)
    absurd = {"model_channels": 1024, "channel_mult": [4, 4], "num_blocks": 32}
    with pytest.raises(CheckpointError, match="tensors missing"):
        load(forge.snapshot(small, kwargs=true.kwargs | absurd, inner=true.inner | absurd))
    assert sum(p.numel() for p in seen[0].parameters()) > 10**10
    assert all(t.is_meta for t in (*seen[0].parameters(), *seen[0].buffers()))


# Networks with other formulas

BLOCK = "unet.enc.4x4_block0"
LIES = {
    "flavor": ({BLOCK: {"flavor": "dec"}}, f"flavor of {BLOCK} is not that"),
    "resampling": ({BLOCK: {"resample_mode": "down"}}, f"resample_mode of {BLOCK}"),
    "no resampling": ({"unet.dec.8x8_up": {"resample_mode": "keep"}}, "resample_mode of unet.dec.8x8_up"),
    "filter": ({BLOCK: {"resample_filter": [1, 3, 3, 1]}}, f"resample_filter of {BLOCK}"),
    "heads": ({BLOCK: {"num_heads": 1}}, f"num_heads of {BLOCK}"),
    "heads where there are none": ({"unet.dec.4x4_in1": {"num_heads": 4}}, "num_heads of unet.dec.4x4_in1"),
    "res_balance": ({BLOCK: {"res_balance": 0.5}}, f"res_balance of {BLOCK}"),
    "attn_balance": ({BLOCK: {"attn_balance": 0.31}}, f"attn_balance of {BLOCK}"),
    "clip_act": ({BLOCK: {"clip_act": 512}}, f"clip_act of {BLOCK}"),
    "no clip_act": ({BLOCK: {"clip_act": None}}, f"clip_act of {BLOCK}"),
    "not a number": ({BLOCK: {"clip_act": "much"}}, f"clip_act of {BLOCK}"),
    "not a value": ({BLOCK: {"res_balance": Global("numpy.ndarray")}}, f"res_balance of {BLOCK}"),
    "label_balance": ({"unet": {"label_balance": 0.4}}, "label_balance of unet is not that"),
    "concat_balance": ({"unet": {"concat_balance": 0.7}}, "concat_balance of unet is not that"),
    "resolution": ({"": {"img_resolution": 16}}, "two different things about its img_resolution"),
    "classes": ({"": {"label_dim": 6}}, "two different things about its label_dim"),
    "sigma_data": ({"": {"sigma_data": 1.0}}, "two different things about its sigma_data"),
    "sigma_data as text": ({"": {"sigma_data": "half"}}, "two different things about its sigma_data"),
    "positional arguments": ({"": {"_init_args": (8,)}}, "made with arguments that have no names"),
    "positional arguments inside": ({"unet": {"_init_args": (8, 3, 5)}}, "made with arguments that have no names"),
}


@pytest.mark.parametrize("name", LIES)
def test_networks_that_say_other_formulas_of_themselves_are_refused(name, small):
    lies, message = LIES[name]
    with pytest.raises(CheckpointError, match=message) as info:
        load(forge.snapshot(small, lies=lies))
    assert str(info.value).count(": ") >= 2 and ". " not in str(info.value)  # the path, the byte, one sentence


ARGUMENTS = {
    "an argument that is not ours": ({"gating": True}, None, "has the argument gating, which is not supported"),
    "another filter": ({"resample_filter": [1, 3, 3, 1]}, None, r"resample_filter must be \[1, 1\]"),
    "inner balances": (None, {"concat_balance": 0.7}, "inner and outer network say different things about concat_bal"),
    "inner clip_act": (None, {"clip_act": 8.0}, "inner and outer network say different things about clip_act"),
    "inner heads": (None, {"channels_per_head": 32}, "say different things about channels_per_head"),
    "inner argument that is not ours": (None, {"gating": 1}, "has the argument gating, which is not supported"),
    "inner filter": (None, {"resample_filter": [1, 2, 1]}, r"resample_filter must be \[1, 1\]"),
    "inner fp16": (None, {"use_fp16": True}, "inner and outer network say different things about use_fp16"),
    "no resolution": ({"img_resolution": None}, None, "two different things about its img_resolution"),
    "absurd width": ({"model_channels": 2**40}, None, "model_channels must be"),
    "absurd levels": ({"channel_mult": [1] * 60}, None, "channel_mult must be"),
    "clip_act that is nan": ({"clip_act": float("nan")}, None, "clip_act must be"),
    "clip_act that is negative": ({"clip_act": -1.0}, None, "clip_act must be"),
    "a balance of 1": ({"concat_balance": 1.0}, None, "concat_balance must be"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_networks_that_were_made_otherwise_are_refused(name, small):
    outer, inner, message = ARGUMENTS[name]
    true = forge.Forge(small)
    with pytest.raises(CheckpointError, match=message):
        load(forge.snapshot(small, kwargs=true.kwargs | (outer or {}), inner=true.inner | (inner or {})))


def conv(**options):
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {}}
    return persistent(options.pop("class_name", "MPConv"), state | options)


def test_modules_of_other_classes_are_refused(small):
    for path, name in {
        "unet": "ViT",
        BLOCK: "GatedBlock",
        f"{BLOCK}.conv_res0": "Conv2d",
        "unet.emb_fourier": "PositionalEmbedding",
        "logvar_fourier": "MPConv",
        "logvar_linear": "Linear",
    }.items():
        with pytest.raises(CheckpointError, match=f"{path} is not of the class|inner network of the class UNet"):
            load(forge.snapshot(small, classes={path: name}))
    with pytest.raises(CheckpointError, match=r"class PrecondV2 is not supported, only .*Precond"):
        load(forge.snapshot(small, classes={"": "PrecondV2"}))
    for path in ("unet.gate", f"{BLOCK}.gate", "gate"):
        with pytest.raises(CheckpointError, match=f"has a Gate called {path}, which ours has not"):
            load(forge.snapshot(small, extra={path: conv(class_name="Gate")}))


def test_what_the_formulas_do_not_depend_on_may_differ(small):
    """Files of a later date may say more, and less: dropout, fp16, a filter that is the default, no attributes."""
    true = forge.Forge(small)
    given = {n: v for n, v in true.kwargs.items() if n in ("img_resolution", "img_channels", "label_dim")}
    own = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "channels_per_head")
    inner = {n: true.kwargs[n] for n in (*given, *own)}
    want = load(forge.snapshot(small)).state_dict()
    for content in (
        forge.snapshot(small, kwargs={**inner, "resample_filter": [1, 1]}, inner={**inner, "resample_filter": [1, 1]}),
        forge.snapshot(small, lies={"": {"use_fp16": False, "hooks": []}, BLOCK: {"clip_act": 256, "flavor": ...}}),
        forge.snapshot(small, lies={BLOCK: {"res_balance": 0.3 * (1 + 1e-9)}}),
        forge.snapshot(small, key="ema", encoder=forge.rgb("x")),
    ):
        mine = load(content).state_dict()
        assert all(torch.equal(t, want[n]) for n, t in mine.items())
    free = golden.network({"clip_act": None})
    boundless = forge.Forge(free).kwargs | {"clip_act": float("inf")}
    assert load(forge.snapshot(free, kwargs=boundless)).config["clip_act"] is None
    checkpoint = read("x.pkl", memoryview(forge.snapshot(small, lies={"": {"use_fp16": False}})))
    assert checkpoint.config["use_fp16"] is False and checkpoint.kind == "pickle" and checkpoint.key == "ema"


def test_weights_that_do_not_fit_are_named(small):
    kwargs = forge.Forge(small).kwargs
    other = golden.network({"channel_mult_emb": 3})
    with pytest.raises(
        CheckpointError, match=r"tensors of the wrong shape: unet.*\(file \[96, 32\], network \[64, 32\]\)"
    ):
        load(forge.snapshot(other, kwargs=kwargs, inner=forge.Forge(small).inner))
    for name in ("unet.out_gain", "unet.emb_fourier.freqs", "logvar_linear.weight", "unet.dec.4x4_in0.emb_gain"):
        for value in (float("nan"), float("inf")):
            bad = golden.network()
            bad.state_dict()[name].view(-1)[0] = value
            with pytest.raises(CheckpointError, match=f"1 tensors not finite .NaN or Inf.: {name}"):
                load(forge.snapshot(bad))


def test_training_states_without_a_description_say_what_to_give_instead(tmp_path, small):
    """EDM2's training states hold state dicts: names and tensors, and not what network they are of."""
    path = tmp_path / "training-state-0001048.pt"
    torch.save({"state": {"cur_nimg": 1}, "net": small.state_dict(), "optimizer": {}}, path)
    with pytest.raises(CheckpointError, match=r"a state dict does not describe its network; give the snapshot"):
        rs.load(path)


def test_a_large_gain_overflows_to_a_refusal_and_not_to_infinity():
    bad = golden.network()
    bad.unet.out_gain.fill_(1e6)  # no float16
    with pytest.raises(CheckpointError, match="not finite"):
        load(forge.snapshot(bad))
    assert float(load(forge.snapshot(bad, half=False)).unet.out_gain) == 1e6


def test_gains_from_bfloat16_are_rounded_likewise(small):
    from restart_sampling.models.edm2.pickled import restored

    found = restored({n: t.bfloat16() for n, t in small.state_dict().items()})
    gain, root = small.unet.out_gain.bfloat16(), (64 * 9 / 2) ** 0.5
    assert float(found["unet.out_gain"]) == pytest.approx(float((gain / root).float()) * root, rel=1e-7)
