"""Samples that are no images: sequences, frames, volumes and many channels, in the formats that hold floats."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.verify import verify

PLAN = rs.Plan.build(steps=3)
SHAPES = [(7,), (5, 16), (2, 3, 4, 5), (21, 4, 4)]


def draw(out, shape, format, batches=0, **options):
    """Draw seeds 0 … 19 by eights, or stop after some batches; return the samples that were evaluated."""
    stop, seen = Stop(), []

    def fn(x, sigma):
        seen.append(len(x))
        if len(seen) == batches * PLAN.nfe:
            stop()
        return torch.tanh(x / (1 + sigma.view(-1, *[1] * (x.ndim - 1))))

    denoiser = rs.Denoiser.from_function(fn, shape, name="tanh")
    options = dict(pixels="float32", batch=8, shard_size=20) | options
    run_job(denoiser, PLAN, "0-19", out, format=format, stop=stop, **options)
    return sum(seen) // PLAN.nfe


def samples(out, format, shape):
    (path,) = (out / "samples").iterdir()
    if format == "npz":
        return np.load(path)["arr_0"]
    if format == "wds":
        with tarfile.open(path) as archive:
            members = [archive.extractfile(m).read() for m in archive if m.name.endswith(".npy")]
        return np.stack([np.load(io.BytesIO(content)) for content in members])
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    assert table.schema.metadata[b"shape"].decode() == ",".join(map(str, shape))
    return np.stack(table["sample"].to_pylist()).astype(np.float32).reshape(-1, *shape)


@pytest.mark.parametrize("format", ["npz", "wds", "parquet"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_job_of_any_shape_stops_and_goes_on(shape, format, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    assert draw(tmp_path, shape, format, batches=1, preview=True) == 8
    assert draw(tmp_path, shape, format, preview=True) == 16  # the last four with padding, none of the first eight
    fn = lambda x, sigma: torch.tanh(x / (1 + sigma.view(-1, *[1] * (x.ndim - 1))))  # noqa: E731
    want = rs.sample(rs.Denoiser.from_function(fn, shape), PLAN, range(20))
    assert np.array_equal(samples(tmp_path, format, shape), want.numpy())
    *_, (_, report) = verify(tmp_path)
    assert report.exit_code == 0
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("shape", [(7,), (5, 16), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("format", ["png", "npz"])
def test_samples_that_are_no_images_have_no_8_bit_pixels(shape, format, tmp_path):
    with pytest.raises(rs.OutputError, match=r"8-bit pixels are of images \(C, H, W\).*pixels='float32'"):
        draw(tmp_path / "out", shape, format, pixels="uint8")
    assert not (tmp_path / "out").exists()
