"""Many workers: Ray Data and torchrun draw what one process draws, byte for byte; a worker that dies is replaced."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support import killing
from support.children import python

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, OutputError, RestartError, RestartValueError
from restart_sampling.jobs import ray_actor, ray_workers
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.inputs.inputs import Inputs
from restart_sampling.jobs.job import Definition
from restart_sampling.jobs.lock import FolderLock, alive, running
from restart_sampling.jobs.manifest import Manifest
from restart_sampling.jobs.parts import Parts, Piece
from restart_sampling.jobs.progress import Display
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.verify import verify
from restart_sampling.jobs.workers import Worker

ROOT = Path(__file__).resolve().parents[2]
PLAN = rs.Plan.build(**killing.PLAN)
JOB = dict(batch=16, shard_size=20, sheets=0, format="wds", options={"device": "cpu"})


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, once for all tests: it takes seconds to start. Workers import what these tests import."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join(
        [*(str(ROOT / p) for p in ("engine", "kernels", "bindings", "tests")), os.environ.get("PYTHONPATH", "")]
    )
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def want(tmp_path_factory):
    out = tmp_path_factory.mktemp("want")
    run_job(killing.denoiser(), PLAN, killing.SEEDS, out, **JOB)
    return killing.tree(out)


def complete(out):
    *_, (_, report) = verify(out)
    return report.exit_code == 0


@pytest.mark.slow
def test_ray_draws_what_one_process_draws(cluster, want, tmp_path):
    run_job(killing.denoiser(), PLAN, killing.SEEDS, tmp_path, workers=2, load=killing.denoiser, **JOB)
    assert killing.tree(tmp_path) == want
    assert complete(tmp_path)


@pytest.mark.slow
def test_ray_begins_with_the_images_of_the_seeds(cluster, tmp_path):
    """A file that each actor reads, an array that it is sent."""
    every, known = np.random.default_rng(0).random((2, 80, 1, 8, 8), np.float32)
    np.save(tmp_path / "every.npy", every)
    mask = np.eye(8, dtype=np.float32) / 2
    edits = {"start": tmp_path / "every.npy", "strength": 0.8, "known": known[0], "mask": mask, "paste": "fresh"}
    run_job(killing.denoiser(), PLAN, "0-79", tmp_path / "one", **JOB, **edits)
    run_job(killing.denoiser(), PLAN, "0-79", tmp_path / "two", workers=2, load=killing.denoiser, **JOB, **edits)
    assert killing.tree(tmp_path / "two") == killing.tree(tmp_path / "one")
    one, two = (Definition.read(tmp_path / name).record for name in ("one", "two"))
    assert {name: one[name] for name in ("nfe", "edits")} == {name: two[name] for name in ("nfe", "edits")}
    assert complete(tmp_path / "two")


@pytest.mark.slow
def test_ray_draws_from_prompts(cluster, tmp_path):
    """Each actor reads the file itself, and a prompt's samples may lie in shards of two actors."""
    path = tmp_path / "prompts.tsv"
    path.write_text("prompt\tkind\n" + "".join(f"prompt {k}\t{k % 3}\n" for k in range(17)))
    job = JOB | {"format": "geneval"}
    for name, options in (("one", {}), ("two", {"workers": 2, "load": killing.prompted})):
        inputs = Inputs.read(killing.prompted(), path, per_input=3, first_seed=5)
        assert run_job(killing.prompted(), PLAN, None, tmp_path / name, inputs=inputs, **job, **options) == []
    assert len(list((tmp_path / "two").rglob("*.png"))) == 51
    assert killing.tree(tmp_path / "two") == killing.tree(tmp_path / "one")
    assert complete(tmp_path / "two")


def test_an_actor_says_what_people_are_told(capsys, tmp_path):
    """Ten times at most; there is no log of an actor."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {k}\n" for k in range(12)))
    den = replace(killing.prompted(), truncation=lambda text: "has 9 tokens, and the encoder reads 8")
    run_job(den, PLAN, None, tmp_path / "out", inputs=Inputs.read(den, path), **JOB)  # writes run.json
    shutil.rmtree(tmp_path / "out" / "samples")
    (tmp_path / "out" / "samples").mkdir()
    asked, out = dict(Inputs.read(den, path).asked), str(tmp_path / "out")
    engine = ray_actor.Engine(lambda: den, killing.PLAN, 16, {"device": "cpu"}, out, inputs=asked)
    ray_actor.Actor(engine)({"shard": np.array([0])})
    said = "note: {}, line {} has 9 tokens, and the encoder reads 8; the rest is left out"
    lines = capsys.readouterr().err.splitlines()
    assert lines[:9] == [said.format(path, k) for k in range(1, 10)]
    assert lines[9:] == [said.format(path, 10) + "; further ones are not shown"]


@pytest.mark.slow
def test_an_actor_refuses_a_file_of_prompts_that_has_changed(cluster, tmp_path):
    (path := tmp_path / "prompts.txt").write_text("fox\nhen\n")
    inputs = Inputs.read(killing.prompted(), path)
    path.write_text("fox\nhare\n")
    with pytest.raises(RestartError, match=r"prompts\.txt has changed while the job runs"):
        run_job(
            killing.prompted(), PLAN, None, tmp_path / "out", inputs=inputs, workers=2, load=killing.prompted, **JOB
        )
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.slow
def test_a_killed_actor_is_replaced(cluster, want, tmp_path):
    """One of two workers is killed when a few shards are there: the job ends all the same, with the same bytes."""
    killed, at_work = [], []

    def kill() -> None:
        while len(list(tmp_path.glob("samples/shard-*.tar"))) < 3:
            at_work.append(alive(tmp_path, 1))
            time.sleep(0.02)
        pid = int(next(tmp_path.glob("worker-*")).name.split("-")[1])
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    threading.Thread(target=kill, daemon=True).start()
    load = partial(killing.noted, str(tmp_path))
    run_job(killing.denoiser(), PLAN, killing.SEEDS, tmp_path, workers=2, load=load, **JOB)
    assert killed
    assert max(at_work) == 2  # and nobody else
    assert killing.tree(tmp_path) == want
    assert len(list(tmp_path.glob("worker-*"))) >= 3  # two, and one in the place of the killed
    assert complete(tmp_path)


@pytest.mark.slow
def test_a_stopped_job_of_ray_goes_on_inside_its_shards(cluster, want, tmp_path):
    """Two long shards and two actors, stopped while they draw: what is saved is not drawn again, with another batch
    size.
    """
    stop, job = Stop(), JOB | {"shard_size": 160, "batch": 8}
    one = tmp_path / "one"
    run_job(killing.denoiser(), PLAN, killing.SEEDS, one, **job)

    def wait_and_stop() -> None:
        while not list(tmp_path.glob("many/.parts/*")):
            time.sleep(0.01)
        stop(130)

    threading.Thread(target=wait_and_stop, daemon=True).start()
    many, load = tmp_path / "many", partial(killing.denoiser, 0.02)
    run_job(killing.denoiser(), PLAN, killing.SEEDS, many, workers=2, load=load, stop=stop, keep_seconds=0.0, **job)
    manifest = Manifest.read(many)
    saved = Definition.read(many).saved(many, manifest)
    assert saved
    # The driver had the answers: what is saved is in the manifest too, so no batch in flight was cut off.
    assert {shard: len(seeds) for shard, seeds in saved.items()} == {
        k: line.count for k, line in manifest.lines.items()
    }
    assert all(0 < len(seeds) < 140 for seeds in saved.values())
    calls = [0]

    def counted(x, sigma):
        calls[0] += len(x)
        return killing.denoiser().network(x, sigma, None)

    denoiser = rs.Denoiser.from_function(counted, (1, 8, 8), name="tanh")
    run_job(denoiser, PLAN, killing.SEEDS, many, **(job | {"batch": 10}))
    drawn = 300 - sum(map(len, saved.values()))
    assert drawn * PLAN.nfe <= calls[0] <= (drawn + 8) * PLAN.nfe
    assert killing.tree(many) == killing.tree(one)
    assert complete(many)


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_line_and_a_resume_ends_the_job(cluster, want, tmp_path):
    with pytest.raises(BackendError, match=r"a worker failed: .*the network is gone.*; the same command goes on"):
        run_job(
            killing.denoiser(), PLAN, killing.SEEDS, tmp_path, workers=1, address="auto", load=killing.broken, **JOB
        )
    assert not complete(tmp_path)
    run_job(killing.denoiser(), PLAN, killing.SEEDS, tmp_path, **JOB)
    assert killing.tree(tmp_path) == want


def test_a_hang_is_seen():
    def never():
        time.sleep(60)
        yield 1

    with pytest.raises(OutputError, match="no shard was finished for 1 s: a worker hangs"):
        list(ray_workers._watched(never(), 1.0, Stop()))


def test_a_shard_that_lasts_longer_than_the_patience_is_no_hang(tmp_path):
    """Its part file grows: somebody is drawing."""
    parts = Parts(tmp_path, "w1", "job")

    def slow():
        for seed in range(4):
            time.sleep(0.6)
            parts.save(0, [Piece(np.array([seed]), None, np.zeros((1, 2, 2, 1), np.uint8))])
        yield "shard"

    assert list(ray_workers._watched(slow(), 1.0, Stop(), ray_workers._Actors(tmp_path))) == ["shard"]


def test_a_signal_is_heard_while_waiting():
    stop = Stop()

    def slow():
        yield 1
        time.sleep(60)

    seen = []
    for row in ray_workers._watched(slow(), 60.0, stop):
        seen.append(row)
        stop(130)
    assert seen == [1]


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"need Ray; install it with: pip install 'restart-sampling\[ray\]'"):
        run_job(killing.denoiser(), PLAN, "0-9", tmp_path, workers=2, **JOB)


def test_workers_alive_are_counted_by_their_locks(tmp_path):
    """Three ranks, one of which dies: two are alive. What dead workers of Ray left counts for nothing."""
    ranks = [
        killing.fork(lambda rank=rank: killing.job(tmp_path, Worker(rank, 3, rank), delay=0.05)) for rank in range(3)
    ]
    try:
        deadline = time.time() + 30
        while alive(tmp_path, 3) < 3 and time.time() < deadline:
            time.sleep(0.01)
        assert alive(tmp_path, 3) == len(running(tmp_path)) == 3
        os.kill(ranks[1], signal.SIGKILL)
        os.waitpid(ranks[1], 0)
        assert alive(tmp_path, 3) == 2
        (tmp_path / ".workers").mkdir()
        (tmp_path / ".workers" / f"{socket.gethostname()}-1").touch()
        assert alive(tmp_path, 3) == 2
    finally:
        for rank in (ranks[0], ranks[2]):
            os.kill(rank, signal.SIGKILL)
            os.waitpid(rank, 0)


def test_looking_at_a_lock_is_in_nobodys_way(tmp_path):
    """Whoever looks whether a lock is held holds it for an instant: it is taken all the same, a moment later."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock-0").open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        FolderLock(tmp_path).release()
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(OutputError, match="another run is writing"):
            FolderLock(tmp_path)


def test_the_progress_counts_workers(tmp_path):
    """As rich renders it: rank 0 of 2 is alone."""
    text = io.StringIO()
    display = Display(Console(file=text, width=200, force_terminal=True))
    run_job(killing.denoiser(), PLAN, killing.SEEDS, tmp_path, display=display, worker=Worker(0, 2), **JOB)
    assert "1 of 2 workers" in text.getvalue()
    assert "worker 0 sampling" in text.getvalue()


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_workers_are_checked(workers, tmp_path):
    with pytest.raises(RestartValueError, match="workers must be an integer ≥ 1"):
        run_job(killing.denoiser(), PLAN, "0-9", tmp_path, workers=workers, **JOB)


@pytest.mark.slow
def test_torchrun(tmp_path):
    """Three workers of torchrun with the real command: shards by rank, no collectives, the files of one process."""
    paths = os.pathsep.join(str(ROOT / p) for p in ("engine", "kernels", "bindings"))
    script = tmp_path / "command.py"
    script.write_text("import sys\nfrom restart_sampling.cli.app import main\nmain(sys.argv[1:])\n")
    command = ["generate", "--steps", "2", "--seeds", "0-39", "--shard-size", "8", "--format", "wds", "--out"]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    for name, start in (("many", ["-m", "torch.distributed.run", "--nproc-per-node", "3"]), ("one", [])):
        done = python(*start, script, *command, tmp_path / name, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr
    assert killing.tree(tmp_path / "many") == killing.tree(tmp_path / "one")
    assert len(Manifest.read(tmp_path / "many").paths()) == 3
    assert complete(tmp_path / "many")
