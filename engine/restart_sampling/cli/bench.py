"""`restart-sampling bench`: speed and quality of samplers on a model, as rows in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import ConfigError, RestartValueError
from ..plan.notation import RestartConfig
from .model_options import MODEL, GuideOptions, PipelineOptions, opens_pipeline
from .options import Device, Dtype, budgets, check_least, names, restart_text, with_options

FOLDER, QUICK_FOLDER = Path("bench"), Path("bench-quick")
FULL: dict[str, Any] = {"nfe": "9,18,35,63,127", "batch": 64, "rounds": 5}
QUICK: dict[str, Any] = {"nfe": "10", "batch": 4, "rounds": 2}
MEMBERS = 16
QUICK_IMAGES, QUICK_SAMPLER = 40, "heun+restart"


@with_options
def bench(
    *,
    model: Annotated[str, typer.Option(help=f"{MODEL}.")] = "fashion-mnist",
    pipeline: PipelineOptions,
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
        Path | None,
        typer.Option(
            help="Reference for quality: an .npz with images or with mu and sigma; with --conditions the truths "
            "[inputs, …], .npy, .npz or .zarr."
        ),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            help="Conditions by name, [inputs, …] each, as of `generate`: draws --members of each input and scores "
            "them as ensembles, in place of speed and of quality by features."
        ),
    ] = None,
    members: Annotated[int | None, typer.Option(help="Samples of each input of --conditions. Default 16.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder where drawn images are kept.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text to image: draw --n prompts of this file, 0 for all, with each sampler at each --guidance and "
            "score them, instead of measuring speed."
        ),
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of the prompts. Default prompt, caption, text, or the only one.")
    ] = None,
    guidance: Annotated[str, typer.Option(help="Guidance scales of --prompts, separated by commas.")] = "2,3,5,8",
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="Score of images and prompts: clip=FOLDER, aesthetic=FILE,FOLDER, FILE.py:NAME; may be given several "
            "times."
        ),
    ] = None,
) -> None:
    """Measure samplers: speed in rotation against plain PyTorch, with --n quality, with --conditions ensembles. Rows
    are appended to JSON-lines files.

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
    rounds = int(0 if conditions is not None else defaults["rounds"]) if rounds is None else rounds
    out = out or (QUICK_FOLDER if quick else FOLDER)
    check_least(
        {"n": (n, 0), "first-seed": (first_seed, 0), "block": (block, 2), "batch": (batch, 1), "rounds": (rounds, 0)}
    )
    others = {"quick": quick, "against": against}
    _check_ensembles(conditions, members, reference, {"prompts": prompts, "n": n, "features": features, **others})
    if prompts is not None and (given := next((name for name, value in others.items() if value), None)):
        raise RestartValueError(f"--{given} does not go with --prompts, which draws and scores images; leave one out")
    if n == 1 or (n > block and n % block == 1):
        raise RestartValueError(
            f"a Fréchet distance needs at least 2 images, and --n {n} leaves 1 for "
            f"{'it' if n == 1 else 'the last block'}; try --n {max(2, n - 1)}"
        )
    if not (n or rounds or quick or against is not None or conditions is not None):
        raise RestartValueError("--rounds 0 without --n measures nothing; give --rounds for speed, --n for quality")
    asked = budgets("--nfe", str(nfe), 1, "9,18,35")
    if prompts is None and (scorer or prompt_column):
        raise RestartValueError(
            "--scorer and --prompt-column are of --prompts; give the file as well, or leave them out"
        )
    if restart is not None:
        restart = restart_text(restart)
        RestartConfig.parse(restart)  # a mistake in it shows before anything is loaded
    dtype, device = dtype or "fp32", str(select_device(device))
    console = plain_console(stderr=True, soft_wrap=True)
    if guided.guide is not None and against is not None:
        raise RestartValueError("--against times the engine without a guide; leave --guide out")
    told = pipeline.told() if prompts is None else pipeline.told_with_prompts(model)
    if against is not None and opens_pipeline(model, told):
        raise RestartValueError("--against times networks of model files, not pipelines; give another --model")
    denoiser = guided.load(model, device, told, dtype)
    process = denoiser.parameterization.process
    work = registry.work(names(samplers), asked, process)
    if prompts is not None:
        _study(
            denoiser,
            model,
            work,
            prompts,
            guidance,
            out,
            console,
            scorer=scorer or [],
            features=features,
            reference=reference,
            n=n or None,
            column=prompt_column,
            first_seed=first_seed,
            batch=batch,
            dtype=dtype,
            restart=restart,
        )
        return
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

            try:  # a mistake shows before anything is measured
                evaluators = evaluators_for(model, features, reference, denoiser.shape)
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
        if conditions is not None:
            rows += _ensembles(
                denoiser,
                model,
                [(c.with_restart(restart), budget) for c, budget in work],
                (conditions, MEMBERS if members is None else members, first_seed, reference),
                out=out,
                batch=batch,
                dtype=dtype,
                progress=console.print,
            )
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


def _study(
    denoiser: Any,
    model: str,
    work: Sequence[tuple[Any, int]],
    prompts: Path,
    guidance: str,
    out: Path,
    console: Any,
    *,
    scorer: Sequence[str],
    features: str | None,
    reference: Path | None,
    **options: Any,
) -> None:
    """Draw and score images of prompts; print a row for each cell, and draw the picture of the trade-off."""
    from ..common.terminal import print_table
    from ..experiments.measure.evaluator import evaluators_for
    from ..experiments.measure.scorers.registry import scorer as scorer_of
    from ..experiments.measure.tables import study_table
    from ..experiments.measure.text_to_image import measure
    from ..jobs.decoding import decoded_shape

    try:
        scales = [float(text) for text in names(guidance)]
    except ValueError:
        raise RestartValueError(f"--guidance must be numbers separated by commas, got {guidance!r}") from None
    scorers = [scorer_of(text) for text in scorer]
    evaluators = []
    if features is not None:
        vae = denoiser.info.get("vae")  # of a pipeline's folder, which decodes the images
        shape = denoiser.shape if vae is None else decoded_shape(vae, denoiser)
        evaluators = evaluators_for(model, features, reference, shape)
    if not scorers and not evaluators:
        raise RestartValueError("--prompts draws images to score them; give --scorer, or --features and --reference")
    try:
        rows = measure(
            denoiser,
            model,
            work,
            prompts,
            scales,
            out,
            scorers=scorers,
            evaluators=evaluators,
            progress=console.print,
            **options,
        )
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with what is in {out}")
        raise typer.Exit(130) from None
    print_table(study_table(rows, f"rows in {out}"))
    fields = [name for name in ("fd", *(scorer.name for scorer in scorers)) if any(row.get(name) for row in rows)]
    if len(fields) > 1:
        from ..experiments.report.trade_off import picture

        picture(rows, out / "trade_off.png", along=fields[1], against=fields[0])
        console.print(f"picture: {out / 'trade_off.png'}")


def _check_ensembles(
    conditions: Path | None, members: int | None, reference: Path | None, others: dict[str, Any]
) -> None:
    """Raise RestartValueError for options that do not go with --conditions, or that need it."""
    if conditions is None:
        if members is not None:
            raise RestartValueError("--members is of the inputs in --conditions; give both, or leave it out")
        return
    given = next((name for name, value in others.items() if value), None)
    if given is not None:
        raise RestartValueError(
            f"--{given} does not go with --conditions, which scores ensembles; leave one of them out"
        )
    if reference is None:
        raise RestartValueError("--conditions needs --reference FILE with the truths of its inputs, [inputs, …]")
    check_least({"members": (2 if members is None else members, 2)})


def _ensembles(
    denoiser: Any,
    model: str,
    work: Sequence[tuple[Any, int]],
    asked: tuple[Path, int, int, Path | None],
    **options: Any,
) -> list[dict[str, Any]]:
    """Score the ensembles of each sampler; `asked` is conditions, members, first seed and reference."""
    from ..experiments.measure.ensembles.measure import measure
    from ..experiments.measure.ensembles.reference import open_reference
    from ..jobs.inputs.inputs import Inputs

    conditions, members, first, reference = asked
    truths = open_reference(str(reference))
    inputs = Inputs.read(denoiser, conditions=conditions, per_input=members, first_seed=first)
    return measure(denoiser, model, work, inputs=inputs, truths=truths, **options)


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
