r"""A job from start to end: folder, workers, progress. The command `generate` is this with options read from text.

>>> from restart_sampling.jobs.generate import run_job
>>> failures = run_job(rs.load("fashion-mnist"), rs.preset("fashion-mnist-22"), "0-49999", Path("fm"), format="wds")
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..common.checks import integer
from ..common.errors import OutputError, RestartValueError
from ..common.terminal import plain_console
from ..common.version import __version__
from ..models.denoiser import Denoiser
from ..models.registry import BUNDLED
from ..plan.plan import Plan
from ..sampler.noise import SCHEME
from ..sampler.seeds import Seeds, parse_seeds
from .decoding import Decoding
from .edits import Edits
from .folder import JobFolder
from .formats.registry import DEFAULT, VERSION, storage
from .inputs.inputs import Inputs
from .local_worker import LocalWorker
from .pipeline import KEEP_SECONDS, Result, explain
from .progress import Display
from .ray_workers import RayWorkers
from .record import DECODE_MOST
from .repeat import weights_of
from .shards import DEFAULT_SIZE, Shards
from .sheets import Sheets
from .signals import Stop
from .workers import Worker

PIPELINE = {"pipeline": "told", "config_path": "config"}  # entries of run.json that `rs.load` notes of a pipeline
OPTIONS = {"backend": "auto", "graph": "auto", "compile": "auto", "dtype": "fp32", "device": None}


class Workers(Protocol):
    """A way to draw a job's shards.

    Attributes:
        plan: the plan as the network runs it.
        device: the device, as run.json records it.
        ran: how the samples are drawn, in words.
    """

    plan: Plan
    device: str
    ran: str

    def draw(self, folder: JobFolder, display: Display, stop: Stop, sheets: Sheets) -> Result:
        """Draw the unfinished shards of this process."""

    @property
    def notes(self) -> Sequence[str]:
        """What is to be said after the run."""


def run_job(
    denoiser: Denoiser,
    plan: Plan,
    seeds: Seeds | str | None,
    out: Path,
    *,
    model: str | None = None,
    guide: str | None = None,
    label: int | None = None,
    class_: str | None = None,
    batch: int = 64,
    options: dict[str, Any] | None = None,
    format: str = DEFAULT,
    pixels: str = "uint8",
    shard_size: int = DEFAULT_SIZE,
    overwrite: bool = False,
    sheets: int = 100,
    preview: bool = False,
    display: Display | None = None,
    stop: Stop | None = None,
    worker: Worker | None = None,
    workers: int = 1,
    address: str | None = None,
    load: Callable[[], Denoiser] | None = None,
    command: str | None = None,
    keep_seconds: float = KEEP_SECONDS,
    format_version: int = VERSION,
    start: Any = None,
    strength: float | None = None,
    sigma: float | None = None,
    known: Any = None,
    mask: Any = None,
    paste: str | None = None,
    decode: str | Path | None = None,
    decode_batch: int = DECODE_MOST,
    inputs: Inputs | None = None,
    encoding: str | None = None,
    quality: int | None = None,
    metadata: str | Sequence[str] | None = None,
) -> list[int]:
    """Draw a job into `out`, or go on with it; return the seeds that have no image because they are not finite.

    Args:
        denoiser, plan, seeds: what is drawn; with inputs seeds are None, since the inputs say which there are.
        out: the job's folder.
        model: what run.json calls the model, by default the denoiser's name.
        guide: likewise its guide.
        label: class of all samples; by default each is drawn from its seed.
        class_: the text that asked for the class, for run.json.
        batch: samples of a network call.
        options: of `Sampler`: backend, graph, compile, dtype, device.
        format, pixels, shard_size: of the files, see docs/production.md.
        overwrite: start anew where another run is; only files of that run are removed.
        sheets, preview: contact sheets, see `Sheets`.
        display: what progress is shown on, by default nothing.
        stop: asks to stop after the batch in flight.
        worker: which worker of the run this is, of those that torchrun started.
        workers, address: draw with so many workers of Ray Data, on the cluster at `address` or on this machine. One
            worker without an address is this process, without Ray.
        load: makes the denoiser in a worker of Ray; by default `denoiser` is pickled.
        command: what was typed, for run.json.
        keep_seconds: least seconds between two saves of an unfinished shard: what a kill may cost besides the batch in
            flight.
        format_version: an earlier one writes files as they were then, see `formats.base.Format.version`.
        start, known, mask: images that the samples begin with, keep, and keep them by, as of `Sampler.run`: files,
            arrays or tensors, one for all or one for each seed in order, see images.py.
        strength, sigma, paste: where a run from `start` begins, and the noise of the known image, as of `Sampler.run`.
        decode: the folder of the VAE that decodes the latents, or of its pipeline; None writes samples as they are, but
            for 8-bit pixels of a pipeline that was loaded from a folder, whose own VAE it is then.
        decode_batch: latents that are decoded at once, 1 to 4, beside the sampler.
        inputs: prompts or conditions, and how many samples of each, see inputs/inputs.py.
        encoding, quality: of the pictures, by default those of the format.
        metadata: what is stored with each picture: "text" in it, "json" beside it, or both.

    Raises:
        OutputError: the folder holds another job or cannot be used (nothing was drawn), or a write failed (what is
            finished is whole, and the same call goes on from there).
    """
    if (seeds is None) == (inputs is None):
        raise RestartValueError("give seeds, or inputs, which say which seeds there are")
    seeds, worker = parse_seeds(seeds) if inputs is None else inputs.seeds, worker or Worker()
    display = display or Display(plain_console(quiet=True))
    chosen = OPTIONS | (options or {})
    workers = integer("workers", workers, 1, error=RestartValueError)
    batch = integer("batch_size", batch, 1, error=RestartValueError)
    shard_size = Shards(seeds, shard_size).size
    label = None if label is None else integer("label", label, 0, error=RestartValueError)
    if pixels == "uint8" and len(denoiser.shape) != 3:
        raise OutputError(
            f"8-bit pixels are of images (C, H, W), and samples of {denoiser.name!r} are {denoiser.shape}; give "
            "pixels='float32' (--pixels float32) and a format that holds floats"
        )
    given = {"start": start, "strength": strength, "sigma": sigma, "known": known, "mask": mask, "paste": paste}
    edits = Edits.read(given, seeds, denoiser.shape, 1 if inputs is None else inputs.per_input)
    if decode is None and pixels == "uint8":
        decode = denoiser.info.get("vae")  # of a pipeline's folder
    latent = (denoiser.info.get("encoder") or {}).get("kind") == "vae" or denoiser.info.get("latent")
    if decode is None and pixels == "uint8" and latent:
        raise OutputError(
            f"samples of {denoiser.name!r} are latents; give the folder of their VAE as decode (--decode FOLDER) for "
            "images, or pixels='float32' (--pixels float32) and a format that holds floats for the latents"
        )
    decoding = None if decode is None else Decoding.read(decode, denoiser, decode_batch)
    shape = denoiser.shape if decoding is None else decoding.shape
    stored = storage(
        format, format_version, pixels, encoding, quality, metadata, shape=shape, classes=denoiser.label_dim > 0
    )
    by: Workers
    if in_this_process(workers, address):
        most = max(1, min(batch, len(seeds)))  # no lanes beyond the number of samples
        by = LocalWorker(denoiser, plan, most, chosen, label, pixels, display, keep_seconds, edits, decoding, inputs)
    else:
        by = RayWorkers(
            denoiser,
            plan,
            batch,
            chosen,
            label,
            load,
            workers,
            address,
            keep_seconds,
            edits=edits,
            decoding=decoding,
            inputs=inputs,
        )
    record = {
        "program": f"restart-sampling {__version__}",
        "command": command,
        "model": model or denoiser.name,
        "model_path": _path(denoiser, model),
        **_guide(denoiser, guide),
        **{name: denoiser.info[key] for name, key in PIPELINE.items() if key in denoiser.info},
        **weights_of(denoiser),
        "plan": json.loads(json.dumps(plan.config.to_dict())),  # as run.json has it, to be compared with it
        "plan_digest": plan.digest,
        "nfe": by.plan.nfe,
        "notes": list(by.plan.notes),
        "seeds": str(seeds),
        "class": class_ if class_ is not None or label is None else str(label),
        "batch": batch,
        "device": by.device,
        "dtype": chosen["dtype"],
        "backend": chosen["backend"],  # as asked: all give the same bits, and another machine may have others
        "graph": chosen["graph"],
        "compile": chosen["compile"],
        "ran": by.ran,
        "format": format,
        "format_version": format_version,
        "pixels": pixels,
        **stored,
        "shard_size": shard_size,
        "noise": SCHEME,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        **({} if edits is None else edits.record()),
        **({} if decoding is None else decoding.record()),
        **({} if inputs is None else inputs.record()),
    }
    numel = denoiser.numel if decoding is None else math.prod(decoding.shape)
    per_sample = numel * (4 if pixels == "float32" else 1)
    folder = JobFolder(out, record, overwrite, worker.rank, worker.world, per_sample)
    stop = Stop() if stop is None else stop
    try:
        display.start(folder, called(denoiser), by.plan.nfe, batch, by.device, by.ran, worker, workers)
        for note in (*denoiser.info.get("notes", ()), *by.plan.notes):
            display.note(note)
        with display:
            result = by.draw(folder, display, stop, Sheets(folder, sheets, preview))
        for note in by.notes:
            display.note(note)
        return display.finish(folder, result, stop.signal)
    except OSError as error:
        raise explain(error, out) from error
    finally:
        folder.close()
        if inputs is not None:
            inputs.source.close()


def called(denoiser: Denoiser) -> str:
    """Return what a job's lines call a network: its name, with that of its guide."""
    return denoiser.name if denoiser.guide is None else f"{denoiser.name} guided by {denoiser.guide.name}"


def _guide(denoiser: Denoiser, guide: str | None) -> dict[str, Any]:
    """Return the entries of run.json that say what the guide is and where its file is."""
    if denoiser.guide is None:
        return {}
    return {"guide": guide or denoiser.guide.name, "guide_path": _path(denoiser.guide, guide)}


def in_this_process(workers: int, address: str | None) -> bool:
    """Whether a job with these options of `run_job` is drawn by this process, without Ray."""
    return workers == 1 and address is None


def _path(denoiser: Denoiser, model: str | None) -> str | None:
    """Return where the model's file is, for a repeat from another folder; None for a bundled model or a function."""
    path = denoiser.info.get("path")
    return None if path is None or (model or denoiser.name) in BUNDLED else str(Path(path).resolve())
