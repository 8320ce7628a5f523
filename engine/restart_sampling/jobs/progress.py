"""Progress of a job for people: on the terminal, and as events in log.jsonl, one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import platform
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ..common import json_lines
from ..common.terminal import error, listed, text_column
from ..sampler.sampler import Progress as Where
from .events import Notes
from .folder import JobFolder
from .lock import alive
from .manifest import Line
from .pipeline import Result
from .workers import Worker

COUNT_EVERY = 2.0  # seconds between counts of the workers


class Display:
    """The progress bar of a job and its log. Methods are called from the sampler's thread and from writer threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder: JobFolder | None = None
        self.lock = threading.Lock()
        self.bar = Progress(
            text_column("{task.fields[worker]}sampling"),
            BarColumn(),
            MofNCompleteColumn(),
            text_column("images"),
            text_column("{task.fields[rate]}"),
            text_column("{task.fields[memory]}"),
            text_column("{task.fields[alive]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.done = self.in_batch = 0.0  # samples of this run
        self.rank = 0
        self.nonfinite: list[int] = []
        self.notes = Notes("in log.jsonl")
        self.started_at = self.counted_at = 0.0
        self.memory = 0  # bytes of its device that a worker in another process says it holds

    def start(
        self,
        folder: JobFolder,
        model: str,
        nfe: int,
        batch: int,
        device: str,
        ran: str,
        worker: Worker,
        workers: int = 1,
    ) -> None:
        """Say what is about to run; `workers` is the number of Ray's workers."""
        self.folder, self.nfe, self.device, self.rank = folder, nfe, torch.device(device), worker.rank
        self.worker, self.workers = worker, max(worker.world, workers)
        total = len(folder.definition.seeds)
        line = f"{total:,} images of {model} → {folder.path}: {nfe} NFE each, batches of {batch}, {ran}"
        if worker.world > 1:
            line += f", worker {worker.rank} of {worker.world}"
        self.console.print(line)
        for where in folder.manifest.damaged:
            self.note(f"{where} is damaged; its shard is drawn again")
        finished, saved = folder.finished_seeds(), folder.saved()
        if folder.resumed:
            inside = f", and {saved:,} images of unfinished shards are saved" if saved else ""
            self.note(f"going on: {finished:,} of {total:,} seeds are finished{inside}")
        self.log(
            "start",
            model=model,
            nfe=nfe,
            batch=batch,
            ran=ran,
            rank=worker.rank,
            world=worker.world,
            seeds=total,
            finished=finished,
            host=socket.gethostname(),
            python=platform.python_version(),
            torch=torch.__version__,
            command=sys.argv[1:],
        )
        name = "" if worker.world == 1 else f"worker {worker.rank} "
        self.task = self.bar.add_task(
            "", total=max(total - finished - saved, 0) // worker.world, rate="", memory="", alive="", worker=name
        )
        self.started_at = time.perf_counter()

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def samples(self, n: int) -> None:
        """Count n more samples as drawn."""
        self.done += n
        self.in_batch = 0.0
        self._show()

    def row(self, where: Where) -> None:
        """Move the bar within a batch, when an evaluation was launched."""
        self.in_batch = where.batch * where.evaluations / max(where.nfe, 1)
        self._show()

    def _show(self) -> None:
        if self.folder is None:
            return
        done = self.done + self.in_batch
        rate = done / max(time.perf_counter() - self.started_at, 1e-9)
        held = self.memory
        if self.device.type == "cuda" and torch.cuda.is_initialized():
            held = torch.cuda.memory_reserved(self.device)
        self.bar.update(
            self.task,
            completed=int(done),
            rate=f"{rate:.3g}/s · {rate * self.nfe:,.0f} NFE/s",
            memory=f"{held / 2**30:.1f} GiB" if held else "",
        )
        if self.workers > 1 and time.perf_counter() - self.counted_at > COUNT_EVERY:
            self.counted_at = time.perf_counter()
            now = alive(self.folder.path, self.worker.world)
            self.bar.update(self.task, alive=f"{now} of {self.workers} workers")

    def shard(self, line: Line, before: int = 0) -> None:
        """Log a finished shard, `before` of whose images earlier runs have drawn."""
        self.nonfinite += line.nonfinite
        self.log(
            "shard",
            rank=self.rank,
            shard=line.shard,
            count=line.count,
            before=before,
            bytes=line.bytes,
            nonfinite=list(line.nonfinite),
            drawn=int(self.done),
        )
        if line.nonfinite:
            self.note(_nonfinite(line.nonfinite) + "; they have no image")

    def event(self, event: str, details: dict[str, Any]) -> None:
        """Log an event, and print what people are told of it."""
        self.log(event, **details)
        if text := self.notes.of(event, details):
            self.note(text)

    def note(self, text: str) -> None:
        """Print a note."""
        self.console.print(f"note: {text}", soft_wrap=True)

    def failed(self, text: str) -> None:
        """Log and print the error that ended the job."""
        self.log("failed", error=text)
        error(text)

    def finish(self, folder: JobFolder, result: Result, signal: int) -> list[int]:
        """Print the last lines; return the seeds without an image, of all runs of this job."""
        lines = folder.manifest.lines.values()
        images, failures = sum(line.count for line in lines), [s for line in lines for s in line.nonfinite]
        total = len(folder.definition.seeds)
        rate = f" ({result.images / result.seconds:.3g} images/s)" if result.images and result.seconds else ""
        where = folder.path / "grid.png"
        look = f"; look at {where}" if where.exists() else ""
        self.console.print(
            f"{result.images:,} images in {result.seconds:.1f} s{rate}; {images:,} of {total:,} are there{look}"
        )
        if signal:
            self.console.print("stopped; the same command goes on from here")
        if failures:
            error(f"{_nonfinite(failures)}; check the network's weights, or use dtype fp32")
        self.log(
            "stop" if signal else "end",
            rank=self.rank,
            images=result.images,
            seconds=round(result.seconds, 3),
            signal=signal,
        )
        return failures

    def log(self, event: str, **details: Any) -> None:
        """Append a line to log.jsonl; a log that cannot be written stops nothing."""
        if self.folder is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details})
        with contextlib.suppress(OSError), self.lock:
            json_lines.append(self.folder.path / "log.jsonl", line, durable=False)


def _nonfinite(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} samples became NaN or infinite, also in float32: seed {listed(seeds, 8)}"
