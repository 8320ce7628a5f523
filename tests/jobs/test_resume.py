"""A resume goes on inside a shard: nothing saved is drawn again, and the files are those of an undisturbed run."""

from __future__ import annotations

import errno
import io
import json
import os
import pkgutil
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from support import killing

import restart_sampling as rs
from restart_sampling.cli.app import main
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.job import Definition
from restart_sampling.jobs.manifest import Manifest
from restart_sampling.jobs.parts import Parts, Piece, saved
from restart_sampling.jobs.progress import Display
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.verify import fingerprint, verify
from restart_sampling.jobs.workers import Worker
from restart_sampling.sampler.seeds import parse_seeds

PLAN = rs.Plan.build(**killing.PLAN)
FORMATS = ["png", "npz", "wds", "parquet"]


class Slot:
    """A denoiser that counts samples and asks to stop when its `batches` are drawn: a job's time slot."""

    def __init__(self, batches: int = 0, coupled: bool = False) -> None:
        self.stop, self.batches, self.coupled = Stop(), batches, coupled
        self.calls = self.samples = 0

    def __call__(self, x, sigma):
        self.calls += 1
        self.samples += len(x)
        if self.calls == self.batches * PLAN.nfe:
            self.stop()
        result = torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))
        return result + 0.1 * x.mean() / (1 + sigma.max()) if self.coupled else result


def draw(out, seeds="0-79", slot=None, worker=None, **options):
    slot = Slot() if slot is None else slot
    options = dict(batch=8, shard_size=40, sheets=0) | options
    denoiser = rs.Denoiser.from_function(slot, (1, 8, 8), name="tanh")
    run_job(denoiser, PLAN, seeds, out, stop=slot.stop, worker=worker, **options)
    return slot


def parts_of(out: Path) -> list[Path]:
    return sorted(out.glob(".parts/*"))


def report(out):
    *_, (_, last) = verify(out)
    return last


@pytest.fixture(scope="module")
def want(tmp_path_factory):
    """The tree of an undisturbed run, by format."""
    pytest.importorskip("pyarrow")
    trees = {}
    for format in FORMATS:
        out = tmp_path_factory.mktemp(format)
        draw(out, format=format)
        trees[format] = killing.tree(out)
    return trees


# --- stops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_stopped_shard_goes_on_where_it_stopped(format, want, tmp_path):
    """Stopped after 24 of a shard of 40, resumed with another batch size: 56 seeds are left, and 56 are drawn."""
    assert draw(tmp_path, slot=Slot(3), format=format).samples == 24 * PLAN.nfe
    assert len(parts_of(tmp_path)) == 1
    rest = draw(tmp_path, format=format, batch=14)
    assert rest.samples == 56 * PLAN.nfe
    assert killing.tree(tmp_path) == want[format]
    assert report(tmp_path).exit_code == 0
    assert not parts_of(tmp_path)


def test_a_job_whose_shards_are_longer_than_its_time_slot_ends(want, tmp_path):
    """Two batches a slot, five to a shard: one seed more or less is drawn twice at no time."""
    samples = slots = 0
    while (slot := draw(tmp_path, slot=Slot(2), format="npz")).samples:
        samples, slots = samples + slot.samples, slots + 1
        assert slots < 10
    assert (slots, samples) == (5, 80 * PLAN.nfe)
    assert killing.tree(tmp_path) == want["npz"]


def test_the_batches_of_a_resume_are_those_of_an_undisturbed_run(tmp_path):
    """So even a network whose rows see one another gives the same bytes with the same batch size."""
    draw(tmp_path / "want", slot=Slot(coupled=True), format="npz", pixels="float32", batch=12)
    for batches in (1, 2, 4):
        out = tmp_path / str(batches)
        draw(out, slot=Slot(batches, coupled=True), format="npz", pixels="float32", batch=12)
        draw(out, slot=Slot(coupled=True), format="npz", pixels="float32", batch=12)
        assert killing.tree(out) == killing.tree(tmp_path / "want")
    draw(tmp_path / "other", slot=Slot(coupled=True), format="npz", pixels="float32", batch=9)
    assert killing.tree(tmp_path / "other") != killing.tree(tmp_path / "want")


def test_workers_take_over_what_others_saved(want, tmp_path):
    """Two ranks stop inside their shards, then one process goes on with another batch size."""
    for rank in (0, 1):
        draw(tmp_path, slot=Slot(2), worker=Worker(rank, 2), format="wds")
    assert [path.name for path in parts_of(tmp_path)] == ["shard-000000.r0.part", "shard-000001.r1.part"]
    draw(tmp_path, slot=Slot(1), format="wds", batch=10)  # rank 0 alone: goes on with shard 0
    assert draw(tmp_path, worker=Worker(0, 1), format="wds", batch=20).samples == (80 - 16 - 16 - 10) * PLAN.nfe
    assert killing.tree(tmp_path) == want["wds"]
    assert not parts_of(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_that_another_worker_finished_is_finished(format, want, tmp_path):
    """Rank 1 stops within its shard, and one process ends the job: the line of rank 1, read last, is an old one."""
    for rank in (0, 1):
        draw(tmp_path, slot=Slot(2), worker=Worker(rank, 2), format=format)
    draw(tmp_path, format=format)
    assert killing.tree(tmp_path) == want[format]
    assert (report(tmp_path).exit_code, report(tmp_path).images) == (0, 80)
    assert draw(tmp_path, format=format).samples == 0
    fingerprint(tmp_path)


def test_pieces_of_several_workers_need_not_be_in_order(want, tmp_path):
    """The middle of a shard by one worker, its beginning by another: the files are those of an ordered shard."""
    draw(tmp_path / "a", slot=Slot(2), format="npz")
    identity = Definition.read(tmp_path / "a").identity
    (pieces,) = [Parts(tmp_path / "a", "r0", identity).load(0, parse_seeds("0-39"))]
    draw(tmp_path / "b", slot=Slot(1), format="npz")
    shutil.rmtree(tmp_path / "b" / ".parts")
    other = Parts(tmp_path / "b", "wother-1", identity)
    other.save(0, pieces[1:])
    assert saved(tmp_path / "b", identity) == {0: set(range(8, 16))}
    assert draw(tmp_path / "b", format="npz").samples == 72 * PLAN.nfe
    assert killing.tree(tmp_path / "b") == want["npz"]


def test_classes_and_seeds_without_an_image_are_saved(tmp_path):
    """Seed 5 is NaN in either run; labels are those of the seeds."""
    noise = rs.noise.normal([5], 0, (1, 4, 4))[0]

    def network(stop_at):
        stop, calls = Stop(), [0]

        def D(x, sigma, class_labels):
            calls[0] += 1
            if calls[0] == stop_at:
                stop()
            result = x / (1 + sigma.view(-1, 1, 1, 1)) + class_labels.argmax(1).view(-1, 1, 1, 1)
            if float(sigma[0]) > 79:
                result[(x - 80.0 * noise).abs().amax((1, 2, 3)) < 1e-3] = float("nan")
            return result

        return rs.Denoiser.from_function(D, (1, 4, 4), label_dim=10, name="classes"), stop

    for name, stops in (("want", (0,)), ("got", (1, 0))):
        for stop_at in stops:
            denoiser, stop = network(stop_at)
            options = dict(batch=8, shard_size=30, sheets=0, format="npz", stop=stop)
            assert run_job(denoiser, PLAN, "0-29", tmp_path / name, **options) == [5]
    assert killing.tree(tmp_path / "got") == killing.tree(tmp_path / "want")
    arrays = np.load(tmp_path / "got" / "samples" / "shard-000000.npz")
    left = [seed for seed in range(30) if seed != 5]
    assert arrays["seeds"].tolist() == left
    assert np.array_equal(arrays["arr_1"], rs.noise.class_labels(left, 10))


def test_seeds_that_are_added_to_a_saved_shard(want, tmp_path):
    draw(tmp_path, "0-19,40-79", slot=Slot(1), format="npz")
    assert draw(tmp_path, "0-79", format="npz").samples == 72 * PLAN.nfe
    assert killing.tree(tmp_path) == want["npz"]


def test_overwrite_forgets_what_was_saved(tmp_path):
    draw(tmp_path, slot=Slot(2), format="npz")
    assert draw(tmp_path, format="npz", overwrite=True).samples == 80 * PLAN.nfe
    draw(tmp_path, slot=Slot(2), format="png", overwrite=True, shard_size=80)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} >= {".png", ".part"}
    assert not list(tmp_path.rglob("*.npz"))


def test_pieces_of_another_job_are_not_read(tmp_path):
    draw(tmp_path / "a", slot=Slot(2), format="npz")
    draw(tmp_path / "b", slot=Slot(1), format="npz", pixels="float32")
    for path in parts_of(tmp_path / "b"):
        path.write_bytes(parts_of(tmp_path / "a")[0].read_bytes())
    assert draw(tmp_path / "b", format="npz", pixels="float32").samples == 80 * PLAN.nfe


# --- damage ------------------------------------------------------------------------------------------------------

DAMAGE = {
    "one bit of an image": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "one bit of the first header": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "torn": lambda data: data[:-1],
    "torn in the second header": lambda data: data[: data.index(b"\n", 700) - 20],
    "empty": lambda data: b"",
    "no JSON": lambda data: b"[" * 100_000 + b"\n" + data,
    "more seeds than bytes": lambda data: data.replace(b'"0-7"', b'"0-9223372036854775806"'),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_piece_and_what_follows_is_drawn_again(how, want, tmp_path):
    """Whatever of the file is left: at worst all 24 seeds, and never a wrong byte; what is appended later is read."""
    draw(tmp_path, slot=Slot(3), format="npz")
    (path,) = parts_of(tmp_path)
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    again = draw(tmp_path, slot=Slot(1), format="npz").samples
    rest = draw(tmp_path, format="npz").samples
    assert 56 * PLAN.nfe < again + rest <= 80 * PLAN.nfe
    assert killing.tree(tmp_path) == want["npz"]


def test_a_piece_that_could_not_be_written_whole_spoils_no_other(tmp_path, monkeypatch):
    parts, piece = (
        Parts(tmp_path, "r0", "j"),
        lambda s: Piece(np.array([s]), None, np.full((1, 2, 2, 1), s, np.uint8)),
    )
    parts.save(0, [piece(3)])
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            parts.save(0, [piece(4)])
    parts.save(0, [piece(5)])
    found = Parts(tmp_path, "r1", "j").load(0, parse_seeds("0-9"))
    assert [int(p.seeds[0]) for p in found] == [3, 5]
    assert [int(p.images[0, 0, 0, 0]) for p in found] == [3, 5]


def test_status_counts_seeds_without_an_image_that_are_saved(tmp_path, capsys):
    """A seed that became NaN before a kill is not drawn again, so it is not left to draw."""
    draw(tmp_path, slot=Slot(3), format="npz")
    identity, nothing = Definition.read(tmp_path).identity, np.zeros((0, 8, 8, 1), np.uint8)
    Parts(tmp_path, "r0", identity).save(1, [Piece(np.zeros(0, np.int64), None, nothing, (70,))])
    found = json.loads("\n".join(main_says(capsys, ["status", str(tmp_path), "--json"])))
    assert (found["images"], found["nonfinite"], found["left"]) == (24, [70], 55)
    assert sum(left for _, left in report(tmp_path).missing) == 55


# --- what is said ------------------------------------------------------------------------------------------------


def test_status_and_verify_count_what_is_saved(tmp_path, capsys):
    """Kept, but of no finished shard: counted by status once, and missing for verify; nothing reads as done."""
    draw(tmp_path, slot=Slot(3), format="npz")
    for _ in ("stopped", "killed"):
        assert main_says(capsys, ["status", str(tmp_path)])[1:3] == [
            f"24 of 80 images (30.0%) in 0 shards, {written(tmp_path):,} bytes",
            "of these, 24 are of unfinished shards, saved for a resume to go on after them",
        ]
        found = json.loads("\n".join(main_says(capsys, ["status", str(tmp_path), "--json"])))
        assert (found["images"], found["kept"], found["left"]) == (24, 24, 56)
        assert "saved      24 seeds of unfinished shards" in "\n".join(main_says(capsys, ["verify", str(tmp_path)], 1))
        checked = report(tmp_path)
        assert (checked.finished, checked.saved, checked.exit_code) == (0, 24, 1)
        assert checked.missing == [(0, 16), (1, 40)]
        with pytest.raises(rs.RestartError, match="not finished"):
            fingerprint(tmp_path)
        # After kill -9 there is the part file only.
        (tmp_path / "manifest-0.jsonl").unlink(missing_ok=True)
        for path in (tmp_path / "samples").iterdir():
            path.unlink()


def test_status_promises_no_image_that_is_drawn_again(tmp_path, capsys):
    """A shard that has grown, or was cut short by an earlier version, is drawn anew: its images are there, and do not
    count.
    """
    draw(tmp_path, "0-19,40-79", format="npz")
    assert "60 of 60 images (100.0%) in 2 shards" in main_says(capsys, ["status", str(tmp_path)])[1]
    slot = Slot()
    slot.stop()
    draw(tmp_path, "0-79", slot=slot, format="npz")  # the seeds are added, and a batch is drawn
    left = json.loads("\n".join(main_says(capsys, ["status", str(tmp_path), "--json"])))["left"]
    assert left == 32
    assert draw(tmp_path, format="npz").samples == left * PLAN.nfe


def written(out: Path) -> int:
    return sum(line.bytes for line in Manifest.read(out).lines.values())


def main_says(capsys, arguments, code=0):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert (exit.value.code or 0) == code
    return capsys.readouterr().out.splitlines()


def test_a_resume_says_what_is_saved(tmp_path):
    text = io.StringIO()
    draw(tmp_path, slot=Slot(3), format="npz")
    draw(tmp_path, slot=Slot(1), format="npz", display=Display(Console(file=text, width=200)))
    assert "going on: 0 of 80 seeds are finished, and 24 images of unfinished shards are saved" in text.getvalue()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["count"], e["before"]) for e in events if e["event"] == "shard"] == [(24, 0), (32, 24)]
    assert [e["images"] for e in events if e["event"] in ("stop", "end")] == [24, 8]


# --- kills -------------------------------------------------------------------------------------------------------

WRITES = {"fsync": "os.fsync", "rename": "os.replace", "open": "pathlib.Path.open", "unlink": "pathlib.Path.unlink"}


@pytest.mark.parametrize(
    "format, operation", [*(("npz", name) for name in WRITES), ("wds", "fsync"), ("parquet", "fsync")]
)
def test_killed_at_every_write_inside_a_shard(format, operation, want, tmp_path):
    """kill -9 at the N-th write, for growing N until a run passes, every batch saved: nothing broken, the same tree."""
    for n in range(1, 100, {"npz": 2, "wds": 5, "parquet": 5}[format] if operation != "unlink" else 1):
        out = tmp_path / str(n)
        child = killing.fork(lambda n=n, out=out: killed_at(WRITES[operation], n, out, format))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        if (out / "run.json").exists():
            assert not report(out).broken
        held = sum(map(len, saved(out, Definition.read(out).identity).values())) if (out / "run.json").exists() else 0
        rest = draw(out, format=format, batch=10)
        assert killing.tree(out) == want[format]
        assert rest.samples <= (80 - held + 9) * PLAN.nfe or code == 0
        assert not parts_of(out) and not list(out.rglob(".*.tmp"))
        if code == 0:
            break
    else:
        pytest.fail("no run passed")
    assert n > 3


def killed_at(name: str, n: int, out: Path, format: str) -> None:
    original, calls = pkgutil.resolve_name(name), [0]

    def killing_call(*args, **options):
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    owner, attribute = name.rsplit(".", 1)
    setattr(pkgutil.resolve_name(owner), attribute, killing_call)
    draw(out, format=format, keep_seconds=0.0)


def test_nothing_is_saved_of_a_shard_that_is_finished(tmp_path, monkeypatch):
    """A slow write of a piece ends before the line of its shard is written, or its part file would come back."""
    save = Parts.save

    def slow(self, *arguments):
        time.sleep(0.1)
        save(self, *arguments)

    monkeypatch.setattr(Parts, "save", slow)
    draw(tmp_path, "0-39", format="npz", keep_seconds=0.0, shard_size=20)
    assert not parts_of(tmp_path)


def test_killed_between_the_file_of_a_whole_shard_and_its_line(tmp_path):
    """A stop left a line for a part of the shard: the whole shard's file under it is not broken, only not finished."""
    draw(tmp_path / "want", "0-39", format="npz")
    draw(tmp_path / "a", "0-39", slot=Slot(3), format="npz")
    name = Path("samples", "shard-000000.npz")
    (tmp_path / "a" / name).write_bytes((tmp_path / "want" / name).read_bytes())
    found = report(tmp_path / "a")
    assert (found.broken, found.finished, found.images, found.exit_code) == ({}, 0, 0, 1)
    assert draw(tmp_path / "a", "0-39", format="npz").samples == 16 * PLAN.nfe
    assert killing.tree(tmp_path / "a") == killing.tree(tmp_path / "want")


def test_short_shards_are_not_saved_at_all(tmp_path, monkeypatch):
    """A shard that takes less than the time between pieces costs no byte and no fsync besides its own."""
    monkeypatch.setattr(Parts, "save", lambda *_: pytest.fail("a piece was written"))
    draw(tmp_path, format="npz", keep_seconds=3600.0)
    assert report(tmp_path).exit_code == 0


def test_a_piece_costs_one_fsync(tmp_path, monkeypatch):
    """Three for the first: of the file and of the two folders that then have a new name. Its bytes are those of the
    pixels.
    """
    calls = []
    monkeypatch.setattr("os.fsync", calls.append)
    parts = Parts(tmp_path, "r0", "j")
    counts = []
    for first in (0, 100, 200):
        images = np.zeros((100, 28, 28, 1), np.uint8)
        parts.save(0, [Piece(np.arange(first, first + 100), None, images)])
        counts.append((len(calls), parts_of(tmp_path)[0].stat().st_size))
    assert [n for n, _ in counts] == [3, 4, 5]
    assert counts[-1][1] < 1.01 * 300 * 28 * 28
    parts.remove(0)
    assert not parts_of(tmp_path)
    parts.save(0, [Piece(np.array([7]), None, images[:1])])  # begins anew, also where another process removed the file
    parts_of(tmp_path)[0].unlink()
    parts.save(0, [Piece(np.array([8]), None, images[:1])])
    assert [piece.seeds.tolist() for piece in parts.load(0, parse_seeds("0-9"))] == [[8]]


def test_a_full_disk_keeps_what_was_drawn(want, tmp_path, monkeypatch):
    """The files of the shard do not fit, its pieces do: nothing is drawn twice."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("restart_sampling.jobs.formats.npz.one_file", full)
        with pytest.raises(
            rs.RestartError, match=r"make room and run the same command again, it goes on where it stopped"
        ):
            draw(tmp_path, "0-39", format="npz")
    assert draw(tmp_path, "0-39", format="npz").samples == 0
    draw(tmp_path, format="npz")
    assert killing.tree(tmp_path) == want["npz"]


# --- folders of earlier versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_version_0_1_0_goes_on_as_it_is(format, want, tmp_path, capsys):
    """Samples beside run.json, which has no field for their folder: resume, status, verify, repair, overwrite."""
    if format == "parquet":  # its files had no schema of images then
        draw(tmp_path / "whole", format=format, format_version=1)
        want = {format: killing.tree(tmp_path / "whole")}
        tmp_path = tmp_path / "job"
    draw(tmp_path, "0-39", format=format, sheets=1, format_version=1)
    older(tmp_path)
    draw(tmp_path, slot=Slot(1), format=format)
    draw(tmp_path, format=format)
    assert not (tmp_path / "samples").exists()
    assert beside(tmp_path) == want[format]
    assert report(tmp_path).exit_code == 0
    assert "80 of 80 images (100.0%) in 2 shards" in main_says(capsys, ["status", str(tmp_path)])[1]
    victim = next(iter(want[format]))
    (tmp_path / victim).write_bytes(b"x")
    assert list(report(tmp_path).broken) == [0]
    Manifest.read(tmp_path).remove({0})
    draw(tmp_path, format=format)
    assert beside(tmp_path) == want[format]
    (tmp_path / "mine.txt").touch()
    draw(tmp_path, "0-9", format="npz", overwrite=True)
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert left == ["log.jsonl", "manifest-0.jsonl", "mine.txt", "run.json", "samples"]
    assert list(killing.tree(tmp_path)) == ["shard-000000.npz"]


def older(out: Path) -> None:
    """Make a folder what version 0.1.0 wrote for the same command."""
    record = json.loads((out / "run.json").read_text())
    for name in ("samples", "model_path", "format_version", "job_digest"):
        del record[name]
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    for path in (out / "samples").iterdir():
        path.rename(out / path.name)
    (out / "samples").rmdir()
    shutil.rmtree(out / ".parts", ignore_errors=True)


def beside(out: Path) -> dict[str, str]:
    """The tree of samples that lie beside run.json."""
    link = out.parent / f"{out.name}-seen"
    (link / "samples").mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        if path.suffix in (".png", ".npz", ".tar", ".parquet") and path.name != "grid.png":
            shutil.copy(path, link / "samples" / path.name)
    return killing.tree(link)


def test_the_folder_of_the_samples_is_none_of_the_user_s_choosing(tmp_path):
    draw(tmp_path, "0-39")
    record = json.loads((tmp_path / "run.json").read_text())
    for name in ("..", "/", "sheets", 5, None):
        (tmp_path / "run.json").write_text(json.dumps(record | {"samples": name}))
        with pytest.raises(rs.RestartError, match="'samples' must be 'samples', or left out"):
            draw(tmp_path, "0-39", overwrite=True)


# --- what lies where ---------------------------------------------------------------------------------------------


def test_a_walk_of_the_samples_finds_samples_only(tmp_path):
    draw(tmp_path, "0-39", shard_size=10, sheets=1, preview=True)
    assert len(list((tmp_path / "samples").rglob("*"))) == 40
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "grid.png",
        "log.jsonl",
        "manifest-0.jsonl",
        "preview.png",
        "run.json",
        "samples",
        "sheets",
    ]
    assert len(list((tmp_path / "sheets").iterdir())) == 3


def test_sheets_0_writes_no_sheet_at_all(tmp_path):
    draw(tmp_path, "0-39", shard_size=10, sheets=0)
    assert not (tmp_path / "grid.png").exists()
    assert not (tmp_path / "sheets").exists()
