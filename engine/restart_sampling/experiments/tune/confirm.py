r"""What a search found, for each budget, measured again on fresh seeds beside the best preset and Heun.

The lowest distance of many trials is partly luck on the seeds they share. So the lowest few, the finalists, are drawn
again on the seeds after those of the search, and the one that is lowest there is the tuned plan. What is reported is
neither of the two: the tuned plan, the preset and plain Heun all draw the seeds of the benchmark. The preset is chosen
by the search as well: the best on its seeds of those that were tried there; where none was, the Restart preset that
uses most of the budget.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...common.errors import ConfigError, NonFiniteError, RestartValueError
from ...plan.plan import Plan
from ...plan.presets import presets
from ..measure.engine import plan_for
from ..measure.rows import append, find, read
from .pareto import lowest
from .space import Space
from .starts import fitting
from .study import complete, finished

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FILE = "tune.jsonl"
FIRST_SEED = 1_000_000  # the benchmark's
BLOCK = 1000  # seeds of a distance, the benchmark's: a distance falls with the number of images, so all have as many
Row = dict[str, Any]
_FLAGS = (  # of `generate`, with the option of Plan.build each is
    ("--steps", "steps"),
    ("--solver", "solver"),
    ("--restart-solver", "restart_solver"),
    ("--rho", "rho"),
    ("--s-noise", "s_noise"),
    ("--s-churn", "s_churn"),
    ("--s-min", "s_min"),
    ("--s-max", "s_max"),
    ("--restart-gamma", "restart_gamma"),
    ("--sigma-min", "sigma_min"),
    ("--sigma-max", "sigma_max"),
    ("--schedule", "schedule"),
    ("--on-collision", "on_collision"),
    ("--guidance-scale", "guidance_scale"),
)


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


def options(plan: Plan) -> Row:
    """Return what differs from the defaults of `Plan.build`, with `steps`: enough to build the plan again."""
    own, default = plan.config.to_dict(), Plan.build(steps=18).config.to_dict()
    found = {name: value for name, value in own.items() if name == "steps" or value != default.get(name)}
    if plan.config.restart.intervals:
        intervals = [[i.N, i.K, i.t_min, i.t_max] for i in plan.config.restart.intervals]
        found["restart"] = intervals[0] if len(intervals) == 1 else intervals
    else:
        found.pop("restart", None)
    return found


def command(plan: Plan, model: str, dtype: str = "fp32") -> str:
    """Return the plan as a `restart-sampling generate` command line; ConfigError if an option of it is no flag."""
    given = options(plan)
    words = ["restart-sampling", "generate", "--model", model]
    for flag, name in _FLAGS:
        if name in given:
            words += [flag, str(given.pop(name))]
    if "restart" in given:
        words += ["--restart", str(given.pop("restart"))]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be given on the command line; build the plan in Python")
    if dtype != "fp32":
        words += ["--dtype", dtype]
    return shlex.join(words)


def python(plan: Plan) -> str:
    """Return the plan as a line of Python."""
    return f"rs.Plan.build({', '.join(f'{name}={value!r}' for name, value in options(plan).items())})"


def plan_fields(plan: Plan, nfe: int, dtype: str) -> Row:
    """Return the fields that a row has of the plan."""
    return {
        "sampler": "tuned",
        "by": "engine",
        "source": "found by search",
        "family": plan.config.family,
        "nfe": nfe,
        "key": f"{plan.digest}-{dtype}",
        "plan": plan.digest,
        "config": plan.config.to_dict(),
        "restart": plan.config.restart.to_json() if plan.intervals else "",
    }


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
    """Return rows of kind "tuned", one for each budget that a trial fits in; append them, and measure none twice.

    Args:
        common: fields that every row has (model, features, environment …).
        n, first_seed: the fresh seeds. Up to BLOCK of them are one distance; more are a distance for every BLOCK, whose
            mean is reported with its standard deviation, and n must be a multiple of BLOCK (else RestartValueError).
        finalists: how many plans of a budget are drawn again before one is chosen, on the seeds after those of the
            search.
        final_n: number of these seeds, a multiple of what one distance takes (else RestartValueError); default one
            distance.
    """
    block = min(n, BLOCK)
    final_n = block if final_n is None else final_n
    for asked in (n, final_n):
        if asked % block or not asked:
            raise RestartValueError(f"fresh seeds are up to {BLOCK} or a multiple of {BLOCK}, got {asked}")
    before = find(read(path), kind="tuned", study=study.user_attrs["study"], n=block)
    measured = _measured(find(before, first_seed=first_seed, blocks=n // block))

    def fresh(name: str, plan: Plan | None, what: str) -> Row:
        """Return the plan's distances as `name`, `name`_std and `name`_blocks of a row; None and [] if it has none."""
        if plan is not None and plan.digest not in measured:
            try:
                found = [round(objective.fresh(plan, first_seed + start, block), 6) for start in range(0, n, block)]
            except NonFiniteError as error:
                progress(f"{what}: {error}")
                found = []
            else:
                progress(f"{what}: FD {spread(found)} on fresh seeds")
            measured[plan.digest] = found
        found = measured[plan.digest] if plan is not None else []
        return {
            name: round(statistics.fmean(found), 6) if found else None,
            f"{name}_std": round(statistics.stdev(found), 6) if len(found) > 1 else None,
            f"{name}_blocks": found,
        }

    repeated = {
        int(number): math.inf if fd is None else fd
        for row in before
        if row.get("final_n", block) == final_n  # rows from before there was a choice
        for number, fd in row["finals"].items()
    }

    def final(trial: FrozenTrial) -> float:
        """Return a finalist's distance on the seeds after those of the search; infinite if it has none.

        Not used with one finalist.
        """
        if finalists == 1:
            return math.inf
        if trial.number not in repeated:
            plan, what = Plan.build(**trial.user_attrs["config"]), f"finalist {trial.number}"
            first = common["first_seed"] + common["n"]
            try:
                again = [objective.fresh(plan, first + start, block) for start in range(0, final_n, block)]
                repeated[trial.number] = round(statistics.fmean(again), 6)
            except NonFiniteError as error:
                progress(f"{what}: {error}")
                repeated[trial.number] = math.inf
            else:
                progress(f"{what}, {trial.values[0]:.0f} NFE: FD {spread(again)} on {final_n} other seeds")
        return repeated[trial.number]

    rows = []
    for budget in budgets:
        lucky = lowest(complete(study), budget, finalists)
        if not lucky:
            progress(f"no plan was found for {budget} NFE")
            continue
        trial, fd_final = min(((trial, final(trial)) for trial in lucky), key=lambda pair: (pair[1], pair[0].values[1]))
        plan = Plan.build(**trial.user_attrs["config"])
        name, preset, fd_search = _best_preset(study, space, objective, budget)
        heun = plan_for("heun", budget)
        row = plan_fields(plan, int(trial.values[0]), common["dtype"]) | common
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
            "trial": trial.number,
            "trials": len(complete(study)),
            "study": study.user_attrs["study"],
        }
        same = find(
            read(path),
            **{
                k: row[k]
                for k in ("kind", "study", "budget", "plan", "best_preset", "n", "blocks", "first_seed", "final_n")
            },
        )
        if same:
            rows.append(same[-1])
            continue
        row |= fresh("fd", plan, f"tuned for {budget}, {row['nfe']} NFE")
        row |= fresh("fd_best_preset", preset, f"preset {name}, {objective.bound(preset).nfe if preset else 0} NFE")
        row |= fresh("fd_heun", heun, f"Heun, {heun.nfe if heun else 0} NFE")
        row["better"] = (
            better(*(row[f"{name}_blocks"] for name in ("fd", "fd_best_preset", "fd_heun"))) if row["fd_blocks"] else 0
        )
        row |= {
            "fd_final": _finite(fd_final),
            "finalists": len(lucky),
            "finals": {str(t.number): _finite(repeated[t.number]) for t in lucky if t.number in repeated},
            "fd_search": round(trial.values[1], 6),
            "fd_search_best_preset": fd_search,
            "command": command(plan, str(common["model"]), str(common["dtype"])),
            "code": python(plan),
        }
        append(path, row)
        rows.append(row)
    return rows


def _measured(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return the distances, by plan digest, that earlier rows of the same fresh seeds have."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found |= {row["plan"]: row["fd_blocks"], row["heun"]: row["fd_heun_blocks"]}
        for preset in presets():  # none where it has another name by now
            if preset.name == row["best_preset"]:
                found[Plan.build(**preset.plan_options).digest] = row["fd_best_preset_blocks"]
    return found


def _finite(value: float) -> float | None:
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
    return preset.name, plan, None
