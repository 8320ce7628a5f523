"""`restart-sampling generate`: draw samples into a folder, in shards, resumable.

Exit codes: 0 complete, 1 samples are missing, 2 the command cannot run, 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.checks import either
from ..common.errors import ConfigError, RestartError, RestartValueError
from ..jobs.formats.registry import DEFAULT, FORMATS, VERSION, holding
from ..jobs.shards import DEFAULT_SIZE
from ..jobs.workers import worker
from ..plan.plan import Plan
from .job_options import DecodeOptions, EditOptions, InputOptions
from .model_options import MODEL, GuideOptions, PipelineOptions, opens_pipeline
from .options import Batch, EngineOptions, PlanOptions, batch_size, given, with_options
from .storage import StorageOptions

RUN: dict[str, Any] = {
    "model": "fashion-mnist-edm2",
    "guide": None,
    "guide_null": None,
    "seeds": "0-63",
    "class_": None,
    "batch": "auto",
    "device": None,
    "dtype": "fp32",
    "backend": "auto",
    "graph": "auto",
    "compile": "auto",
}
FILES = ("prompts", "conditions")  # of inputs
LAYOUT = {"format": DEFAULT, "pixels": "uint8", "shard_size": DEFAULT_SIZE, "format_version": VERSION}
FORMAT_NAMES = either(f"{name} ({format.note})" if format.note else name for name, format in FORMATS.items())
NOT_FLOAT32 = ", ".join(name for name in FORMATS if name not in holding("float32"))


@with_options
def generate(
    *,
    model: Annotated[str | None, typer.Option(help=f"{MODEL}; with --repeat, where it is now.")] = None,
    pipeline: PipelineOptions,
    guided: GuideOptions,
    asked: PlanOptions,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0-63,100; one image each. Default 0-63, or those of the inputs.")
    ] = None,
    asked_inputs: InputOptions,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class number or name for all images; default: drawn from the seed.")
    ] = None,
    batch: Batch = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("samples"),
    format: Annotated[str | None, typer.Option(help=f"{FORMAT_NAMES}. Default {DEFAULT}.")] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Seeds of a shard, the unit that is resumed: shard k has seeds k·SIZE … (k+1)·SIZE − 1. "
            f"Default {DEFAULT_SIZE}."
        ),
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(help=f"uint8, or float32 for the samples as they are (not as {NOT_FLOAT32}). Default uint8."),
    ] = None,
    stored: StorageOptions,
    sheets: Annotated[
        int,
        typer.Option(
            min=0, help="Contact sheets: grid.png of the first shard, and one of every Nth; 0 for none at all."
        ),
    ] = 100,
    workers: Annotated[
        int, typer.Option(help="Workers of Ray Data, one for each GPU or share of the CPU; 1 is this process.")
    ] = 1,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster, for --workers.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Keep preview.png, a sheet of the latest samples, up to date.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew, in place of an earlier run in the folder.")
    ] = False,
    edits: EditOptions,
    decoding: DecodeOptions,
    engine: EngineOptions,
    repeat: Annotated[
        Path | None, typer.Option(help="Do again what this run.json records; its folder may be given.")
    ] = None,
) -> None:
    """Draw samples into OUT/samples; beside it a contact sheet (grid.png) and run.json with everything needed to repeat
    the run.

    The same command again goes on where it stopped; seeds may be added.
    """
    options = {"model": model, **vars(guided), "seeds": seeds, "class_": class_, "batch": batch} | vars(engine)
    layout = {"format": format, "pixels": pixels, "shard_size": shard_size, "format_version": None} | vars(stored)
    if repeat is None:
        run = RUN | {"edits": edits.edits(), "decoding": given(decoding), "sha256": {}, "weights": {}}
        run |= {"inputs": given(asked_inputs)}
        if seeds is not None and run["inputs"]:
            raise ConfigError(
                "--seeds cannot be given with inputs, whose samples have the seeds from --first-seed on; leave it out"
            )
        kind = LAYOUT
        name, opened = model or RUN["model"], None
        run["pipeline"] = pipeline.told() if asked_inputs.prompts is None else pipeline.told_with_prompts(name)
        if opens_pipeline(name, run["pipeline"]):  # its noise levels decide the plan
            opened = guided.load(name, "cpu", run["pipeline"], engine.dtype or RUN["dtype"])
        plan = asked.plan(fallback="fashion-mnist-22", own=None if opened is None else opened.info["levels"])
        guided.check([plan])
    else:
        opened, moved = None, ("model", "guide")
        said = given(asked) | {
            name: value for name, value in options.items() if value is not None and name not in moved
        }
        said |= {name: value for name, value in given(edits).items() if name not in edits.images()}
        said |= {name: value for name, value in given(decoding).items() if name != "decode"}
        said |= {name: value for name, value in given(asked_inputs).items() if name not in FILES}
        said |= {name: value for name, value in given(pipeline).items() if name != "config"}
        if said:
            raise ConfigError(
                f"--repeat takes everything from {repeat} (but --model, --config, --guide and --decode may say where "
                f"weights are now, --prompts and --conditions where its inputs are, and --start, --known and --mask "
                f"where its images are); leave out --{next(iter(said)).rstrip('_').replace('_', '-')}"
            )
        path = repeat / "run.json" if repeat.is_dir() else repeat
        files = {name: value for name, value in given(asked_inputs).items() if name in FILES}
        plan, run, kind = _recorded(path, model, edits.images(), guided.guide, decoding.decode, files, pipeline.config)
    run = run | {name: value for name, value in options.items() if value is not None}
    kind = stored.over(kind, format) | {name: value for name, value in layout.items() if value is not None}
    _draw(
        plan,
        run,
        opened,
        out,
        workers=workers,
        address=address,
        overwrite=overwrite,
        sheets=sheets,
        preview=preview,
        **kind,
    )


def repeat_into(folder: Path, model: str | None = None, guide: str | None = None) -> None:
    """Go on with the run in a folder, as its run.json says; `model` and `guide` are where its weights are now."""
    generate(repeat=folder / "run.json", out=folder, model=model, guide=guide)


def _recorded(
    path: Path,
    model: str | None,
    images: dict[str, Path],
    guide: str | None,
    decode: Path | None,
    inputs: dict[str, Path],
    config: Path | None,
) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """Return the plan, the options and the layout of the files that a run.json records."""
    from ..jobs.repeat import recorded

    found = recorded(path, model, images, guide, decode, inputs, config)
    if worker().world > 1 and str(found.options["device"]).startswith("cuda"):
        found.options["device"] = "cuda"  # the GPU that is recorded was that of one worker
    run = found.options | {"edits": found.edits, "decoding": found.decoding}
    run["pipeline"] = dict(found.pipeline)
    run["load_dtype"] = run["pipeline"].pop("dtype", run["dtype"])
    run |= {"sha256": found.sha256, "weights": found.weights, "inputs": found.inputs}
    run["guide_null"] = found.weights.get("guide_null")
    return found.plan, run, found.layout


def _draw(
    plan: Plan, run: dict[str, Any], opened: Any, out: Path, *, workers: int, address: str | None, **options: Any
) -> None:
    """Draw the job, or go on with it; end with an exit code that says what is missing; `opened` is its model."""
    from ..common.devices import select_device, visible_gpus
    from ..common.terminal import plain_console
    from ..jobs.generate import in_this_process, run_job
    from ..jobs.progress import Display
    from ..jobs.repeat import weights_of
    from ..jobs.signals import stop_on_signals
    from ..sampler.seeds import parse_seeds

    this = worker()
    if in_this_process(workers, address):
        device = str(select_device(run["device"], this.local))
    else:  # each worker of Ray has a GPU of its own
        device = run["device"] or ("cuda" if visible_gpus() else "cpu")
    guided = GuideOptions(run["guide"], run["guide_null"])
    run.setdefault("load_dtype", run["dtype"])
    denoiser = opened or guided.load(run["model"], "cpu", run["pipeline"], run["load_dtype"])
    for which, sha256 in (("model", "model_sha256"), ("guide", "guide_sha256")):
        recorded = run["weights"].get(sha256)
        if recorded not in (None, weights_of(denoiser).get(sha256)):
            raise ConfigError(
                f"the weights of {run[which]!r} are not those of the recorded run (sha256 {recorded[:12]}…), "
                f"so its images cannot be repeated; give the file with --{which} if it has moved"
            )
    edits = run["edits"] | _images(run, denoiser.shape)
    inputs = InputOptions(**run["inputs"]).read(denoiser, edits.get("start"), run["pipeline"].get("negative_prompt"))
    if inputs is not None and run["sha256"].get("inputs") not in (None, inputs.record()["inputs"]["sha256"]):
        raise ConfigError(
            f"the inputs in {inputs.path} are not those of the recorded run, so its images cannot be repeated; say "
            f"where they are with --{inputs.record()['inputs']['kind']} if they have moved"
        )
    seeds = parse_seeds(run["seeds"]) if inputs is None else inputs.seeds
    _check_vae(run)
    label = _class_number(run["class_"], denoiser)
    batch = batch_size(run["batch"], denoiser, plan, len(seeds), device, run["dtype"])
    chosen = {name: run[name] for name in ("backend", "graph", "compile", "dtype")} | {"device": device}
    display = Display(plain_console(stderr=True))
    with stop_on_signals(display.note) as stop:
        try:
            failures = run_job(
                denoiser,
                plan,
                seeds if inputs is None else None,
                out,
                model=run["model"],
                guide=run["guide"],
                label=label,
                class_=run["class_"],
                batch=batch,
                options=chosen,
                display=display,
                stop=stop,
                worker=this,
                workers=workers,
                address=address,
                load=_loader(run),
                command=shlex.join(["restart-sampling", *sys.argv[1:]]),
                inputs=inputs,
                **edits,
                **run["decoding"],
                **options,
            )
        except RestartError as error:
            if not display.started_at:
                raise
            display.failed(str(error))  # the command was right, so not 2: the job is not done
            raise typer.Exit(1) from None
    if stop.signal:
        raise typer.Exit(stop.signal)
    if failures:
        raise typer.Exit(1)


def _check_vae(run: dict[str, Any]) -> None:
    """Raise ConfigError unless the VAE is that of the recorded run, if one is recorded."""
    recorded, folder = run["weights"].get("vae_sha256"), run["decoding"].get("decode")
    if recorded is None or folder is None:
        return
    from ..integrations.diffusers.vae import digest

    if digest(folder) != recorded:
        raise ConfigError(
            f"{folder} does not hold the VAE of the recorded run (sha256 {recorded[:12]}…), so its images cannot be "
            f"repeated; give the folder with --decode if it has moved"
        )


def _images(run: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the images of a run, read. Raises ConfigError for one that is not that of the recorded run."""
    from ..jobs.images import read_images

    found = {
        name: read_images(name, run["edits"][name], shape)
        for name in ("start", "known", "mask")
        if name in run["edits"]
    }
    for name, images in found.items():
        if images.sha256 != run["sha256"].get(name, images.sha256):
            raise ConfigError(
                f"{images} does not have the pixels of the recorded run (sha256 {run['sha256'][name][:12]}…), so it "
                f"cannot be repeated; give the file with --{name} if it has moved"
            )
    return found


def _loader(run: dict[str, Any]) -> Callable[[], Any]:
    """Return what loads the model of a run, and its guide, in a worker that has another working directory."""
    from ..models.registry import BUNDLED

    def absolute(name: str) -> str:
        return name if name in BUNDLED else str(Path(name).expanduser().resolve())

    guide, told = run["guide"], dict(run.get("pipeline", {}))
    if "config" in told:
        told["config"] = absolute(told["config"])
    guided = GuideOptions(None if guide is None else absolute(guide), run["guide_null"])
    return partial(guided.load, absolute(run["model"]), "cpu", told, run.get("load_dtype", "fp32"))


def _class_number(text: str | None, denoiser: Any) -> int | None:
    """Return the class that `--class` names or numbers; a name comes first, for classes that are called "0" or "7"."""
    from ..sampler.labels import class_number

    if text is None:
        return None
    if denoiser.label_dim == 0:
        raise RestartValueError(f"--class was given, but {denoiser.name!r} has no classes; leave it out")
    named = text.lower() in (name.lower() for name in denoiser.classes)
    if not named and text.isdecimal() and int(text) < denoiser.label_dim:
        return int(text)
    return class_number(denoiser, text)
