r"""A job from start to end: folder, source, pipeline. The command `generate` is this with options read from text.

>>> from restart_sampling.jobs.generate import run_job
>>> failures = run_job(rs.load("fashion-mnist"), rs.preset("fashion-mnist-22"), "0-49999", Path("fm"), format="wds")
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.checks import integer
from ..common.errors import RestartValueError
from ..common.terminal import plain_console
from ..common.version import __version__
from ..models.denoiser import Denoiser
from ..models.registry import BUNDLED
from ..plan.plan import Plan
from ..sampler.noise import SCHEME
from ..sampler.sampler import Sampler
from ..sampler.seeds import Seeds, parse_seeds
from . import pipeline, ray_workers
from .formats.base import VERSION, ShardData, Written
from .job import JobFolder
from .manifest import Line
from .progress import Display
from .shards import Shards
from .sheets import Sheets
from .source import SamplerSource
from .workers import Worker

OPTIONS = {"backend": "auto", "graph": "auto", "compile": "auto", "dtype": "fp32", "device": None}


def run_job(
    denoiser: Denoiser,
    plan: Plan,
    seeds: Seeds | str,
    out: Path,
    *,
    model: str | None = None,
    label: int | None = None,
    class_: str | None = None,
    batch: int = 64,
    options: dict[str, Any] | None = None,
    format: str = "png",
    pixels: str = "uint8",
    shard_size: int = 1000,
    overwrite: bool = False,
    sheets: int = 100,
    preview: bool = False,
    display: Display | None = None,
    stop: pipeline.Stop | None = None,
    who: Worker | None = None,
    workers: int = 1,
    address: str | None = None,
    load: Callable[[], Denoiser] | None = None,
    command: str | None = None,
    keep_seconds: float = pipeline.KEEP_SECONDS,
    format_version: int = VERSION,
) -> list[int]:
    """Draw a job into `out`, or go on with it; returns the seeds that have no image because they are not finite.

    Args:
        model: what run.json calls the model; default the denoiser's name.
        label: class for all samples, and `class_` the text that asked for it; default: drawn from each seed.
        options: of `Sampler`: backend, graph, compile, dtype, device.
        format, pixels, shard_size: of the files, see `writers`. sheets, preview: contact sheets, see `sheets`.
        stop: asks to stop after the batch in flight. who: which worker of the run this is (torchrun).
        workers, address: draw with so many workers of Ray Data, on the cluster at `address` or on this machine; they
            make their denoiser with `load`. One worker without an address is this process, without Ray.
        command: what was typed, for run.json.
        keep_seconds: what a kill may cost of a shard's time, besides the batch in flight: how often an unfinished shard
            is kept.
        format_version: an older one gives the bytes of files as they were then, see `writers.VERSION`.

    Raises:
        OutputError: the folder holds another job or cannot be used (nothing was drawn), or a write failed (what was
            finished is whole, and the same call goes on from there).
    """
    seeds, who = parse_seeds(seeds), who or Worker()
    display = display or Display(plain_console(quiet=True))
    chosen = OPTIONS | (options or {})
    workers = integer("workers", workers, 1, error=RestartValueError)
    batch = integer("batch_size", batch, 1, error=RestartValueError)
    shard_size = Shards(seeds, shard_size).size
    label = None if label is None else integer("label", label, 0, error=RestartValueError)
    source = None
    if workers == 1 and address is None:
        most = max(1, min(batch, len(seeds)))  # no lanes for samples there are none of
        source = SamplerSource(denoiser, plan, most, chosen, label, pixels, display.event, display.row)
        # The plan alone: a sampler that did not fit into memory must be free to go.
        bound, device, ran = source.sampler.plan, str(source.sampler.device), source.sampler.describe()
    else:  # the engines are elsewhere; this one only says what they will do
        ray_workers.check()
        bound = Sampler(denoiser.to("cpu"), plan, 1, device="cpu", compile="off").plan
        device, ran = str(chosen["device"] or "cpu"), f"{workers} workers of Ray Data"
    record = {
        "program": f"restart-sampling {__version__}",
        "command": command,
        "model": model or denoiser.name,
        "model_path": _path(denoiser, model),
        "model_sha256": denoiser.info.get("sha256"),
        "plan": plan.config.to_dict(),
        "plan_digest": plan.digest,
        "nfe": bound.nfe,
        "notes": list(bound.notes),
        "seeds": str(seeds),
        "class": class_ if class_ is not None or label is None else str(label),
        "batch": batch,
        "device": device,
        "dtype": chosen["dtype"],
        "backend": chosen["backend"],  # as asked: all give the same bits, and another machine may have others
        "graph": chosen["graph"],
        "compile": chosen["compile"],
        "ran": ran,
        "format": format,
        "format_version": format_version,
        "pixels": pixels,
        "shard_size": shard_size,
        "noise": SCHEME,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    per_sample = denoiser.numel * (4 if pixels == "float32" else 1)
    folder = JobFolder(out, record, overwrite, who.rank, who.world, per_sample)
    stop = pipeline.Stop() if stop is None else stop
    try:
        display.start(folder, denoiser.name, bound.nfe, batch, device, ran, who, workers)
        for note in (*denoiser.info.get("notes", ()), *bound.notes):
            display.note(note)
        with display:
            if source is not None:
                made = Sheets(folder, sheets, preview)
                result = _here(folder, source, plan, display, stop, made, keep_seconds)
            else:
                threads = max(1, (os.cpu_count() or 1) // workers)
                engine = ray_workers.Engine(
                    load or partial(_same, denoiser),
                    plan.config.to_dict(),
                    batch,
                    chosen,
                    str(out.resolve()),
                    label,
                    threads,
                    keep_seconds,
                )
                result = ray_workers.run(
                    folder, engine, workers, display, stop, address=address, sheets=sheets, preview=preview
                )
        for note in () if source is None else source.sampler.notes:
            display.note(note)
        return display.finish(result, stop.signal)
    except OSError as error:
        raise pipeline.explain(error, out) from error
    finally:
        folder.close()


def _here(
    folder: JobFolder,
    source: SamplerSource,
    plan: Plan,
    display: Display,
    stop: pipeline.Stop,
    sheets: Sheets,
    keep_seconds: float,
) -> pipeline.Result:
    """Draw this worker's shards in this process."""
    definition = folder.definition

    def write(data: ShardData) -> Written:
        return definition.format.write(folder.samples, data, definition.subfolders, folder.tag)

    def done(line: Line, data: ShardData, before: int) -> None:
        sheets.add(data)
        folder.finish(line)  # last: now the shard is finished
        display.shard(line, before)

    try:
        return pipeline.run(
            folder.todo(), source, write, done, plan.digest, stop, display.samples, folder.parts, keep_seconds
        )
    except KeyboardInterrupt:
        stop(130)
        return pipeline.Result(stopped=True)


def _path(denoiser: Denoiser, model: str | None) -> str | None:
    """Where the model's file is, for a repeat from another folder; None for a bundled model and for a function."""
    path = denoiser.info.get("path")
    return None if path is None or (model or denoiser.name) in BUNDLED else str(Path(path).resolve())


def _same(denoiser: Denoiser) -> Denoiser:
    return denoiser
