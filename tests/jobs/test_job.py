"""Jobs: shards, formats, resuming, faults, kills. Nothing finished is lost, nothing half written reads as finished."""

from __future__ import annotations

import errno
import io
import json
import os
import pkgutil
import random
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import killing

import restart_sampling as rs
from restart_sampling.common.errors import OutputError, RestartValueError
from restart_sampling.jobs.folder import JobFolder
from restart_sampling.jobs.formats.registry import find
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.job import Definition
from restart_sampling.jobs.lock import worker_lock
from restart_sampling.jobs.manifest import Line, Manifest
from restart_sampling.jobs.shards import Shards
from restart_sampling.jobs.signals import Stop, stop_on_signals
from restart_sampling.jobs.verify import fingerprint, verify
from restart_sampling.jobs.workers import Worker, worker

PLAN = rs.Plan.build(**killing.PLAN)


def draw(out, seeds="0-49", **options):
    options = dict(batch=8, shard_size=10, sheets=0) | options
    denoiser = options.pop("denoiser", None) or killing.denoiser()
    return run_job(denoiser, options.pop("plan", PLAN), seeds, out, **options)


def report(out, decode=1):
    *_, (_, last) = verify(out, decode)
    return last


# --- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, size, want",
    [
        ("0-9", 4, {0: [0, 1, 2, 3], 1: [4, 5, 6, 7], 2: [8, 9]}),
        ("5,3,100", 4, {0: [3], 1: [5], 25: [100]}),
        ("8-9,0-2", 10, {0: [0, 1, 2, 8, 9]}),
        ("0-20:5,6", 4, {0: [0], 1: [5, 6], 2: [10], 3: [15], 5: [20]}),
        ("0-8:2,1-7:6", 100, {0: [0, 1, 2, 4, 6, 7, 8]}),
        ("9223372036854775806", 1000, {9223372036854775: [9223372036854775806]}),
    ],
)
def test_shards_depend_on_the_seeds_alone(text, size, want):
    shards = Shards(rs.parse_seeds(text), size)
    assert {shard.index: list(shard.seeds) for shard in shards} == want
    assert shards.count() == len(want)
    for index, seeds in want.items():
        assert list(shards[index].seeds) == seeds


def test_a_billion_seeds_start_as_fast_as_64():
    """Counted in seeds that are looked at: none but those of the shard that is asked for."""
    shards = Shards(rs.parse_seeds("0-999999999"), 1000)
    first = next(iter(shards))
    assert (first.index, len(first.seeds)) == (0, 1000)
    assert shards.count() == 1_000_000
    assert len(shards[999_999].seeds.parts) == 1


@pytest.mark.parametrize("size", [0, -1, 2.5, True, 2**40])
def test_shard_sizes_are_checked(size):
    with pytest.raises(RestartValueError, match="shard size must be an integer from 1"):
        Shards(rs.parse_seeds("0-9"), size)


# --- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["png", "npz", "wds", "parquet"])
def test_every_format_holds_the_sampler_s_images(format, tmp_path):
    """Read back with other code than wrote them, against images made from the sampler's own result."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    draw(tmp_path, format=format)
    x = rs.Sampler(killing.denoiser(), PLAN, batch_size=50).run(range(50))
    want = (127.5 * x.double() + 128).clamp(0, 255).floor().to(torch.uint8)[:, 0].numpy()
    assert np.array_equal(np.stack(list(READERS[format](tmp_path))), want)
    assert report(tmp_path).exit_code == 0


def read_png(folder):
    for seed in range(50):
        yield np.asarray(Image.open(folder / "samples" / f"{seed:06d}.png"))


def read_npz(folder):
    for k in range(5):
        arrays = np.load(folder / "samples" / f"shard-{k:06d}.npz")
        assert arrays["seeds"].tolist() == list(range(10 * k, 10 * k + 10))
        yield from arrays["arr_0"][..., 0]


def read_wds(folder):
    for k in range(5):
        with tarfile.open(folder / "samples" / f"shard-{k:06d}.tar") as archive:
            names = archive.getnames()
            assert names == sorted(names)
            for i in range(10 * k, 10 * k + 10):
                record = json.load(archive.extractfile(f"{i:06d}.json"))
                assert record == {"seed": i, "class": None, "plan": PLAN.digest}
                yield np.asarray(Image.open(io.BytesIO(archive.extractfile(f"{i:06d}.png").read())))


def read_parquet(folder):
    import pyarrow.parquet as pq

    for k in range(5):
        table = pq.read_table(folder / "samples" / f"shard-{k:06d}.parquet").to_pylist()
        assert [row["seed"] for row in table] == list(range(10 * k, 10 * k + 10))
        yield from (np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in table)


READERS = {"png": read_png, "npz": read_npz, "wds": read_wds, "parquet": read_parquet}


def test_float32_samples(tmp_path):
    x = rs.Sampler(killing.denoiser(), PLAN, batch_size=50).run(range(20)).numpy()
    draw(tmp_path / "npz", "0-19", format="npz", pixels="float32")
    assert np.array_equal(
        np.concatenate([np.load(tmp_path / "npz" / "samples" / f"shard-{k:06d}.npz")["arr_0"] for k in (0, 1)]), x
    )
    draw(tmp_path / "wds", "0-19", format="wds", pixels="float32")
    with tarfile.open(tmp_path / "wds" / "samples" / "shard-000001.tar") as archive:
        assert np.array_equal(np.load(io.BytesIO(archive.extractfile("000013.npy").read())), x[13])
    pq = pytest.importorskip("pyarrow.parquet")
    draw(tmp_path / "pq", "0-19", format="parquet", pixels="float32")
    column = pq.read_table(tmp_path / "pq" / "samples" / "shard-000000.parquet")["sample"]
    assert np.array_equal(np.array(column.to_pylist(), dtype=np.float32).reshape(10, 1, 8, 8), x[:10])
    with pytest.raises(OutputError, match="png holds uint8 pixels, not 'float32'"):
        draw(tmp_path / "png", "0-19", format="png", pixels="float32")


def test_classes_are_kept(tmp_path):
    def D(x, sigma, class_labels):
        return x / (1 + sigma.view(-1, 1, 1, 1)) + class_labels.argmax(1).view(-1, 1, 1, 1)

    denoiser = rs.Denoiser.from_function(D, (1, 4, 4), label_dim=10)
    draw(tmp_path, "0-9", denoiser=denoiser, format="npz")
    assert np.array_equal(
        np.load(tmp_path / "samples" / "shard-000000.npz")["arr_1"], rs.noise.class_labels(range(10), 10)
    )


def test_large_png_jobs_use_edm_s_subfolders(tmp_path, monkeypatch):
    monkeypatch.setattr("restart_sampling.jobs.folder.SUBFOLDERS_FROM", 30)
    draw(tmp_path, "0-9,1998-2005,5000-5019")
    assert (tmp_path / "samples" / "001000" / "001998.png").exists()
    assert (tmp_path / "samples" / "002000" / "002005.png").exists()
    assert report(tmp_path).images == 38


def test_unknown_format():
    with pytest.raises(OutputError, match=r"format must be one of png, geneval, .*, wds, webp, .*parquet.*, got 'bmp'"):
        find("bmp")


# --- the same bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["png", "npz", "wds", "parquet"])
def test_bytes_depend_on_neither_batch_nor_workers_nor_order(format, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    draw(tmp_path / "a", format=format, batch=50)
    want = killing.tree(tmp_path / "a")
    assert len(want) == (50 if format == "png" else 5)
    draw(tmp_path / "b", format=format, batch=3)
    for rank in (2, 0, 1):
        draw(tmp_path / "c", format=format, batch=7, worker=Worker(rank, 3))
    draw(tmp_path / "d", "30-39", format=format)
    draw(tmp_path / "d", "0-49", format=format)
    for name in "bcd":
        assert killing.tree(tmp_path / name) == want, name
        assert fingerprint(tmp_path / name) == fingerprint(tmp_path / "a")


def test_the_bundled_model_gives_equal_files_at_any_batch(tmp_path):
    """Its rows do not see one another, and no batch is below the size where oneDNN's kernels round otherwise."""
    denoiser, plan = rs.load("fashion-mnist"), rs.Plan.build(steps=2)
    trees = []
    for batch in (1, 5, 13, 32):
        draw(tmp_path / str(batch), "0-25", denoiser=denoiser, plan=plan, batch=batch, format="npz", pixels="float32")
        trees.append(killing.tree(tmp_path / str(batch)))
    assert all(tree == trees[0] for tree in trees)


# --- resuming ----------------------------------------------------------------------------------------------------


class Counting:
    """A denoiser that counts samples and may fail at a call."""

    def __init__(self, fail_at=None, error=None):
        self.calls = self.samples = 0
        self.fail_at, self.error = fail_at, error

    def __call__(self, x, sigma):
        self.calls += 1
        self.samples += len(x)
        if self.calls == self.fail_at:
            raise self.error
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))

    @property
    def denoiser(self):
        return rs.Denoiser.from_function(self, (1, 8, 8), name="tanh")


def test_a_resume_draws_only_what_is_missing(tmp_path):
    draw(tmp_path, "0-29")
    counting = Counting()
    draw(tmp_path, "0-49", denoiser=counting.denoiser)
    assert counting.samples == 24 * PLAN.nfe  # 20 seeds in batches of 8: the last is filled up
    counting = Counting()
    draw(tmp_path, "0-49", denoiser=counting.denoiser)
    assert counting.samples == 0
    assert report(tmp_path).images == 50


def test_a_grown_shard_is_drawn_anew(tmp_path):
    draw(tmp_path / "a", "0-14", format="npz")
    draw(tmp_path / "a", "0-19", format="npz")
    draw(tmp_path / "b", "0-19", format="npz")
    assert killing.tree(tmp_path / "a") == killing.tree(tmp_path / "b")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(plan=rs.Plan.build(steps=5)), "steps is 4 there and 5 here"),
        (dict(format="npz"), "format is png there and npz here"),
        (dict(shard_size=20), "shard_size is 10 there and 20 here"),
        (dict(seeds="10-49"), "holds seed 0, which is not among those asked for"),
    ],
)
def test_another_job_is_refused_with_the_difference(tmp_path, options, message):
    draw(tmp_path)
    before = killing.tree(tmp_path), (tmp_path / "run.json").read_text()
    with pytest.raises(OutputError, match=message):
        draw(tmp_path, **({"seeds": "0-49"} | options))
    assert (killing.tree(tmp_path), (tmp_path / "run.json").read_text()) == before


def test_other_weights_are_refused(tmp_path):
    denoiser = killing.denoiser()
    denoiser.info["sha256"] = "a" * 64
    draw(tmp_path, denoiser=denoiser)
    denoiser.info["sha256"] = "b" * 64
    with pytest.raises(OutputError, match=r"model_sha256 is aaaa.* there and bbbb.* here"):
        draw(tmp_path, denoiser=denoiser)


def test_overwrite_starts_anew_and_touches_nothing_else(tmp_path):
    draw(tmp_path, format="wds")
    (tmp_path / "samples" / "shard-000099.tar").write_text("mine")
    draw(tmp_path, "0-9", plan=rs.Plan.build(steps=3), overwrite=True)
    assert sorted(p.name for p in (tmp_path / "samples").glob("shard*")) == ["shard-000099.tar"]
    assert report(tmp_path).images == 10


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty .* and holds no run"):
        draw(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="does not hold a run"):
        draw(tmp_path)
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_two_runs_in_one_folder(tmp_path):
    draw(tmp_path, "0-9")
    held = JobFolder(tmp_path, Definition.read(tmp_path).record)
    try:
        with pytest.raises(OutputError, match=rf"another run is writing to .* \(process {os.getpid()} on "):
            draw(tmp_path, "0-9")
    finally:
        held.close()
    draw(tmp_path, "0-9")


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    draw(tmp_path, "0-9", format="wds")
    (tmp_path / ".shard-000001.tar.r0.tmp").write_bytes(b"half")
    (tmp_path / ".shard-000002.tar.r5.tmp").write_bytes(b"of a worker that is no more")
    (tmp_path / ".shard-000003.tar.whost-1.tmp").write_bytes(b"of a worker of Ray")
    worker = worker_lock(tmp_path)
    at_work = tmp_path / f".shard-000004.tar.w{worker.path.name}.tmp"
    at_work.write_bytes(b"of one that lives")
    draw(tmp_path, "0-9", format="wds")
    assert list(tmp_path.glob(".*.tmp")) == [at_work]
    worker.release()
    draw(tmp_path, "0-9", format="wds")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_sheet_that_a_kill_left_half_written_is_swept(tmp_path, monkeypatch):
    """Its temporary file has the worker's name, as those of shards have."""

    def replace(old, new):
        if str(new).endswith("grid.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        os.rename(old, new)

    monkeypatch.setattr("os.replace", replace)
    child = killing.fork(lambda: draw(tmp_path, "0-9", format="wds", sheets=1))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    monkeypatch.undo()
    assert [p.name for p in tmp_path.glob(".*.tmp")] == [".grid.png.r0.tmp"]
    draw(tmp_path, "0-9", format="wds", sheets=1)
    assert not list(tmp_path.glob(".*.tmp"))
    assert report(tmp_path).exit_code == 0


# --- the manifest ------------------------------------------------------------------------------------------------


def test_a_torn_or_damaged_line_costs_its_shard_only(tmp_path):
    draw(tmp_path, format="npz")
    want = killing.tree(tmp_path)
    path = tmp_path / "manifest-0.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("sha256", "sha2566")
    path.write_text("\n".join(lines)[:-20])
    found = report(tmp_path)
    assert (found.exit_code, len(found.damaged), [k for k, _ in found.missing]) == (
        3,
        2,
        sorted({0, 1, 2, 3, 4} - set(Manifest.read(tmp_path).lines)),
    )
    counting = Counting()
    draw(tmp_path, denoiser=counting.denoiser, format="npz")
    assert counting.samples == 24 * PLAN.nfe
    assert killing.tree(tmp_path) == want


def test_an_appended_line_never_joins_a_torn_one(tmp_path):
    (tmp_path / "manifest-0.jsonl").write_text('{"shard": 3, "se')
    manifest = Manifest.read(tmp_path)
    manifest.append(Line(7, "70-79", 10, ("a",), 1, "0" * 64))
    again = Manifest.read(tmp_path)
    assert list(again.lines) == [7]
    assert len(again.damaged) == 1


BREAKAGES = {
    "missing": lambda p: p.unlink(),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "one bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize(
    "format, name", [("png", "000013.png"), ("npz", "shard-000001.npz"), ("wds", "shard-000001.tar")]
)
@pytest.mark.parametrize("how", BREAKAGES)
def test_verify_finds_what_is_broken(tmp_path, format, name, how):
    draw(tmp_path, format=format)
    BREAKAGES[how](tmp_path / "samples" / name)
    found = report(tmp_path)
    assert (found.exit_code, list(found.broken)) == (3, [1])
    Manifest.read(tmp_path).remove({1})
    draw(tmp_path, format=format)
    assert report(tmp_path).exit_code == 0


def test_a_tar_cut_at_the_border_of_a_member_reads_without_error_and_is_found(tmp_path):
    draw(tmp_path, format="wds")
    path = tmp_path / "samples" / "shard-000002.tar"
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[6].offset
    path.write_bytes(path.read_bytes()[:cut])
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 6
    assert "should have" in report(tmp_path).broken[2]


# --- faults ------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "fsync": ("os.fsync",),
    "rename": ("os.replace",),
    "open": ("pathlib.Path.open",),
    "write": ("restart_sampling.jobs.formats.base.Hashing.write",),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_nth_operation_fails(operation, tmp_path, monkeypatch):
    """For N = 1, 2, 3, … until a run passes: one clear error, nothing broken, and a resume ends with the same bytes."""
    draw(tmp_path / "want", "0-19", format="npz")
    want = killing.tree(tmp_path / "want")
    for n in range(1, 200):
        out = tmp_path / str(n)
        with monkeypatch.context() as patch:
            count = fail_at(patch, OPERATIONS[operation], n, OSError(errno.ENOSPC, "No space left on device"))
            try:
                draw(out, "0-19", format="npz")
            except OutputError as error:
                assert "No space left on device" in str(error)
            else:
                if count() < n:
                    break
                # The one failure that stops nothing is that of the log.
                assert operation == "open"
        if (out / "run.json").exists():
            assert not report(out).broken
        draw(out, "0-19", format="npz")
        assert killing.tree(out) == want
        assert report(out).exit_code == 0
        assert not list(out.rglob(".*.tmp"))
    else:
        pytest.fail("no run passed")
    assert n > 3


def fail_at(patch, names, n, error):
    """Make the n-th call of any of these fail once, reads not counted; the function says how many calls there were."""
    calls = [0]

    def failing_of(name, original):
        def failing(*args, **options):
            if not (name.endswith("open") and (args[1:2] or ("r",))[0][:1] == "r"):
                calls[0] += 1
                if calls[0] == n:
                    raise error
            return original(*args, **options)

        return failing

    for name in names:
        patch.setattr(name, failing_of(name, pkgutil.resolve_name(name)))
    return lambda: calls[0]


@pytest.mark.parametrize("error", [RuntimeError("the network is gone"), rs.RestartError("no")])
def test_the_nth_network_call_fails(error, tmp_path):
    draw(tmp_path / "want", "0-19", format="npz")
    for n in range(1, 3 * PLAN.nfe + 2, 4):
        out = tmp_path / str(n)
        counting = Counting(n, error)
        try:
            draw(out, "0-19", denoiser=counting.denoiser, format="npz")
        except type(error) as raised:
            assert raised is error
        assert not report(out).broken
        draw(out, "0-19", format="npz")
        assert killing.tree(out) == killing.tree(tmp_path / "want")


def test_out_of_memory_takes_the_next_smaller_batch(tmp_path):
    class Tight(Counting):
        def __call__(self, x, sigma):
            if len(x) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().__call__(x, sigma)

    draw(tmp_path / "a", denoiser=Tight().denoiser, batch=50)
    draw(tmp_path / "b")
    assert killing.tree(tmp_path / "a") == killing.tree(tmp_path / "b")
    assert {line.batch for line in Manifest.read(tmp_path / "a").lines.values()} == {12}  # 50, 25, 12
    events = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [(e["batch"], e["next"]) for e in events if e["event"] == "out of memory"] == [(50, 25), (25, 12)]


def test_one_sample_that_does_not_fit_is_an_error(tmp_path):
    def never(x, sigma):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(rs.BackendError, match="one sample does not fit into the memory of cpu"):
        draw(tmp_path, denoiser=rs.Denoiser.from_function(never, (1, 8, 8)), batch=4)


def test_nan_is_tried_again_and_then_quarantined(tmp_path):
    """Seed 3 fails always, seed 7 only the first time: it is drawn again and is then like any other."""
    noise = rs.noise.normal(range(20), 0, (1, 8, 8))
    failing = {3: 10**9, 7: 1}

    def D(x, sigma):
        result = torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))
        if float(sigma[0]) > 79:
            for seed, times in failing.items():
                rows = (x - 80.0 * noise[seed]).abs().amax((1, 2, 3)) < 1e-3
                if times > 0 and rows.any():
                    result[rows] = float("nan")
                    failing[seed] = times - 1
        return result

    denoiser = rs.Denoiser.from_function(D, (1, 8, 8), name="tanh")
    assert draw(tmp_path / "a", "0-19", denoiser=denoiser) == [3]
    assert not (tmp_path / "a" / "samples" / "000003.png").exists()
    draw(tmp_path / "b", "0-19")
    good = killing.tree(tmp_path / "b")
    good.pop("000003.png")
    assert killing.tree(tmp_path / "a") == good
    found = report(tmp_path / "a")
    assert (found.exit_code, found.nonfinite, found.images) == (1, [3], 19)


@pytest.mark.parametrize("out", ["/proc/self", "/sys/kernel"])
def test_a_folder_that_cannot_be_written(out):
    with pytest.raises(OutputError, match=f"(cannot use folder {out}|folder {out} cannot be written)"):
        draw(Path(out))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="out is a file; give a folder"):
        draw(tmp_path / "out")


def test_a_folder_that_vanishes(tmp_path):
    import shutil

    out = tmp_path / "out"

    class Vanishing(Counting):
        def __call__(self, x, sigma):
            if self.calls == 2 * PLAN.nfe:
                shutil.rmtree(out)
            return super().__call__(x, sigma)

    with pytest.raises(OutputError, match=r"cannot write .*No such file"):
        draw(out, denoiser=Vanishing().denoiser)


def test_a_full_disk_is_seen_before_anything_is_drawn(tmp_path):
    counting = Counting()
    with pytest.raises(OutputError, match=r"may write .* GB, and .* has .* GB free; ask for fewer seeds"):
        draw(tmp_path / "out", "0-99999999999", denoiser=counting.denoiser)
    assert counting.calls == 0
    assert not (tmp_path / "out").exists()


def test_a_writer_that_fails_stops_the_sampler(tmp_path, monkeypatch):
    """Back-pressure and errors reach the sampler: it does not draw the whole job first."""
    counting = Counting()
    monkeypatch.setattr(
        "restart_sampling.jobs.formats.npz.one_file", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O"))
    )
    with pytest.raises(OutputError, match="I/O"):
        draw(tmp_path, "0-999", denoiser=counting.denoiser, format="npz")
    assert counting.samples < 500 * PLAN.nfe


def test_clock_jumps_do_not_matter(tmp_path, monkeypatch):
    import time

    draw(tmp_path / "a", format="wds")
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -1000)).__next__)
    draw(tmp_path / "b", format="wds")
    assert killing.tree(tmp_path / "a") == killing.tree(tmp_path / "b")


# --- kills and signals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_moments(workers, tmp_path):
    """Three kills, then a run to the end, give the tree of an undisturbed run; benchmarks/kill_trials.py does more."""
    draw(tmp_path / "want", killing.SEEDS, format="wds", shard_size=20)
    rng = random.Random(workers)
    for k in range(3):
        killing.trial(tmp_path / str(k), rng, workers, lasts=0.8 / workers)
        assert killing.tree(tmp_path / str(k)) == killing.tree(tmp_path / "want")
        assert report(tmp_path / str(k)).exit_code == 0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_batch(number, code, tmp_path):
    class Signalled(Counting):
        def __call__(self, x, sigma):
            if self.calls == 2 * PLAN.nfe:
                os.kill(os.getpid(), number)
            return super().__call__(x, sigma)

    counting, said = Signalled(), []
    with stop_on_signals(said.append) as stop:
        draw(tmp_path, denoiser=counting.denoiser, stop=stop, batch=10)
    assert stop.signal == code
    assert said == ["stopping after this batch; once more stops at once"]
    assert counting.samples == 30 * PLAN.nfe
    found = report(tmp_path)
    assert (found.images, found.exit_code) == (30, 1)
    draw(tmp_path)
    draw(tmp_path / "other")
    assert killing.tree(tmp_path) == killing.tree(tmp_path / "other")


def test_a_stop_within_a_shard_keeps_what_was_drawn(tmp_path):
    stop = Stop()
    stop()
    draw(tmp_path, stop=stop, shard_size=50, format="npz")
    assert np.load(tmp_path / "samples" / "shard-000000.npz")["seeds"].tolist() == list(range(8))
    assert report(tmp_path).exit_code == 1
    draw(tmp_path, shard_size=50, format="npz")
    assert report(tmp_path).exit_code == 0


# --- workers -----------------------------------------------------------------------------------------------------


def test_workers_as_torchrun_names_them():
    assert worker({}) == Worker(0, 1, 0)
    assert worker({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Worker(3, 8, 1)
    for bad in ({"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "a", "WORLD_SIZE": "8"}, {"RANK": "-1", "WORLD_SIZE": "2"}):
        with pytest.raises(RestartValueError, match="0 ≤ RANK < WORLD_SIZE"):
            worker(bad)


def test_more_workers_than_shards(tmp_path):
    for rank in range(5):
        draw(tmp_path, "0-19", worker=Worker(rank, 5))
    assert report(tmp_path).exit_code == 0
