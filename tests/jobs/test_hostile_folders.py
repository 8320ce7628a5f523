"""Folders and archives that were changed or made to harm: a command answers in one sentence, and nothing of another run
stays.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import restart_sampling as rs
from restart_sampling.common.errors import OutputError, RestartError
from restart_sampling.experiments.measure import image_files, user_code
from restart_sampling.experiments.measure.features import Features
from restart_sampling.experiments.measure.image_sets import open_images
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.verify import verify


def draw(out, steps=2, **options):
    denoiser = rs.Denoiser.from_function(lambda x, sigma: 0.5 * x, (1, 8, 8), name="half")
    plan = rs.Plan.build(steps=steps)
    run_job(denoiser, plan, "0-9", out, batch=8, shard_size=4, format="npz", sheets=0, **options)


def test_overwrite_without_run_json_counts_nothing_of_the_old_run(tmp_path):
    """Its manifest would say that the shards of the new plan are finished, with the samples of the old one."""
    draw(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(OutputError, match=r"but not its run\.json, so --overwrite does not know what to remove"):
        draw(tmp_path, steps=3, overwrite=True)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("seeds", ["0-9223372036854775805", "9-3", "4-9223372036854775805:7"])
def test_overwrite_follows_no_line_of_seeds_that_are_not_its_shards(seeds, tmp_path):
    draw(tmp_path)
    path = tmp_path / "manifest-0.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[1]["seeds"] = seeds
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    draw(tmp_path, overwrite=True)
    *_, (_, report) = verify(tmp_path)
    assert report.exit_code == 0 and report.images == 10


# --- archives and pictures to score ------------------------------------------------------------------------------


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claim(shape, dtype="|u1"):
    """An .npy file that claims an array and holds 100 bytes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + bytes(100)


def packed(path, **members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, damage=None, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    if damage is not None:
        content = bytearray(path.read_bytes())
        content[damage : damage + 4] = b"\xff" * 4
        path.write_bytes(content)
    return path


def table(path, shape="1,8,8", **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns).replace_schema_metadata({"shape": shape}), path)
    return path


def picture(folder, content, labels=None):
    folder.mkdir()
    (folder / "a.png").write_bytes(content)
    if labels is not None:
        (folder / "dataset.json").write_text(labels)
    return folder


def png(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


ROW = [[0.0] * 64] * 2
BLACK = np.zeros((9, 8, 8, 1), np.uint8)
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"  # Pillow would start Ghostscript
HOSTILE = {
    "npz: deflate data damaged": (lambda t: zipped(t / "a.npz", 39, arr_0=npy(BLACK)), "cannot be read"),
    "npz: an image of a terabyte": (
        lambda t: zipped(t / "a.npz", arr_0=claim((2, 10**6, 10**6, 1))),
        "claims images of",
    ),
    "npz: a negative size": (lambda t: zipped(t / "a.npz", arr_0=claim((2, -8, 8, 1))), "claims images of"),
    "npz: images of no bytes": (lambda t: zipped(t / "a.npz", arr_0=claim((10**12, 8, 0, 1))), "claims images of"),
    "tar: a header that ends early": (lambda t: packed(t / "a.tar", a_npy=claim("(1, 8")), "cannot be read"),
    "tar: an array of a terabyte": (lambda t: packed(t / "a.tar", a_npy=claim((1, 10**6, 10**6))), "claims images of"),
    "parquet: a class that is a dict": (
        lambda t: table(t / "a.parquet", sample=ROW, label=[{"a": 1}] * 2),
        "has the class",
    ),
    "parquet: a class that is NaN": (
        lambda t: table(t / "a.parquet", sample=ROW, label=[float("nan")] * 2),
        "has the class",
    ),
    "parquet: a class of 2^40": (lambda t: table(t / "a.parquet", sample=ROW, label=[2**40] * 2), "has the class"),
    "parquet: a class of 1.5": (lambda t: table(t / "a.parquet", sample=ROW, label=[1.5] * 2), "has the class"),
    "parquet: a sample that is a dict": (lambda t: table(t / "a.parquet", sample=[{"a": 1}] * 2), "cannot be read"),
    "a picture of another kind": (lambda t: picture(t / "d", png("PPM")), "is not a picture that can be read"),
    "a picture that is a program": (lambda t: picture(t / "d", PROGRAM), "is not a picture that can be read"),
    "labels that are infinite": (
        lambda t: picture(t / "d", png(), '{"labels": [["a.png", 1e999]]}'),
        "does not hold labels",
    ),
    "a label of 10^20": (
        lambda t: picture(t / "d", png(), '{"labels": [["a.png", 100000000000000000000]]}'),
        "has the class",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_harms_is_refused_in_a_sentence(name, tmp_path):
    make, message = HOSTILE[name]
    with pytest.raises(OutputError, match=message) as caught:
        list(open_images(make(tmp_path)).batches())
    assert len(str(caught.value)) < 400


def test_a_member_that_is_no_image_by_its_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "LARGEST", 1000)
    with pytest.raises(OutputError, match="has 1,001 bytes; an image has at most"):
        list(open_images(packed(tmp_path / "a.tar", a_png=bytes(1001))).batches())


@pytest.mark.parametrize("kind, suffix", [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp")])
def test_the_pictures_that_are_named_are_read(kind, suffix, tmp_path):
    (tmp_path / f"a.{suffix}").write_bytes(png(kind))
    ((images, labels),) = open_images(tmp_path).batches()
    assert images.shape[2:] == (8, 8) and labels.tolist() == [-1]


def test_whole_numbers_are_classes_however_they_are_kept(tmp_path):
    for label in ([3, 0], [3.0, 0.0], ["3", "0"]):
        ((_, labels),) = open_images(table(tmp_path / "a.parquet", sample=ROW, label=label)).batches()
        assert labels.tolist() == [3, 0]


USER = {
    "an exception of its own": ("class E(Exception): pass\nraise E('no')", "cannot be made: E: no"),
    "a call that stops": ("def F(): raise StopIteration", "cannot be made: StopIteration"),
    "no memory": ("def F(): raise MemoryError", "cannot be made: MemoryError"),
    "features of no width": (
        "class F(nn.Module):\n def forward(self, x): return x.float().flatten(1)[:, :0]",
        "must map",
    ),
    "complex features": ("class F(nn.Module):\n def forward(self, x): return x.flatten(1) * 1j", "must map"),
}


@pytest.mark.parametrize("name", USER)
def test_features_of_a_user_that_fail_are_one_sentence(name, tmp_path):
    code, message = USER[name]
    (tmp_path / "mine.py").write_text(f"from torch import nn\n{code}\n")
    with pytest.raises(RestartError, match=message):
        Features(*user_code.load(f"{tmp_path / 'mine.py'}:F"), torch.zeros(1, 8, 8, dtype=torch.uint8))
