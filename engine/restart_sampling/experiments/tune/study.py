r"""The search: which plan is tried next, and what becomes of its trial.

Two objectives, both minimised: NFE and Fréchet distance. The sampler is multi-objective TPE (Ozaki et al., GECCO 2020)
with groups of parameters that occur together, because a search has tens of trials: one generation of NSGA-II. Before
it, RANDOM plans are drawn at random: plans to begin with (starts.py) resemble each other, and a model of them alone
never leaves them. With budgets, every other turn is for one of them in rotation: TPE for the lowest distance alone, to
which dearer plans are as bad as refused ones. The two objectives alone favour the cheap end, where most plans are
undominated. Every trial seeds the sampler with the seed of the search and the number of trials before, so a search that
was interrupted goes on as it would have.

An even search, which compares families, is for one budget in every turn: that which has had the fewest trials of what
is due to it. A budget is due a share of trials in proportion to 1/√evaluations, and a trial is that of the smallest
budget that its plan fits. So the same number of trials gives every family the same number at every budget.

States of a trial
    COMPLETE                 drawn and measured, or a copy: its plan draws the same as that of an earlier trial
    PRUNED, attr "refused"   outside the space or not run by the engine; nothing was drawn, so it does not count
    PRUNED, attr "stopped"   a part was drawn and was far off; it has no value
    FAIL, attr "failed"      samples were not finite; the reason is stored
    FAIL without "failed"    the process ended in it; its point is queued again
Pruned trials have no value but the sampler learns from them: it counts them as bad.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...common.errors import ConfigError, NonFiniteError
from ...plan.plan import Plan
from .objective import FAR, Value
from .space import Params, Refused, Space, build, options_of, suggest
from .storage import complete as complete
from .storage import drawn as drawn
from .storage import enqueue as enqueue
from .storage import finished as finished
from .storage import library as library
from .storage import open_study as open_study
from .storage import requeue

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

RANDOM = 12
ASKED = 40  # points that are looked at for one that is a trial of a budget
IDLE = 300  # trials in a row that cost nothing (refused or copied) before the space counts as exhausted


class Objective(Protocol):
    """The part of `objective.Objective` that a search uses."""

    def bound(self, plan: Plan) -> Plan: ...
    def key(self, plan: Plan) -> str: ...
    def value(self, plan: Plan, far: Callable[[float], bool] = ...) -> Value: ...


@dataclass(frozen=True)
class Event:
    """The end of a trial. `seconds` is what it took; if `fd` is None, `why` says why it has no value."""

    number: int
    plan: Plan | None
    nfe: int
    fd: float | None
    why: str
    seconds: float
    drawn: int


def search(
    study: Study,
    space: Space,
    objective: Objective,
    trials: int,
    *,
    seed: int = 0,
    budgets: Sequence[int] = (),
    even: bool = False,
    deadline: float = math.inf,
    on_trial: Callable[[Event], None] = lambda event: None,
) -> str:
    """Try plans until `trials` of them are drawn, those of earlier runs counted; return why it ended.

    Args:
        budgets: NFE for which a plan is wanted; empty: both objectives alone.
        even: whether every trial is for a budget, see the module docstring.
        deadline: `time.monotonic()` after which no trial starts.
        on_trial: called after every trial that was drawn.

    KeyboardInterrupt passes through, and the trial in flight is queued again.
    """
    idle = 0
    while drawn(study) < trials:
        if time.monotonic() >= deadline:
            return "the time is over"
        if idle >= IDLE:
            return f"{idle} points in a row gave no new plan: the space is exhausted"
        try:
            event = _trial(study, space, objective, seed, budgets, even)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                requeue(study)
            raise
        idle = 0 if event else idle + 1
        if event:
            on_trial(event)
    return "done"


def _trial(
    study: Study, space: Space, objective: Objective, seed: int, budgets: Sequence[int], even: bool
) -> Event | None:
    """Make one trial; return None if nothing was drawn."""
    optuna = library()
    state = optuna.trial.TrialState
    before = finished(study)
    own = sum("start" not in t.user_attrs and "drawn" in t.user_attrs for t in before)
    study.sampler = _sampler(seed, len(before), at_random=own < RANDOM and not even)
    turn = own - RANDOM
    waiting = bool(study.get_trials(deepcopy=False, states=(state.WAITING,)))
    if budgets and even and not waiting:
        study.enqueue_trial(_point_for(_next(budgets, before), budgets, before, space, study.sampler))
    elif budgets and turn >= 0 and turn % 2 == 0 and not waiting:
        study.enqueue_trial(_point_within(budgets[turn // 2 % len(budgets)], before, space, study.sampler))
    trial = study.ask()
    params = suggest(trial, space)
    try:
        plan, bound = _plan(trial.user_attrs.get("options"), params, space, objective)
    except ConfigError as error:
        trial.set_user_attr("refused", str(error))
        study.tell(trial, state=state.PRUNED)
        return None
    key, nfe = objective.key(plan), bound.nfe
    for name, content in (("key", key), ("plan", plan.digest), ("config", plan.config.to_dict()), ("nfe", nfe)):
        trial.set_user_attr(name, content)
    twin = next((t for t in before if t.user_attrs.get("key") == key and "copy_of" not in t.user_attrs), None)
    if twin is not None:
        _copy(study, trial, twin)
        return None
    started = time.monotonic()
    rivals = [t.user_attrs.get("first") for t in complete(study) if t.values[0] <= nfe]
    limit = FAR * min((r for r in rivals if r is not None), default=math.inf)
    queued = "start" in trial.user_attrs  # measured whole, so that later plans have something to compare with
    why = ""
    try:
        value = objective.value(plan, lambda first: not queued and first > limit)
    except NonFiniteError as error:
        value, why = Value(None), str(error)
    fd = value.fd
    if fd is not None and not math.isfinite(fd):
        fd, why = None, f"the distance is {fd}"
    seconds = time.monotonic() - started
    trial.set_user_attr("seconds", round(seconds, 3))
    if value.first is not None:
        trial.set_user_attr("first", value.first)
    if why:
        trial.set_user_attr("failed", why)
    elif fd is None:
        why = (
            f"the first part's distance, {value.first:.4g}, is more than {FAR} times that of a plan that costs no more"
        )
        trial.set_user_attr("stopped", why)
    trial.set_user_attr("drawn", True)
    if fd is not None:
        study.tell(trial, [float(nfe), float(fd)])
    else:
        study.tell(trial, state=state.FAIL if "failed" in trial.user_attrs else state.PRUNED)
    return Event(trial.number, plan, nfe, fd, why, seconds, drawn(study))


def _point_within(budget: int, before: Sequence[FrozenTrial], space: Space, sampler: Any) -> Params:
    """Return what the sampler asks for to lower the distance within a budget, having seen `before`."""
    optuna = library()
    state = optuna.trial.TrialState
    view = optuna.create_study(direction="minimize", sampler=sampler)
    for t in before:
        fits = t.values is not None and t.values[0] <= budget
        view.add_trial(
            optuna.trial.create_trial(
                state=state.COMPLETE if fits else state.PRUNED,
                value=t.values[1] if fits else None,
                params=t.params,
                distributions=t.distributions,
            )
        )
    return suggest(view.ask(), space)


def due(budgets: Sequence[int], trials: int) -> dict[int, int]:
    """Return how many of `trials` an even search gives each budget, in proportion to 1/√budget.

    >>> due([5, 20, 80], 14)
    {5: 8, 20: 4, 80: 2}
    """
    counts = dict.fromkeys(budgets, 0)
    for _ in range(trials):
        counts[min(budgets, key=lambda budget: (counts[budget] + 1) * math.sqrt(budget))] += 1
    return counts


def bin_of(budgets: Sequence[int], nfe: float) -> int | None:
    """Return the smallest budget that `nfe` evaluations fit, None if there is none."""
    return min((budget for budget in budgets if nfe <= budget), default=None)


def _next(budgets: Sequence[int], before: Sequence[FrozenTrial]) -> int:
    """Return the budget that an even search goes on with."""
    had = [bin_of(budgets, t.user_attrs["nfe"]) for t in before if t.user_attrs.get("drawn")]
    owed = due(budgets, len(had) + 1)
    return max(budgets, key=lambda budget: (owed[budget] - had.count(budget)) * math.sqrt(budget))


def _point_for(
    budget: int, budgets: Sequence[int], before: Sequence[FrozenTrial], space: Space, sampler: Any
) -> Params:
    """Return the first of ASKED points of :func:`_point_within` whose plan is a trial of this budget, or the last."""
    point: Params = {}
    for _ in range(ASKED):
        point = _point_within(budget, before, space, sampler)
        with contextlib.suppress(ConfigError):
            if bin_of(budgets, build(options_of(point, space), space).nfe) == budget:
                break
    return point


def _plan(options: Any, params: Params, space: Space, objective: Objective) -> tuple[Plan, Plan]:
    """Return (plan, the plan as the network runs it)."""
    plan = build(options or options_of(params, space), space)
    bound = objective.bound(plan)
    if bound.nfe > space.max_nfe:
        raise Refused(f"{bound.nfe} NFE on this network, and at most {space.max_nfe} are searched")
    return plan, bound


def _copy(study: Study, trial: Any, twin: FrozenTrial) -> None:
    """End a trial as the earlier one ended that draws the same images."""
    trial.set_user_attr("copy_of", twin.number)
    if twin.values is not None:
        study.tell(trial, list(twin.values))
    else:
        study.tell(trial, state=twin.state)


def _sampler(seed: int, number: int, at_random: bool) -> Any:
    optuna = library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "group" is marked experimental
        return optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=False,
            n_startup_trials=10**9 if at_random else 0,
            seed=(seed * 1_000_003 + number) % 2**32,
        )
