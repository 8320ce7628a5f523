r"""What a search found, for each budget, measured again on fresh seeds beside the best preset and Heun.

The lowest distance of many trials is partly luck on the seeds they share. So the lowest few, the finalists, are drawn
again on the seeds after those of the search, and the one that is lowest there is the tuned plan. What is reported is
neither of the two distances: the tuned plan, the preset and plain Heun are all drawn on the seeds of the benchmark. The
preset, too, is chosen by the search: the best on its seeds of the presets that were tried. If none was tried, it is the
Restart preset that uses most of the budget.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...common.errors import NonFiniteError, RestartValueError
from ...plan.plan import Plan
from ...plan.presets import presets
from ..measure.engine import plan_for
from ..measure.rows import append, find, read
from .pareto import lowest
from .plan_text import command, plan_fields, python
from .space import Space, with_guidance
from .starts import fitting
from .storage import complete, finished

if TYPE_CHECKING:
    from optuna import Study

FILE = "tune.jsonl"
FIRST_SEED = 1_000_000  # the benchmark's
BLOCK = 1000  # seeds of a distance, the benchmark's: a distance falls with the number of images, so all have as many
Row = dict[str, Any]
SAME = ("kind", "study", "budget", "plan", "best_preset", "n", "blocks", "first_seed", "final_n")  # not measured again


class Fresh(Protocol):
    """The part of `objective.Objective` that a confirmation uses."""

    def bound(self, plan: Plan) -> Plan: ...
    def fresh(self, plan: Plan, first_seed: int, n: int) -> float: ...


def spread(values: Sequence[float]) -> str:
    """Return "3.22 ± 0.61": mean and standard deviation, or the value if there is only one."""
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def better(found: Sequence[float], *others: Sequence[float]) -> int:
    """Return in how many blocks the plan is better than all others; those that were not measured do not count."""
    rivals = [other for other in others if other]
    return sum(value < min(rest) for value, *rest in zip(found, *rivals, strict=True)) if rivals else 0


def write_trials(study: Study, common: Row, path: Path) -> list[Row]:
    """Append the trials that the file does not have yet; return all rows of kind "trial" of this study."""
    mine = find(read(path), kind="trial", study=study.user_attrs["study"])
    known = {row["trial"] for row in mine}
    for trial in finished(study):
        attrs = trial.user_attrs
        if trial.number in known or "key" not in attrs or "copy_of" in attrs:
            continue
        plan = Plan.build(**attrs["config"])
        fd = None if trial.values is None else round(trial.values[1], 6)
        row = plan_fields(plan, attrs["nfe"], common["dtype"]) | common
        row |= {
            "kind": "trial",
            "trial": trial.number,
            "title": f"Trial {trial.number}",
            "label": attrs.get("label", ""),
            "preset": attrs.get("preset", ""),
            "fd": fd,
            "fd_first": attrs.get("first"),
            "why": attrs.get("failed") or attrs.get("stopped") or "",
            "seconds": attrs.get("seconds"),
            "study": study.user_attrs["study"],
        }
        append(path, row)
        mine.append(row)
    return mine


@dataclass(frozen=True)
class _Measure:
    """Measures plans on blocks of seeds and says what it found."""

    objective: Fresh
    block: int
    progress: Callable[[str], None]

    def distances(self, plan: Plan, first_seed: int, n: int, what: str, which: str) -> list[float]:
        """Return the distance on each block of n seeds; none if samples are not finite. `what` on `which` is told."""
        starts = range(first_seed, first_seed + n, self.block)
        try:
            found = [self.objective.fresh(plan, start, self.block) for start in starts]
        except NonFiniteError as error:
            self.progress(f"{what}: {error}")
            return []
        self.progress(f"{what}: FD {spread(found)} on {which}")
        return found


def confirm(
    study: Study,
    space: Space,
    objective: Fresh,
    budgets: Sequence[int],
    common: Row,
    path: Path,
    *,
    n: int,
    first_seed: int = FIRST_SEED,
    finalists: int = 1,
    final_n: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Return rows of kind "tuned", one for each budget that a trial fits in.

    New rows are appended to the file. What an earlier row has is not measured again.

    Args:
        common: fields that every row has (model, features, environment …).
        path: the file of rows.
        n, first_seed: the fresh seeds. Up to BLOCK of them are one distance. More must be a multiple of BLOCK (else
            RestartValueError); every BLOCK is a distance, and their mean and standard deviation are reported.
        finalists: how many plans of a budget are drawn again before one is chosen.
        final_n: on how many seeds, a multiple of those of one distance (else RestartValueError), which is the default.
        progress: is told what was measured.
    """
    block = min(n, BLOCK)
    final_n = block if final_n is None else final_n
    for asked in (n, final_n):
        if asked % block or not asked:
            raise RestartValueError(f"fresh seeds are up to {BLOCK} or a multiple of {BLOCK}, got {asked}")
    measure = _Measure(objective, block, progress)
    before = find(read(path), kind="tuned", study=study.user_attrs["study"], n=block)
    measured = _measured(find(before, first_seed=first_seed, blocks=n // block), space)
    finals = {
        int(number): math.inf if fd is None else fd
        for row in before
        if row.get("final_n", block) == final_n  # rows of older versions do not have it
        for number, fd in row["finals"].items()
    }

    def fields(name: str, plan: Plan | None, what: str) -> Row:
        """Return the plan's distances on fresh seeds as `name`, `name`_std and `name`_blocks; None and [] if none."""
        if plan is not None and plan.digest not in measured:
            found = measure.distances(plan, first_seed, n, what, "fresh seeds")
            measured[plan.digest] = [round(fd, 6) for fd in found]
        found = measured[plan.digest] if plan is not None else []
        return {
            name: round(statistics.fmean(found), 6) if found else None,
            f"{name}_std": round(statistics.stdev(found), 6) if len(found) > 1 else None,
            f"{name}_blocks": found,
        }

    rows = []
    for budget in budgets:
        best = lowest(complete(study), budget, finalists)
        if not best:
            progress(f"no plan was found for {budget} NFE")
            continue
        for trial in best if finalists > 1 else ():
            if trial.number not in finals:
                what, first = f"finalist {trial.number}, {trial.values[0]:.0f} NFE", common["first_seed"] + common["n"]
                plan = Plan.build(**trial.user_attrs["config"])
                found = measure.distances(plan, first, final_n, what, f"{final_n} other seeds")
                finals[trial.number] = round(statistics.fmean(found), 6) if found else math.inf
        chosen = min(best, key=lambda t: (finals.get(t.number, math.inf), t.values[1]))
        plan = Plan.build(**chosen.user_attrs["config"])
        name, preset, fd_search = _best_preset(study, space, objective, budget)
        heun = plan_for("heun", budget)
        heun = None if heun is None else with_guidance(heun, space)
        row = plan_fields(plan, int(chosen.values[0]), common["dtype"]) | common
        row |= {
            "kind": "tuned",
            "title": f"Tuned for {budget} NFE",
            "budget": budget,
            "nfe_asked": budget,
            "n": block,
            "blocks": n // block,
            "first_seed": first_seed,
            "final_n": final_n,
            "best_preset": name,
            "heun": heun.digest if heun else "",
            "trial": chosen.number,
            "trials": len(complete(study)),
            "study": study.user_attrs["study"],
        }
        same = find(read(path), **{key: row[key] for key in SAME})
        if same:
            rows.append(same[-1])
            continue
        row |= fields("fd", plan, f"tuned for {budget}, {row['nfe']} NFE")
        row |= fields("fd_best_preset", preset, f"preset {name}, {objective.bound(preset).nfe if preset else 0} NFE")
        row |= fields("fd_heun", heun, f"Heun, {heun.nfe if heun else 0} NFE")
        blocks = [row[f"{name}_blocks"] for name in ("fd", "fd_best_preset", "fd_heun")]
        row |= {
            "better": better(*blocks) if row["fd_blocks"] else 0,
            "fd_final": _finite(finals[chosen.number]) if finalists > 1 else None,
            "finalists": len(best),
            "finals": {str(t.number): _finite(finals[t.number]) for t in best if t.number in finals},
            "fd_search": round(chosen.values[1], 6),
            "fd_search_best_preset": fd_search,
            "command": command(plan, str(common["model"]), str(common["dtype"]), common),
            "code": python(plan),
        }
        append(path, row)
        rows.append(row)
    return rows


def _measured(rows: Sequence[Row], space: Space) -> dict[str, list[float]]:
    """Return the distances, by plan digest, that earlier rows of the same fresh seeds have."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found |= {row["plan"]: row["fd_blocks"], row["heun"]: row["fd_heun_blocks"]}
        for preset in presets():  # none if the preset has another name by now
            if preset.name == row["best_preset"]:
                found[with_guidance(Plan.build(**preset.plan_options), space).digest] = row["fd_best_preset_blocks"]
    return found


def _finite(value: float) -> float | None:
    """Return a distance, None for the infinite one of samples that were not finite."""
    return value if math.isfinite(value) else None


def _best_preset(study: Study, space: Space, objective: Fresh, budget: int) -> tuple[str, Plan | None, float | None]:
    """Return (name, plan, distance on the search's seeds or None) of the preset to compare with.

    It is ("", None, None) if no preset fits.
    """
    tried = [t for t in complete(study) if t.user_attrs.get("preset") and t.values[0] <= budget]
    if tried:
        best = min(tried, key=lambda t: (t.values[1], t.number))
        return best.user_attrs["preset"], Plan.build(**best.user_attrs["config"]), round(best.values[1], 6)
    fits = fitting(space, budget, objective.bound)
    if not fits:
        return "", None, None
    preset, plan = fits[0]
    return preset.name, with_guidance(plan, space), None
