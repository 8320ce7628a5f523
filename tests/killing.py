"""Jobs in processes that are killed: a parent that has everything imported forks a child for each run.

Forking costs milliseconds where starting Python costs seconds, so forty kills are a matter of a minute.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import restart_sampling as rs
from restart_sampling.output.generate import run_job
from restart_sampling.output.workers import Worker

SEEDS = "0-299"
PLAN = dict(steps=4, restart="[3, 1, 0.3, 1.0]")


def denoiser(delay: float = 0.0) -> rs.Denoiser:
    """Elementwise, so that no sample sees its batch; `delay` seconds a call, so that a run lasts."""

    def D(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        time.sleep(delay)
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))

    return rs.Denoiser.from_function(D, (1, 8, 8), name="tanh")


def job(out: Path, who: Worker, format: str = "wds", batch: int = 16, delay: float = 0.0) -> None:
    """One run of the job by one worker."""
    plan = rs.Plan.build(**PLAN)
    run_job(denoiser(delay), plan, SEEDS, out, batch=batch, format=format, shard_size=20, who=who, sheets=0)


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
    children = [
        fork(lambda rank=rank: job(out, Worker(rank, workers, rank), **options)) for rank in range(workers)
    ]  # type: ignore[misc]
    if kill_after is not None:
        time.sleep(kill_after)
        for child in children:
            os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def tree(out: Path) -> dict[str, str]:
    """SHA-256 of every sample file, by name."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix in (".png", ".npz", ".tar", ".parquet") and path.name != "grid.png"
    }


def trial(out: Path, rng: random.Random, workers: int, lasts: float, format: str = "wds") -> int:
    """Kill a run at a random moment, three times, then let it end; the number of shards that the kills left finished."""
    from restart_sampling.output.verify import verify

    finished = 0
    for _ in range(3):
        run(out, workers, rng.uniform(0, lasts), format=format, batch=rng.choice([3, 16, 40]), delay=0.004)
        if (out / "run.json").exists():
            *_, (_, report) = verify(out)
            assert not report.broken, report.broken  # nothing that reads as finished is half written
            finished = report.finished
    assert run(out, workers, format=format) == [0] * workers
    return finished
