"""Pictures as JPEG and WebP, of a quality, in every format that holds pictures: read by Pillow, equal to the byte."""

from __future__ import annotations

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin
from support import killing
from support.commands import run
from support.stored import PLAN, SEEDS, Network, draw, report

import restart_sampling as rs
from restart_sampling.common.errors import OutputError
from restart_sampling.jobs.formats.encodings.registry import ENCODINGS
from restart_sampling.jobs.formats.registry import storage
from restart_sampling.jobs.workers import Worker

KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
WAYS = [("jpg", {}), ("webp", {}), ("wds", {"encoding": "jpg", "quality": 70}), ("wds", {"encoding": "webp"})]
WAYS += [("parquet", {"encoding": "webp", "quality": 100}), ("jpg", {"metadata": "text,json"})]


def scene(channels=3, height=40, width=56):
    """A smooth picture, as photographs are, uint8 [H, W, C]."""
    y, x = np.mgrid[:height, :width] / 16
    waves = [np.sin(x + c) * np.cos(y * (1 + 0.2 * c)) for c in range(channels)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def pictures(out, format):
    """The pictures of a job in order of seeds, as files."""
    folder = out / "samples"
    if format == "wds":
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name.endswith(tuple(KINDS)):
                        yield archive.extractfile(member).read()
    elif format == "parquet":
        import pyarrow.parquet as pq

        for path in sorted(folder.glob("*.parquet")):
            for row in pq.read_table(path)["image"].to_pylist():
                assert re.fullmatch(r"[0-9]{6}\.(png|jpg|webp)", row["path"])
                yield row["bytes"]
    else:
        yield from (path.read_bytes() for path in sorted(folder.rglob(f"*.{format}")))


# --- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoding_is_what_its_name_says_and_gives_equal_bytes(name, channels):
    image, encoding = scene(channels), ENCODINGS[name]
    content = encoding.encode(image, encoding.quality, None)
    assert opened(content).format == KINDS[name]
    assert content == encoding.encode(image, encoding.quality, None)
    found = np.asarray(opened(content).convert("L" if channels == 1 else "RGB")).reshape(image.shape)
    assert np.abs(found.astype(int) - image).mean() < (0.01 * 255 if encoding.quality else 1e-9)


@pytest.mark.parametrize("quality, first, sampling", [(95, 2, 0), (90, 3, 0), (89, 4, 2), (50, 16, 2), (10, 80, 2)])
def test_the_quality_of_a_jpeg_is_that_of_its_tables(quality, first, sampling):
    """The first step of luminance is 16 in Annex K of the standard; libjpeg scales it by 200 − 2q or 5000 / q percent.

    Sampling is 0 for 4:4:4 and 2 for 4:2:0.
    """
    scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
    assert first == int((16 * scale + 50) / 100)
    image = opened(ENCODINGS["jpg"].encode(scene(), quality, None))
    assert image.quantization[0][0] == first
    assert JpegImagePlugin.get_sampling(image) == sampling


def test_webp_of_100_is_lossless_and_of_99_is_not():
    noisy = np.random.default_rng(0).integers(0, 256, (33, 17, 3), np.uint8)
    assert np.array_equal(np.asarray(opened(ENCODINGS["webp"].encode(noisy, 100, None))), noisy)
    assert not np.array_equal(np.asarray(opened(ENCODINGS["webp"].encode(noisy, 99, None))), noisy)
    sizes = [len(ENCODINGS["webp"].encode(scene(), quality, None)) for quality in (20, 60, 95)]
    assert sizes == sorted(set(sizes))


# --- jobs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format, options", WAYS, ids=str)
def test_pictures_of_a_job(format, options, tmp_path):
    """Against the sampler's own result; equal bytes at other batches, by two workers, and after a stop."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    draw(tmp_path / "a", format=format, **options)
    encoding = options.get("encoding", format)
    x = rs.Sampler(Network().denoiser, PLAN, batch_size=24).run(range(24))
    want = (127.5 * x.double() + 128).clamp(0, 255).floor().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = [opened(content) for content in pictures(tmp_path / "a", format)]
    assert {image.format for image in found} == {KINDS[encoding]} and len(found) == 24
    error = np.abs(np.stack([np.asarray(image) for image in found]).astype(int) - want).mean((1, 2, 3))
    assert error.max() < 10 and (error.max() == 0) == (options.get("quality") == 100)
    assert (report(tmp_path / "a").exit_code, report(tmp_path / "a").images) == (0, 24)
    for rank in (1, 0):
        draw(tmp_path / "b", format=format, batch=11, worker=Worker(rank, 2), **options)
    assert draw(tmp_path / "c", Network(1), format=format, **options).samples == 8 * PLAN.nfe
    assert draw(tmp_path / "c", format=format, **options).samples == 16 * PLAN.nfe
    for name in "bc":
        assert killing.tree(tmp_path / name) == killing.tree(tmp_path / "a")


@pytest.mark.parametrize(
    "before, now, message",
    [
        ({"format": "jpg"}, {"format": "jpg", "quality": 90}, "quality is 95 there and 90 here"),
        ({"format": "wds"}, {"format": "wds", "encoding": "jpg"}, "encoding is null there and jpg here"),
        ({"format": "wds", "encoding": "webp"}, {"format": "wds"}, "encoding is webp there and null here"),
        ({"format": "png"}, {"format": "png", "metadata": "text"}, r'metadata is null there and \["text"\] here'),
    ],
)
def test_a_resume_that_stores_pictures_otherwise_is_refused(before, now, message, tmp_path):
    draw(tmp_path, seeds="0-3", **before)
    tree = killing.tree(tmp_path)
    with pytest.raises(OutputError, match=message):
        draw(tmp_path, seeds="0-23", **now)
    assert killing.tree(tmp_path) == tree


@pytest.mark.parametrize("format", ["png", "npz", "wds", "parquet"])
def test_defaults_leave_no_word_in_run_json(format, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    draw(tmp_path / "a", seeds="0-3", format=format)
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert not {"encoding", "quality", "metadata"} & set(record)
    if format != "npz":
        draw(tmp_path / "b", seeds="0-3", format=format, encoding="png", metadata="none")
        again = json.loads((tmp_path / "b" / "run.json").read_text())
        assert again["job_digest"] == record["job_digest"] and set(again) == set(record)


REFUSED = {
    "npz encodes nothing": (dict(name="npz", encoding="jpg"), "npz holds arrays, so there is no encoding to choose"),
    "npz has no quality": (dict(name="npz", quality=90), "there is no quality to choose; leave out --quality"),
    "npz has no text": (dict(name="npz", metadata="text"), "there is no metadata to choose"),
    "floats": (dict(name="wds", pixels="float32", encoding="png"), "float32 samples are no pictures, so there is no"),
    "unknown": (dict(name="wds", encoding="jpeg"), "encoding must be one of png, jpg, webp, got 'jpeg'; did you mean"),
    "another": (
        dict(name="png", encoding="webp"),
        "png holds png, not webp; choose --format geneval, imagefolder, wds, webp or parquet",
    ),
    "png has no quality": (dict(name="wds", quality=90), "png has no quality to choose; leave out --quality"),
    "quality 0": (dict(name="jpg", quality=0), "quality must be an integer ≥ 1, got 0"),
    "quality 101": (dict(name="jpg", quality=101), "quality must be an integer ≤ 100, got 101"),
    "quality true": (dict(name="jpg", quality=True), "quality must be an integer ≥ 1, got True"),
    "no such metadata": (dict(name="png", metadata="exif"), "metadata must be one of none, text, json, got 'exif'"),
    "json is in a tar anyway": (dict(name="wds", metadata="json"), "wds takes none or text as --metadata, got 'json'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_in_a_sentence(name):
    options, message = REFUSED[name]
    with pytest.raises(OutputError) as caught:
        storage(**options)
    assert message in str(caught.value)


def test_the_command_line_stores_repeats_and_tells(tmp_path, capsys):
    command = ["generate", "--steps", "2", "--batch", "4", "--seeds", "0-5", "--shard-size", "4", "--sheets", "0"]
    stored = ["--format", "wds", "--encoding", "jpg", "--quality", "80", "--metadata", "text"]
    assert run(capsys, *command, *stored, "--out", tmp_path / "a")[0] == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (record["encoding"], record["quality"], record["metadata"]) == ("jpg", 80, ["text"])
    code, out, _ = run(capsys, "status", tmp_path / "a")
    assert code == 0 and "format wds (jpg, quality 80, with text)" in out
    found = json.loads(run(capsys, "status", tmp_path / "a", "--json")[1])
    assert (found["encoding"], found["quality"], found["metadata"]) == ("jpg", 80, ["text"])
    assert run(capsys, "generate", "--repeat", tmp_path / "a", "--out", tmp_path / "b")[0] == 0
    assert killing.tree(tmp_path / "b") == killing.tree(tmp_path / "a")
    (tmp_path / "a" / "samples" / "shard-000001.tar").unlink()
    assert run(capsys, "verify", tmp_path / "a", "--repair")[0] == 0
    assert killing.tree(tmp_path / "b") == killing.tree(tmp_path / "a")
    # Asked for another encoding or format, a repeat does not take the quality of the recorded one with it.
    assert run(capsys, "generate", "--repeat", tmp_path / "a", "--out", tmp_path / "c", "--encoding", "png")[0] == 0
    assert run(capsys, "generate", "--repeat", tmp_path / "a", "--out", tmp_path / "d", "--format", "npz")[0] == 0
    code, _, err = run(capsys, *command, *stored[:4], "--quality", "75", "--out", tmp_path / "a")
    assert code == 2 and "quality is 80 there and 75 here" in err and err.count("\n") == 1


@pytest.mark.parametrize("changed", [{"quality": 40}, {"encoding": "webp"}, {"metadata": ["text"]}, {"encoding": []}])
def test_a_record_whose_storage_was_changed_is_refused(changed, tmp_path, capsys):
    draw(tmp_path, seeds="0-3", format="wds", encoding="jpg")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    code, _, err = run(capsys, "verify", tmp_path)
    message = "'encoding' must be one of" if changed == {"encoding": []} else "'job_digest' is that of other values"
    assert code == 2 and message in err


def test_score_reads_pictures_of_every_encoding(tmp_path):
    from restart_sampling.experiments.measure.image_sets import open_images

    for format in ("jpg", "webp"):
        draw(tmp_path / format, seeds=SEEDS, format=format, quality=100, sheets=1)
        ((images, labels),) = open_images(tmp_path / format).batches()
        assert images.shape == (24, 3, 16, 24) and set(labels.tolist()) == {-1}
    want = np.stack([np.asarray(opened(content)) for content in pictures(tmp_path / "webp", "webp")])
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), want)
