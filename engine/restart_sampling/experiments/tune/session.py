"""A search from start to end: go on with the study, draw plans, measure what was found on fresh seeds, show it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.terminal import say
from ...jobs.lock import FolderLock
from ..measure import shipped
from ..measure.rows import environment, read
from . import confirm as results
from . import pareto, study
from .display import Display, print_plans, trials_text
from .objective import Objective
from .restore import restore
from .space import Space
from .starts import given, of_family, starts

if TYPE_CHECKING:
    from rich.console import Console

SETTINGS = ("model_sha256", "dtype", "n", "first_seed", "features", "reference", "classes")


class Session:
    """A search and its files.

    Args:
        objective: draws plans and measures them.
        space: what is searched.
        budgets: the budgets of evaluations, ascending.
        common: fields that every row has.
        out: folder of the rows and pictures.
        storage: the study, as `study.open_study` takes it; by default `out`/tune.db.
        console: what progress is printed on.
        family: the family that `space` is of, whose search is even over the budgets, see study.py; "" for any.
    """

    def __init__(
        self,
        objective: Objective,
        space: Space,
        budgets: Sequence[int],
        common: dict[str, Any],
        out: Path,
        storage: str | None,
        console: Console,
        family: str = "",
    ) -> None:
        self.objective, self.space, self.budgets, self.common = objective, space, budgets, common
        self.out, self.console = out, console
        self.storage: str | Path = out / "tune.db" if storage is None else storage
        self.path = out / results.FILE
        self.family = family
        self.stopped = False

    def run(
        self, trials: int, plans: Sequence[Any], *, seed: int, minutes: float | None, confirm: bool, **confirmation: Any
    ) -> bool:
        """Search and confirm; return whether a plan was found. Ctrl-C ends it, and sets `stopped`.

        Args:
            trials: plans to draw in all, those of earlier runs counted.
            plans: plans to try before all others.
            seed: seed of the search.
            minutes: start no trial after that.
            confirm: whether to measure what was found on fresh seeds.
            confirmation: as `confirm.confirm` takes it: n, first_seed, finalists, final_n.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self._locked_folder())
        try:
            found = self._open(trials, plans)
            self._search(found, trials, seed, minutes)
            rows = results.write_trials(found, self.common, self.path)
            tuned = self._confirm(found, confirmation) if confirm and not self.stopped else []
            self._show(found, rows, tuned)
        finally:
            lock.release()
        return bool(study.complete(found))

    def _locked_folder(self) -> Path:
        """Return the folder of the study's file, made if it is not there, or `out` for a database's URL."""
        if "://" in str(self.storage):
            return self.out
        folder = Path(self.storage).parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _open(self, trials: int, plans: Sequence[Any]) -> Any:
        """Open the study, restore trials of earlier rows, and enqueue the plans to begin with."""
        settings = {name: self.common[name] for name in SETTINGS}
        if not self.common["model_sha256"]:
            settings["model"] = self.common["model"]
        found = study.open_study(self.storage, settings | self.space.to_dict())
        restored, outside = restore(found, read(self.path), self.common, self.space, self.objective.key)
        if restored or outside:
            self.console.print(
                f"{restored} plans of an earlier search come from {self.path}"
                + f"; {outside} are left out, because they are outside what is searched now" * bool(outside)
            )
        self.common |= environment(self.objective.denoiser.device)
        results.write_trials(found, self.common, self.path)
        study.enqueue(found, given(plans, self.space, self.objective.key), trials)
        if self.family:
            study.enqueue(found, of_family(self.family, self.space, self.budgets, self.objective.key), trials // 2)
        else:
            study.enqueue(found, starts(self.space, self.budgets, self.objective.key), max(1, trials // 3))
        return found

    def _search(self, found: Any, trials: int, seed: int, minutes: float | None) -> None:
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        with Display(self.console, found, self.budgets, trials) as display:

            def on_trial(event: study.Event) -> None:
                results.write_trials(found, self.common, self.path)
                display.ended(event)

            try:
                why = study.search(
                    found,
                    self.space,
                    self.objective,
                    trials,
                    seed=seed,
                    budgets=self.budgets,
                    even=bool(self.family),
                    deadline=deadline,
                    on_trial=on_trial,
                )
            except KeyboardInterrupt:
                why, self.stopped = "stopped", True
        self.console.print(trials_text(found, why))

    def _confirm(self, found: Any, confirmation: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return results.confirm(
                found,
                self.space,
                self.objective,
                self.budgets,
                self.common,
                self.path,
                progress=self.console.print,
                **confirmation,
            )
        except KeyboardInterrupt:
            self.stopped = True
            return []

    def _show(self, found: Any, rows: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]) -> None:
        """Draw the pictures and print the plans to use."""
        model, features = self.common["model"], self.common["features"]
        title = f"{model}: {sum(row['fd'] is not None for row in rows)} plans, n = {self.common['n']}, {features}"
        written = pareto.pictures(self.out, rows, tuned, title)
        print_plans(found, self.budgets, tuned, self.common)
        if tuned and features in shipped.NAMES:
            others = ",".join(name for name in shipped.NAMES if name != features)
            say(
                f"\nchosen and measured by {features}; to measure the images that `generate` draws by extractors that "
                f"had no part:\n  restart-sampling score FOLDER --features {others}"
            )
        pictures = "".join(f", {path.name}" for path in written)
        self.console.print(f"rows in {self.path}{pictures}; the study is {self.storage}")
