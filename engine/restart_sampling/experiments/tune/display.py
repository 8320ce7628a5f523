"""What a search prints: its progress, what became of its trials, and the plan to use for each budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ...common.terminal import say, text_column
from ...plan.plan import Plan
from ..report.series import options_of
from .confirm import spread
from .pareto import best_for
from .plan_text import command, python
from .study import Event, complete, drawn, finished

if TYPE_CHECKING:
    from optuna import Study
    from rich.console import Console

Row = dict[str, Any]


class Display:
    """A bar with trials done, the best distance by budget, seconds per trial, time left; and a line for every trial."""

    def __init__(self, console: Console, study: Study, budgets: Sequence[int], trials: int) -> None:
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

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def ended(self, event: Event) -> None:
        """Show that a trial has ended."""
        self.seconds.append(event.seconds)
        pace = f"{sum(self.seconds) / len(self.seconds):.3g} s each"
        self.bar.update(self.task, completed=event.drawn, best=self._best(), pace=pace)
        value = f"FD {event.fd:.4g}" if event.fd is not None else event.why
        self.console.print(f"trial {event.number}: {event.nfe} NFE, {value}  {_words(event.plan)}")

    def _best(self) -> str:
        done = complete(self.study)
        found = [(b, best_for(done, b)) for b in self.budgets]
        return ", ".join(f"≤ {b} NFE: {'–' if t is None else f'{t.values[1]:.4g}'}" for b, t in found)


def _words(plan: Any) -> str:
    """Return a plan in a few words."""
    config = plan.config
    intervals = ", ".join(f"[{i.N}, {i.K}, {i.asked.t_min:g}, {i.asked.t_max:g}]" for i in plan.intervals)
    inside = f" with {config.restart_solver}" * bool(config.restart_solver)
    more = options_of(config.to_dict())
    text = f"{config.solver}, {config.steps} points" + (f", Restart {intervals}{inside}" if intervals else "")
    return text + f", {more}" * bool(more)


def trials_text(study: Study, why: str) -> str:
    """Return what became of the trials; `why` says why the search ended."""
    counts = dict.fromkeys(("drawn", "stopped", "failed", "copy_of", "refused"), 0)
    for trial in finished(study):
        for name in counts:
            counts[name] += name in trial.user_attrs
    return (
        f"{why}: {counts['drawn']} plans drawn ({counts['stopped']} given up early, {counts['failed']} failed); "
        f"{counts['copy_of']} were the same as earlier ones and {counts['refused']} outside the space, none of them "
        f"drawn"
    )


def print_plans(study: Study, budgets: Sequence[int], tuned: Sequence[Row], common: Row) -> None:
    """Print for each budget the plan to use, how it compares, and the command and the code that draw with it.

    `common` has the model, its guide and the dtype, as every row does.
    """
    rows = {row["budget"]: row for row in tuned}
    for budget in budgets:
        trial = best_for(complete(study), budget)
        if trial is None:
            say(f"\nbudget {budget}: no plan was found")
            continue
        row = rows.get(budget)
        plan = Plan.build(**(trial.user_attrs["config"] if row is None else row["config"]))
        if row is not None:
            say(f"\nbudget {budget}: {row['nfe']} NFE, FD {row['fd_search']:.4g} in the search" + _final(row))
            say("  " + _compared(row))
        else:
            say(f"\nbudget {budget}: {int(trial.values[0])} NFE, FD {trial.values[1]:.4g} in the search")
            say("  not measured on fresh seeds")
        say("  " + command(plan, str(common["model"]), str(common["dtype"]), common))
        say("  " + python(plan))


def _final(row: Row) -> str:
    if row["fd_final"] is None:
        return ""
    return f", {row['fd_final']:.4g} in the final, the lowest of {row['finalists']} plans"


def _compared(row: Row) -> str:
    """Return how a plan compares with the best preset and with Heun, on fresh seeds."""

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
