"""The storage of a study: opening it, queueing points, and which of its trials have ended.

The states of a trial are told in study.py.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import BackendError, ConfigError
from ...plan.plan import Plan
from .starts import Start

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

NAME = "restart-sampling tune"
OF_START = ("options", "label", "preset", "start")  # attributes of a trial that began as a start


def library() -> Any:
    """Return the module optuna, made quiet. Raises BackendError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise BackendError("tune needs optuna: pip install 'restart-sampling[bench]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(storage: str | Path | None, settings: Mapping[str, Any]) -> Study:
    """Return the study in `storage` (a file or a database's URL; None: in memory); a new one if it holds none.

    Trials that an earlier process left running are queued again. Raises ConfigError if the study was made with other
    settings, or if the storage cannot be read.
    """
    optuna = library()
    from sqlalchemy.exc import SQLAlchemyError

    where = storage
    if storage is not None and "://" not in str(storage):
        try:
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder of {storage}: {error.strerror or error}") from error
        where = f"sqlite:///{Path(storage).resolve()}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            database = optuna.storages.RDBStorage(str(where)) if where is not None else None
        study = optuna.create_study(
            storage=database, study_name=NAME, directions=["minimize", "minimize"], load_if_exists=True
        )
    except (SQLAlchemyError, RuntimeError, ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the storage {storage} cannot be used ({reason}); give an SQLite file or a database's URL"
        ) from error
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", dict(settings))
        study.set_user_attr("study", uuid.uuid4().hex[:12])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # marked experimental
            study.set_metric_names(["NFE", "Fréchet distance"])
    else:
        _refuse_other(str(storage), known, settings)
    requeue(study)
    return study


def _refuse_other(storage: str, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if the settings differ from those that are known."""
    for name in {**known, **settings}:
        then, now = _listed(known.get(name)), _listed(settings.get(name))
        if then != now:
            raise ConfigError(
                f"the search in {storage} was made with {name} = {then}, and now it is {now}, so its trials cannot be "
                f"compared; give the same, or another --storage"
            )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def requeue(study: Study) -> int:
    """Mark trials that are still running as failed and queue their points again; return how many.

    No other process may be running them.
    """
    optuna = library()
    state = optuna.trial.TrialState
    left = study.get_trials(deepcopy=False, states=(state.RUNNING,))
    for trial in left:
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        attrs = {name: trial.user_attrs[name] for name in OF_START if name in trial.user_attrs}
        study.tell(trial.number, state=state.FAIL)
        study.enqueue_trial(params, user_attrs=attrs)
    return len(left)


def enqueue(study: Study, starts: Sequence[Start], limit: int) -> int:
    """Queue the first `limit` starts, less those that were queued before; return how many."""
    known = {t.user_attrs.get("start") for t in study.get_trials(deepcopy=False)}
    new = [start for start in starts[:limit] if _name(start) not in known]
    for start in new:
        attrs = {"options": start.options, "label": start.label, "preset": start.preset, "start": _name(start)}
        study.enqueue_trial(start.params, user_attrs=attrs)
    return len(new)


def _name(start: Start) -> str:
    """Return what names a start in its trial: the digest of its plan."""
    return Plan.build(**start.options).digest


def drawn(study: Study) -> int:
    """Return how many trials count: those for which images were drawn."""
    return sum(bool(t.user_attrs.get("drawn")) for t in finished(study))


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that ended by themselves."""
    failed = library().trial.TrialState.FAIL
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.is_finished() and (t.state != failed or "failed" in t.user_attrs)
    ]


def complete(study: Study) -> list[FrozenTrial]:
    """Return the trials with values, one for each plan: copies are left out."""
    return [t for t in finished(study) if t.values is not None and "copy_of" not in t.user_attrs]
