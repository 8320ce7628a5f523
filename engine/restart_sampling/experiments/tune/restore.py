r"""A search made again from its committed rows, if its storage is not there.

tune.jsonl has what a search needs to know of a trial: the plan, its NFE, and its distance or why it has none. The
storage holds more, but it is a file of one machine; rows are committed, copied and read. Trials get their old numbers,
and a number without a row (a copy or a refused point) gets a refused trial, so that the search goes on as it was.

optuna's journal, a file of JSON lines, cannot take the place of these rows: it would begin empty just the same. Nor is
it the better storage: after an append that was cut short the next one is lost, which SQLite survives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...common.checks import is_count
from ...common.errors import OutputError
from ...plan.plan import Plan
from ..measure.rows import find
from .space import Space, params_of, suggest
from .storage import library

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

Row = Mapping[str, Any]
MOST = 1_000_000  # trials; those without a row are filled in one by one
SAME = ("model_sha256", "dtype", "n", "first_seed", "features", "reference", "classes")
MEND = "mend or remove its line in tune.jsonl"


def restore(
    study: Study, rows: Sequence[dict[str, Any]], common: Row, space: Space, key: Callable[[Plan], str]
) -> tuple[int, int]:
    """Give an empty study the trials of the newest search in `rows` whose distances compare with those of this one.

    Args:
        rows: of tune.jsonl.
        common: fields of this search's rows. Those in SAME must agree, and `model` if the model has no hash.
        key: `Objective.key`.

    Returns (trials that were restored, rows that were left out because they are outside `space`); (0, 0) if the study
    has trials already or no rows fit. Raises OutputError if a row is not as `tune` wrote it.
    """
    names = SAME if common["model_sha256"] else (*SAME, "model")
    mine = find(rows, kind="trial", **{name: common[name] for name in names})
    if not mine or study.get_trials(deepcopy=False):
        return 0, 0
    name = mine[-1].get("study")
    made: dict[int, FrozenTrial | None] = {}
    for row in find(mine, study=name):
        number = row.get("trial")
        if not is_count(number, MOST) or not isinstance(name, str):
            raise OutputError(f"a row of a trial has the number {str(number)[:40]!r}; {MEND}")
        try:
            made[number] = _trial(row, space, key)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise OutputError(f"the row of trial {number} is not as tune wrote it ({reason}); {MEND}") from error
    restored = sum(trial is not None for trial in made.values())
    if restored:
        study.set_user_attr("study", name)
        for number in range(max(made) + 1):
            study.add_trial(made.get(number) or _refused())
    return restored, len(made) - restored


def _trial(row: Row, space: Space, key: Callable[[Plan], str]) -> FrozenTrial | None:
    """Return the trial of a row, None if its plan is outside the space."""
    optuna = library()
    plan = Plan.build(**row["config"])
    params = params_of(plan, space)
    if params is None:
        return None
    point = optuna.trial.FixedTrial(params)
    params = suggest(point, space)
    config = plan.config.to_dict()
    attrs = {"key": key(plan), "plan": plan.digest, "config": config, "nfe": row["nfe"], "drawn": True}
    attrs |= {"seconds": row.get("seconds"), "first": row.get("fd_first")}
    if row.get("label"):
        attrs |= {"label": row["label"], "preset": row.get("preset", ""), "start": plan.digest, "options": config}
    state = optuna.trial.TrialState
    values = None
    if row["fd"] is not None:
        ended, values = state.COMPLETE, [float(row["nfe"]), float(row["fd"])]
    elif row.get("fd_first") is not None:
        ended, attrs["stopped"] = state.PRUNED, row["why"]
    else:
        ended, attrs["failed"] = state.FAIL, row["why"]
    attrs = {name: value for name, value in attrs.items() if value is not None}
    return optuna.trial.create_trial(
        state=ended, values=values, params=params, distributions=point.distributions, user_attrs=attrs
    )


def _refused() -> FrozenTrial:
    """Return the trial of a number without a row."""
    optuna = library()
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED, user_attrs={"refused": "has no row that is a point of the space"}
    )
