"""`restart-sampling generate`: draw samples into a folder."""

from __future__ import annotations

import json
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, RestartError, RestartValueError
from ..plan import Plan
from ..seeds import Seeds, parse_seeds
from ..version import __version__
from . import options as o


def generate(
    model: Annotated[str | None, typer.Option(help="A bundled name or a .safetensors file.")] = None,
    preset: o.Preset = None,
    steps: o.Steps = None,
    solver: o.Solver = None,
    restart: o.Restart = None,
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
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0-63,100; one image each. Default 0-63.")
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class number or name for all images; default: drawn from the seed."),
    ] = None,
    batch: o.Batch = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("samples"),
    format: Annotated[str, typer.Option(help="png (one file per seed) or npz (one array).")] = "png",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")
    ] = None,
    dtype: o.Dtype = None,
    backend: o.Backend = None,
    graph: o.Graph = None,
    compile: o.Compile = None,
    repeat: Annotated[Path | None, typer.Option(help="Do again what this run.json records.")] = None,
) -> None:
    """Draw samples: PNG files, a contact sheet (grid.png) and run.json with everything needed to repeat the run."""
    given: dict[str, Any] = dict(
        steps=steps, solver=solver, restart=restart, s_noise=s_noise, s_churn=s_churn, s_min=s_min, s_max=s_max,
        restart_gamma=restart_gamma, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, schedule=schedule,
        on_collision=on_collision, guidance_scale=guidance_scale,
    )  # fmt: skip
    run: dict[str, Any] = dict(
        model=model, seeds=seeds, class_=class_, batch=batch, device=device, dtype=dtype, backend=backend, graph=graph,
        compile=compile,
    )  # fmt: skip
    plan = None
    if repeat is not None:
        asked = [name for name, value in {**given, **run, "preset": preset}.items() if value is not None]
        if asked:
            raise ConfigError(
                f"--repeat takes everything from {repeat}; leave out --{asked[0].rstrip('_').replace('_', '-')}"
            )
        run, plan = _read_run(repeat)
    defaults = dict(
        model="fashion-mnist", seeds="0-63", class_=None, batch="auto", device=None, dtype="fp32", backend="auto",
        graph="auto", compile="auto",
    )  # fmt: skip
    run = {name: defaults.get(name) if value is None else value for name, value in run.items()}
    if plan is None:
        plan = o.build_plan(preset, fallback="fashion-mnist-43", **given)
    _draw(plan, run, parse_seeds(run["seeds"]), out, format, overwrite)


def _draw(plan: Plan, run: dict[str, Any], seeds: Seeds, out: Path, format: str, overwrite: bool) -> None:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..marks import mark
    from ..models.registry import load
    from ..noise import SCHEME
    from ..output.folder import FORMATS, RunFolder
    from ..output.images import to_uint8
    from ..sampler import Progress as Where
    from ..sampler import Sampler, describe_failures

    if format not in FORMATS:
        raise RestartValueError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    device = run["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    denoiser = load(run["model"])
    recorded = run.get("model_sha256")
    if recorded not in (None, denoiser.info.get("sha256")):
        raise ConfigError(
            f"the weights of {run['model']!r} are not those of the recorded run (sha256 {recorded[:12]}…), "
            f"so its images cannot be repeated"
        )
    label = _class_number(run["class_"], denoiser.classes, denoiser.label_dim, denoiser.name)
    sampler = Sampler(
        denoiser, plan, o.batch_size(run["batch"], denoiser, plan, len(seeds), device, run["dtype"]), run["backend"],
        run["graph"], run["compile"], device=device, dtype=run["dtype"],
    )  # fmt: skip
    console = Console(stderr=True, highlight=False)
    nfe = sampler.plan.nfe
    record = {
        "program": f"restart-sampling {__version__}",
        "model": run["model"],
        "model_sha256": denoiser.info.get("sha256"),
        "plan": plan.config.to_dict(),
        "nfe": nfe,
        "notes": list(sampler.plan.notes),
        "seeds": str(seeds),
        "class": run["class_"],
        "batch": sampler.batch_size,
        "device": str(sampler.device),
        "dtype": run["dtype"],
        "backend": run["backend"],  # as asked: all give the same bits, and another machine may have others
        "graph": run["graph"],
        "compile": run["compile"],
        "ran": sampler.describe(),
        "format": format,
        "noise": SCHEME,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    folder = RunFolder(out, record, format, overwrite, expected_bytes=len(seeds) * (denoiser.numel + 200))
    console.print(
        f"{len(seeds)} images of {denoiser.name} → {out}: {nfe} NFE each, batches of {sampler.batch_size}, "
        f"{sampler.describe()}"
    )
    for note in sampler.plan.notes:
        console.print(f"note: {note}", soft_wrap=True)
    bar = Progress(
        TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("images · {task.fields[rate]}"),
        TextColumn("NFE {task.fields[row]}/" + str(nfe)), TimeRemainingColumn(), console=console,
    )  # fmt: skip
    failures: list[dict[str, Any]] = []
    started = time.perf_counter()
    status = "failed"
    try:
        with bar:
            task = bar.add_task("", total=len(seeds), rate="– images/s", row=0)

            def show(done: int, where: Where) -> None:
                progressed = done + where.batch * where.row / where.nfe
                rate = progressed / (time.perf_counter() - started)
                bar.update(task, completed=int(progressed), rate=f"{rate:.3g} images/s", row=where.row)

            done = 0
            for chunk in seeds.chunks(sampler.batch_size):
                for part in sampler.iterate(chunk, label, callback=partial(show, done)):
                    bad = {f["seed"] for f in part.failures}
                    with mark("write"):
                        folder.add(part.seeds.tolist(), to_uint8(part.x), bad)
                    failures += part.failures
                done += len(chunk)
            bar.update(task, completed=len(seeds))
        status = "incomplete" if failures else "complete"
    except KeyboardInterrupt:
        status = "interrupted"
    finally:
        seconds = time.perf_counter() - started
        with mark("write"):
            folder.finish(status, seconds=round(seconds, 3), nonfinite=failures)
    for note in sampler.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(
        f"{folder.written} images in {seconds:.1f} s ({folder.written / seconds:.3g} images/s); look at {out / 'grid.png'}"
    )
    if failures:
        print(f"error: {describe_failures(failures)}; they were not written", file=sys.stderr)
    if status != "complete":
        raise typer.Exit(130 if status == "interrupted" else 1)


def _class_number(text: str | None, classes: tuple[str, ...], label_dim: int, name: str) -> int | None:
    if text is None:
        return None
    if label_dim == 0:
        raise RestartValueError(f"--class was given, but {name!r} has no classes; leave it out")
    lowered = [c.lower() for c in classes]
    if text.lower() in lowered:
        return lowered.index(text.lower())
    if text.isdecimal() and int(text) < label_dim:
        return int(text)
    named = f" ({', '.join(classes)})" if classes else ""
    raise RestartValueError(f"class {text!r} does not exist: {name!r} has classes 0..{label_dim - 1}{named}")


def _read_run(path: Path) -> tuple[dict[str, Any], Plan]:
    try:
        record = json.loads(path.read_text())
        run = {name: record[name] for name in ("model", "seeds", "batch", "dtype", "backend", "device")}
        run |= {name: record.get(name, "auto") for name in ("graph", "compile")}
        run["class_"], run["model_sha256"] = record["class"], record["model_sha256"]
        return run, Plan.build(**record["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RestartError):
            raise
        raise ConfigError(
            f"{path} is not a run.json of this program ({type(error).__name__}: {error})"
        ) from error
