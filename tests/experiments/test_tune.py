"""Searching plans: the space, a search whose best plan is known, going on after a stop, reports, the command."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support import commands
from support.problems import gaussian

import restart_sampling as rs
from restart_sampling.cli.options import PlanOptions
from restart_sampling.common.errors import ConfigError, NonFiniteError, OutputError, RestartValueError
from restart_sampling.common.images import to_uint8
from restart_sampling.experiments.measure import rows
from restart_sampling.experiments.report import tables
from restart_sampling.experiments.report.front import front
from restart_sampling.experiments.tune import confirm, display, pareto, plan_text, restore, space, starts, study
from restart_sampling.experiments.tune.objective import Objective, Value
from restart_sampling.experiments.tune.space import Refused, Space
from restart_sampling.jobs.lock import FolderLock
from restart_sampling.plan.options import PlanConfig
from restart_sampling.plan.presets import find
from restart_sampling.solvers.registry import SOLVERS, accurate, handling

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.usefixtures("one_thread")
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
DENOISER = rs.Denoiser.from_function(gaussian(), shape=(1, 4, 4), sigma_min=0.002, sigma_max=80.0)
COMMON = {"model": "made-up", "model_sha256": "", "dtype": "fp32", "n": 8, "first_seed": 0}


def run(arguments, capsys):
    return commands.run(capsys, *arguments)


class Known:
    """Plans whose worth is a formula: 4/√NFE, and how far the Restart interval is from [2, 8] in octaves."""

    def __init__(self, refuses=lambda plan: False, interrupt=None):
        self.real = Objective(DENOISER, Size(), n=8, first_seed=0)
        self.plans, self.blocks, self.refuses, self.interrupt = [], [], refuses, interrupt

    def bound(self, plan):
        if self.refuses(plan):
            raise ConfigError("this network does not want it")
        return self.real.bound(plan)

    def key(self, plan):
        return self.real.key(plan)

    def value(self, plan, far=lambda first: False):
        if len(self.plans) == self.interrupt:
            self.interrupt = None
            raise KeyboardInterrupt
        self.plans.append(plan)
        return Value(worth(plan))

    def fresh(self, plan, first_seed, n):
        self.blocks.append((first_seed, n))
        return worth(plan) + 0.25 * first_seed / 100


def worth(plan):
    off = [abs(math.log2(i.t_min / 2)) + abs(math.log2(i.t_max / 8)) for i in plan.intervals]
    return 4 / math.sqrt(plan.nfe) + min(off, default=7.0)


class Size:
    """A judge that remembers what it is given; the distance is the mean pixel."""

    features, reference, balanced, note = "mean", "none", False, ""

    def __init__(self):
        self.seen = []

    def fd(self, images):
        self.seen.append(images)
        return float(images.double().mean())


def points(n, where, seed=0):
    """n random points of a space."""
    sampler = optuna.samplers.RandomSampler(seed)
    trials = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    return [space.suggest(trials.ask(), where) for _ in range(n)]


def settings(**other):
    return {"model_sha256": "abc", "n": 8, "features": "mean", **other}


@cache
def begun(where, *budgets):
    """The plans to begin with in a space."""
    return starts.starts(where, budgets, Known().key)


def digests(trials):
    return [t.user_attrs.get("plan") for t in trials]


# The space

EVERYTHING = Space(solvers=("heun", "euler", "dpm2", "dpm3", "dpm++2m", "edm-stochastic"), levels=3)


def test_points_are_plans_that_run_as_written():
    """t_min is a point of the grid in the paper's few digits, t_max above it; only the NFE is refused."""
    built = 0
    for point in points(80, EVERYTHING):
        try:
            plan = space.build(space.options_of(point, EVERYTHING), EVERYTHING)
        except Refused as error:
            assert "are searched" in str(error)
            continue
        built += 1
        assert 8 <= plan.nfe <= 100
        assert len(plan.intervals) == point["levels"]
        for interval in plan.intervals:
            assert plan.grid[interval.index] == interval.t_min
            assert f"{interval.asked.t_min:.5g}" == f"{interval.asked.t_min:.10g}"  # few digits
            assert 1.1 < interval.t_max / interval.t_min < 21
        assert [i.t_min for i in plan.intervals] == sorted((i.t_min for i in plan.intervals), reverse=True)
    assert built > 30


def test_main_is_what_the_main_walk_costs():
    for solver, points_of in (("heun", 18), ("euler", 35), ("dpm3", 12)):
        point = {"solver": solver, "main": 35, "rho": 7.0, "levels": 0}
        assert space.options_of(point, EVERYTHING)["steps"] == points_of


def test_two_orders_of_intervals_are_one_plan():
    point = {"solver": "heun", "main": 35, "rho": 7.0, "levels": 2, "s_noise": 1.0}
    one = {"N0": 3, "K0": 2, "t_min0": 0.06, "ratio0": 5.0, "N1": 4, "K1": 1, "t_min1": 1.1, "ratio1": 2.0}
    other = {name[:-1] + str(1 - int(name[-1])): value for name, value in one.items()}
    a, b = (space.build(space.options_of(point | levels, EVERYTHING), EVERYTHING) for levels in (one, other))
    assert a.digest == b.digest
    assert [(i.N, i.K) for i in a.intervals] == [(4, 1), (3, 2)]


@pytest.mark.parametrize(
    "name", ["fashion-mnist-43", "cifar10-edm-43", "cifar10-vp-75", "imagenet64-edm-39", "cifar10-edm-heun-35"]
)
def test_presets_are_points_of_the_space(name):
    plan = rs.Plan.build(**find(name).plan_options)
    point = space.params_of(plan, EVERYTHING)
    again = space.build(space.options_of(point, EVERYTHING), EVERYTHING)
    assert Known().key(again) == Known().key(plan)
    if name.endswith("edm-43"):
        assert again.digest == plan.digest  # written as the paper writes it


def test_what_is_outside_is_no_point():
    """Too many intervals, too many repeats, another schedule."""
    for name in ("imagenet64-edm-67", "cifar10-vp-519", "sd15-w2"):
        assert space.params_of(rs.Plan.build(**find(name).plan_options), Space(max_nfe=600)) is None


def test_the_grid_stays_inside_what_the_network_knows():
    narrow = rs.Denoiser.from_function(gaussian(), shape=(1, 4, 4), sigma_min=0.01, sigma_max=50.0)
    where = space.space_for(narrow.parameterization)
    for point in points(20, where):
        options = space.options_of(point, where)
        grid = rs.Plan.build(**options).grid
        assert (grid[0], grid[-2]) == pytest.approx((50, 0.01), rel=1e-12)
        assert all(t_max <= 50 for *_, t_max in options.get("restart", []))
    flow = rs.Denoiser.from_function(gaussian(), shape=(1, 4, 4), sigma_max=1.0, process="flow")
    with pytest.raises(ConfigError, match="flow"):
        space.space_for(flow.parameterization)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"solvers": ("huen",)}, "heun"),
        ({"solvers": ()}, "at least one"),
        ({"levels": -1}, "levels"),
        ({"min_nfe": 101}, "min_nfe"),
        ({"max_nfe": 4, "min_nfe": 3}, "max_nfe"),
    ],
)
def test_bad_spaces(bad, says):
    with pytest.raises(ConfigError, match=says):
        Space(**bad)


# Where it begins


def test_starts_are_different_and_fit():
    where, known = Space(max_nfe=70), Known()
    found = begun(where, 20, 43, 63)
    plans = [rs.Plan.build(**start.options) for start in found]
    assert len({known.key(plan) for plan in plans}) == len(plans) > 10
    assert all(8 <= plan.nfe <= 70 for plan in plans)
    assert {"fashion-mnist-43", "cifar10-edm-43", "cifar10-vp-55"} <= {start.preset for start in found}
    assert sum(len(plan.intervals) == 2 for plan in plans) >= 2  # the multi-level ones, scaled
    for start, plan in zip(found, plans, strict=True):
        point = space.options_of(start.params, where)
        assert known.key(rs.Plan.build(**point)) == known.key(plan)
        if start.preset:
            assert plan.nfe == find(start.preset).nfe


def test_starts_carry_the_presets_to_other_solvers_and_budgets():
    """DPM-Solver++(2M) on the main walk with the preset's Heun inside; as many repeats as a budget pays for, and no
    more.
    """
    where, known = Space(solvers=("dpm++2m", "heun"), max_nfe=63), Known()
    plans = [rs.Plan.build(**start.options) for start in begun(where, 43, 63)]
    wanted = (
        {"solver": "dpm++2m", "restart_solver": "heun", "restart": [3, 5, 0.06, 0.3]},  # cifar10-vp-55, its own repeats
        {"solver": "dpm++2m", "restart_solver": "heun", "restart": [3, 6, 0.06, 0.3]},  # 18 + 4 K ≤ 43
        {"solver": "dpm++2m", "restart_solver": "heun", "restart": [3, 10, 0.06, 0.3]},  # K ≤ 10 in the space
        {"solver": "dpm++2m", "restart": [3, 2, 0.14, 0.3]},
        {"solver": "heun", "restart": [3, 7, 0.06, 0.3]},  # 35 + 4 K ≤ 63
    )
    keys = {known.key(plan) for plan in plans}
    for options in wanted:
        assert known.key(rs.Plan.build(steps=18, **options)) in keys, options
    alone = Space(solvers=("dpm++2m",), max_nfe=63)  # Heun is not searched, so not inside intervals either
    assert not [s for s in begun(alone, 63) if s.options.get("restart_solver") == "heun"]


# The search


def test_the_search_finds_the_known_best():
    """No start is within 3 octaves of [2, 8], and a plan within 1.5 is found, at every budget that has room for one."""
    where, known = Space(solvers=("heun",), levels=1, max_nfe=63), Known()
    found, begin = study.open_study(None, settings()), begun(where, 43)[:6]
    assert min(worth(rs.Plan.build(**s.options)) - 4 / math.sqrt(rs.Plan.build(**s.options).nfe) for s in begin) > 3
    study.enqueue(found, begin, 6)
    assert study.search(found, where, known, 70) == "done"
    for budget in (43, 63):
        best = pareto.best_for(study.complete(found), budget)
        assert best.values[0] <= budget
        assert best.values[1] < 4 / math.sqrt(budget) + 1.5
    for trial in study.complete(found):
        plan = rs.Plan.build(**trial.user_attrs["config"])
        assert trial.values == [plan.nfe, pytest.approx(worth(plan))]


def test_every_other_turn_is_for_a_budget_in_rotation(monkeypatch):
    """Such a turn asks for plans within its budget; without budgets there are no such turns."""
    where, turns = Space(solvers=("heun",), levels=1, max_nfe=63), []
    real = study._point_within
    monkeypatch.setattr(study, "_point_within", lambda budget, *given: turns.append(budget) or real(budget, *given))
    found, known = study.open_study(None, settings()), Known()
    study.search(found, where, known, study.RANDOM + 41, budgets=(20, 43))
    drawn = [
        b for n, b in enumerate(turns) if n == 0 or turns[n - 1] != b
    ]  # a point that was refused is asked for again
    assert drawn[:6] == [20, 43] * 3
    asked = [t for t in found.get_trials() if "fixed_params" in t.system_attrs and t.user_attrs.get("drawn")]
    late = [t.user_attrs["nfe"] for t in asked[-12:]]
    assert sum(nfe <= 43 for nfe in late) >= 9 and sum(20 < nfe <= 43 for nfe in late) >= 2
    turns.clear()
    study.search(study.open_study(None, settings()), where, Known(), study.RANDOM + 3)
    assert turns == []


def test_nothing_outside_is_drawn_and_it_does_not_count():
    where = Space(levels=2, min_nfe=10, max_nfe=30)
    known = Known(refuses=lambda plan: plan.config.solver == "dpm2")
    found = study.open_study(None, settings())
    study.search(found, where, known, 15)
    assert len(known.plans) == 15
    assert all(10 <= plan.nfe <= 30 and plan.config.solver != "dpm2" for plan in known.plans)
    refused = [t for t in study.finished(found) if "refused" in t.user_attrs]
    assert any("are searched" in t.user_attrs["refused"] for t in refused)
    assert any("does not want" in t.user_attrs["refused"] for t in refused)
    assert all(t.values is None for t in refused)


def test_equal_plans_are_drawn_once(monkeypatch):
    """Ten grids and nothing else: each is drawn once, and then the space is exhausted."""
    monkeypatch.setattr(study, "IDLE", 60)
    where = Space(solvers=("heun",), levels=0, min_nfe=3, max_nfe=21, rho=(7.0, 7.0))
    known, found = Known(), study.open_study(None, settings())
    why = study.search(found, where, known, 1000)
    assert "exhausted" in why
    drawn = [plan.config.steps for plan in known.plans]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) <= set(range(2, 12))
    assert len(drawn) >= 8
    copies = [t for t in study.finished(found) if "copy_of" in t.user_attrs]
    assert copies
    values = {t.number: t.values for t in study.complete(found)}
    assert all(t.values == values[t.user_attrs["copy_of"]] for t in copies)


def test_a_search_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    """Through all of its phases: what it begins with, at random, by the model."""
    monkeypatch.setattr(study, "RANDOM", 3)
    where = Space(levels=1, max_nfe=50)

    def searched(storage, *counts):
        known = Known()
        for count in counts:
            found = study.open_study(storage, settings())
            study.enqueue(found, begin, 2)
            study.search(found, where, known, count, seed=3, budgets=(20, 43))
        return known, digests(study.finished(found))

    begin = begun(where, 20)
    whole, one = searched(tmp_path / "whole.db", 9)
    parts, other = searched(tmp_path / "parts.db", 4, 8, 9)
    assert one == other
    assert [p.digest for p in whole.plans] == [p.digest for p in parts.plans]
    assert len(parts.plans) == 9  # nothing was drawn again


def test_ctrl_c_loses_the_trial_in_flight_alone(tmp_path):
    where, known = Space(levels=1, max_nfe=50), Known(interrupt=4)
    found = study.open_study(tmp_path / "s.db", settings())
    with pytest.raises(KeyboardInterrupt):
        study.search(found, where, known, 10)
    assert study.drawn(found) == 4
    lost = found.get_trials()[-2]  # the last one is its point, queued again
    again = study.open_study(tmp_path / "s.db", settings())
    study.search(again, where, known, 5)
    assert known.plans[4].digest == lost.user_attrs["plan"]
    assert study.drawn(again) == 5


def test_a_killed_process_loses_the_trial_in_flight_alone(tmp_path):
    """What SIGKILL leaves behind: a trial that runs for ever, of a start that was queued."""
    where, known = Space(levels=1, max_nfe=50), Known()
    begin = begun(where, 43)
    found = study.open_study(tmp_path / "s.db", settings())
    study.enqueue(found, begin, 2)
    found.ask()
    again = study.open_study(tmp_path / "s.db", settings())
    assert not again.get_trials(states=[optuna.trial.TrialState.RUNNING])
    assert study.enqueue(again, begin, 2) == 0
    study.search(again, where, known, 2)
    assert {p.digest for p in known.plans} == {rs.Plan.build(**s.options).digest for s in begin[:2]}
    presets = {t.user_attrs["preset"] for t in study.complete(again)}
    assert presets == {s.preset for s in begin[:2]}


@pytest.mark.parametrize(
    ("name", "value"), [("model_sha256", "def"), ("n", 9), ("features", "other"), ("solvers", ("heun",))]
)
def test_another_search_in_the_same_storage_is_refused(tmp_path, name, value):
    study.open_study(tmp_path / "s.db", settings(solvers=("heun", "dpm2")))
    study.open_study(tmp_path / "s.db", settings(solvers=("heun", "dpm2")))
    with pytest.raises(ConfigError, match=f"with {name} = "):
        study.open_study(tmp_path / "s.db", settings(solvers=("heun", "dpm2")) | {name: value})


def test_a_storage_that_is_none(tmp_path):
    (tmp_path / "s.db").write_text("not a database, but long enough to be taken for one " * 40)
    with pytest.raises(ConfigError, match=r"s\.db cannot be used"):
        study.open_study(tmp_path / "s.db", settings())


def test_samples_that_are_not_finite_fail_the_trial_with_the_reason():
    class Broken(Known):
        def value(self, plan, far=None):
            self.plans.append(plan)
            raise NonFiniteError("seed 3 became NaN", [{"seed": 3}])

    broken, found = Broken(), study.open_study(None, settings())
    events = []
    study.search(found, Space(max_nfe=40), broken, 3, on_trial=events.append)
    assert [event.why for event in events] == ["seed 3 became NaN"] * 3
    assert all(t.state == optuna.trial.TrialState.FAIL for t in study.finished(found) if "failed" in t.user_attrs)
    assert study.complete(found) == []
    assert len({plan.digest for plan in broken.plans}) == 3


def test_the_time_is_kept():
    known, found = Known(), study.open_study(None, settings())
    assert "time" in study.search(found, Space(), known, 5, deadline=0.0)
    assert known.plans == []


# What a plan is worth


def objective(tmp_path, judge, **options):
    return Objective(DENOISER, judge, first_seed=7, batch=100, cache=tmp_path, **options)


def test_the_images_of_the_seeds_are_judged(tmp_path):
    judge, plan = Size(), rs.Plan.build(steps=3)
    value = objective(tmp_path, judge, n=10).value(plan)
    expected = torch.from_numpy(to_uint8(rs.sample(DENOISER, plan, range(7, 17)))).permute(0, 3, 1, 2)
    assert torch.equal(judge.seen[-1], expected)
    assert value == Value(float(expected.double().mean()))


def test_a_plan_that_is_far_off_is_given_up_after_a_quarter(tmp_path):
    judge, plan = Size(), rs.Plan.build(steps=2)
    worth_it = objective(tmp_path, judge, n=402)
    asked = []
    value = worth_it.value(plan, lambda first: asked.append(first) or True)
    assert value == Value(None, asked[0])
    assert [len(images) for images in judge.seen] == [100]
    judge.seen.clear()
    value = worth_it.value(plan, lambda first: False)
    assert [len(images) for images in judge.seen] == [100, 402]
    assert torch.equal(judge.seen[1][:100], judge.seen[0])
    judge.seen.clear()
    assert objective(tmp_path, judge, n=402, halving=False).value(plan).fd == value.fd
    assert [len(images) for images in judge.seen] == [402]


def test_far_off_is_by_plans_that_cost_no_more():
    """A plan may be far above dearer plans, but not above cheaper ones; and it then has no value."""

    class Halved(Known):
        def value(self, plan, far=lambda first: False):
            first = {4: 10.0, 6: 16.0, 9: 12.0, 3: 40.0}[plan.config.steps]
            self.plans.append(plan)
            return Value(None, first) if far(first) else Value(first / 2, first)

    halved, found = Halved(), study.open_study(None, settings())
    for steps in (4, 6, 9, 3):
        found.enqueue_trial({"solver": "heun", "main": 2 * steps - 1, "rho": 7.0, "levels": 0})
    events = []
    study.search(found, Space(solvers=("heun",), min_nfe=3), halved, 4, on_trial=events.append)
    assert [event.fd for event in events] == [5.0, None, 6.0, 20.0]
    assert "1.5 times" in events[1].why
    assert [t.values[0] for t in study.complete(found)] == [7, 17, 5]


# What is reported


def test_the_front_is_what_no_other_beats():
    rng = np.random.default_rng(0)
    made = [
        optuna.trial.create_trial(values=[float(a), float(b)])
        for a, b in zip(rng.integers(5, 40, 60), rng.integers(1, 30, 60), strict=True)
    ]
    values = {tuple(t.values) for t in made}
    expected = {v for v in values if not any(w != v and w[0] <= v[0] and w[1] <= v[1] for w in values)}
    assert {tuple(t.values) for t in front(made, lambda t: t.values[0], lambda t: t.values[1])} == expected
    for budget in (4, 9, 20, 50):
        fits = [v[1] for v in values if v[0] <= budget]
        best = pareto.best_for(made, budget)
        assert (best.values[1] if best else None) == min(fits, default=None)


def test_tuned_rows(tmp_path):
    where, known = Space(solvers=("heun",), levels=1, max_nfe=63), Known()
    found = study.open_study(None, settings())
    study.enqueue(found, begun(where, 12, 43), 10)
    study.search(found, where, known, 25)
    path, lines = tmp_path / "tune.jsonl", []

    def tuned():
        return confirm.confirm(
            found, where, known, [4, 12, 43], COMMON, path, n=8, first_seed=100, progress=lines.append
        )

    made = tuned()
    assert [row["budget"] for row in made] == [12, 43]
    assert any("no plan was found for 4 NFE" in line for line in lines)
    for row in made:
        plan, heun = rs.Plan.build(**row["config"]), rs.Plan.build(steps=(row["budget"] + 1) // 2)
        assert plan.nfe == row["nfe"] <= row["budget"]
        assert row["fd"] == pytest.approx(worth(plan) + 0.25, abs=1e-6)
        assert row["fd_search"] == pytest.approx(worth(plan), abs=1e-6)
        assert row["fd_heun"] == pytest.approx(worth(heun) + 0.25, abs=1e-6)
        assert row["heun"] == heun.digest
        assert (row["kind"], row["n"], row["first_seed"]) == ("tuned", 8, 100)
        assert row["code"] == plan_text.python(plan) and row.get("python") == COMMON.get("python")  # the version stays
    tried = [t for t in study.complete(found) if t.user_attrs.get("preset") and t.values[0] <= 43]
    best = min(tried, key=lambda t: t.values[1])
    assert made[1]["best_preset"] == best.user_attrs["preset"]
    assert made[1]["fd_best_preset"] == pytest.approx(best.values[1] + 0.25, abs=1e-6)
    assert made[0]["best_preset"] == ""
    assert made[0]["fd_best_preset"] is None
    lines.clear()
    assert tuned() == rows.read(path)
    assert not any("fresh seeds" in line for line in lines)  # measured once


def test_fresh_seeds_in_blocks(tmp_path):
    """A thousand seeds are a distance; their mean and standard deviation are reported, and the wins block by block."""
    where, known = Space(solvers=("heun",), levels=1, max_nfe=63), Known()
    found = study.open_study(None, settings())
    study.enqueue(found, begun(where, 12, 43), 10)
    study.search(found, where, known, 25)
    (row,) = confirm.confirm(found, where, known, [43], COMMON, tmp_path / "tune.jsonl", n=3000, first_seed=1000)
    plan, heun = rs.Plan.build(**row["config"]), rs.Plan.build(steps=22)
    assert (row["n"], row["blocks"], row["first_seed"]) == (1000, 3, 1000)
    assert set(known.blocks) == {(1000, 1000), (2000, 1000), (3000, 1000)}
    assert row["fd_blocks"] == pytest.approx([worth(plan) + add for add in (2.5, 5, 7.5)], abs=1e-6)
    assert (row["fd"], row["fd_std"]) == pytest.approx((worth(plan) + 5, 2.5), abs=1e-6)
    assert (row["fd_heun"], row["fd_heun_std"]) == pytest.approx((worth(heun) + 5, 2.5), abs=1e-6)
    assert worth(plan) < min(worth(heun), worth(rs.preset(row["best_preset"])))
    assert row["better"] == 3
    assert confirm.better([1.0, 2.0, 3.0], [1.5, 1.5, 3.5], []) == 2
    assert confirm.better([1.0, 2.0], [1.5, 2.5], [0.5, 2.5]) == 1
    for bad in ({"n": 2500}, {"n": 3000, "final_n": 2500}):
        with pytest.raises(RestartValueError, match="multiple of 1000, got 2500"):
            confirm.confirm(found, where, known, [43], COMMON, tmp_path / "x.jsonl", **bad)
    # A confirmation with other finalists is a new row, and draws them alone: plan, preset and Heun were measured on
    # these seeds.
    known.blocks.clear()
    (again,) = confirm.confirm(
        found, where, known, [43], COMMON, tmp_path / "tune.jsonl", n=3000, first_seed=1000, final_n=2000, finalists=2
    )
    assert known.blocks == [(8, 1000), (1008, 1000)] * 2
    assert (again["plan"], again["final_n"]) == (row["plan"], 2000)
    names = [f"{name}_blocks" for name in ("fd", "fd_heun", "fd_best_preset")]
    assert [again[name] for name in names] == [row[name] for name in names]


def test_the_final_is_on_other_seeds(tmp_path):
    """The luckiest of the search loses where it is not the best on the seeds behind the search's; each finalist is
    drawn once.
    """
    where, known = Space(solvers=("heun",), levels=1, max_nfe=63), Known()
    found = study.open_study(None, settings())
    study.enqueue(found, begun(where, 12, 43), 10)
    study.search(found, where, known, 12)
    best = pareto.lowest(study.complete(found), 63, 3)
    assert best[0] is pareto.best_for(study.complete(found), 63)
    assert [t.values[1] for t in best] == sorted(t.values[1] for t in study.complete(found))[:3]
    luck = rs.Plan.build(**best[0].user_attrs["config"]).digest

    class Unlucky(Known):
        def fresh(self, plan, first_seed, n):
            return super().fresh(plan, first_seed, n) + 5 * (plan.digest == luck)

    again, lines = Unlucky(), []
    made = confirm.confirm(
        found,
        where,
        again,
        [43, 63],
        {**COMMON, "first_seed": 50},
        tmp_path / "t.jsonl",
        n=1000,
        first_seed=1000,
        finalists=3,
        progress=lines.append,
    )
    assert [(row["trial"], row["finalists"]) for row in made][1] == (best[1].number, 3)
    assert made[1]["fd_search"] == pytest.approx(best[1].values[1], abs=1e-6)
    assert made[1]["fd_final"] == pytest.approx(best[1].values[1] + 0.25 * 0.58, abs=1e-6)
    assert again.blocks.count((58, 1000)) == len([line for line in lines if line.startswith("finalist")])
    assert len({line for line in lines if line.startswith("finalist")}) == again.blocks.count((58, 1000))
    more = Unlucky()
    made = confirm.confirm(
        found,
        where,
        more,
        [63],
        {**COMMON, "first_seed": 50},
        tmp_path / "t.jsonl",
        n=1000,
        first_seed=4000,
        finalists=2,
        final_n=3000,
    )
    assert {(58, 1000), (1058, 1000), (2058, 1000)} <= set(more.blocks)
    assert made[0]["fd_final"] == pytest.approx(best[1].values[1] + 0.25 * 10.58, abs=1e-6)  # the mean of three
    assert made[0]["final_n"] == 3000


def test_trial_rows_are_written_once_and_all(tmp_path):
    where, known = Space(max_nfe=40), Known()
    found = study.open_study(tmp_path / "s.db", settings())
    path = tmp_path / "tune.jsonl"
    study.search(found, where, known, 4)
    confirm.write_trials(found, COMMON, path)
    again = study.open_study(tmp_path / "s.db", settings())
    study.search(again, where, known, 6)
    confirm.write_trials(again, COMMON, path)
    written = rows.read(path)
    assert [row["plan"] for row in written] == [plan.digest for plan in known.plans]
    assert [row["fd"] for row in written] == pytest.approx([worth(plan) for plan in known.plans], abs=1e-6)
    assert all(rs.Plan.build(**row["config"]).digest == row["plan"] for row in written)


def search_with_rows(tmp_path, trials=22):
    """Return (study, rows, space) of a search with starts, random plans, plans given up and one that failed."""
    where, known = Space(solvers=("heun", "dpm++2m"), max_nfe=43), Known()
    found = study.open_study(tmp_path / "s.db", settings())
    study.enqueue(found, begun(where, 43), 5)

    def value(plan, far=lambda first: False):
        known.plans.append(plan)
        first = worth(plan)
        if len(known.plans) == 9:
            raise NonFiniteError("3 samples are NaN", [{"seed": 1}])
        return Value(None, first) if far(first / 1.2) else Value(first, first)

    known.value = value
    study.search(found, where, known, trials)
    confirm.write_trials(found, COMMON, tmp_path / "tune.jsonl")
    return found, rows.read(tmp_path / "tune.jsonl"), where


def test_a_search_is_made_again_from_its_rows(tmp_path):
    """Numbers, states, values and points are those of the database; the search then goes on without drawing a plan
    twice.
    """
    old, written, where = search_with_rows(tmp_path)
    new = study.open_study(None, settings())
    common = {**COMMON, "classes": None, "features": None, "reference": None}
    assert restore.restore(new, written, common, where, Known().key) == (len(written), 0)
    assert {"failed", "stopped"} <= {name for t in new.trials for name in t.user_attrs}
    assert new.user_attrs["study"] == old.user_attrs["study"]
    assert study.drawn(new) == study.drawn(old) == len(written)
    for mine, theirs in zip(study.complete(new), study.complete(old), strict=True):
        assert (mine.number, mine.user_attrs["key"]) == (theirs.number, theirs.user_attrs["key"])
        assert mine.values == pytest.approx(theirs.values, abs=1e-6)
        assert set(mine.params) == set(theirs.params)
        again = rs.Plan.build(**space.options_of(mine.params, where))
        assert again.digest == theirs.user_attrs["plan"]
    assert study.enqueue(new, begun(where, 43), 5) == 0  # they were tried
    known = Known()
    study.search(new, where, known, len(written) + 3)
    assert len(known.plans) == 3
    assert not {plan.digest for plan in known.plans} & {row["plan"] for row in written}
    assert confirm.write_trials(new, COMMON, tmp_path / "tune.jsonl") == rows.read(tmp_path / "tune.jsonl")
    assert len(rows.read(tmp_path / "tune.jsonl")) == len(written) + 3
    assert restore.restore(new, written, common, where, known.key) == (0, 0)  # it has trials


@pytest.mark.parametrize(
    ("folder", "features", "options"),
    [
        ("search", "fashion-mnist-autoencoder", {"levels": 5, "max_nfe": 43}),
        ("search", "fashion-mnist-patches", {"levels": 5, "max_nfe": 43}),
        ("", "fashion-mnist-classifier", {"max_nfe": 63}),
    ],
)
def test_a_committed_search_goes_on(tmp_path, folder, features, options):
    """The searches of `make tune`, made again from the rows of this repository: no plan of theirs is drawn again."""
    den = rs.load("fashion-mnist")
    written = rows.find(rows.read(RESULTS / folder / "tune.jsonl"), kind="trial", features=features)
    where = space.space_for(den.parameterization, solvers=("dpm++2m", "heun"), **options)
    known = Known()
    known.real = Objective(den, Size(), n=500, first_seed=0)
    found = study.open_study(tmp_path / "tune.db", settings())
    restored, outside = restore.restore(found, written, written[-1], where, known.key)
    assert restored + outside == len({row["trial"] for row in written if row["study"] == written[-1]["study"]})
    assert restored == study.drawn(found) > 20
    study.search(found, where, known, restored + 2, budgets=(22, 43))
    assert len(known.plans) == 2
    assert not {plan.digest for plan in known.plans} & {row["plan"] for row in written}
    reopened = study.open_study(tmp_path / "tune.db", settings())
    assert study.drawn(reopened) == restored + 2 and reopened.user_attrs["study"] == written[-1]["study"]


@pytest.mark.parametrize(
    "change",
    [
        {"trial": "3"},
        {"trial": 10**12},
        {"trial": []},
        {"trial": None},
        {"config": 5},
        {"config": {"steps": "x"}},
        {"config": {"nonsense": 1}},
        {"fd": "low"},
        {"fd": []},
        {"nfe": None},
        {"nfe": "x", "fd": 1.0},
    ],
)
def test_rows_that_were_changed_are_named(change, rows_of_a_search):
    """A line of tune.jsonl that is not as it was written: one sentence, and no trial is made of it."""
    written, where = rows_of_a_search
    common = {**COMMON, "classes": None, "features": None, "reference": None}
    new = study.open_study(None, settings())
    with pytest.raises(OutputError, match=r"trial .*mend or remove its line in tune.jsonl"):
        restore.restore(new, [*written[:-1], written[-1] | change], common, where, Known().key)
    assert not new.trials


@pytest.fixture(scope="module")
def rows_of_a_search(tmp_path_factory):
    _, written, where = search_with_rows(tmp_path_factory.mktemp("search"), 8)
    return written, where


def test_rows_that_do_not_compare_are_no_trials(rows_of_a_search):
    written, where = rows_of_a_search
    common = {**COMMON, "classes": None, "features": None, "reference": None}

    def restored(rows, common=common, where=where):
        new = study.open_study(None, settings())
        return restore.restore(new, rows, common, where, Known().key), new

    for change in ({"n": 9}, {"first_seed": 1}, {"dtype": "bf16"}, {"model": "another"}, {"features": "f"}):
        counts, new = restored(written, {**common, **change})
        assert (counts, new.trials) == ((0, 0), [])
    inside = [row for row in written if row["config"]["solver"] == "heun" and not row["restart"]]
    counts, new = restored(written, where=Space(solvers=("heun",), levels=0, max_nfe=43))
    assert counts == (len(inside), len(written) - len(inside))
    assert [t.number for t in study.finished(new) if "drawn" in t.user_attrs] == [r["trial"] for r in inside]
    assert restored([])[0] == (0, 0)


def test_command_lines_and_python_give_the_plan_back(monkeypatch):
    """Through the command line's own reading of its options."""
    command = sys.modules["restart_sampling.cli.generate"]
    drawn = []
    monkeypatch.setattr(command, "_draw", lambda plan, run, opened, out, **options: drawn.append((plan, run)))
    from restart_sampling.cli.app import app

    plans = [
        rs.preset("cifar10-edm-43"),
        rs.preset("imagenet64-edm-39"),
        rs.preset("cifar10-edm-sde-35"),
        rs.Plan.build(),
        rs.Plan.build(solver="ddpm", eta=0.5, eta_window=(2, 7), restart="repaint:j=3,r=2"),
        rs.Plan.build(guidance_scale=2.0, guidance_interval=(0.2, 5.0), guidance_rescale=0.7),
        rs.Plan.build(guidance_scale=3.5, guidance_interval=(0.2, None), guidance="apg", apg_eta=-0.5, apg_norm=2.5),
        rs.Plan.build(guidance_scale=3.5, guidance="zero-star", zero_init=2, restart="[3, 2, 0.06, 0.30]"),
        rs.Plan.build(guidance_scale=0.6, guidance="cfg++", solver="euler"),
    ]
    for point in points(20, EVERYTHING, seed=5):
        try:
            plans.append(space.build(space.options_of(point, EVERYTHING), EVERYTHING))
        except Refused:
            continue
    assert len(plans) > 10
    for plan in plans:
        words = shlex.split(plan_text.command(plan, "my model.pkl", "bf16"))
        assert words[0] == "restart-sampling"
        app(args=words[1:], standalone_mode=False)
        found, given = drawn.pop()
        assert found.digest == plan.digest
        assert (given["model"], given["dtype"]) == ("my model.pkl", "bf16")
        assert eval(plan_text.python(plan), {"rs": rs, "inf": math.inf}).digest == plan.digest


def test_every_option_of_a_plan_has_a_flag_or_is_known_to_have_none():
    """So that a new option is not forgotten here; --restart is written apart."""
    flags = {name for _, name in plan_text.FLAGS} | {"restart"}
    every = {field.name for field in dataclasses.fields(PlanConfig)}
    apart = {"solver_options", "restart_solver_options", "schedule_options"}  # in --solver, and by --schedule-option
    assert every - flags - apart == {"restart_schedule", "sigmas", "network_sigmas"}
    here = {name: flag for flag, name in plan_text.FLAGS}
    here |= {"restart": "--restart", "preset": "--preset", "schedule_option": "--schedule-option"}
    here |= {"plan_file": "--plan", "schedule_option": "--schedule-option"}
    assert {field.name for field in dataclasses.fields(PlanOptions)} == here.keys()


def test_solvers_that_do_not_handle_the_grid_are_refused():
    with pytest.raises(ConfigError, match="solver 'cps' does not handle it; use euler, heun"):
        Space(solvers=("heun", "cps"))
    assert set(accurate()) <= set(handling("ve"))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 2.0},
        {"guidance_scale": 0.5, "guidance": "cfg++", "solver": "euler"},
        {"eta": 0.0, "solver": "ddpm"},
        {"eta_window": (0, 3), "solver": "ddpm"},
        {"restart": "repaint:j=2,r=2"},
    ],
    ids=str,
)
def test_what_the_space_does_not_have_is_no_point_of_it(options):
    """A plan of a user would otherwise be searched without what it asks for."""
    here = space.Space(solvers=("heun", "euler", "ddpm"))
    plain = {name: value for name, value in options.items() if name == "solver"}
    assert space.params_of(rs.Plan.build(**plain), here)
    assert space.params_of(rs.Plan.build(**options), here) is None
    with pytest.raises(ConfigError, match="outside what is searched"):
        starts.given([options], here, lambda plan: plan.digest)


def test_plans_in_words_say_their_noise_and_guidance():
    options = {"guidance_scale": 2.0, "guidance_interval": [0.2, 5.0], "guidance": "apg", "apg_norm": 2.5}
    plan = rs.Plan.build(steps=9, solver="ddpm", eta=0.5, eta_window=(1, 4), **options)
    words = "eta 0.5, noise in steps 1–3, guidance 2 (apg, norm 2.5) at sigma 0.2–5"
    row = {"kind": "tuned", "budget": 9, "nfe": 9, "fd": 1.0, "n": 9, "config": plan.config.to_dict(), "restart": ""}
    assert f"ddpm, 9 points, {words} |" in tables.tuned_table([row])
    assert display._words(plan) == f"ddpm, 9 points, {words}"
    assert display._words(rs.Plan.build(steps=9)) == "heun, 9 points"


def test_pictures(tmp_path):
    trial = {"kind": "trial", "nfe": 20, "fd": 9.0, "config": {"solver": "heun"}, "restart": ""}
    tuned = {"kind": "tuned", "budget": 20, "nfe": 19, "fd": 9.5, "fd_heun": 11.0, "fd_best_preset": None, "heun": "x"}
    html, png = pareto.pictures(tmp_path, [trial, {**trial, "fd": None}], [tuned], "a <title>")
    assert png.read_bytes().startswith(b"\x89PNG")
    page = html.read_text()
    assert "<html" in page
    assert 'src="http' not in page
    assert pareto.pictures(tmp_path, [{**trial, "fd": None}], [], "none") == []


# The command


@pytest.fixture
def judged(monkeypatch):
    judge = Size()
    monkeypatch.setattr("restart_sampling.experiments.measure.evaluator.evaluator_for", lambda *given: judge)
    return judge


def arguments(tmp_path, *more, n=3, trials=2):
    return [
        "tune",
        "--budget",
        "3,7",
        "--max-nfe",
        "7",
        "--min-nfe",
        "3",
        "--n",
        str(n),
        "--trials",
        str(trials),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--device",
        "cpu",
        *more,
    ]


def test_tune_from_the_command_line(tmp_path, capsys, judged):
    code, out, err = run(arguments(tmp_path), capsys)
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == [
        "pareto.html",
        "pareto.png",
        "tune.db",
        "tune.jsonl",
    ]
    written = rows.read(tmp_path / "out" / "tune.jsonl")
    assert [row["kind"] for row in written[:2]] == ["trial", "trial"]
    best = [row for row in written if row["kind"] == "tuned"]
    assert all(row["nfe"] <= row["budget"] for row in best)
    assert all(row["command"] in out for row in best)
    assert all(len(row["model_sha256"]) == 12 and row["features"] == "mean" for row in written)
    calls = len(judged.seen)
    code, again, err = run(arguments(tmp_path), capsys)
    assert (code, again) == (0, out)
    assert len(judged.seen) == calls  # nothing to do
    assert rows.read(tmp_path / "out" / "tune.jsonl") == written
    (tmp_path / "out" / "tune.db").unlink()
    code, third, err = run(arguments(tmp_path), capsys)
    assert (code, third) == (0, out)  # from the rows
    assert "2 plans of an earlier search come from" in err
    assert len(judged.seen) == calls
    code, _, err = run(arguments(tmp_path, n=4), capsys)
    assert code == 2
    assert "with n = 3, and now it is 4" in err


def test_own_plans_are_tried_first(tmp_path, capsys, judged):
    """In their order and before all others; a second run tries none of them again."""
    plans = [{"steps": 5, "solver": "euler"}, {"steps": 4, "solver": "heun", "rho": 5.0}]
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    more = ["--plans", str(tmp_path / "plans.json"), "--solver", "heun,euler", "--no-confirm"]
    for _ in range(2):
        code, _, err = run(arguments(tmp_path, *more, trials=3), capsys)
        assert code == 0, err
        written = rows.read(tmp_path / "out" / "tune.jsonl")
        assert len(written) == 3
        assert [row["plan"] for row in written[:2]] == [rs.Plan.build(**plan).digest for plan in plans]
    for content, says in (
        ('{"steps": 3}', "holds dict, not a list of plans"),
        ("[", "cannot read the plans of"),
        ("[3]", "plan 1 is 3; a plan is an object"),
        ('[{"steps": 3}, {"step": 3}]', "plan 2, {'step': 3}, cannot be searched"),
        ('[{"steps": 40}]', "plan 1, {'steps': 40}, cannot be searched: 79 NFE, and 3 .. 7 are searched"),
        ('[{"steps": 3, "schedule": "exponential"}]', "is outside what is searched; see --solver"),
    ):
        (tmp_path / "plans.json").write_text(content)
        code, _, err = run(arguments(tmp_path, *more, "--storage", str(tmp_path / "other.db")), capsys)
        assert code == 2 and says in err, err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--budget", "20,x"], "--budget"),
        (["--budget", "200", "--max-nfe", "100"], "largest budget"),
        (["--confirm-seed", "2000001"], "overlap"),
        (["--confirm-seed", "1999000", "--confirm-n", "2000"], "overlap"),
        (["--confirm-n", "1500"], "--confirm-n"),
        (["--final-n", "4"], "--final-n must be a multiple of 3"),
        (
            ["--confirm-seed", "1999000", "--confirm-n", "1000", "--first-seed", "1996000", "--final-n", "3000"],
            "overlap",
        ),
        (["--trials", "0"], "--trials"),
        (["--solver", "huen"], "heun"),
        (["--minutes", "-1"], "--minutes"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, judged, more, says):
    code, _, err = run([*arguments(tmp_path), *more], capsys)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_ctrl_c_keeps_what_was_found(tmp_path, capsys, judged, monkeypatch):
    """Exit code 130, the plans so far, nothing measured on fresh seeds; the same command then goes on."""
    real, images = Objective.value, []

    def stopped(self, plan, far):
        if images:
            raise KeyboardInterrupt
        images.append(real(self, plan, far))
        return images[0]

    monkeypatch.setattr(Objective, "value", stopped)
    code, out, err = run(arguments(tmp_path), capsys)
    assert code == 130
    assert "the same command goes on" in err
    assert "not measured on fresh seeds" in out
    assert "restart-sampling generate" in out
    assert [row["kind"] for row in rows.read(tmp_path / "out" / "tune.jsonl")] == ["trial"]
    monkeypatch.setattr(Objective, "value", real)
    code, _, err = run(arguments(tmp_path, "--no-confirm"), capsys)
    assert code == 0
    assert err.count("\ntrial ") + err.startswith("trial ") == 1


def test_no_time_at_all(tmp_path, capsys, judged):
    code, out, err = run(arguments(tmp_path, "--minutes", "0"), capsys)
    assert code == 1
    assert "the time is over" in err
    assert "no plan was found" in out
    assert judged.seen == []


def test_two_searches_in_one_place_are_refused(tmp_path, capsys, judged):
    (tmp_path / "out").mkdir()
    lock = FolderLock(tmp_path / "out")
    code, _, err = run(arguments(tmp_path), capsys)
    lock.release()
    assert code == 2
    assert "another run" in err


def test_a_missing_library_names_the_extra(tmp_path, capsys, judged, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run(arguments(tmp_path), capsys)
    assert code == 2
    assert "restart-sampling[bench]" in err


def test_the_command_line_starts_without_heavy_libraries():
    heavy = {"optuna", "plotly", "matplotlib", "torchmetrics", "diffusers"}
    code = f"import sys, restart_sampling.cli.app; print({heavy!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# Families

ALL_BUDGETS = (5, 8, 12, 18, 27, 43, 63, 127)


def family_space(family):
    levels = {"levels": 2, "least_levels": 1} if family == "restart" else {"levels": 0}
    return Space(solvers=space.of_family(family), min_nfe=4, max_nfe=127, **levels)


def test_families_are_derived_from_the_registry():
    """Every solver that handles the grid is in one of the two, and an ODE solver that can add noise in both."""
    ode, sde = space.of_family("ode"), space.of_family("sde")
    searched = {name for name in handling("ve") if not SOLVERS[name].learned}
    assert {spec.partition(":")[0] for spec in (*ode, *sde)} == searched
    assert {"heun", "unipc", "deis", "res-multistep"} <= set(ode)
    assert {"edm-stochastic", "sa-solver", "er-sde", "res-multistep:sde=true"} <= set(sde)
    assert space.of_family("restart") == accurate()
    with pytest.raises(ConfigError, match="ode, sde and restart"):
        space.of_family("sdes")


@pytest.mark.parametrize("family", ["ode", "sde", "restart"])
def test_points_of_a_family_are_plans_of_it(family):
    """And every point is found again from its plan, options of the solver, eta and churn among them."""
    where, built, optional = family_space(family), 0, set()
    for point in points(100, where):
        try:
            plan = space.build(space.options_of(point, where), where)
        except Refused:
            continue
        built += 1
        assert plan.config.family == family
        again = space.params_of(plan, where)
        if again is None:  # an interval that moved to a point of the grid may have left the ranges
            assert any(not 0.01 <= i.t_min <= 50 or not 1.2 <= i.t_max / i.t_min <= 20 for i in plan.intervals)
            continue
        assert space.build(space.options_of(again, where), where).digest == plan.digest
        optional |= {name for name, value in plan.config.solver_options} | ({"eta"} if plan.config.eta != 1 else set())
    assert built > 25
    assert {"order"} <= optional
    assert ("eta" in optional) == (family == "sde")


def test_options_that_are_given_are_not_searched():
    where = Space(solvers=("unipc:order=2",), levels=0)
    found = points(20, where)
    assert all("unipc.order" not in point for point in found)
    assert {point["unipc.variant"] for point in found} == {"bh1", "bh2"}
    plans = [rs.Plan.build(**space.options_of(point, where)) for point in found]
    assert all(plan.config.solvers[0].settings["order"] == 2 for plan in plans)
    assert space.params_of(rs.Plan.build(solver="unipc"), where) is None  # order 3
    assert space.params_of(rs.Plan.build(solver="unipc:order=2,variant=bh1"), where)["unipc.variant"] == "bh1"


@pytest.mark.parametrize("family", ["ode", "sde"])
def test_a_family_begins_with_every_solver_once(family):
    where = family_space(family)
    found = starts.of_family(family, where, ALL_BUDGETS, Known().key)
    assert [start.params["solver"] for start in found] == list(where.solvers)


def test_restart_begins_with_the_shapes_a_person_would_try():
    where = dataclasses.replace(family_space("restart"), levels=3)
    found = starts.of_family("restart", where, ALL_BUDGETS, Known().key)
    plans = [rs.Plan.build(**start.options) for start in found]
    assert all(plan.config.solver == "dpm++2m" for plan in plans)
    assert any([i.K for i in plan.intervals] == [6, 3] and plan.nfe == 43 for plan in plans)
    assert len(found) < 20


def test_an_even_search_gives_families_the_same_trials_at_every_budget():
    counts = {}
    for family in ("ode", "restart"):
        known, found = Known(), study.open_study(None, settings())
        where = dataclasses.replace(family_space(family), solvers=("heun", "dpm++2m"), max_nfe=43)
        why = study.search(found, where, known, 16, budgets=(8, 18, 43), even=True)
        assert why == "done"
        bins = [study.bin_of((8, 18, 43), plan.nfe) for plan in known.plans]
        counts[family] = {budget: bins.count(budget) for budget in (8, 18, 43)}
    assert counts["ode"] == counts["restart"] == study.due((8, 18, 43), 16)


def test_a_plan_with_options_is_written_as_a_command():
    plan = rs.Plan.build(
        steps=9, solver="unipc:order=2,variant=bh1", restart="[3, 1, 0.3, 1]", restart_solver="deis:order=2"
    )
    words = shlex.split(plan_text.command(plan, "m"))
    assert words[words.index("--solver") + 1] == "unipc:order=2,variant=bh1"
    assert words[words.index("--restart-solver") + 1] == "deis:order=2"


def test_a_plan_on_another_grid_is_written_as_a_command():
    plan = rs.Plan.build(steps=9, solver="euler", schedule="flow", schedule_options={"shift": 3.0})
    words = shlex.split(plan_text.command(plan, "m"))
    assert words[words.index("--schedule-option") + 1] == "shift=3.0"


def test_a_mistake_in_the_family_shows_at_once(capsys):
    code, _, err = run(["tune", "--family", "sdes"], capsys)
    assert code == 2
    assert "ode, sde and restart" in err
