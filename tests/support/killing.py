"""Jobs in processes that are killed: a parent that has everything imported forks a child for each run.

Forking costs milliseconds where starting Python costs seconds, so forty kills are a matter of a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import restart_sampling as rs
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.lock import WORKERS, held
from restart_sampling.jobs.workers import Worker

SEEDS = "0-299"
PLAN = dict(steps=4, restart="[3, 1, 0.3, 1.0]")


def denoiser(delay: float = 0.0) -> rs.Denoiser:
    """Elementwise, so that no sample sees its batch; `delay` seconds a call, so that a run lasts."""

    def D(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        time.sleep(delay)
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))

    return rs.Denoiser.from_function(D, (1, 8, 8), name="tanh")


def prompted(delay: float = 0.0) -> rs.Denoiser:
    """An elementwise denoiser that is told a prompt: a made-up embedding, the bytes of the text's digest."""

    def D(x: torch.Tensor, sigma: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        time.sleep(delay)
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1))) / 2 + embeds.view(-1, 3, 1, 1) / 2

    def encode(text: str) -> dict[str, torch.Tensor]:
        digest = hashlib.sha256(text.encode()).digest()
        return {"embeds": torch.tensor([byte / 128 - 1 for byte in digest[:3]])}

    told = {"embeds": rs.Condition((3,), null=0.0)}
    return replace(rs.Denoiser.from_function(D, (3, 8, 8), conditions=told, name="prompted"), encode=encode)


def noted(folder: str) -> rs.Denoiser:
    """A slow denoiser that writes down which process made it."""
    (Path(folder) / f"worker-{os.getpid()}").touch()
    return denoiser(0.02)


def broken() -> rs.Denoiser:
    """A denoiser that fails after 60 calls."""
    calls = [0]

    def D(x, sigma):
        calls[0] += 1
        if calls[0] > 60:
            raise RuntimeError("the network is gone")
        return denoiser().network(x, sigma, None)

    return rs.Denoiser.from_function(D, (1, 8, 8), name="tanh")


def job(out: Path, worker: Worker, format: str = "wds", batch: int = 16, delay: float = 0.0) -> None:
    """One run of the job by one worker; every batch is saved as it is drawn, so that kills find part files."""
    plan = rs.Plan.build(**PLAN)
    run_job(
        denoiser(delay),
        plan,
        SEEDS,
        out,
        batch=batch,
        format=format,
        shard_size=20,
        worker=worker,
        sheets=0,
        keep_seconds=0.0,
    )


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; its process id. The child exits 0, or 1 with its traceback."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(out: Path, workers: int, kill_after: float | None = None, **options: object) -> list[int]:
    """Run the job with some workers, all killed after `kill_after` seconds; their exit codes (−9 for a killed one)."""
    children = [fork(lambda rank=rank: job(out, Worker(rank, workers, rank), **options)) for rank in range(workers)]
    if kill_after is not None:
        time.sleep(kill_after)
        for child in children:
            os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def tree(out: Path) -> dict[str, str]:
    """SHA-256 of every file in the folder of the samples, by name."""
    samples = out / "samples"
    return {
        str(path.relative_to(samples)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(samples.rglob("*"))
        if path.is_file()
    }


def trial(out: Path, rng: random.Random, workers: int, lasts: float, format: str = "wds", kills: int = 3) -> int:
    """Kill a run at a random moment, `kills` times, then let it end. Return how many shards the kills left finished."""
    finished = 0
    for _ in range(kills):
        run(out, workers, rng.uniform(0, lasts), format=format, batch=rng.choice([3, 16, 40]), delay=0.004)
        finished = intact(out)
    assert run(out, workers, format=format) == [0] * workers
    return finished


def intact(out: Path) -> int:
    """Shards that are finished; nothing that reads as finished may be half written."""
    from restart_sampling.jobs.verify import verify

    if not (out / "run.json").exists():
        return 0
    *_, (_, report) = verify(out)
    assert not report.broken, report.broken
    return report.finished


# --- torchrun and Ray: real launchers, which are slower to start, so moments count from the first sign of the job ----


def torchrun(out: Path, workers: int, format: str, batch: int, delay: float) -> subprocess.Popen[bytes]:
    """The job by `workers` ranks of torchrun, in a session of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, str(out), format, str(batch), str(delay)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def at_work(out: Path) -> dict[str, int]:
    """Process ids by lock, of those that live: ranks of torchrun, the driver of Ray, its workers."""
    found = {}
    for path in [*out.glob(".lock-*"), *out.glob(f"{WORKERS}/*")]:
        if held(path):
            with contextlib.suppress(ValueError, OSError):
                found[str(path.relative_to(out))] = int(json.loads(path.read_text())["pid"])
    return found


def started_for(out: Path) -> list[int]:
    """Process ids of the ranks of torchrun that draw into `out`, by their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(out).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return value


def torchrun_trial(
    out: Path, rng: random.Random, workers: int, lasts: float, format: str = "wds", kills: int = 1
) -> int:
    """As `trial`. In half of the runs one rank is killed, and torchrun ends the others; in half everything is."""
    finished = 0
    for _ in range(kills):
        launched = torchrun(out, workers, format, rng.choice([3, 16, 40]), 0.01)
        until(lambda launched=launched: at_work(out) or launched.poll() is not None)
        time.sleep(rng.uniform(0, lasts))
        victims = list(at_work(out).values())
        if rng.random() < 0.5 and victims:
            kill(rng.choice(victims))
        else:  # the launcher first, so that it restarts none; ranks that hold no lock yet too
            kill(launched.pid)
            for pid in started_for(out):
                kill(pid)
        launched.wait(120)
        until(lambda: not at_work(out) and not started_for(out))
        finished = intact(out)
    assert torchrun(out, workers, format, 16, 0.0).wait(300) == 0
    return finished


def ray_job(out: Path, workers: int, format: str, batch: int, delay: float) -> None:
    """The job by `workers` actors on the Ray cluster that runs on this machine."""
    plan = rs.Plan.build(**PLAN)
    run_job(
        denoiser(),
        plan,
        SEEDS,
        out,
        batch=batch,
        format=format,
        shard_size=20,
        sheets=0,
        workers=workers,
        address="auto",
        load=partial(denoiser, delay),
        options={"device": "cpu"},
        keep_seconds=0.0,
    )


def ray_trial(out: Path, rng: random.Random, workers: int, lasts: float, format: str = "wds", kills: int = 1) -> int:
    """As `trial`. In half of the runs an actor is killed first, and Ray replaces it; the driver is killed in all but
    the last, in which an actor is killed and the job ends all the same."""
    finished = 0
    for last in (*[False] * kills, True):
        batch = rng.choice([3, 16, 40])
        driver = fork(lambda batch=batch: ray_job(out, workers, format, batch, 0.01))
        until(lambda driver=driver: ray_actors(out) or ended(driver) is not None)
        time.sleep(rng.uniform(0, lasts))
        if (last or rng.random() < 0.5) and (victims := ray_actors(out)):
            kill(rng.choice(victims))
            time.sleep(rng.uniform(0, lasts))
        if last:
            assert until(lambda driver=driver: ended(driver), 300) == "exit 0"
        else:
            kill(driver)
            until(lambda driver=driver: ended(driver))
            finished = intact(out)
    return finished


def ray_actors(out: Path) -> list[int]:
    return [pid for name, pid in at_work(out).items() if name.startswith(WORKERS)]


_ENDED: dict[int, str] = {}


def ended(child: int) -> str | None:
    """ "exit N" of a child that has ended (negative: by a signal), else None."""
    if child not in _ENDED:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _ENDED[child] = f"exit {os.waitstatus_to_exitcode(status)}"
    return _ENDED.get(child)


if __name__ == "__main__":  # a rank of torchrun
    from restart_sampling.jobs.workers import worker

    torch.set_num_threads(1)
    job(Path(sys.argv[1]), worker(), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
