"""Model files from the outside: `convert`, `models inspect`, and one sentence for everything that is not a model."""

from __future__ import annotations

import hashlib
import json
import os
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from support import pickle_forge as forge

import restart_sampling as rs
from restart_sampling.cli.app import main
from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.files.weights import KEY
from restart_sampling.models.tensors import tensors_sha256

CONFIG = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "sigma_min": 0.001,
    "sigma_data": 0.7,
}
IDDPM = {k: v for k, v in CONFIG.items() if k != "sigma_data"} | {
    "class_name": "iDDPMPrecond",
    "M": 40,
    "sigma_min": 0.0064,
    "sigma_max": 2e4,
}
PFGM = CONFIG | {"pfgmpp": True, "D": 2048}


def run(arguments, capsys):
    try:
        main([str(a) for a in arguments])
        code = 0
    except SystemExit as exit:
        code = exit.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "edm-test.pkl"
    path.write_bytes(forge.snapshot(build_network(CONFIG, seed=0)))
    return path


@pytest.mark.parametrize("config", [CONFIG, IDDPM, PFGM], ids=["edm", "iddpm", "pfgm++"])
@pytest.mark.parametrize("form", ["pkl", "pt"])
def test_a_converted_file_is_the_same_network(tmp_path, capsys, config, form):
    network = build_network(config, seed=0)
    source, target = tmp_path / f"x.{form}", tmp_path / "x.safetensors"
    source.write_bytes((forge.snapshot if form == "pkl" else forge.training_state)(network))
    code, out, err = run(["convert", source, target], capsys)
    assert code == 0, err
    digest = tensors_sha256(network.state_dict())
    assert all(d in out for d in (sha256(source), sha256(target), digest))
    old, new = rs.load(source), rs.load(target)
    for name, t in old.network.state_dict().items():
        other = new.network.state_dict()[name]
        assert other.dtype == torch.float32 and torch.equal(other, t), name
    x, labels = torch.randn(2, 1, 8, 8), torch.eye(3)[:2]
    sigma = float(old.parameterization.round_sigma(torch.tensor(1.5, dtype=torch.float64).numpy()))
    with torch.no_grad():
        assert torch.equal(old(x, sigma, labels), new(x, sigma, labels))
    assert new.network.config == old.network.config
    assert (new.augmented_dim, new.info["pfgmpp_D"]) == ((2048, 2048) if config is PFGM else (None, None))
    assert new.parameterization.sigma_min == config["sigma_min"]
    assert new.info["notes"] == old.info["notes"] and new.info["notes"]
    with safe_open(target, framework="pt") as file:
        card = json.loads(file.metadata()[KEY])["card"]
    assert card["source"]["sha256"] == sha256(source) and card["source"]["file"] == source.name
    assert card["tensors_sha256"] == digest and "ask its publisher" in card["licence"]["weights"]
    assert tmp_path.as_posix() not in json.dumps(card)  # no path of this machine goes into a file that may travel


def test_samples_of_a_checkpoint(source):
    plan = rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
    x = rs.sample(rs.load(source), plan, seeds=range(3))
    assert x.shape == (3, 1, 8, 8) and torch.isfinite(x).all()


def test_nothing_is_overwritten_unasked(tmp_path, source, capsys):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"mine")
    code, _, err = run(["convert", source, target], capsys)
    assert code == 2 and "exists already; give --overwrite" in err and target.read_bytes() == b"mine"
    code, _, err = run(["convert", source, target, "--overwrite"], capsys)
    assert code == 0 and rs.load(target).label_dim == 3


def test_a_failed_conversion_leaves_nothing(tmp_path, source, capsys, monkeypatch):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"mine")

    def no_replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_replace)
    code, _, err = run(["convert", source, target, "--overwrite"], capsys)
    assert code == 2 and "No space left" in err
    assert target.read_bytes() == b"mine" and sorted(os.listdir(tmp_path)) == [source.name, target.name]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no.pkl", "x.safetensors"], "no model file"),
        (["edm-test.pkl", "x.pkl"], "its name must end in .safetensors"),
        (["edm-test.pkl", "absent/x.safetensors"], "in one that does not exist"),
        (["edm-test.pkl", "folder.safetensors"], "is a folder"),
        (["own.safetensors", "x.safetensors"], "safetensors file of this package already"),
        (["edm-test.pkl", "edm-test.pkl"], "its name must end in .safetensors"),
        (["cut.pkl", "x.safetensors"], "the file is incomplete"),
    ],
)
def test_bad_requests(tmp_path, source, capsys, arguments, message):
    from restart_sampling.models import save_safetensors

    save_safetensors(tmp_path / "own.safetensors", build_network(CONFIG, seed=0), {})
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "cut.pkl").write_bytes(source.read_bytes()[:-1000])
    extra = ["--overwrite"] if arguments[1] == "folder.safetensors" else []
    code, _, err = run(["convert", *(tmp_path / a for a in arguments), *extra], capsys)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()


def test_inspect_says_what_is_inside(tmp_path, source, capsys):
    code, out, _ = run(["models", "inspect", source], capsys)
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    network = build_network(CONFIG, seed=0)
    assert rows["kind"] == "snapshot (pickle), network under ema"
    assert rows["class"] == "EDMPrecond (edm preconditioning)"
    assert rows["network"].startswith("DDPM++ (SongUNet), 8 channels × [1, 2]")
    assert rows["sample"] == "1 × 8 × 8" and rows["labels"] == "3" and rows["sigma"] == "0.001 .. inf"
    assert rows["parameters"].startswith(f"{sum(p.numel() for p in network.parameters()):,} in")
    assert rows["code"] == f"unknown, SHA-256 {hashlib.sha256(forge.SOURCE.encode()).hexdigest()}"
    assert rows["sha256"] == sha256(source) and rows["tensors"] == f"SHA-256 {tensors_sha256(network.state_dict())}"
    assert rows["D"] == "none (diffusion)" and rows["loadable"] == "yes"
    assert "not a known version" in rows["note"]

    source.write_bytes(forge.training_state(build_network(PFGM, seed=0), key="ema"))
    code, out, _ = run(["models", "inspect", source], capsys)
    assert code == 0 and "training state (torch.save), network under ema" in out and "2048 (PFGM++)" in out
    target = tmp_path / "x.safetensors"
    assert run(["convert", source, target], capsys)[0] == 0
    code, out, _ = run(["models", "inspect", target], capsys)
    assert code == 0 and "safetensors of restart-sampling" in out and "file: edm-test.pkl" in out
    code, out, _ = run(["models", "inspect", "fashion-mnist"], capsys)
    assert code == 0 and "28 × 28" in out
    code, out, _ = run(["models", target], capsys)
    assert code == 0 and "note        the source text" in out


def test_inspect_of_what_cannot_be_loaded(tmp_path, capsys):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"ema": forge.Call("os.system", ("true",))}))
    code, out, _ = run(["models", "inspect", path], capsys)
    assert code == 1 and sha256(path) in out
    assert "loadable    no: byte " in out and "refused the global os.system" in out
    code, _, err = run(["models", "inspect", tmp_path / "absent.pkl"], capsys)
    assert code == 2 and "no model file" in err
    code, _, err = run(["models", "inspect"], capsys)
    assert code == 2 and "needs a file" in err
    code, _, err = run(["models", "fashion-mnist", path], capsys)
    assert code == 2 and "one name" in err


def pickled(value, protocol=4):
    return forge.Emitter(protocol).pickle(value)


def zipped(content):
    return forge.archive(content, {})


KEYS = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
ELSE = {
    "empty": ("x.pkl", b"", "the file is empty"),
    "web page": ("x.pkl", b"<!DOCTYPE html><html></html>", "this is a web page, not weights"),
    "login page": ("x.safetensors", b"\n<html>log in</html>", "this is a web page, not weights"),
    "Git LFS": (
        "x.pkl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer, not weights",
    ),
    "text": ("x.pkl", b"hello", "not a pickle of protocol 2 to 5, and not a torch.save file"),
    "protocol 0": ("x.pkl", b"(dp0\nS'ema'\np1\nNs.", "not a pickle of protocol 2 to 5"),
    "something": ("x.weights", b"\0" * 99, "not a safetensors file"),
    "old torch.save": (
        "x.pt",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        "torch.save's old format",
    ),
    "StyleGAN": (
        "x.pkl",
        pickled({"G": None, "D": None, "G_ema": None}),
        "neither ema nor net.*its keys are D, G, G_ema",
    ),
    "Stable Diffusion .ckpt": (
        "sd.ckpt",
        zipped(pickled({"state_dict": {}, "global_step": 1}, 2)),
        "its keys are global_step, state_dict; .*diffusers",
    ),
    "lightning .ckpt": (
        "sd.ckpt",
        zipped(pickled({"callbacks": forge.Call("pytorch_lightning.callbacks.ModelCheckpoint")}, 2)),
        "refused the global pytorch_lightning.callbacks.ModelCheckpoint.*diffusers",
    ),
    "a state dict": ("x.pth", zipped(pickled({"conv.weight": 1}, 2)), "its keys are conv.weight"),
    "another zip": ("x.npz", b"PK\x05\x06" + b"\0" * 18, "not a safetensors file|without a data.pkl"),
    "somebody's safetensors": (
        "x.safetensors",
        save({"weight": torch.zeros(1)}),
        "no 'restart_sampling' entry.*`restart-sampling convert`",
    ),
    "Stable Diffusion safetensors": (
        "x.safetensors",
        save(KEYS),
        "Stable Diffusion or diffusers file: load it with config=FOLDER",
    ),
    "PyTorch zip cut": ("x.pt", zipped(b"\x80\x02N.")[:-30], "the file is incomplete"),
}


@pytest.mark.parametrize("name", ELSE)
def test_files_that_are_something_else(tmp_path, name):
    file, content, message = ELSE[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as info:
        rs.load(path)
    assert str(info.value).startswith(str(path)) and "\n" not in str(info.value)


def test_places_where_no_file_is(tmp_path):
    for source, message in {
        "https://host/edm.pkl": "nothing is downloaded",
        tmp_path: "is a folder; give the model file in it",
        tmp_path / "absent.pkl": "no model file",
        "fashion-mnits": "did you mean 'fashion-mnist'",
        tmp_path / ("x" * 300): "cannot be read",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            rs.load(source)
    loop = tmp_path / "loop.pkl"
    loop.symlink_to(loop)
    with pytest.raises(CheckpointError, match="cannot be read"):
        rs.load(loop)
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(CheckpointError, match="is not a regular file"):  # and does not wait for a writer
        rs.load(tmp_path / "pipe.pkl")
    if os.geteuid():
        secret = tmp_path / "secret.pkl"
        secret.write_bytes(b"x")
        secret.chmod(0)
        with pytest.raises(CheckpointError, match=r"cannot be read .Permission denied"):
            rs.load(secret)


def test_every_truncation_says_so(source):
    whole = source.read_bytes()
    for size in (3, 50, 1000, len(whole) // 2, len(whole) - 1):
        source.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"byte \d+: the file is incomplete"):
            rs.load(source)


def test_the_hash_of_tensors_goes_by_name_shape_and_bits():
    a, b = torch.ones(2, 3), torch.zeros(4)
    one = tensors_sha256({"a": a, "b": b})
    assert one == tensors_sha256({"b": b, "a": a.contiguous(memory_format=torch.contiguous_format)})
    assert one == tensors_sha256({"a": torch.ones(3, 2).T, "b": b})
    others = [{"a": a.T, "b": b}, {"a": a, "c": b}, {"a": a.double(), "b": b}, {"a": a, "b": -b}, {"a": a}]
    assert len({one, *map(tensors_sha256, others)}) == 6
    text = b"".join(
        json.dumps([n, "torch.float32", list(t.shape)]).encode() + struct.pack(f"<{t.numel()}f", *t.flatten().tolist())
        for n, t in (("a", a), ("b", b))
    )
    assert one == hashlib.sha256(text).hexdigest()
