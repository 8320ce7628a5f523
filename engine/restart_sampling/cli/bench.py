"""`restart-sampling bench`: speed and quality of samplers on a model, as rows in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import ConfigError, RestartValueError
from ..plan.notation import RestartConfig
from .options import Device, Dtype, GuideOptions, budgets, check_least, names, restart_text, with_options

FOLDER, QUICK_FOLDER = Path("bench"), Path("bench-quick")
FULL: dict[str, Any] = {"nfe": "9,18,35,63,127", "batch": 64, "rounds": 5}
QUICK: dict[str, Any] = {"nfe": "10", "batch": 4, "rounds": 2}
QUICK_IMAGES, QUICK_SAMPLER = 40, "heun+restart"


@with_options
def bench(
    *,
    model: Annotated[str, typer.Option(help="A bundled name or a model file.")] = "fashion-mnist",
    guided: GuideOptions,
    samplers: Annotated[
        str,
        typer.Option(
            help="Names, globs or groups, separated by commas: heun, 'heun*', preset:NAME, ode, sde, restart, engine, "
            "torch, diffusers, presets, all (but presets). NAME@NFE has a budget of its own."
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
    dtype: Dtype = None,
    device: Device = None,
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
            help="Feature extractors for quality, separated by commas: a shipped name, all (that are shipped), "
            "FILE.py:NAME, package.module:NAME or a TorchScript file."
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
    from ..common.terminal import plain_console, print_table
    from ..experiments.measure import samplers as registry
    from ..experiments.measure import speed
    from ..experiments.measure.engine import plan_of
    from ..experiments.measure.tables import tables
    from ..experiments.measure.timing import noise_report

    defaults = QUICK if quick else FULL
    nfe = defaults["nfe"] if nfe is None else nfe
    batch = int(defaults["batch"]) if batch is None else batch
    rounds = int(defaults["rounds"]) if rounds is None else rounds
    out = out or (QUICK_FOLDER if quick else FOLDER)
    check_least(
        {"n": (n, 0), "first-seed": (first_seed, 0), "block": (block, 2), "batch": (batch, 1), "rounds": (rounds, 0)}
    )
    if n == 1 or (n > block and n % block == 1):
        raise RestartValueError(
            f"a Fréchet distance needs at least 2 images, and --n {n} leaves 1 for "
            f"{'it' if n == 1 else 'the last block'}; try --n {max(2, n - 1)}"
        )
    if not (n or rounds or quick or against is not None):
        raise RestartValueError("--rounds 0 without --n measures nothing; give --rounds for speed, --n for quality")
    asked = budgets("--nfe", str(nfe), 1, "9,18,35")
    if restart is not None:
        restart = restart_text(restart)
        RestartConfig.parse(restart)  # a mistake in it shows before anything is loaded
    dtype, device = dtype or "fp32", str(select_device(device))
    console = plain_console(stderr=True, soft_wrap=True)
    if guided.guide is not None and against is not None:
        raise RestartValueError("--against times the engine without a guide; leave --guide out")
    denoiser = guided.load(model, device)
    process = denoiser.parameterization.process
    work = registry.work(names(samplers), asked, process)
    plans = (
        plan_of(c, budget, restart if c.family == "restart" else None, process)
        for c, budget in work
        if c.by == "engine"
    )
    guided.check(plan for plan in plans if plan is not None)
    try:
        if against is not None:
            _against(against, model, process, work, batch, dtype, device, max(1, rounds), out, restart, console)
            return
        evaluators: list[Any] = []
        if n or quick:
            from ..experiments.measure.evaluator import evaluators_for

            try:
                evaluators = evaluators_for(model, features, reference)  # a mistake shows before anything is measured
            except ConfigError as error:
                if n:
                    raise
                console.print(f"quality is left out: {error}")
            for note in dict.fromkeys(evaluator.note for evaluator in evaluators if evaluator.note):
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
            work = [(registry.find(QUICK_SAMPLER, process), asked[0])]
        if evaluators:
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
                evaluator=evaluators,
                progress=console.print,
            )
    except KeyboardInterrupt:
        console.print(f"stopped; the rows written so far are in {out}")
        raise typer.Exit(130) from None
    if not rows:
        console.print("nothing was measured: see the lines above")
        raise typer.Exit(1)
    for table in tables(rows, f"rows in {out}"):
        print_table(table)
    timed = [row for row in rows if row["kind"] == "speed"]
    if timed:
        typer.echo(noise_report(timed))


def _against(
    revision: str,
    model: str,
    process: str,
    work: Sequence[tuple[Any, int]],
    batch: int,
    dtype: str,
    device: str,
    rounds: int,
    out: Path,
    restart: str | None,
    console: Any,
) -> None:
    """Time the engine's candidates here and at `revision`, append the rows and print them."""
    import torch

    from ..common.terminal import print_table
    from ..experiments.measure import against
    from ..experiments.measure.engine import plan_of
    from ..experiments.measure.rows import append, environment
    from ..experiments.measure.tables import against_table

    plans = {}
    for candidate, budget in work:
        plan = plan_of(candidate, budget, restart, process) if candidate.by == "engine" else None
        if plan is not None:
            plans[candidate.name, plan.digest] = plan
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
    for row in rows:
        append(out / against.FILE, {**row, **environment(device)})
    print_table(against_table(rows, f"this working tree against {revision}, batch {batch}", revision))
    if not rows:
        raise typer.Exit(1)
