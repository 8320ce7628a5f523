"""A worker of Ray: an actor that draws shards and answers with the lines for the manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.devices import select_device
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .decoding import Decoding
from .edits import Edits
from .events import Notes
from .formats.base import ShardData, Written
from .inputs.inputs import Inputs
from .job import Definition
from .lock import WORKERS, worker_lock
from .manifest import Line
from .parts import Parts
from .pipeline import KEEP_SECONDS, Pipeline, explain
from .sheets import IMAGES
from .signals import Stop
from .source import SamplerSource

DRAWING = ".drawing"  # ending of a file beside an actor's lock, there while it draws


@dataclass(frozen=True)
class Engine:
    """What an actor needs to make its sampler; small, and pickled by Ray.

    Attributes:
        load: makes the denoiser; called in the actor.
        plan: options of the plan.
        batch, options, label: as `run_job` takes them.
        folder: the job's folder.
        threads: of PyTorch, in an actor on a CPU.
        keep_seconds: least seconds between two saves of an unfinished shard.
        edits: of the job; images from files are pickled by their paths.
        decoding: of the job; its VAE is opened in the actor.
        inputs: how the actor reads the job's inputs, of `Inputs.read`; None without inputs.
    """

    load: Callable[[], Denoiser]
    plan: dict[str, Any]
    batch: int
    options: dict[str, Any]
    folder: str
    label: int | None = None
    threads: int = 1
    keep_seconds: float = KEEP_SECONDS
    edits: Edits | None = None
    decoding: Decoding | None = None
    inputs: dict[str, Any] | None = None


class StopFile(Stop):
    """A stop that all actors of a folder see: a file, which the driver makes."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / WORKERS / "stop"

    def __bool__(self) -> bool:
        return super().__bool__() or self.path.exists()


class Actor:
    """One sampler and its pipeline.

    Called with {"shard": numbers}, it answers with a dict of lists: for each shard its line of the manifest, images for
    contact sheets, how many images earlier runs have drawn, and the bytes that it holds of its device.
    """

    def __init__(self, engine: Engine) -> None:
        import torch

        self.folder = Path(engine.folder)
        self.lock = worker_lock(self.folder)  # seen by `status` and by the progress of the driver
        self.definition = Definition.read(self.folder)
        self.plan = Plan.build(**engine.plan)
        self.notes = Notes("not shown")
        options = dict(engine.options)
        if str(options.get("device") or "cpu").startswith("cuda"):
            options["device"] = str(select_device("cuda"))  # Ray shows each actor its own GPU alone
        else:
            torch.set_num_threads(engine.threads)
        pixels = self.definition.record["pixels"]
        denoiser = engine.load()
        self.source = SamplerSource(
            denoiser,
            self.plan,
            engine.batch,
            options,
            engine.label,
            pixels,
            self._note,
            edits=engine.edits,
            decoding=engine.decoding,
            inputs=None if engine.inputs is None else Inputs.again(denoiser, engine.inputs),
        )
        self.tag = f"w{self.lock.path.name}"
        self.drawing = self.lock.path.with_name(self.lock.path.name + DRAWING)
        self.stop = StopFile(self.folder)
        self.samples = self.folder / self.definition.samples
        self.options = self.definition.options  # how the files are written
        self.parts = Parts(self.folder, self.tag, self.definition.identity)
        self.keep_seconds = engine.keep_seconds

    def _note(self, event: str, details: dict[str, Any]) -> None:
        """Print what people are told of an event; Ray shows it where the driver runs."""
        if text := self.notes.of(event, details):
            print(f"note: {text}", file=sys.stderr, flush=True)

    def __call__(self, numbers: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        lines: list[dict[str, Any]] = []
        thumbnails: list[dict[str, Any]] = []
        drawn_before: list[int] = []

        def done(line: Line, data: ShardData, before: int) -> None:
            lines.append(asdict(line))
            thumbnails.append(packed(data.images[:IMAGES]))
            drawn_before.append(before)

        def write(data: ShardData) -> Written:
            return self.definition.format.write(self.samples, data, self.options, self.tag)

        inputs = self.source.inputs
        pipeline = Pipeline(
            self.source,
            write,
            done,
            self.plan.digest,
            self.stop,
            parts=self.parts,
            keep_seconds=self.keep_seconds,
            follow=None if inputs is None else inputs.follow,
            facts=None if inputs is None else inputs.facts,
        )
        try:
            self.drawing.touch()
            if not self.stop:
                pipeline.run(self.definition.shards[int(number)] for number in numbers["shard"])
        except OSError as error:
            raise explain(error, self.folder) from error
        finally:
            self.drawing.unlink(missing_ok=True)
        memory = [_memory(self.source)] * len(lines)
        return {"line": lines, "images": thumbnails, "before": drawn_before, "memory": memory}


def _memory(source: SamplerSource) -> int:
    """Return the bytes that this process holds of its GPU; 0 on a CPU."""
    import torch

    return int(torch.cuda.memory_reserved(source.device)) if source.device.startswith("cuda") else 0


def packed(images: np.ndarray) -> dict[str, Any]:
    """Return an array as Ray's tables carry it."""
    return {"shape": list(images.shape), "dtype": str(images.dtype), "data": images.tobytes()}


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """Return the array that `packed` holds."""
    array = np.frombuffer(packed["data"], dtype=packed["dtype"])
    return array.reshape([int(n) for n in packed["shape"]])
