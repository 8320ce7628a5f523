r"""Many workers through Ray Data: an actor pool of engines that draw shards, one machine or a cluster.

The driver owns the folder: its lock, the manifest, the progress. It hands out numbers of unfinished shards; an actor
draws a shard, writes its files and answers with the line for the manifest, which the driver appends. So a shard is
finished when the driver says so; an actor that dies is replaced by Ray, the new one goes on with what it kept of its
shard (`parts`), and the bytes are the same. Nothing of Ray's own checkpointing is needed.

A signal to the driver becomes a file that actors look for after every batch: they keep what they have and answer, and
the driver waits for those that are drawing, for GRACE_SECONDS at most.

Actors ask for no CPU slot (`num_cpus=0`): a pool whose actors hold every slot starves Ray's own read tasks and hangs
(ray-project/ray#44687). Two slots must be there. On several machines the folder must be on a file system that all of
them see."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.devices import select_device
from ..common.errors import BackendError, OutputError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from . import pipeline
from .formats.base import ShardData
from .job import Definition, JobFolder
from .lock import WORKERS, held, worker_lock
from .manifest import Line
from .parts import Parts, part_files
from .progress import Display
from .sheets import Sheets
from .source import SamplerSource

HANG_SECONDS = 3600.0  # without a finished shard
DRAWING = ".drawing"  # marks an actor that is drawing, beside its lock
GRACE_SECONDS = 60.0  # for the batches in flight of a job that is stopped; what is kept stays if they are cut off


@dataclass(frozen=True)
class Engine:
    """What an actor needs to make its engine; small, and pickled by Ray.

    Attributes:
        load: makes the denoiser (called in the actor). plan, label, batch, options: as `run_job` takes them.
        folder: of the job. threads: of PyTorch in an actor on a CPU. keep_seconds: as `run_job` takes it.
    """

    load: Callable[[], Denoiser]
    plan: dict[str, Any]
    batch: int
    options: dict[str, Any]
    folder: str
    label: int | None = None
    threads: int = 1
    keep_seconds: float = pipeline.KEEP_SECONDS


class StopFile(pipeline.Stop):
    """A stop that all workers of a folder see: a file, made by the driver."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / WORKERS / "stop"

    def __bool__(self) -> bool:
        return super().__bool__() or self.path.exists()


class Actor:
    """One engine.

    Called with {"shard": numbers}, answers with one line of the manifest for each, as a dict of lists.
    """

    def __init__(self, engine: Engine) -> None:
        import torch

        self.folder = Path(engine.folder)
        self.lock = worker_lock(self.folder)  # seen by `status` and by the progress of the driver
        self.definition = Definition.read(self.folder)
        self.plan = Plan.build(**engine.plan)
        options = dict(engine.options)
        if str(options.get("device") or "cpu").startswith("cuda"):
            options["device"] = str(select_device("cuda"))  # Ray shows each actor its own GPU alone
        else:
            torch.set_num_threads(engine.threads)
        pixels = self.definition.record["pixels"]
        self.source = SamplerSource(engine.load(), self.plan, engine.batch, options, engine.label, pixels)
        self.tag = f"w{self.lock.path.name}"
        self.drawing = self.lock.path.with_name(self.lock.path.name + DRAWING)
        self.stop = StopFile(self.folder)
        self.samples = self.folder / self.definition.samples
        self.parts = Parts(self.folder, self.tag, self.definition.identity)
        self.keep_seconds = engine.keep_seconds

    def __call__(self, numbers: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        lines: list[dict[str, Any]] = []
        thumbnails: list[np.ndarray] = []
        drawn_before: list[int] = []

        def done(line: Line, data: ShardData, before: int) -> None:
            lines.append(asdict(line))
            thumbnails.append(data.images[:64])
            drawn_before.append(before)

        def write(data: ShardData) -> Any:
            return self.definition.format.write(self.samples, data, self.definition.subfolders, self.tag)

        shards = (self.definition.shards[int(number)] for number in numbers["shard"])
        try:
            self.drawing.touch()
            if not self.stop:
                pipeline.run(
                    shards, self.source, write, done, self.plan.digest, self.stop, None, self.parts, self.keep_seconds
                )
        except OSError as error:
            raise pipeline.explain(error, self.folder) from error
        finally:
            self.drawing.unlink(missing_ok=True)
        return {
            "line": lines,
            "images": [_packed(images) for images in thumbnails],
            "before": drawn_before,
            "memory": [_memory(self.source)] * len(lines),
        }


def run(
    folder: JobFolder,
    engine: Engine,
    workers: int,
    display: Display,
    stop: pipeline.Stop,
    *,
    address: str | None = None,
    sheets: int = 100,
    preview: bool = False,
    hang_seconds: float = HANG_SECONDS,
) -> pipeline.Result:
    """Draw the unfinished shards of `folder` with `workers` actors.

    Args:
        address: of a Ray cluster; None starts Ray on this machine, and stops it again.
        hang_seconds: give up when no shard was finished for so long.

    Raises:
        BackendError: Ray is not installed, has too few slots, or a worker failed; finished shards stay.
    """
    ray = _ray()
    started, result, first = time.perf_counter(), pipeline.Result(), not ray.is_initialized()
    todo = np.fromiter((shard.index for shard in folder.unfinished()), dtype=np.int64)
    if not len(todo):
        return result
    made, actors = Sheets(folder, sheets, preview), _Actors(folder.path)
    actors.forget()
    _connect(ray, address)
    try:
        for row in _watched(_rows(ray, todo, engine, workers), hang_seconds, stop, actors):
            fields = dict(row["line"])
            fields["files"] = fields["files"] if isinstance(fields["files"], int) else tuple(fields["files"])
            line = Line(**(fields | {"nonfinite": tuple(int(seed) for seed in fields["nonfinite"])}))
            shard = folder.definition.shards[line.shard]
            images = _unpacked(row["images"])
            made.add(ShardData(shard, np.zeros(len(images), np.int64), None, images, "", ()))
            folder.finish(line)
            before = int(row["before"])
            display.memory = row["memory"]
            display.samples(line.count - before + len(line.nonfinite))
            display.shard(line, before)
            result.images += line.count - before
            result.shards += 1
            result.nonfinite += line.nonfinite
    finally:
        result.stopped = bool(stop)
        result.seconds = time.perf_counter() - started
        if first:
            ray.shutdown()
        folder.sweep()  # of workers that died on the way
    return result


def check() -> None:
    """BackendError where Ray is not installed."""
    _ray()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError(
            "--workers and --address need Ray; install it with: pip install 'restart-sampling[ray]', or start the command "
            "with torchrun"
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    if not ray.is_initialized():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        options = (
            {"address": address} if address else {"num_cpus": max(2, os.cpu_count() or 2), "include_dashboard": False}
        )
        try:
            ray.init(log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the Ray cluster at {address}" if address else "Ray on this machine"
            raise BackendError(f"cannot start {where}: {str(error).splitlines()[0]}") from error
    slots = ray.cluster_resources().get("CPU", 0)
    if slots < 2:
        raise BackendError(f"Ray has {slots:g} CPU slots, and its own tasks need 2; start it with --num-cpus 2 or more")


def _rows(ray: Any, todo: np.ndarray, engine: Engine, workers: int) -> Iterator[dict[str, Any]]:
    """Rows of Ray Data as shards are finished, in any order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    on_gpu = str(engine.options.get("device") or "cpu").startswith("cuda")
    blocks = int(min(len(todo), max(4 * workers, 1000)))
    data = ray.data.from_items([{"shard": int(number)} for number in todo], override_num_blocks=blocks)
    drawn = data.map_batches(
        Actor,
        fn_constructor_kwargs={"engine": engine},
        batch_size=1,
        num_cpus=0,
        num_gpus=1 if on_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    try:
        yield from drawn.iter_rows()
    except ray.exceptions.RayError as error:
        raise BackendError(f"a worker failed: {_reason(error)}; the same command goes on from here") from error


class _Actors:
    """What the driver sees of the actors, and tells them, through the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stop = folder, StopFile(folder)

    def forget(self) -> None:
        """Remove what an earlier run left: its stop, and the marks of actors that died while drawing."""
        for path in (self.stop.path, *self.folder.glob(f"{WORKERS}/*{DRAWING}")):
            path.unlink(missing_ok=True)

    def ask(self) -> None:
        """Ask them to stop after the batch in flight."""
        with contextlib.suppress(OSError):
            self.stop.path.parent.mkdir(exist_ok=True)
            self.stop.path.touch()

    def drawing(self) -> bool:
        """Whether one that lives is drawing."""
        marks = self.folder.glob(f"{WORKERS}/*{DRAWING}")
        return any(held(path.with_name(path.name.removesuffix(DRAWING))) for path in marks)

    def kept(self) -> list[tuple[str, int]]:
        """The part files and their sizes: they grow while shards are drawn that last longer than any patience."""
        with contextlib.suppress(OSError):
            return [(path.name, path.stat().st_size) for _, path in part_files(self.folder)]
        return []


def _watched(rows: Iterator[Any], seconds: float, stop: pipeline.Stop, actors: _Actors | None = None) -> Iterator[Any]:
    """`rows`, taken in a thread, so that a hang is seen and a signal is heard while waiting."""
    found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def take() -> None:
        try:
            for row in rows:
                found.put(("row", row))
        except BaseException as error:
            found.put(("error", error))
        else:
            found.put(("end", None))

    threading.Thread(target=take, name="restart-ray", daemon=True).start()
    waited, quiet, asked = 0.0, 0, None
    kept = None if actors is None else actors.kept()
    while True:
        if stop and asked is None:
            asked = time.monotonic()
            if actors is not None:
                actors.ask()
        try:
            kind, value = found.get(timeout=0.5)
        except queue.Empty:
            if asked is not None:
                drawing = actors is not None and actors.drawing()
                quiet = 0 if drawing else quiet + 1
                if quiet > 1 or time.monotonic() - asked > GRACE_SECONDS:
                    return
            waited += 0.5
            if waited >= seconds:
                before, kept = kept, None if actors is None else actors.kept()
                if kept == before:
                    raise OutputError(
                        f"no shard was finished for {seconds:g} s: a worker hangs; look at log.jsonl, and run the same command "
                        f"again"
                    ) from None
                waited = 0.0
            continue
        waited = 0.0
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


def _reason(error: BaseException) -> str:
    """The exception in the worker, as Ray's report of it quotes it."""
    found = re.findall(r"^\s*((?:\w+\.)*\w+(?:Error|Exception|Interrupt): .+)$", str(error), flags=re.M)
    own = [text for text in found if not re.match(r"(ray\.|UserCodeException|RayTaskError)", text)]
    return own[-1].strip() if own else type(error).__name__


def _memory(source: SamplerSource) -> int:
    """Bytes that a worker holds of its device; 0 on a CPU."""
    import torch

    return int(torch.cuda.memory_reserved(source.device)) if source.device.startswith("cuda") else 0


def _packed(images: np.ndarray) -> dict[str, Any]:
    return {"shape": list(images.shape), "dtype": str(images.dtype), "data": images.tobytes()}


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    array = np.frombuffer(packed["data"], dtype=packed["dtype"])
    return array.reshape([int(n) for n in packed["shape"]])
