"""`restart-sampling tune`: search the plan that draws the best samples within a budget of network evaluations.

Exit codes: 0 done, 1 nothing was found, 2 the command cannot run, 130 stopped by Ctrl-C (the same command goes on).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import RestartValueError
from ..solvers.registry import accurate
from . import options as o


def tune(
    model: Annotated[str, typer.Option(help="A bundled name or a model file.")] = "fashion-mnist",
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
            help="Fresh seeds for that, up to 1000 or a multiple of 1000, which gives a spread. Default --n, rounded down so."
        ),
    ] = None,
    finalists: Annotated[
        int,
        typer.Option(
            help="How many of the best plans of a budget are drawn again, on seeds after those of the search, to choose one."
        ),
    ] = 3,
    final_n: Annotated[
        int | None,
        typer.Option(
            help="Seeds for that, a multiple of 1000 where --confirm-n is 1000 or more. Default 1000, or --confirm-n."
        ),
    ] = None,
    solver: Annotated[
        str, typer.Option(help="Solvers to try, on the main grid and in intervals, separated by commas.")
    ] = ",".join(accurate()),
    levels: Annotated[int, typer.Option(help="Most Restart intervals of a plan.")] = 2,
    max_nfe: Annotated[
        int | None, typer.Option(help="Plans with more evaluations are not drawn. Default 100, or the largest budget.")
    ] = None,
    min_nfe: Annotated[int, typer.Option(help="Plans with fewer evaluations are not drawn.")] = 8,
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
            help="Feature extractor: a shipped name, FILE.py:NAME, package.module:NAME or a TorchScript file. Default for the "
            "bundled model: fashion-mnist-patches, so that the other shipped ones have no part in the search."
        ),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Reference: an .npz with images or with mu and sigma.")] = None,
    batch: Annotated[int, typer.Option(help="Samples per network call.")] = 64,
    dtype: o.Dtype = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder where drawn images are kept.")] = None,
) -> None:
    """Search solver, grid and Restart intervals for the lowest Fréchet distance at each budget.

    The same command goes on with the search in --storage: nothing is tried twice, and --trials may be raised. What is
    found is measured on fresh seeds beside the best preset and Heun, and printed as a command line."""

    from ..common.devices import select_device
    from ..common.terminal import plain_console
    from ..experiments.measure import shipped
    from ..experiments.measure.evaluator import evaluator_for
    from ..experiments.measure.rows import environment, read
    from ..experiments.tune import confirm as results
    from ..experiments.tune import pareto, study
    from ..experiments.tune.objective import Objective
    from ..experiments.tune.restore import restore
    from ..experiments.tune.space import space_for
    from ..experiments.tune.starts import given, starts
    from ..jobs.lock import FolderLock
    from ..models.registry import load_model as load

    study.library()
    budgets = _budgets(budget)
    least = {
        "trials": (trials, 1),
        "n": (n, 2),
        "first-seed": (first_seed, 0),
        "confirm-seed": (confirm_seed, 0),
        "batch": (batch, 1),
        "finalists": (finalists, 1),
    }
    for name, (value, low) in least.items():
        if value < low:
            raise RestartValueError(f"--{name} must be ≥ {low}, got {value}")
    if minutes is not None and minutes < 0:
        raise RestartValueError(f"--minutes must be ≥ 0, got {minutes:g}")
    if confirm_n is None:
        confirm_n = n if n < results.BLOCK else n // results.BLOCK * results.BLOCK
    if confirm_n < 2 or confirm_n % min(confirm_n, results.BLOCK):
        raise RestartValueError(
            f"--confirm-n must be 2 .. {results.BLOCK} or a multiple of {results.BLOCK}, got {confirm_n}"
        )
    block = min(confirm_n, results.BLOCK)
    final_n = block if final_n is None else final_n
    if final_n < block or final_n % block:
        raise RestartValueError(
            f"--final-n must be a multiple of {block}, as many seeds as a distance takes, got {final_n}"
        )
    searched = n if finalists == 1 else n + final_n
    if first_seed < confirm_seed + confirm_n and confirm_seed < first_seed + searched:
        raise RestartValueError(
            f"the search draws the seeds {first_seed} .. {first_seed + searched - 1} and the confirmation {confirm_seed} .. "
            f"{confirm_seed + confirm_n - 1}: they overlap; move --confirm-seed"
        )
    top = max(100, *budgets) if max_nfe is None else max_nfe
    if top < max(budgets):
        raise RestartValueError(f"--max-nfe {top} is below the largest budget, {max(budgets)}; raise it")
    dtype, device = dtype or "fp32", str(select_device(device))
    console = plain_console(stderr=True, soft_wrap=True)
    denoiser = load(model, device)
    solvers = tuple(name.strip() for name in solver.split(",") if name.strip())
    space = space_for(denoiser.parameterization, solvers=solvers, levels=levels, min_nfe=min_nfe, max_nfe=top)
    own = model == shipped.MODEL and reference is None and features is None
    own_plans = _plans(plans) if plans is not None else []
    judge = evaluator_for(model, shipped.TUNER if own else features, reference)
    if judge.note:
        console.print(f"note: {judge.note}")
    objective = Objective(
        denoiser, judge, n=n, first_seed=first_seed, batch=batch, dtype=dtype, cache=cache, halving=halving
    )
    common = {
        "model": model,
        "model_sha256": str(denoiser.info.get("sha256", ""))[:12],
        "dtype": dtype,
        "batch": batch,
        "n": n,
        "first_seed": first_seed,
        "features": judge.features,
        "reference": judge.reference,
        "nfe_asked": top,
        "classes": "equal" if judge.balanced else "",
    }
    settings = {k: common[k] for k in ("model_sha256", "dtype", "n", "first_seed", "features", "reference", "classes")}
    settings = {**settings, **({} if common["model_sha256"] else {"model": model}), **space.to_dict()}
    out.mkdir(parents=True, exist_ok=True)
    where = out / "tune.db" if storage is None else storage
    lock = FolderLock(out if "://" in str(where) else _folder(Path(where)))
    path = out / results.FILE
    stopped = False
    try:
        found = study.open_study(where, settings)
        restored, outside = restore(found, read(path), common, space, objective.key)
        if restored or outside:
            console.print(
                f"{restored} plans of an earlier search come from {path}"
                + f"; {outside} are left out, because they are outside what is searched now" * bool(outside)
            )
        common |= environment(denoiser.device)
        results.write_trials(found, common, path)
        study.enqueue(found, given(own_plans, space, objective.key), trials)
        first = starts(space, budgets, objective.key)
        study.enqueue(found, first, max(1, trials // 3))
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        with _Display(console, found, budgets, trials) as display:

            def on_trial(event: Any) -> None:
                results.write_trials(found, common, path)
                display.ended(event)

            try:
                why = study.search(
                    found, space, objective, trials, seed=seed, budgets=budgets, deadline=deadline, on_trial=on_trial
                )
            except KeyboardInterrupt:
                why, stopped = "stopped", True
        _say(console, found, why)
        rows = results.write_trials(found, common, path)
        tuned: list[dict[str, Any]] = []
        try:
            if confirm and not stopped:
                tuned = results.confirm(
                    found,
                    space,
                    objective,
                    budgets,
                    common,
                    path,
                    n=confirm_n,
                    first_seed=confirm_seed,
                    finalists=finalists,
                    final_n=final_n,
                    progress=console.print,
                )
        except KeyboardInterrupt:
            stopped = True
        title = f"{model}: {sum(row['fd'] is not None for row in rows)} plans, n = {n}, {judge.features}"
        written = pareto.pictures(out, rows, tuned, title)
        _show(console, found, budgets, tuned, model, dtype)
        if tuned and judge.features in shipped.NAMES:
            others = ",".join(name for name in shipped.NAMES if name != judge.features)
            typer.echo(
                f"\nchosen and measured by {judge.features}; to judge the images that `generate` draws by extractors that had no "
                f"part:\n  restart-sampling score FOLDER --features {others}"
            )
        console.print(f"rows in {path}" + "".join(f", {p.name}" for p in written) + f"; the study is {where}")
    finally:
        lock.release()
    if stopped:
        console.print("stopped; the same command goes on")
        raise typer.Exit(130)
    if not study.complete(found):
        raise typer.Exit(1)


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _plans(path: Path) -> list[Any]:
    try:
        plans = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RestartValueError(f"cannot read the plans of {path}: {error}") from error
    if not isinstance(plans, list):
        raise RestartValueError(f"{path} holds {type(plans).__name__}, not a list of plans")
    return plans


def _budgets(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) >= 3 for part in parts):
        raise RestartValueError(f"--budget must be numbers ≥ 3 separated by commas, got {text!r}; for example 20,43,63")
    return sorted({int(part) for part in parts})


class _Display:
    """Progress: trials done, the best so far for each budget, seconds per trial, time left; a line for every trial."""

    def __init__(self, console: Any, study: Any, budgets: Sequence[int], trials: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        from ..common.terminal import text_column
        from ..experiments.tune.study import drawn

        self.console, self.study, self.budgets = console, study, budgets
        self.bar = Progress(
            text_column("searching"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            text_column("plans · {task.fields[best]}"),
            text_column("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("", total=trials, completed=drawn(study), best=self._best(), pace="")
        self.seconds: list[float] = []

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def ended(self, event: Any) -> None:
        """A trial was drawn."""
        self.seconds.append(event.seconds)
        pace = f"{sum(self.seconds) / len(self.seconds):.3g} s each"
        self.bar.update(self.task, completed=event.drawn, best=self._best(), pace=pace)
        value = f"FD {event.fd:.4g}" if event.fd is not None else event.why
        self.console.print(f"trial {event.number}: {event.nfe} NFE, {value}  {_words(event.plan)}")

    def _best(self) -> str:
        from ..experiments.tune.pareto import best_for
        from ..experiments.tune.study import complete

        done = complete(self.study)
        found = [(b, best_for(done, b)) for b in self.budgets]
        return ", ".join(f"≤ {b} NFE: {'–' if t is None else f'{t.values[1]:.4g}'}" for b, t in found)


def _words(plan: Any) -> str:
    config = plan.config
    intervals = ", ".join(f"[{i.N}, {i.K}, {i.asked.t_min:g}, {i.asked.t_max:g}]" for i in plan.intervals)
    inside = f" with {config.restart_solver}" * bool(config.restart_solver)
    return f"{config.solver}, {config.steps} points" + (f", Restart {intervals}{inside}" if intervals else "")


def _say(console: Any, study: Any, why: str) -> None:
    """What became of the trials."""
    from ..experiments.tune.study import finished

    counts = dict.fromkeys(("drawn", "stopped", "failed", "copy_of", "refused"), 0)
    for trial in finished(study):
        for name in counts:
            counts[name] += name in trial.user_attrs
    console.print(
        f"{why}: {counts['drawn']} plans drawn ({counts['stopped']} given up early, {counts['failed']} failed); "
        f"{counts['copy_of']} were the same as earlier ones and {counts['refused']} outside the space, none of them drawn"
    )


def _show(
    console: Any, study: Any, budgets: Sequence[int], tuned: Sequence[dict[str, Any]], model: str, dtype: str
) -> None:
    """For each budget the plan to use, and how it compares."""
    from ..experiments.tune import confirm as results
    from ..experiments.tune.pareto import best_for
    from ..experiments.tune.study import complete
    from ..plan.plan import Plan

    rows = {row["budget"]: row for row in tuned}
    for budget in budgets:
        trial = best_for(complete(study), budget)
        if trial is None:
            typer.echo(f"\nbudget {budget}: no plan was found")
            continue
        row = rows.get(budget)
        plan = Plan.build(**(trial.user_attrs["config"] if row is None else row["config"]))
        if row is not None:
            typer.echo(f"\nbudget {budget}: {row['nfe']} NFE, FD {row['fd_search']:.4g} in the search" + _final(row))
            typer.echo("  " + _compared(row))
        else:
            typer.echo(f"\nbudget {budget}: {int(trial.values[0])} NFE, FD {trial.values[1]:.4g} in the search")
            typer.echo("  not measured on fresh seeds")
        typer.echo("  " + results.command(plan, model, dtype))
        typer.echo("  " + results.python(plan))


def _final(row: dict[str, Any]) -> str:
    if row["fd_final"] is None:
        return ""
    return f", {row['fd_final']:.4g} in the final, the lowest of {row['finalists']} plans"


def _compared(row: dict[str, Any]) -> str:
    from ..experiments.tune.confirm import spread

    def shown(name: str) -> str:
        return spread(row[f"{name}_blocks"]) if row[f"{name}_blocks"] else "–"

    several = row["blocks"] > 1
    text = f"on {row['blocks']} × {row['n']} fresh seeds" if several else f"on {row['n']} fresh seeds"
    text += f": FD {shown('fd')}"
    text += f"; preset {row['best_preset']} {shown('fd_best_preset')}" if row["best_preset"] else "; no preset fits"
    text += f"; Heun {shown('fd_heun')}"
    if row["plan"] == row["heun"]:
        return text + "  (it is plain Heun)"
    others = [row[name] for name in ("fd_best_preset", "fd_heun") if row.get(name) is not None]
    if row.get("fd") is not None and others and row["fd"] >= min(others):
        text += "  (not better: nothing was gained)"
    elif several:
        text += f"; lower than both on {row['better']} of {row['blocks']} blocks"
    return text
