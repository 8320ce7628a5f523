"""EDM and PFGM++ checkpoints: what is read is right, and whatever else a file holds does nothing.

The fixtures are forged by hand (`pickle_forge.py`), read here by the standard library's pickle and by torch.load as
well, and the networks are judged by `edm_reference.py`, which states their formulas a second time in float64."""

from __future__ import annotations

import io
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import edm_reference
from support import pickle_forge as forge
from support.pickle_attacks import TINY
from support.pickle_forge import Plainly, flattened

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.files.pickles.archive import Archive
from restart_sampling.models.files.pickles.checkpoint import read
from restart_sampling.models.files.pickles.limits import LIMITS
from restart_sampling.models.files.pickles.machine import Machine
from restart_sampling.models.files.pickles.sources import SOURCES, Source
from restart_sampling.models.files.pickles.tensors import Budget, number, tensor

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
SONG = {
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
FOURIER = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
ARCHITECTURES = {
    "ddpm++": SONG,
    "ncsn++": SONG | FOURIER,
    "adm": SONG | {"model_type": "DhariwalUNet", "model_channels": 32},
}
# Stored limits that no formula gives, so that recomputed ones would be seen.
CLASSES = {
    "EDMPrecond": {"sigma_min": 0.001, "sigma_data": 0.7},
    "VPPrecond": {"sigma_min": 0.0009765625, "sigma_max": 152.0, "beta_d": 18.0},
    "VEPrecond": {"sigma_min": 0.03, "sigma_max": 90.0},
    "iDDPMPrecond": {"sigma_min": 0.0065, "sigma_max": 20000.0, "M": 50},
}
FORMS = {
    "pkl 2": lambda network, **k: forge.snapshot(network, 2, **k),
    "pkl 3": lambda network, **k: forge.snapshot(network, 3, **k),
    "pkl 4": lambda network, **k: forge.snapshot(network, 4, **k),
    "pkl 5": lambda network, **k: forge.snapshot(network, 5, **k),
    "pt": forge.training_state,
}
KINDS = [
    (name, kind, labels, form)
    for i, (name, kind) in enumerate((c, a) for c in CLASSES for a in ARCHITECTURES)
    for labels, form in ((0, list(FORMS)[i % 5]), (4, list(FORMS)[(i + 2) % 5]))
]


def made(class_name: str, kind: str, labels: int, seed: int = 0):
    """A network in which every weight matters; without labels it has an augmentation layer."""
    config = {
        "class_name": class_name,
        "img_resolution": 16,
        "img_channels": 3,
        "label_dim": labels,
        "augment_dim": 9 - 9 * (labels > 0),
    }
    network = build_network(config | ARCHITECTURES[kind] | CLASSES[class_name], seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, p in network.named_parameters():
        if p.dim() > 1 and float(p.std()) < 1e-3:
            p.normal_(0.0, 1 / math.sqrt(p[0].numel()), generator=generator)
        elif "norm" in name:
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    if class_name == "iDDPMPrecond":
        network.u[:-1] *= 1.01  # stored levels, not the formula's
    if kind == "ncsn++" and class_name in ("VPPrecond", "iDDPMPrecond"):
        # Nobody trained this pair: c_noise up to 999 times frequencies of 100 leaves float32 three digits of the angle.
        network.model.map_noise.freqs /= 1000
    return network


@pytest.fixture(scope="module")
def tiny():
    return build_network(TINY, seed=0)


@pytest.fixture(scope="module")
def snapshot(tiny):
    return forge.snapshot(tiny)


def load(content: bytes):
    """Network of a checkpoint given as bytes."""
    return read("x.pkl", memoryview(content)).network()


def coefficients(class_name: str, state: dict, sigma: float) -> tuple[float, float, float, float]:
    """c_skip, c_out, c_in, c_noise of EDM's Table 1, with the constants of CLASSES."""
    if class_name == "EDMPrecond":
        d, total = 0.7, sigma**2 + 0.7**2
        return d**2 / total, sigma * d / math.sqrt(total), 1 / math.sqrt(total), math.log(sigma) / 4
    if class_name == "VEPrecond":
        return 1.0, sigma, 1.0, math.log(sigma / 2)
    if class_name == "VPPrecond":
        t = (math.sqrt(0.1**2 + 2 * 18.0 * math.log(1 + sigma**2)) - 0.1) / 18.0
        return 1.0, -sigma, 1 / math.sqrt(sigma**2 + 1), 999 * t
    j = int((state["u"].double() - sigma).abs().argmin())
    return 1.0, -sigma, 1 / math.sqrt(sigma**2 + 1), 50 - 1 - j


# What is read is right


@pytest.mark.parametrize("class_name, kind, labels, form", KINDS, ids=lambda v: str(v))
def test_outputs_are_those_of_the_float64_statement(tmp_path, class_name, kind, labels, form):
    network = made(class_name, kind, labels)
    path = tmp_path / ("x.pt" if form == "pt" else "x.pkl")
    path.write_bytes(FORMS[form](network))
    denoiser = rs.load(path)
    state = network.state_dict()
    mine = denoiser.network.state_dict()
    assert mine.keys() == state.keys() and all(torch.equal(mine[n], state[n]) for n in state)
    assert not denoiser.network.training and all(p.dtype == torch.float32 for p in denoiser.parameters)
    assert denoiser.shape == (3, 16, 16) and denoiser.label_dim == labels
    want = CLASSES[class_name]
    assert denoiser.parameterization.sigma_min == want["sigma_min"]
    assert denoiser.parameterization.sigma_max == want.get("sigma_max", math.inf)

    sigma = 1.7
    if class_name == "iDDPMPrecond":
        sigma = float(denoiser.parameterization.round_sigma(np.array(sigma)))
        assert sigma in state["u"].double().tolist()
    c_skip, c_out, c_in, c_noise = coefficients(class_name, state, sigma)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16))) * sigma
    one_hot = torch.eye(labels, dtype=torch.float64)[[1, 3]] if labels else None
    F = edm_reference.network(state, c_in * x, torch.tensor([c_noise]), one_hot, kind == "adm")[:, :3]
    D = c_skip * x + c_out * F
    with torch.no_grad():
        got = denoiser(x.float(), sigma, None if one_hot is None else one_hot.float())
    assert float((got.double() - D).norm() / D.norm()) < 2e-5


@pytest.mark.parametrize("form", FORMS)
def test_the_forged_files_are_what_pickle_and_torch_read(form):
    network = made("iDDPMPrecond", "ncsn++", 4)
    content = FORMS[form](network, key="ema")
    if form == "pt":
        module = type(sys)("plainly")
        module.Unpickler, module.load, module.loads = Plainly, pickle.load, pickle.loads
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=module)
    else:
        value = Plainly(io.BytesIO(content)).load()
    theirs = dict(flattened(value["ema"]))
    want = network.state_dict()
    mine = load(content).state_dict()
    assert theirs.keys() == want.keys() == mine.keys()
    for name, t in want.items():
        assert torch.equal(theirs[name], t) and torch.equal(mine[name], t), name
    block = value["ema"]["state"]["_modules"]["model"]["state"]["_modules"]["enc"].__dict__["_modules"]["16x16_block0"][
        "state"
    ]
    assert block["skip_scale"] == np.sqrt(0.5) and type(block["_non_persistent_buffers_set"]) is set


def test_tensors_of_torch_save():
    """Files by torch itself: every dtype, strides, offsets, shared storages, no elements, no dimensions."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    values = {
        "plain": base,
        "view": base[1, 1:],
        "strided": base.transpose(0, 2),
        "row": base[:, 1],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "last": torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last),
        "one": base[:1, :1, 3:].expand(1, 1, 1),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    types = (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    values |= {str(d): torch.arange(6).to(d) for d in types}
    buffer = io.BytesIO()
    torch.save(values, buffer)
    data = memoryview(buffer.getvalue())
    archive = Archive(data)
    found = Machine(archive.read("archive/data.pkl"), storages=True).run().value
    assert found.keys() == values.keys()
    for name, want in values.items():
        t = tensor(found[name], archive, Budget(10**6), 0).make()
        assert t.dtype == want.dtype and torch.equal(t, want.detach()) and t.is_contiguous(), name
    for name, want in values.items():  # and inside a plain pickle, where each storage is a file of torch's own
        content = io.BytesIO()
        pickle.dump(want, content, protocol=4)
        value = Machine(memoryview(content.getvalue())).run().value
        assert torch.equal(tensor(value, None, Budget(10**6), 0).make(), want.detach()), name


@pytest.mark.parametrize("value", [0.5**0.5, np.float32(0.25), np.int64(-7), np.bool_(True), np.float64(1e300)])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_of_numpy(value, protocol):
    content = pickle.dumps(value, protocol=protocol)
    assert number(Machine(memoryview(content)).run().value) == value


PLAIN = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    -(2**31),
    2**40,
    -(2**62),
    0.1,
    float("inf"),
    "",
    "σ" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1],
    list(range(3000)),
    {},
    {"a": 1, 2: "b"},
    {str(i): i for i in range(2500)},
    set(),
    {1, 2, "x"},
    [[["deep"], {}], ({"k": [None]},)],
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_as_the_standard_library_writes_them(protocol):
    for value in PLAIN:
        content = pickle.dumps([value, value], protocol=protocol)  # twice: the memo
        dumped = Machine(memoryview(content)).run()
        assert dumped.value == [value, value] and dumped.end == len(content)
    big = os.urandom(70_000)
    assert bytes(Machine(memoryview(pickle.dumps(big, protocol=4))).run().value.view) == big


def test_memory_is_taken_once_and_the_file_is_let_go(tmp_path, snapshot, tiny):
    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    network = rs.load(path).network
    os.truncate(path, 0)  # the weights do not hang on the file
    assert all(torch.equal(t, tiny.state_dict()[n]) for n, t in network.state_dict().items())
    assert not any(p.requires_grad or p.is_meta for p in (*network.parameters(), *network.buffers()))


# What is said about it


def test_unknown_source_is_a_note_and_known_is_none(tmp_path, snapshot, monkeypatch):
    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    (note,) = rs.load(path).info["notes"]
    assert "not a known version of EDM or PFGM++" in note
    digest = read(path).found.sources[0]
    monkeypatch.setitem(SOURCES, digest, Source("test", "none"))
    assert rs.load(path).info["notes"] == []


def test_raw_weights_are_a_note(tmp_path, tiny):
    path = tmp_path / "x.pt"
    path.write_bytes(forge.training_state(tiny))
    assert "no averaged weights" in rs.load(path).info["notes"][1]
    path.write_bytes(forge.training_state(tiny, key="ema"))
    assert len(rs.load(path).info["notes"]) == 1


def test_long_source_text_is_hashed_as_bytes(tiny):
    source = "# σ\n" * LIMITS.text
    import hashlib

    assert read("x", memoryview(forge.snapshot(tiny, source=source))).found.sources == (
        hashlib.sha256(source.encode()).hexdigest(),
    )


@pytest.mark.parametrize("class_name", ["EDMPrecond", "VEPrecond"])
def test_pfgmpp_has_its_D(tmp_path, class_name):
    path = tmp_path / "x.pkl"
    config = {**TINY, "class_name": class_name, "pfgmpp": True, "D": 2048}
    path.write_bytes(forge.snapshot(build_network(config, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.augmented_dim == denoiser.info["pfgmpp_D"] == 2048
    path.write_bytes(forge.snapshot(build_network({**TINY, "class_name": class_name, "D": 2048}, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.augmented_dim is None and denoiser.info["pfgmpp_D"] is None


def test_arguments_of_early_pfgmpp_sources(tiny):
    kwargs = forge.Forge(tiny).kwargs
    early = {**kwargs, "pfgmv2": True, "pfgm": False, "small": False, "D": 64}
    checkpoint = read("x", memoryview(forge.snapshot(tiny, kwargs=early)))
    assert checkpoint.config["pfgmpp"] is True and checkpoint.config["D"] == 64
    for name in ("pfgm", "small"):
        with pytest.raises(CheckpointError, match=f"{name}=true .an early PFGM"):
            load(forge.snapshot(tiny, kwargs={**kwargs, name: True}))


def test_fp16_is_recorded(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(forge.snapshot(build_network({**TINY, "use_fp16": True}, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.info["use_fp16"] is True and denoiser.parameters[0].dtype == torch.float32


def test_pinned_by_the_file_or_by_the_tensors(tmp_path, snapshot, tiny):
    from restart_sampling.models.tensors import tensors_sha256

    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    for pin in (rs.load(path).info["sha256"].upper(), tensors_sha256(tiny.state_dict())):
        assert rs.load(path, sha256=pin).shape == (1, 4, 4)
    with pytest.raises(CheckpointError, match=r"is not the one asked for, 0000"):
        rs.load(path, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="64 hexadecimal digits"):
        rs.load(path, sha256="abc")


# What is refused


class Changed(forge.Forge):
    """A forge that lies about one attribute."""

    path, lie = "", {}

    def attributes(self, root, node, path):
        said = super().attributes(root, node, path)
        return said | (self.lie if path == self.path else {})


LIES = {
    "skip scale": ("model.enc.4x4_block0", {"skip_scale": 1.0}, "skip_scale of model.enc.4x4_block0"),
    "heads": ("model.dec.4x4_in0", {"num_heads": 4}, "num_heads of model.dec.4x4_in0"),
    "scale and shift": ("model.enc.4x4_block0", {"adaptive_scale": True}, "adaptive_scale of"),
    "eps": ("model.enc.4x4_block0.norm0", {"eps": 1e-5}, "eps of model.enc.4x4_block0.norm0"),
    "groups": ("model.enc.4x4_block0.norm0", {"num_groups": 2}, "num_groups of"),
    "not a number": ("model.enc.4x4_block0", {"skip_scale": "much"}, "skip_scale of"),
    "resolution": ("", {"img_resolution": 8}, "two different things about its img_resolution"),
    "sigma_data": ("", {"sigma_data": 0.7}, "two different things about its sigma_data"),
    "sigma limits": ("", {"sigma_min": 9.0, "sigma_max": 1.0}, "sigma_min 9 must be below sigma_max 1"),
    "sigma_max nan": ("", {"sigma_max": math.nan}, "sigma_max must be a finite number"),
}


@pytest.mark.parametrize("name", LIES)
def test_networks_with_other_formulas_are_refused(name, tiny, monkeypatch):
    path, lie, message = LIES[name]
    monkeypatch.setattr(forge, "Forge", type("Lying", (Changed,), {"path": path, "lie": lie}))
    with pytest.raises(CheckpointError, match=message):
        load(forge.snapshot(tiny))


def test_weights_that_do_not_fit_are_named(tiny, snapshot):
    other = build_network(TINY | {"channel_mult_emb": 2}, seed=0)
    kwargs = forge.Forge(tiny).kwargs
    with pytest.raises(
        CheckpointError, match=r"tensors of the wrong shape: model.dec.*\(file \[4, 8\], network \[4, 16\]\)"
    ):
        load(forge.snapshot(other, kwargs=kwargs))
    for value in (math.nan, math.inf):
        bad = build_network(TINY, seed=0)
        bad.model.map_layer0.weight[0, 0] = value
        with pytest.raises(CheckpointError, match=r"1 tensors not finite .NaN or Inf.: model.map_layer0.weight"):
            load(forge.snapshot(bad))
    whole = build_network(TINY, seed=0)
    whole.model.map_layer0.weight.data = whole.model.map_layer0.weight.to(torch.int32)
    with pytest.raises(CheckpointError, match=r"1 tensors not floating point: model.map_layer0.weight"):
        load(forge.snapshot(whole))
    half = build_network(TINY, seed=0).half()
    half.model.dec["4x4_in0"].conv1.weight.data = half.model.dec["4x4_in0"].conv1.weight.double()
    mine = load(forge.snapshot(half)).state_dict()
    assert all(torch.equal(mine[n], t.float()) and mine[n].dtype == torch.float32 for n, t in half.state_dict().items())


def test_noise_levels_have_to_fall():
    network = made("iDDPMPrecond", "ddpm++", 0)
    network.u[3] = network.u[2]
    with pytest.raises(CheckpointError, match="the noise levels u do not fall to 0"):
        load(forge.snapshot(network))


def test_a_config_cannot_ask_for_memory(tiny, monkeypatch):
    """A file of 36 kB says that its network has 10^10 weights: shapes are compared before any of them is made."""
    from restart_sampling.models.files.pickles import networks

    seen = []
    build = networks.build_network
    monkeypatch.setattr(networks, "build_network", lambda config: seen.append(build(config)) or seen[-1])
    kwargs = {**forge.Forge(tiny).kwargs, "model_channels": 4096, "num_blocks": 32}
    with pytest.raises(CheckpointError, match="tensors missing"):
        load(forge.snapshot(tiny, kwargs=kwargs))
    assert sum(p.numel() for p in seen[0].parameters()) > 10**10
    assert all(p.is_meta for p in seen[0].parameters())


# The original


@pytest.mark.skipif(
    "RESTART_EDM_CHECKOUT" not in os.environ, reason="RESTART_EDM_CHECKOUT names no checkout of NVlabs/edm"
)
@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_snapshots_of_the_original_code(tmp_path, class_name, kind):
    """Needs a checkout of NVlabs/edm (or a fork) on this machine: its own pickle, and its own outputs in float32."""
    code = f"""
import pickle, sys, torch
sys.path.insert(0, {os.environ["RESTART_EDM_CHECKOUT"]!r})
from training import networks
torch.manual_seed(0)
arguments = dict({ARCHITECTURES[kind]!r}, img_resolution=16, img_channels=3, label_dim=4, augment_dim=9)
network = getattr(networks, {class_name!r})(**arguments).eval().requires_grad_(False)
for p in network.parameters():
    p.add_(0.05 * torch.randn_like(p))
x, sigma = torch.randn(2, 3, 16, 16), torch.tensor(1.7)
labels = torch.eye(4)[[1, 3]]
sigma = network.round_sigma(sigma)
torch.save(dict(x=x, sigma=sigma, labels=labels, D=network(x, sigma, labels)), {str(tmp_path / "expected.pt")!r})
pickle.dump(dict(ema=network), open({str(tmp_path / "x.pkl")!r}, "wb"))
torch.save(dict(net=network), {str(tmp_path / "x.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = torch.load(tmp_path / "expected.pt", weights_only=True)
    for name in ("x.pkl", "x.pt"):
        denoiser = rs.load(tmp_path / name)
        with torch.no_grad():
            got = denoiser(expected["x"], float(expected["sigma"]), expected["labels"])
        want = expected["D"].double()
        assert float((got.double() - want).norm() / want.norm()) < 2e-5
        assert not any("raw" not in note for note in denoiser.info["notes"])  # the source is a known one
