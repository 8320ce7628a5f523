"""`restart-sampling generate`: draw samples into a folder, in shards, resumable.

Exit codes: 0 complete, 1 samples are missing, 2 the command cannot run, 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import ConfigError, RestartError, RestartValueError
from ..jobs.formats.base import VERSION
from ..jobs.workers import worker
from ..plan.plan import Plan
from ..sampler.seeds import Seeds, parse_seeds
from . import options as o

LAYOUT = {"format": "png", "pixels": "uint8", "shard_size": 1000, "format_version": VERSION}


def generate(
    model: Annotated[
        str | None, typer.Option(help="A bundled name or a model file; with --repeat, where the file is now.")
    ] = None,
    preset: o.Preset = None,
    steps: o.Steps = None,
    solver: o.Solver = None,
    restart: o.Restart = None,
    restart_solver: o.RestartSolver = None,
    s_noise: o.SNoise = None,
    s_churn: o.SChurn = None,
    s_min: o.SMin = None,
    s_max: o.SMax = None,
    restart_gamma: o.RestartGamma = None,
    sigma_min: o.SigmaMin = None,
    sigma_max: o.SigmaMax = None,
    rho: o.Rho = None,
    schedule: o.Schedule = None,
    on_collision: o.OnCollision = None,
    guidance_scale: o.Guidance = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, e.g. 0-63,100; one image each. Default 0-63.")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class number or name for all images; default: drawn from the seed.")
    ] = None,
    batch: o.Batch = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("samples"),
    format: Annotated[
        str | None, typer.Option(help="png (a file for each seed), npz, wds (WebDataset tar) or parquet. Default png.")
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Seeds of a shard, the unit that is resumed: shard k has seeds k·SIZE … (k+1)·SIZE − 1. Default 1000."
        ),
    ] = None,
    pixels: Annotated[
        str | None, typer.Option(help="uint8, or float32 for the samples as they are (not as png). Default uint8.")
    ] = None,
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
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")] = None,
    dtype: o.Dtype = None,
    backend: o.Backend = None,
    graph: o.Graph = None,
    compile: o.Compile = None,
    repeat: Annotated[
        Path | None, typer.Option(help="Do again what this run.json records; its folder may be given.")
    ] = None,
) -> None:
    """Draw samples into OUT/samples; beside it a contact sheet (grid.png) and run.json with everything needed to repeat
    the run.

    The same command again goes on where it stopped; seeds may be added.
    """
    given: dict[str, Any] = dict(
        steps=steps,
        solver=solver,
        restart_solver=restart_solver,
        restart=restart,
        s_noise=s_noise,
        s_churn=s_churn,
        s_min=s_min,
        s_max=s_max,
        restart_gamma=restart_gamma,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        schedule=schedule,
        on_collision=on_collision,
        guidance_scale=guidance_scale,
    )
    run: dict[str, Any] = dict(
        model=model,
        seeds=seeds,
        class_=class_,
        batch=batch,
        device=device,
        dtype=dtype,
        backend=backend,
        graph=graph,
        compile=compile,
    )
    layout: dict[str, Any] = dict(format=format, pixels=pixels, shard_size=shard_size, format_version=None)
    plan = None
    if repeat is not None:
        asked = [name for name, value in {**given, **run, "model": None, "preset": preset}.items() if value is not None]
        if asked:
            raise ConfigError(
                f"--repeat takes everything from {repeat} (but --model may say where the weights are now); leave out "
                f"--{asked[0].rstrip('_').replace('_', '-')}"
            )
        run, plan, recorded = _read_run(repeat / "run.json" if repeat.is_dir() else repeat, model)
        if worker().world > 1 and str(run["device"]).startswith("cuda"):
            run["device"] = "cuda"  # the GPU that is recorded was that of one worker
        layout = {name: recorded[name] if value is None else value for name, value in layout.items()}
    defaults = dict(
        model="fashion-mnist",
        seeds="0-63",
        class_=None,
        batch="auto",
        device=None,
        dtype="fp32",
        backend="auto",
        graph="auto",
        compile="auto",
    )
    run = {name: defaults.get(name) if value is None else value for name, value in run.items()}
    if plan is None:
        plan = o.build_plan(preset, fallback="fashion-mnist-22", **given)
    layout = {name: LAYOUT[name] if value is None else value for name, value in layout.items()}
    _draw(plan, run, parse_seeds(run["seeds"]), out, layout, overwrite, sheets, preview, workers, address)


def repeat_into(folder: Path, model: str | None = None) -> None:
    """Go on with the run in a folder, as its run.json says; `model` is where its weights are now."""
    generate(repeat=folder / "run.json", out=folder, model=model)


def _draw(
    plan: Plan,
    run: dict[str, Any],
    seeds: Seeds,
    out: Path,
    layout: dict[str, Any],
    overwrite: bool,
    sheets: int,
    preview: bool,
    workers: int,
    address: str | None,
) -> None:

    from ..common.devices import select_device, visible_gpus
    from ..common.terminal import plain_console
    from ..jobs.generate import run_job
    from ..jobs.progress import Display
    from ..jobs.signals import stop_on_signals
    from ..models.registry import load_model as load

    who = worker()
    if workers == 1 and address is None:
        device = str(select_device(run["device"], who.local))
    else:  # each worker of Ray has a GPU of its own
        device = run["device"] or ("cuda" if visible_gpus() else "cpu")
    denoiser = load(run["model"])
    recorded = run.get("model_sha256")
    if recorded not in (None, denoiser.info.get("sha256")):
        raise ConfigError(
            f"the weights of {run['model']!r} are not those of the recorded run (sha256 {recorded[:12]}…), "
            f"so its images cannot be repeated; give the file with --model if it has moved"
        )
    label = _class_number(run["class_"], denoiser)
    batch = o.batch_size(run["batch"], denoiser, plan, len(seeds), device, run["dtype"])
    options = {name: run[name] for name in ("backend", "graph", "compile", "dtype")} | {"device": device}
    display = Display(plain_console(stderr=True))
    with stop_on_signals(display.note) as stop:
        try:
            failures = run_job(
                denoiser,
                plan,
                seeds,
                out,
                model=run["model"],
                label=label,
                class_=run["class_"],
                batch=batch,
                options=options,
                overwrite=overwrite,
                sheets=sheets,
                preview=preview,
                display=display,
                stop=stop,
                who=who,
                workers=workers,
                address=address,
                load=partial(load, _absolute(run["model"])),
                command=shlex.join(["restart-sampling", *sys.argv[1:]]),
                **layout,
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


def _absolute(model: str) -> str:
    """A model's name, or its path for a worker that has another working directory."""
    from ..models.registry import BUNDLED

    return model if model in BUNDLED else str(Path(model).expanduser().resolve())


def _class_number(text: str | None, denoiser: Any) -> int | None:
    """The class that `--class` names or numbers; a name comes first, for classes that are called "0" or "7"."""
    from ..sampler.inputs import class_number

    if text is None:
        return None
    if denoiser.label_dim == 0:
        raise RestartValueError(f"--class was given, but {denoiser.name!r} has no classes; leave it out")
    named = text.lower() in (name.lower() for name in denoiser.classes)
    if not named and text.isdecimal() and int(text) < denoiser.label_dim:
        return int(text)
    return class_number(denoiser, text)


def _read_run(path: Path, model: str | None) -> tuple[dict[str, Any], Plan, dict[str, Any]]:
    """(options of the run, plan, layout of the files) that a run.json records; `model` replaces its path."""
    from ..jobs import record as records
    from ..sampler.noise import SCHEME

    record = records.read(path)
    if record["noise"] != SCHEME:
        raise ConfigError(f"{path} was drawn with noise {record['noise'][:40]!r}, and this program has {SCHEME!r}")
    if model is not None and record["model_sha256"] is None:
        raise ConfigError(f"{path} records no SHA-256 of its weights, so --model cannot be checked; leave it out")
    names = ("seeds", "batch", "dtype", "backend", "device", "graph", "compile", "model_sha256")
    run = {name: record[name] for name in names} | {"class_": record["class"]}
    run["model"] = _where(record, path) if model is None else model
    try:
        plan = Plan.build(**record["plan"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"the plan in {path} cannot be run: {str(error)[:300]}") from error
    return run, plan, {name: record[name] for name in LAYOUT}


def _where(record: dict[str, Any], path: Path) -> str:
    """The model of a record: as it was called, or where that file was, or seen from the folder of run.json and those
    above it.

    A relative path was typed in some folder, and the run's folder is often below that one. Raises ConfigError.
    """
    from ..models.registry import BUNDLED

    name = str(record["model"])
    if name in BUNDLED:
        return name
    folder = path.absolute().parent
    places = [Path(record["model_path"] or name), Path(name).expanduser()]
    places += [above / name for above in (folder, *folder.parents)]  # `name` itself where it is absolute
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        raise ConfigError(f"the model of {path} is not at {places[0]}; say with --model where it is now")
    return str(found)
