"""`restart-sampling bench`: speed and quality of samplers on a model, as rows in a folder."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import ConfigError, RestartValueError
from ..plan.notation import RestartConfig
from . import options as o

FOLDER, QUICK_FOLDER = Path("bench"), Path("bench-quick")
FULL = {"nfe": "9,18,35,63,127", "batch": 64, "rounds": 5}
QUICK = {"nfe": "9", "batch": 4, "rounds": 2}
QUICK_IMAGES, QUICK_SAMPLER = 40, "heun+restart"


def bench(
    model: Annotated[str, typer.Option(help="A bundled name or a model file.")] = "fashion-mnist",
    samplers: Annotated[
        str,
        typer.Option(
            help="Names, globs or groups, separated by commas: heun, 'heun*', preset:NAME, ode, sde, restart, engine, torch, "
            "diffusers, presets, all (but presets). NAME@NFE has a budget of its own."
        ),
    ] = "all",
    nfe: Annotated[
        str | None, typer.Option(help="Budgets of network evaluations per sample. Default 9,18,35,63,127.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Samples for quality; 0 measures speed only.")] = 0,
    first_seed: Annotated[int, typer.Option(help="Quality draws the seeds from here on.")] = 1_000_000,
    block: Annotated[int, typer.Option(help="Seeds of one quality row; blocks give the spread.")] = 1000,
    batch: Annotated[int | None, typer.Option(help="Samples per network call. Default 64.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Timed rounds; 0 measures quality only. Default 5.")] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Speed: samplers of all budgets take turns, not only those of one; takes the memory of all.",
        ),
    ] = False,
    dtype: o.Dtype = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")] = None,
    restart: Annotated[
        str | None,
        typer.Option(help="Interval of the Restart samplers, '[N, K, t_min, t_max]' or any known format or @FILE."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the rows. Default bench.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Every sampler once, small; rows go to bench-quick by default.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="A git revision: time the engine's samplers here and there, nothing else.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature extractors for quality, separated by commas: a shipped name, all (that are shipped), FILE.py:NAME, "
            "package.module:NAME or a TorchScript file."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Reference for quality: an .npz with images or with mu and sigma.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder where drawn images are kept.")] = None,
) -> None:
    """Measure samplers: speed in rotation against plain PyTorch, and with --n quality. Rows are appended to JSON-lines
    files.

    Quality rows that are there already are not measured again. Ctrl-C keeps what is written.
    """

    from ..common.devices import select_device
    from ..common.terminal import plain_console
    from ..experiments.measure import samplers as registry
    from ..experiments.measure import speed
    from ..models.registry import load_model as load

    defaults: dict[str, Any] = QUICK if quick else FULL
    nfe = defaults["nfe"] if nfe is None else nfe
    batch = int(defaults["batch"]) if batch is None else batch
    rounds = int(defaults["rounds"]) if rounds is None else rounds
    out = out or (QUICK_FOLDER if quick else FOLDER)
    numbers = {
        "n": (n, 0),
        "first-seed": (first_seed, 0),
        "block": (block, 2),
        "batch": (batch, 1),
        "rounds": (rounds, 0),
    }
    for name, (value, least) in numbers.items():
        if value < least:
            raise RestartValueError(f"--{name} must be ≥ {least}, got {value}")
    if n == 1 or (n > block and n % block == 1):
        raise RestartValueError(
            f"a Fréchet distance needs at least 2 images, and --n {n} leaves 1 for {'it' if n == 1 else 'the last block'}; "
            f"try --n {max(2, n - 1)}"
        )
    if not (n or rounds or quick or against is not None):
        raise RestartValueError("--rounds 0 without --n measures nothing; give --rounds for speed, --n for quality")
    budgets = _budgets(str(nfe))
    work = registry.work([name.strip() for name in samplers.split(",") if name.strip()], budgets)
    if restart is not None:
        restart = o._read(Path(restart[1:])) if restart.startswith("@") else restart
        RestartConfig.parse(restart)  # a mistake in it shows before anything is loaded
    dtype, device = dtype or "fp32", str(select_device(device))
    console = plain_console(stderr=True, soft_wrap=True)
    denoiser = load(model, device)
    try:
        if against is not None:
            _against(against, model, work, batch, dtype, device, max(1, rounds), out, restart, console)
            return
        judges: list[Any] = []
        if n or quick:
            from ..experiments.measure.evaluator import evaluators_for

            try:
                judges = evaluators_for(model, features, reference)  # a mistake shows before anything is measured
            except ConfigError as error:
                if n:
                    raise
                console.print(f"quality is left out: {error}")
            for note in dict.fromkeys(judge.note for judge in judges if judge.note):
                console.print(f"note: {note}")
        rows: list[dict[str, Any]] = []
        if rounds:
            rows += speed.measure(
                denoiser,
                model,
                work,
                batch=batch,
                dtype=dtype,
                rounds=rounds,
                out=out,
                restart=restart,
                together=together,
                progress=console.print,
            )
        if quick and not n:
            n, block, batch = QUICK_IMAGES, QUICK_IMAGES // 2, QUICK_IMAGES // 2
            work = [(registry.find(QUICK_SAMPLER), budgets[0])]
        if judges:
            from ..experiments.measure.quality import measure

            rows += measure(
                denoiser,
                model,
                [(c.with_restart(restart), budget) for c, budget in work],
                n=n,
                first_seed=first_seed,
                block=min(block, n),
                out=out,
                cache=cache,
                batch=batch,
                dtype=dtype,
                evaluator=judges,
                progress=console.print,
            )
    except KeyboardInterrupt:
        console.print(f"stopped; the rows written so far are in {out}")
        raise typer.Exit(130) from None
    if not rows:
        console.print("nothing was measured: see the lines above")
        raise typer.Exit(1)
    _show(rows, out)


def _budgets(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise RestartValueError(f"--nfe must be numbers ≥ 1 separated by commas, got {text!r}; for example 9,18,35")
    return list(dict.fromkeys(int(part) for part in parts))


def _against(
    revision: str,
    model: str,
    work: Sequence[tuple[Any, int]],
    batch: int,
    dtype: str,
    device: str,
    rounds: int,
    out: Path,
    restart: str | None,
    console: Any,
) -> None:
    import torch
    from rich.table import Table

    from ..experiments.measure import against
    from ..experiments.measure.engine import plan_of
    from ..experiments.measure.rows import append, environment

    plans = {}
    for contender, budget in work:
        plan = plan_of(contender, budget, restart) if contender.by == "engine" else None
        if plan is not None:
            plans[contender.name, plan.digest] = plan
    if not plans:
        raise RestartValueError(
            "--against times the engine's samplers, and none of those asked for fits; try --samplers engine"
        )
    rows = against.measure(
        revision,
        model,
        [(name, plan) for (name, _), plan in plans.items()],
        batch=batch,
        dtype=dtype,
        device=device,
        rounds=rounds,
        threads=torch.get_num_threads(),
        progress=console.print,
    )
    table = Table(title=f"this working tree against {revision}, batch {batch}")
    for column in ("sampler", "NFE", "s", f"s at {revision}", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for row in rows:
        append(out / against.FILE, {**row, **environment(device)})
        table.add_row(
            row["sampler"],
            str(row["nfe"]),
            f"{row['seconds']:.4g}",
            f"{row['seconds_old']:.4g}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_q1']:.3f}–{row['ratio_q3']:.3f}",
        )
    _print(table)
    if not rows:
        raise typer.Exit(1)


def _show(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The rows of this run, a table of speed and one of quality, by NFE and sampler; what was not measured is left out."""
    from rich.table import Table

    from ..experiments.measure.rows import ranking

    judged = [row for row in rows if row["kind"] == "quality" and row.get("fd") is not None]
    metric = ranking(judged)
    fd = "FD, equal classes" if metric == "fd_balanced" else "FD"
    lines: dict[tuple[int, str], dict[str, str]] = {}
    for row in rows:
        if row["kind"] == "speed":
            lines.setdefault((row["nfe"], row["sampler"]), {}).update(
                {
                    "samples/s": _number(row["samples_per_s"]),
                    "q1–q3": f"{row['samples_per_s_q1']:.4g}–{row['samples_per_s_q3']:.4g}",
                    "× plain loop": _number(row["ratio"]),
                    "ms outside": _number(row["ms_outside_network"]),
                    "launches": _number(row["launches_per_evaluation"]),
                }
            )
    extractors = list(dict.fromkeys(row["features"] for row in judged))
    columns, together = [], []
    for features in extractors:
        of = f"{features.removeprefix('fashion-mnist-')}\n" if len(extractors) > 1 else ""
        columns.append(f"{of}{fd}")
        together.append(f"{of}all together")
        mine = [row for row in rows if row["kind"] in ("quality", "pooled") and row["features"] == features]
        _distances(lines, mine, metric, columns[-1], together[-1])
    speeds = ("samples/s", "q1–q3", "× plain loop", "ms outside", "launches")
    quality = [(*columns, "blocks", *together)] if len(extractors) < 2 else [(*columns, "blocks"), tuple(together)]
    for names in (speeds, *quality):
        shown = [name for name in names if any(line.get(name) for line in lines.values())]
        if not shown:
            continue
        table = Table(title=f"rows in {out}")
        for column in ("sampler", "NFE", *shown):
            table.add_column(column, justify="left" if column == "sampler" else "right", no_wrap=True)
        for (nfe, sampler), line in sorted(lines.items()):
            if any(name in line for name in shown):
                table.add_row(sampler, str(nfe), *(line.get(name, "") for name in shown))
        _print(table)
    timed = [row for row in rows if row["kind"] == "speed"]
    if timed:
        from ..experiments.measure.timing import noise_report

        typer.echo(noise_report(timed))


def _distances(
    lines: dict[tuple[int, str], dict[str, str]], rows: Sequence[dict[str, Any]], metric: str, fd: str, together: str
) -> None:
    """Put the distances of one extractor into the lines of a table: mean and spread over blocks, and of all blocks
    together.
    """
    for row in rows:
        if row["kind"] == "pooled" and row["blocks"] > 1 and row.get(metric) is not None:
            lines.setdefault((row["nfe"], row["sampler"]), {})[together] = _number(row[metric])
    blocks = [row for row in rows if row["kind"] == "quality" and row.get("fd") is not None]
    for nfe, sampler in dict.fromkeys((row["nfe"], row["sampler"]) for row in blocks):
        mine = [row for row in blocks if (row["nfe"], row["sampler"]) == (nfe, sampler)]
        whole = [row for row in mine if row["n"] == mine[0]["n"]]
        values = [row[metric] for row in whole]
        spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        lines.setdefault((nfe, sampler), {}).update(
            {fd: f"{statistics.fmean(values):.4g}{spread}", "blocks": f"{len(whole)} × {whole[0]['n']:,}"}
        )


def _print(table: Any) -> None:
    from ..common.terminal import plain_console

    terminal = plain_console()
    wide = terminal if terminal.is_terminal else plain_console(width=130)
    wide.print(table)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
