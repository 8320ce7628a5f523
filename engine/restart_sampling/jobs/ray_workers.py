r"""Many workers through Ray Data: a pool of actors that draw shards, on one machine or a cluster.

The driver owns the folder: its lock, the manifest, the progress. It hands out numbers of unfinished shards; an actor
draws a shard, writes its files and answers with the line for the manifest, which the driver appends. So a shard is
finished when the driver says so. An actor that dies is replaced by Ray, the new one goes on with what the old one saved
of its shard (`parts`), and the bytes are the same. Ray's own checkpointing is not needed.

A signal to the driver becomes a file that actors look for after every batch: they save what they have and answer, and
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import BackendError, OutputError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from ..sampler.sampler import Sampler
from .decoding import Decoding
from .edits import Edits
from .folder import JobFolder
from .formats.base import ShardData
from .inputs.inputs import Inputs
from .lock import WORKERS, held
from .manifest import Line
from .parts import part_files
from .pipeline import Result
from .progress import Display
from .ray_actor import DRAWING, Actor, Engine, StopFile, unpacked
from .sheets import Sheets
from .signals import Stop

HANG_SECONDS = 3600.0  # without a finished shard
GRACE_SECONDS = 60.0  # for the batches in flight of a job that is stopped; what is saved stays if they are cut off


class RayWorkers:
    """Draws the shards of a job with actors of Ray.

    Args:
        denoiser, plan, batch, options, label: as `run_job` takes them.
        load: makes the denoiser in an actor; by default `denoiser` is pickled.
        workers: how many actors.
        address: of a Ray cluster; None starts Ray on this machine, and stops it again.
        keep_seconds: least seconds between two saves of an unfinished shard.
        hang_seconds: give up when no shard was finished for so long.
        edits, decoding, inputs: of the job.

    Attributes:
        plan, device, ran, notes: as `LocalWorker` has them.

    Raises:
        BackendError: Ray is not installed.
    """

    notes: Sequence[str] = ()

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        batch: int,
        options: dict[str, Any],
        label: int | None,
        load: Callable[[], Denoiser] | None,
        workers: int,
        address: str | None,
        keep_seconds: float,
        hang_seconds: float = HANG_SECONDS,
        edits: Edits | None = None,
        decoding: Decoding | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.inputs = inputs
        self.ray = _ray()
        self.recipe, self.batch, self.options, self.label = plan.config.to_dict(), batch, options, label
        self.load, self.workers, self.address = load or partial(_same, denoiser), workers, address
        self.keep_seconds, self.hang_seconds, self.edits = keep_seconds, hang_seconds, edits
        self.decoding = decoding
        # The samplers are in the actors; this one only says what they will do.
        sampler = Sampler(denoiser.to("cpu"), plan, 1, device="cpu", compile="off")
        self.plan = sampler.plan if edits is None else edits.plan(sampler)
        self.device, self.ran = str(options["device"] or "cpu"), f"{workers} workers of Ray Data"

    def draw(self, folder: JobFolder, display: Display, stop: Stop, sheets: Sheets) -> Result:
        """Draw the unfinished shards of `folder`.

        Raises:
            BackendError: Ray has too few slots, or a worker failed; finished shards stay.
            OutputError: a worker hangs.
        """
        started, result, first = time.perf_counter(), Result(), not self.ray.is_initialized()
        todo = np.fromiter((shard.index for shard in folder.unfinished()), dtype=np.int64)
        if not len(todo):
            return result
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        engine = Engine(
            self.load,
            self.recipe,
            self.batch,
            self.options,
            str(folder.path.resolve()),
            self.label,
            threads,
            self.keep_seconds,
            self.edits,
            self.decoding,
            None if self.inputs is None else dict(self.inputs.asked),
        )
        actors = _Actors(folder.path)
        actors.forget()
        _connect(self.ray, self.address)
        try:
            rows = _rows(self.ray, todo, engine, self.workers)
            for row in _watched(rows, self.hang_seconds, stop, actors):
                fields = dict(row["line"])
                fields["files"] = fields["files"] if isinstance(fields["files"], int) else tuple(fields["files"])
                line = Line(**(fields | {"nonfinite": tuple(int(seed) for seed in fields["nonfinite"])}))
                images = unpacked(row["images"])
                shard = folder.definition.shards[line.shard]
                sheets.add(ShardData(shard, np.zeros(len(images), np.int64), None, images, "", ()))
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
                self.ray.shutdown()
            folder.sweep()  # what actors that died on the way left behind
        return result


def _same(denoiser: Denoiser) -> Denoiser:
    return denoiser


def _ray() -> Any:
    """Return the module ray. Raises BackendError if it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError(
            "--workers and --address need Ray; install it with: pip install 'restart-sampling[ray]', or start the "
            "command with torchrun"
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Connect to the cluster at `address`, or start one on this machine; nothing to do if Ray is connected."""
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
    """Yield the actors' answers, a row for each shard as it is finished, in any order."""
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
        """Whether a living actor is drawing."""
        marks = self.folder.glob(f"{WORKERS}/*{DRAWING}")
        return any(held(path.with_name(path.name.removesuffix(DRAWING))) for path in marks)

    def saved(self) -> list[tuple[str, int]]:
        """Return the part files and their sizes, which grow while a shard is drawn that takes very long."""
        with contextlib.suppress(OSError):
            return [(path.name, path.stat().st_size) for _, path in part_files(self.folder)]
        return []


def _watched(rows: Iterator[Any], seconds: float, stop: Stop, actors: _Actors | None = None) -> Iterator[Any]:
    """Yield `rows`, taken in a thread, so that a hang is noticed and a signal is handled while waiting.

    Raises:
        OutputError: no row came and no part file grew for so many seconds.
    """
    found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def take() -> None:
        try:
            for row in rows:
                found.put(("row", row))
        except BaseException as error:  # whatever it is, the main thread raises it
            found.put(("error", error))
        else:
            found.put(("end", None))

    threading.Thread(target=take, name="restart-ray", daemon=True).start()
    waited, quiet, asked = 0.0, 0, None
    saved = None if actors is None else actors.saved()
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
                before, saved = saved, None if actors is None else actors.saved()
                if saved == before:
                    raise OutputError(
                        f"no shard was finished for {seconds:g} s: a worker hangs; look at log.jsonl, and run the same "
                        f"command again"
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
    """Return the exception in the worker, as Ray's report of it quotes it."""
    found = re.findall(r"^\s*((?:\w+\.)*\w+(?:Error|Exception|Interrupt): .+)$", str(error), flags=re.M)
    own = [text for text in found if not re.match(r"(ray\.|UserCodeException|RayTaskError)", text)]
    return own[-1].strip() if own else type(error).__name__
