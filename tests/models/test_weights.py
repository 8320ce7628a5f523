"""Files of networks: what goes in comes out, and everything else is refused with a sentence that says why."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from safetensors.torch import load as parse
from safetensors.torch import save as to_bytes

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network, load_safetensors, save_safetensors
from restart_sampling.models.files.weights import KEY, load_weights

CONFIG = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "sigma_data": 0.7,
}
CARD = {"name": "test", "classes": ["a", "b", "c"], "σ": 0.25, "nested": {"x": [1, None, True]}}


@pytest.fixture
def network():
    return build_network(CONFIG, seed=0)


@pytest.fixture
def path(tmp_path, network):
    file = tmp_path / "net.safetensors"
    save_safetensors(file, network, CARD)
    return file


def rewritten(path, change, config=CONFIG, metadata=None):
    """`path` with its tensors passed through `change` and its metadata replaced."""
    tensors = change(dict(parse(path.read_bytes())))
    meta = {KEY: json.dumps({"format": 1, "config": config, "card": {}})} if metadata is None else metadata
    path.write_bytes(to_bytes(tensors, metadata=meta))
    return path


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as info:
        load_safetensors(path)
    assert str(path) in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path, network, dtype):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, network, CARD, dtype)
    loaded, card = load_safetensors(path)
    assert card == CARD and loaded.config == network.config and not loaded.training
    for name, tensor in network.state_dict().items():
        mine = loaded.state_dict()[name]
        assert mine.dtype == torch.float32 and torch.equal(mine, tensor.to(dtype).float()), name
    assert not any(p.requires_grad for p in loaded.parameters())


def test_channels_last_networks_are_stored_alike(tmp_path, path, network):
    other = tmp_path / "other.safetensors"
    save_safetensors(other, network.to(memory_format=torch.channels_last), CARD)
    assert other.read_bytes() == path.read_bytes()


def test_noise_levels_of_iddpm_are_not_rounded(tmp_path):
    config = {k: v for k, v in CONFIG.items() if k != "sigma_data"} | {"class_name": "iDDPMPrecond"}
    network = build_network(config, seed=0)
    save_safetensors(tmp_path / "n.safetensors", network, {})
    assert torch.equal(load_safetensors(tmp_path / "n.safetensors")[0].u, network.u)
    assert not torch.equal(network.u.half().float(), network.u)


def test_loaded_weights_do_not_hang_on_the_file(path):
    loaded, _ = load_safetensors(path)
    before = {n: t.clone() for n, t in loaded.state_dict().items()}
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(t, before[n]) for n, t in loaded.state_dict().items())


def test_saving_replaces_in_one_step_and_leaves_nothing_else(tmp_path, path, network, monkeypatch):
    before = path.read_bytes()

    def no_replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_replace)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space left"):
        save_safetensors(path, build_network(CONFIG, seed=1), CARD)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_saving_refuses_what_could_not_be_loaded(tmp_path, network):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="plain JSON"):
        save_safetensors(path, network, {"score": float("nan")})
    with pytest.raises(CheckpointError, match="plain JSON"):
        save_safetensors(path, network, {"when": object()})
    with pytest.raises(CheckpointError, match="dtype must be one of"):
        save_safetensors(path, network, {}, torch.int8)
    network.model.map_layer0.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"1 tensors not finite in torch.float16: model.map_layer0.weight"):
        save_safetensors(path, network, {})
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_safetensors(tmp_path / "absent" / "x.safetensors", network, {}, torch.float32)
    assert os.listdir(tmp_path) == []


def test_files_that_are_something_else(tmp_path):
    file = tmp_path / "m.safetensors"
    refused(file, "no such file")
    refused(tmp_path, "is a folder")
    for content, message in {
        b"": "the file is empty",
        b"\n <!DOCTYPE html><html>not found</html>": "a web page, not weights",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "Git LFS pointer",
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}": "pickle or torch.save",
        b"PK\x03\x04" + b"\0" * 60: "pickle or torch.save",
        b"abc": "not a safetensors file",
        b"\xff" * 64: "not a safetensors file",
        (5).to_bytes(8, "little") + b"[1,2]" + b"\0" * 9: "not a safetensors file",
        (20).to_bytes(8, "little") + b"[" * 20: "not a safetensors file",
    }.items():
        file.write_bytes(content)
        refused(file, message)


def test_every_truncation_is_refused_with_the_sizes(path):
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (1, 7, 8, 100, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        message = refused(path, "incomplete|not a safetensors file")
        if size >= header:
            assert f"expected {len(whole)} bytes, has {size}" in message
    path.write_bytes(whole + b"\0")
    refused(path, "(?i)incomplete|invalid|not|error")  # bytes too many: the parser's own words


def test_metadata(path):
    for metadata, message in [
        ({}, "no 'restart_sampling' entry"),
        ({KEY: "{"}, "is not JSON"),
        ({KEY: "[" * 100_000}, "is not JSON"),
        ({KEY: "[]"}, "not supported"),
        ({KEY: '{"format": 2, "config": {}, "card": {}}'}, "format '2'"),
        ({KEY: '{"format": 1, "config": {}, "card": 3}'}, "not supported"),
        ({KEY: '{"format": 1, "config": {}, "card": {"a": NaN}}'}, "NaN is not allowed"),
        ({KEY: '{"format": 1, "card": {}}'}, "class_name must be one of"),
        ({KEY: json.dumps({"format": 1, "config": {**CONFIG, "num_blocks": 10**9}, "card": {}})}, "num_blocks"),
    ]:
        refused(rewritten(path, dict, metadata=metadata), message)


def test_missing_unexpected_and_misshaped_tensors(path):
    whole = path.read_bytes()
    message = refused(rewritten(path, lambda t: {n: v for n, v in t.items() if ".enc." not in n}), "tensors missing")
    count = int(re.search(r"(\d+) tensors missing", message).group(1))
    assert count > 20 and message.count("model.enc.") == 20 and message.endswith(f"and {count - 20} more")
    names = re.findall(r"model\.[\w.]+", message)
    assert names == sorted(names)

    path.write_bytes(whole)
    refused(rewritten(path, lambda t: t | {"extra": torch.zeros(1)}), "1 tensors unexpected: extra")
    path.write_bytes(whole)
    name = "model.map_layer0.bias"
    refused(
        rewritten(path, lambda t: t | {name: torch.zeros(5)}), r"wrong shape: .*bias \(file \[5\], network \[32\]\)"
    )


def test_wrong_numbers(path):
    whole = path.read_bytes()
    name = "model.map_layer0.bias"
    for value in (float("nan"), float("inf")):
        refused(rewritten(path, lambda t, v=value: t | {name: t[name] + v}), f"not finite.*: {name}$")
        path.write_bytes(whole)
    refused(rewritten(path, lambda t: t | {name: t[name].to(torch.int32)}), r"not floating point: .*torch.int32")
    path.write_bytes(whole)
    other = {**CONFIG, "resample_filter": [1, 3]}  # the config is checked too
    refused(rewritten(path, dict, config=other), "resample_filter must be symmetric")
    path.write_bytes(whole)
    name = "model.enc.4x4_down.conv0.resample_filter"
    refused(rewritten(path, lambda t: t | {name: t[name] * 2}), f"not the filter that the config describes: {name}")


def test_a_refused_file_leaves_the_network_as_it_was(network):
    before = {n: t.clone() for n, t in network.state_dict().items()}
    tensors = {n: torch.zeros_like(t) for n, t in before.items()}
    tensors["model.dec.8x8_aux_conv.bias"] = torch.full((1,), float("nan"))
    with pytest.raises(CheckpointError, match="here: 1 tensors not finite"):
        load_weights(network, tensors, "here")
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("begins", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"])
def test_a_header_whose_length_begins_as_a_pickle_does(tmp_path, network, begins):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, network, {"fill": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    wanted = int.from_bytes(begins, "little") + (1 << 16)  # the length that is written as `begins`, 1, 0, …
    save_safetensors(path, network, {"fill": "x" * (wanted - short)})
    whole = path.read_bytes()
    assert whole.startswith(begins) and int.from_bytes(whole[:8], "little") == wanted
    assert rs.load(path).info["card"]["fill"].startswith("xxx")
    path.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=f"incomplete: expected {len(whole)} bytes, has {len(whole) - 10}"):
        rs.load(path)


def test_the_hash_of_weights_is_of_memory():
    """It follows a weight that was changed after loading, which the file's hash does not; a function has none."""
    den = rs.load("fashion-mnist")
    before = den.weights_sha256()
    assert before.startswith("6fb149cb11e6")  # as `restart-sampling models inspect` prints it
    parameter = den.parameters[0]
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-3
    assert den.weights_sha256() != before
    assert den.info["sha256"] == rs.load("fashion-mnist").info["sha256"]
    assert rs.Denoiser.from_function(lambda x, sigma: x, shape=(1, 2, 2)).weights_sha256() == ""
