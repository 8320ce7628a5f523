"""`restart-sampling tune`: search the plan that draws the best samples within a budget of network evaluations.

Exit codes: 0 done, 1 nothing was found, 2 the command cannot run, 130 stopped by Ctrl-C (the same command goes on).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import RestartValueError
from ..plan.plan import Plan
from ..solvers.registry import accurate
from .model_options import MODEL, GuideOptions, PipelineOptions
from .options import Device, Dtype, GuidanceOptions, budgets, check_least, specs, with_options


@with_options
def tune(
    *,
    model: Annotated[str, typer.Option(help=f"{MODEL}.")] = "fashion-mnist",
    pipeline: PipelineOptions,
    guided: GuideOptions,
    guidance: GuidanceOptions,
    budget: Annotated[
        str, typer.Option(help="Network evaluations per sample to find plans for, separated by commas.")
    ] = "20,43,63",
    trials: Annotated[int, typer.Option(help="Plans to draw in all, those of earlier runs counted.")] = 50,
    n: Annotated[int, typer.Option("--n", help="Images of a plan.")] = 1000,
    first_seed: Annotated[int, typer.Option(help="The search draws the seeds from here on.")] = 2_000_000,
    confirm_seed: Annotated[
        int, typer.Option(help="What is found is measured again on the seeds from here on.")
    ] = 1_000_000,
    confirm_n: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds for that, up to 1000 or a multiple of 1000, which gives a spread. "
            "Default --n, rounded down so."
        ),
    ] = None,
    finalists: Annotated[
        int,
        typer.Option(
            help="How many of the best plans of a budget are drawn again, on seeds after those of the search, "
            "to choose one."
        ),
    ] = 3,
    final_n: Annotated[
        int | None,
        typer.Option(
            help="Seeds for that, a multiple of 1000 where --confirm-n is 1000 or more. Default 1000, or --confirm-n."
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Solvers to try, on the main grid and in intervals, separated by commas; an option that is given, as "
            "in unipc:order=2, is fixed, the others are searched. Default: "
            + ", ".join(accurate())
            + ", or every solver of --family."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Search one family alone, every trial for one of the budgets: ode, sde or restart. The same --trials "
            "give each family the same number at each budget."
        ),
    ] = None,
    levels: Annotated[int, typer.Option(help="Most Restart intervals of a plan.")] = 2,
    max_nfe: Annotated[
        int | None, typer.Option(help="Plans with more evaluations are not drawn. Default 100, or the largest budget.")
    ] = None,
    min_nfe: Annotated[
        int | None,
        typer.Option(help="Plans with fewer evaluations are not drawn. Default 8, or what the smallest budget needs."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows, plots and the study.")] = Path("tune"),
    storage: Annotated[
        str | None, typer.Option(help="The study: an SQLite file or a database's URL. Default OUT/tune.db.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Start no trial after this many minutes; what was found is confirmed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    halving: Annotated[
        bool, typer.Option(help="Draw a quarter of the images first and give up plans that are far off.")
    ] = True,
    plans: Annotated[
        Path | None,
        typer.Option(help="A JSON file with a list of plans, as options of Plan.build, to try before all others."),
    ] = None,
    confirm: Annotated[bool, typer.Option(help="Measure what was found on fresh seeds.")] = True,
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature extractor: a shipped name, FILE.py:NAME, package.module:NAME or a TorchScript file. Default "
            "for the bundled model: fashion-mnist-patches, so that the other shipped ones have no part in the search."
        ),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Reference: an .npz with images or with mu and sigma.")] = None,
    batch: Annotated[int, typer.Option(help="Samples per network call.")] = 64,
    dtype: Dtype = None,
    device: Device = None,
    cache: Annotated[Path | None, typer.Option(help="Folder where drawn images are kept.")] = None,
) -> None:
    """Search solver, grid and Restart intervals for the lowest Fréchet distance at each budget.

    With --guidance-scale every plan has that guidance; budgets count evaluations, guided or not.

    The same command goes on with the search in --storage: nothing is tried twice, and --trials may be raised. What is
    found is measured on fresh seeds beside the best preset and Heun, and printed as a command line."""
    from ..common.devices import select_device
    from ..common.terminal import plain_console
    from ..experiments.measure import shipped
    from ..experiments.measure.evaluator import evaluator_for
    from ..experiments.tune.confirm import BLOCK
    from ..experiments.tune.objective import Objective
    from ..experiments.tune.session import Session
    from ..experiments.tune.space import LEAST_MAIN, of_family, space_for
    from ..experiments.tune.study import library
    from ..sampler.conditions import check_guidance

    library()
    asked = sorted(budgets("--budget", budget, 3, "20,43,63"))
    check_least(
        {
            "trials": (trials, 1),
            "n": (n, 2),
            "first-seed": (first_seed, 0),
            "confirm-seed": (confirm_seed, 0),
            "batch": (batch, 1),
            "finalists": (finalists, 1),
        }
    )
    if minutes is not None and minutes < 0:
        raise RestartValueError(f"--minutes must be ≥ 0, got {minutes:g}")
    if confirm_n is None:
        confirm_n = n if n < BLOCK else n // BLOCK * BLOCK
    if confirm_n < 2 or confirm_n % min(confirm_n, BLOCK):
        raise RestartValueError(f"--confirm-n must be 2 .. {BLOCK} or a multiple of {BLOCK}, got {confirm_n}")
    block = min(confirm_n, BLOCK)
    final_n = block if final_n is None else final_n
    if final_n < block or final_n % block:
        raise RestartValueError(
            f"--final-n must be a multiple of {block}, as many seeds as a distance takes, got {final_n}"
        )
    searched = n if finalists == 1 else n + final_n
    if first_seed < confirm_seed + confirm_n and confirm_seed < first_seed + searched:
        raise RestartValueError(
            f"the search draws the seeds {first_seed} .. {first_seed + searched - 1} and the confirmation "
            f"{confirm_seed} .. {confirm_seed + confirm_n - 1}: they overlap; move --confirm-seed"
        )
    top = max(100, *asked) if max_nfe is None else max_nfe
    if top < max(asked):
        raise RestartValueError(f"--max-nfe {top} is below the largest budget, {max(asked)}; raise it")
    least = min(8, max(LEAST_MAIN, min(asked) - 2)) if min_nfe is None else min_nfe
    solvers = tuple(specs(solver)) if solver else of_family(family) if family else accurate()
    intervals = {"levels": levels}
    if family:
        of_family(family)  # a mistake in it shows before anything is loaded
        intervals = {"levels": levels, "least_levels": 1} if family == "restart" else {"levels": 0}
    dtype, device = dtype or "fp32", str(select_device(device))
    console = plain_console(stderr=True, soft_wrap=True)
    fixed = guidance.options()
    guided.check([Plan.build(**fixed)])
    denoiser = guided.load(model, device, pipeline.told(), dtype)
    if (scale := fixed.get("guidance_scale", 1.0)) != 1.0:
        check_guidance(denoiser, scale)
    limits: dict[str, Any] = {"min_nfe": least, "max_nfe": top, "guidance": tuple(fixed.items())}
    space = space_for(denoiser.parameterization, solvers=solvers, **limits, **intervals)
    own = model in shipped.MODELS and reference is None and features is None
    own_plans = _plans(plans) if plans is not None else []
    evaluator = evaluator_for(model, shipped.TUNER if own else features, reference, denoiser.shape)
    if evaluator.note:
        console.print(f"note: {evaluator.note}")
    objective = Objective(
        denoiser, evaluator, n=n, first_seed=first_seed, batch=batch, dtype=dtype, cache=cache, halving=halving
    )
    common = {
        "model": model,
        **({"guide": guided.guide, "guide_null": bool(guided.guide_null)} if guided.guide else {}),
        "model_sha256": str(denoiser.info.get("sha256", ""))[:12],
        "dtype": dtype,
        "batch": batch,
        "n": n,
        "first_seed": first_seed,
        "features": evaluator.features,
        "reference": evaluator.reference,
        "nfe_asked": top,
        **({"searched": family} if family else {}),
        "classes": "equal" if evaluator.balanced else "",
    }
    session = Session(objective, space, asked, common, out, storage, console, family or "")
    found = session.run(
        trials,
        own_plans,
        seed=seed,
        minutes=minutes,
        confirm=confirm,
        n=confirm_n,
        first_seed=confirm_seed,
        finalists=finalists,
        final_n=final_n,
    )
    if session.stopped:
        console.print("stopped; the same command goes on")
        raise typer.Exit(130)
    if not found:
        raise typer.Exit(1)


def _plans(path: Path) -> list[Any]:
    """Return the plans of a JSON file. Raises RestartValueError."""
    try:
        plans = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RestartValueError(f"cannot read the plans of {path}: {error}") from error
    if not isinstance(plans, list):
        raise RestartValueError(f"{path} holds {type(plans).__name__}, not a list of plans")
    return plans
