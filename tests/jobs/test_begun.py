"""Jobs that an earlier revision began, committed as it left them, go on to the very files of its own whole run.

In `begun/`: 20 seeds in shards of 8 and batches of 4, with a network of exact arithmetic, so that nothing depends on
the machine. `stopped` (png) was stopped by a signal after three batches, `killed` (npz) by SIGKILL after four, of which
three were collected; `whole.jsonl` is the manifest of an undisturbed run (npz). All of commit 86958bf, version 0.1.0
before its modules moved into rooms.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import restart_sampling as rs
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.verify import verify

BEGUN = Path(__file__).parent / "begun"
PLAN = rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
SAVED = 12  # seeds that each job has drawn and saved


@pytest.fixture
def resumed(tmp_path, one_thread):
    """Return a function that resumes one of the jobs in a copy of its folder."""

    def resume(name, format):
        out, evaluated = tmp_path / name, []
        shutil.copytree(BEGUN / name, out)

        def D(x, sigma, class_labels):
            evaluated.append(len(x))
            variance = sigma.view(-1, 1, 1, 1) ** 2
            return (x * 0.25 + variance * 0.25 * class_labels.argmax(1).view(-1, 1, 1, 1)) / (0.25 + variance)

        denoiser = rs.Denoiser.from_function(D, (1, 6, 5), label_dim=3, name="toy")
        options = dict(format=format, batch=8, shard_size=8, sheets=0)
        assert run_job(denoiser, PLAN, "0-19", out, **options) == []
        assert sum(evaluated) == (20 - SAVED) * PLAN.nfe
        assert (out / "run.json").read_bytes() == (BEGUN / name / "run.json").read_bytes()
        *_, (_, report) = verify(out)
        assert (report.exit_code, report.images, report.finished) == (0, 20, 3)
        assert not list(out.rglob("*.part"))
        return out

    return resume


def lines(path):
    """The latest line of each shard, without how it was drawn."""
    found = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        found[line["shard"]] = {name: line[name] for name in ("seeds", "count", "files", "bytes", "sha256")}
    return found


def headers_as_now():
    """Whether this Python writes the zip headers of `begun/`: Pythons before 3.11.4 write others, of one length."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"a")
    return file.getvalue()[4] == 45  # the version that reading needs


def test_a_killed_job_goes_on(resumed):
    found, want = lines(resumed("killed", "npz") / "manifest-0.jsonl"), lines(BEGUN / "whole.jsonl")
    assert {k: {**line, "sha256": 0} for k, line in found.items()} == {k: {**v, "sha256": 0} for k, v in want.items()}
    assert found[0] == want[0]  # finished before it was killed
    if headers_as_now():
        assert found == want


def test_a_stopped_job_goes_on(resumed):
    """The same images as in the other format; PNG's bytes may differ with the library that compresses them."""
    out, arrays = resumed("stopped", "png") / "samples", resumed("killed", "npz") / "samples"
    want = np.concatenate([np.load(path)["arr_0"] for path in sorted(arrays.glob("*.npz"))])
    found = [np.asarray(Image.open(out / f"{seed:06d}.png"))[..., None] for seed in range(20)]
    assert np.array_equal(found, want)
    for seed in range(8):  # of the shard that was finished
        name = f"{seed:06d}.png"
        assert (out / name).read_bytes() == (BEGUN / "stopped" / "samples" / name).read_bytes()
