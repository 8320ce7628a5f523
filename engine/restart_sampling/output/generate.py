r"""A job from start to end: folder, source, pipeline. The command `generate` is this with options read from text.

>>> from restart_sampling.output.generate import run_job
>>> failures = run_job(rs.load("fashion-mnist"), rs.preset("fashion-mnist-43"), "0-49999", Path("fm"), format="wds")
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..denoiser import Denoiser
from ..noise import SCHEME
from ..plan import Plan
from ..seeds import Seeds, parse_seeds
from ..version import __version__
from . import pipeline
from .job import JobFolder
from .manifest import Line
from .progress import Display
from .sheets import Sheets
from .source import SamplerSource
from .workers import Worker
from .writers import ShardData, Written

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
) -> list[int]:
    """Draw a job into `out`, or go on with it; returns the seeds that have no image because they are not finite.

    Args:
        model: what run.json calls the model; default the denoiser's name.
        label: class for all samples, and `class_` the text that asked for it; default: drawn from each seed.
        options: of `Sampler`: backend, graph, compile, dtype, device.
        format, pixels, shard_size: of the files, see `writers`. sheets, preview: contact sheets, see `sheets`.
        stop: asks to stop after the batch in flight. who: which worker of the run this is.

    Raises:
        OutputError: the folder holds another job or cannot be used (nothing was drawn), or a write failed (what was finished
            is whole, and the same call goes on from there).
    """
    seeds, who = parse_seeds(seeds), who or Worker()
    display = display or Display(Console(quiet=True))
    chosen = OPTIONS | (options or {})
    source = SamplerSource(denoiser, plan, batch, chosen, label, pixels, display.event, display.row)
    sampler = source.sampler
    record = {
        "program": f"restart-sampling {__version__}",
        "model": model or denoiser.name,
        "model_sha256": denoiser.info.get("sha256"),
        "plan": plan.config.to_dict(),
        "plan_digest": plan.digest,
        "nfe": sampler.plan.nfe,
        "notes": list(sampler.plan.notes),
        "seeds": str(seeds),
        "class": class_ if class_ is not None or label is None else str(label),
        "batch": batch,
        "device": str(sampler.device),
        "dtype": chosen["dtype"],
        "backend": chosen["backend"],  # as asked: all give the same bits, and another machine may have others
        "graph": chosen["graph"],
        "compile": chosen["compile"],
        "ran": sampler.describe(),
        "format": format,
        "pixels": pixels,
        "shard_size": shard_size,
        "noise": SCHEME,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    per_sample = denoiser.numel * (4 if pixels == "float32" else 1)
    folder = JobFolder(out, record, overwrite, who.rank, who.world, per_sample)
    try:
        return _run(
            folder, source, plan, display, pipeline.Stop() if stop is None else stop, who, sheets, preview
        )
    except OSError as error:
        raise pipeline.explain(error, out) from error
    finally:
        folder.close()


def _run(
    folder: JobFolder,
    source: SamplerSource,
    plan: Plan,
    display: Display,
    stop: pipeline.Stop,
    who: Worker,
    sheets: int,
    preview: bool,
) -> list[int]:
    display.start(
        folder, source.denoiser.name, source.sampler.plan.nfe, source.batch, source.sampler.describe(), who
    )
    for note in source.sampler.plan.notes:
        display.note(note)
    made, definition = Sheets(folder, sheets, preview), folder.definition

    def write(data: ShardData) -> Written:
        return definition.format.write(folder.path, data, definition.subfolders, folder.tag)

    def done(line: Line, data: ShardData) -> None:
        made.add(data)
        folder.manifest.append(line)  # last: now the shard is finished
        display.shard(line)

    with display:
        try:
            result = pipeline.run(folder.todo(), source, write, done, plan.digest, stop, display.samples)
        except KeyboardInterrupt:
            stop(130)
            result = pipeline.Result(stopped=True)
    for note in source.sampler.notes:
        display.note(note)
    return display.finish(result, stop.signal)
