"""Files of ours that chance has changed: arrays, rows, checkpoints. A sentence, or as if the file were not there."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, RestartError
from restart_sampling.experiments.datasets import load_images
from restart_sampling.experiments.measure import evaluator, rows
from restart_sampling.experiments.measure import image_cache as images
from restart_sampling.experiments.measure.extractors import load_classifier, load_extractor
from restart_sampling.jobs.formats.registry import find
from restart_sampling.models import build_network, registry, save_safetensors
from restart_sampling.models.inspection import inspect

SMALL = dict(
    class_name="EDMPrecond",
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    label_dim=0,
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[],
)


def mutants(content, n, seed):
    """`content` with bytes flipped, cut out, doubled, or its end gone."""
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 8])):
            if not data:
                break
            at = rng.randrange(len(data))
            how = rng.randrange(4)
            if how == 0:
                data[at] = rng.randrange(256)
            elif how == 1:
                del data[at : at + rng.randrange(1, 9)]
            elif how == 2:
                data[at:at] = data[at : at + 8]
            else:
                del data[max(1, at) :]
        yield bytes(data)


def test_arrays(tmp_path, trials):
    """Every reader of an .npz: the bench's images, references, training data and verify."""
    path, pixels = tmp_path / "a.npz", np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    compressed, plain = io.BytesIO(), io.BytesIO()
    arrays = dict(
        images=pixels, labels=np.arange(4), arr_0=pixels.transpose(0, 2, 3, 1), mu=np.zeros(3), sigma=np.eye(3)
    )
    np.savez_compressed(compressed, **arrays)
    np.savez(plain, **arrays)
    whole = 0
    for content in [
        *mutants(compressed.getvalue(), 250, trials.start(1)),
        *mutants(plain.getvalue(), 250, trials.start(2)),
        b"",
        b"PK",
        pixels.tobytes(),
    ]:
        path.write_bytes(content)
        found = images.read(path, 4, (1, 8, 8))
        whole += found is not None
        for read, error in (
            (lambda: evaluator.load_reference(path), RestartError),
            (lambda: load_images(str(path)), RestartError),
            (lambda: find("npz").check(path), ValueError),
        ):
            try:
                read()
            except error as problem:
                assert "Traceback" not in str(problem)
    assert 0 < whole < 500
    np.save(path.with_suffix(".npy"), pixels)
    shutil.move(path.with_suffix(".npy"), path)
    assert images.read(path, 4, (1, 8, 8)) is None
    with pytest.raises(CheckpointError, match="cannot read the reference"):
        evaluator.load_reference(path)


@pytest.mark.parametrize(
    "line", ["[" * 100_000 + "]" * 100_000, '{"fd": 1e999}', '{"sampler": "\\ud800"}', '{"fd": NaN}']
)
def test_rows(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows.append(path, {"fd": 1.0})
    with path.open("a") as file:
        file.write(line + "\n")
    rows.append(path, {"fd": 2.0})
    with pytest.warns(UserWarning, match=r"rows.jsonl, line 2 is not a row"):
        assert [row["fd"] for row in rows.read(path)] == [1.0, 2.0]


MEASURING = {"fashion-mnist-classifier": load_classifier, "fashion-mnist-patches": load_extractor}


@pytest.mark.parametrize("name", MEASURING)
def test_classifiers_and_extractors(tmp_path, name, trials):
    path = tmp_path / "c.safetensors"
    content = (registry.DATA / f"{name}.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    refused = 0
    for header in mutants(content[8 : 8 + length], 60, trials.start(3)):
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
        try:
            MEASURING[name](path)
        except CheckpointError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("name", MEASURING)
@pytest.mark.parametrize("card", ["[" * 100_000, '{"architecture": "patches", "x": 1e999}', '["patches"]'])
def test_cards_of_classifiers_and_extractors(tmp_path, name, card):
    """What JSON allows and later code cannot use: nesting without end, infinity, a list in place of an object."""
    with safe_open(registry.DATA / f"{name}.safetensors", framework="pt") as file:
        (key,) = file.metadata()
        tensors = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118 (not a dict)
    save_file(tensors, tmp_path / "c.safetensors", metadata={key: card})
    with pytest.raises(CheckpointError, match="of this package"):
        MEASURING[name](tmp_path / "c.safetensors")


class Counting:
    """In place of hashlib: how many bytes were hashed."""

    def __init__(self):
        self.bytes = 0

    def sha256(self, data=b""):
        outer, real = self, hashlib.sha256(data)
        self.bytes += len(data)

        class Digest:
            def update(self, more):
                outer.bytes += len(more)
                real.update(more)

            def hexdigest(self):
                return real.hexdigest()

        return Digest()


SPARSE = 1 << 30  # bytes that are promised and take no room


@pytest.mark.parametrize(
    "name, head",
    [
        ("a.pkl", b"\x80\x04\xff"),
        ("b.pkl", b"\x00\x00"),
        ("c.pt", b"PK\x03\x04"),
        ("d.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("e.safetensors", b"\0" * 8),
    ],
)
def test_what_is_refused_by_its_first_bytes_is_not_read(name, head, tmp_path, monkeypatch):
    path, counting = tmp_path / name, Counting()
    with path.open("wb") as file:
        file.write(head)
        file.truncate(SPARSE)
    monkeypatch.setattr(registry, "hashlib", counting)
    with pytest.raises(CheckpointError):
        rs.load(path)
    found = inspect(path)
    assert found.problem and dict(found.rows)["sha256"] == "not computed: over 64 MiB"
    assert counting.bytes == 0


def test_somebody_else_s_safetensors_file_is_refused_by_its_header(tmp_path, monkeypatch):
    header = json.dumps({"unet.w": {"dtype": "F32", "shape": [SPARSE // 4], "data_offsets": [0, SPARSE]}}).encode()
    path, counting = tmp_path / "sd.safetensors", Counting()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + SPARSE)
    monkeypatch.setattr(registry, "hashlib", counting)
    with pytest.raises(CheckpointError, match="Stable Diffusion"):
        rs.load(path)
    assert counting.bytes == 0


def test_a_model_that_is_loaded_has_the_hash_of_the_whole_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, build_network(SMALL, seed=0), {}, torch.float32)
    want = hashlib.sha256(path.read_bytes()).hexdigest()
    assert rs.load(path).info["sha256"] == want
    monkeypatch.setattr(registry, "BLOCK", 1000)  # many blocks, the last one cut
    assert rs.load(path).info["sha256"] == want
