"""Guidance by row: calls that are made, calls that are not, and what comes out, against the mix by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support import literal
from support.replays import with_graph
from support.tape import TapeCapture

import restart_kernels as rk
import restart_sampling as rs
from restart_sampling.plan.guidance import weights
from restart_sampling.sampler.executors import Observer

SHAPE = (2, 4, 4)
MODES = ("step", "loop", "trajectory", "while")
PARTLY = dict(steps=8, guidance_scale=2.5, guidance_interval=(0.2, 6.0), restart=[3, 2, 0.3, 2.0])


class Guided:
    """D of N(mean of the class, 0.4²) with its own spread for each element, and what it was asked."""

    def __init__(self, bad_null_outside=None):
        self.calls, self.rows, self.outside = 0, [], bad_null_outside

    def __call__(self, x, sigma, class_labels):
        self.calls += 1
        self.rows.append(len(x))
        s = sigma.view(-1, 1, 1, 1)
        mean = class_labels @ torch.linspace(-1, 1, 3, dtype=class_labels.dtype)
        spread = torch.linspace(0.2, 0.6, 32, dtype=x.dtype).view(1, *SHAPE)
        D = mean.view(-1, 1, 1, 1) * (1 + spread) + spread / (spread + s * s) * (x - mean.view(-1, 1, 1, 1))
        null = class_labels.sum(1) == 0
        if self.outside is not None:
            low, high = self.outside
            hidden = null & ((sigma < low) | (sigma > high))
            D = torch.where(hidden.view(-1, 1, 1, 1), torch.nan, D)
        return D


def denoiser(fn, **options):
    return rs.Denoiser.from_function(fn, SHAPE, label_dim=3, **options)


def by_hand(plan, seeds, labels, fn=None):
    """The samples in float64, by two plain evaluations of each guided row."""
    fn = fn or Guided()
    hot = torch.nn.functional.one_hot(torch.as_tensor(labels), 3).double()

    def D(hot):
        return lambda x, level: fn(x, torch.full((len(x),), level, dtype=torch.float64), class_labels=hot)

    x, _ = literal.run(plan, D(hot), seeds, SHAPE, D_u=D(torch.zeros_like(hot)), weights=weights(plan))
    return x


@pytest.mark.parametrize("mode", ["eager", *MODES])
def test_the_network_is_called_where_guidance_acts(mode):
    fn = Guided(bad_null_outside=(0.2, 6.0))  # the null must not be read outside, even where it is computed
    plan = rs.Plan.build(**PARTLY)
    sampler = rs.Sampler(denoiser(fn), plan, batch_size=4)
    if mode != "eager":
        sampler = with_graph(sampler, mode, TapeCapture())
        sampler.run(range(4), [0, 1, 2, 0])
    fn.calls, fn.rows = 0, []
    seen = []
    x = sampler.run(range(4), [0, 1, 2, 0], callback=seen.append)
    assert torch.allclose(x.double(), by_hand(plan, range(4), [0, 1, 2, 0]), atol=2e-5)
    assert seen[-1].network_calls == plan.network_calls
    assert plan.nfe < plan.network_calls < 2 * plan.nfe
    if mode == "eager":
        assert sum(fn.rows) == 4 * plan.network_calls
        assert fn.rows == [4 * int(kind) for kind in sampler.table.kinds]


def test_in_a_mixed_batch_both_halves_run_as_soon_as_one_lane_needs_them():
    fn = Guided()
    plans = [rs.Plan.build(steps=5), rs.Plan.build(**PARTLY), rs.Plan.build(steps=7, guidance_scale=1.7)]
    pairs = [(seed, plans[seed % 3]) for seed in range(9)]
    sampler = rs.Sampler(denoiser(fn), plans[0], batch_size=3, backend="reference")
    x = sampler.run(pairs, [seed % 3 for seed in range(9)])
    for i, (seed, plan) in enumerate(pairs):
        alone = rs.Sampler(denoiser(Guided()), plan, batch_size=1, backend="reference").run([seed], [seed % 3])
        assert torch.allclose(x[i], alone[0], atol=1e-5)
        assert torch.allclose(x[i].double(), by_hand(plan, [seed], [seed % 3])[0], atol=2e-5)
    assert {rows % 3 for rows in fn.rows} == {0}


def test_a_lane_does_not_depend_on_what_its_neighbours_need():
    """To the bit: the row of a lane outside its interval does not read the second output that a neighbour needs."""
    partly, whole = rs.Plan.build(**PARTLY), rs.Plan.build(steps=8, guidance_scale=3.0)
    sampler = rs.Sampler(denoiser(Guided()), partly, batch_size=2)
    mixed = sampler.run([(5, partly), (6, whole)], [1, 2])
    alone = sampler.run([(5, partly), (6, partly)], [1, 2])
    assert torch.equal(mixed[0], alone[0])


class Calls(Observer):
    parts = ("network", "update")

    def __init__(self):
        self.counts = {"network": 0, "update": 0}

    def after(self, part, evaluation, F=None):
        self.counts[part] += 1


def weak(x, sigma, class_labels):
    return 0.5 * Guided()(x, sigma, class_labels) + 0.1


@pytest.mark.parametrize("null", [False, True])
def test_autoguidance_is_the_mix_of_two_networks(null):
    main, guide = Guided(), Guided()

    def weaker(x, sigma, class_labels):
        return 0.5 * guide(x, sigma, class_labels) + 0.1

    plan = rs.Plan.build(steps=6, guidance_scale=1.8, guidance_interval=(0.1, 20.0))
    den = denoiser(main).guided_by(denoiser(weaker), null=null)
    x = rs.Sampler(den, plan, batch_size=4).run(range(4), [0, 1, 2, 0])
    assert main.calls == plan.nfe
    assert guide.calls == plan.network_calls - plan.nfe > 0
    assert set(main.rows) == set(guide.rows) == {4}
    hot = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).double()

    def D(fn, hot):
        return lambda y, level: fn(y, torch.full((4,), level, dtype=torch.float64), class_labels=hot)

    told = torch.zeros_like(hot) if null else hot
    expected, _ = literal.run(plan, D(Guided(), hot), range(4), SHAPE, D_u=D(weak, told), weights=weights(plan))
    assert torch.allclose(x.double(), expected, atol=2e-5)


def test_autoguidance_replays_and_mixes_plans():
    den = denoiser(Guided()).guided_by(denoiser(weak))
    plans = [rs.Plan.build(steps=5), rs.Plan.build(steps=6, guidance_scale=1.8, guidance_interval=(0.1, 20.0))]
    eager = rs.Sampler(den, plans[1], batch_size=4).run(range(4), 1)
    for mode in MODES:
        replayed = with_graph(rs.Sampler(den, plans[1], batch_size=4), mode, TapeCapture())
        assert torch.equal(replayed.run(range(4), 1), eager)
        assert replayed.executor.note == ""
    mixed = rs.Sampler(den, plans[0], batch_size=2).run([(s, plans[s % 2]) for s in range(4)], 1)
    assert torch.allclose(mixed[1], eager[1], atol=1e-6)
    assert torch.allclose(mixed[3], eager[3], atol=1e-6)


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (lambda: rs.Denoiser.from_function(weak, (1, 4, 4), label_dim=3), "must be equal"),
        (lambda: rs.Denoiser.from_function(weak, SHAPE, label_dim=4), "both networks are told the same"),
        (lambda: rs.Denoiser.from_function(lambda x, sigma: x, SHAPE), "both networks are told the same"),
        (
            lambda: rs.Denoiser(torch.nn.Identity(), rs.load("fashion-mnist").parameterization, SHAPE, 3),
            "must be equal",
        ),
        (lambda: "edm2-m.pkl", "needs a Denoiser"),
    ],
)
def test_guides_that_do_not_fit(guide, reason):
    with pytest.raises(rs.RestartError, match=reason):
        denoiser(Guided()).guided_by(guide())


METHODS = [
    dict(guidance_rescale=0.7),
    dict(guidance="zero-star"),
    dict(guidance="apg", apg_eta=0.3),
    dict(guidance="apg", apg_eta=0.0, apg_norm=2.0),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_methods_that_weigh_whole_samples(method):
    plan = rs.Plan.build(steps=6, guidance_scale=3.0, guidance_interval=(0.1, 30.0), **method)
    expected = by_hand(plan, range(4), [0, 1, 2, 0])
    found = {}
    for backend in rk.available_backends("cpu"):
        sampler = rs.Sampler(denoiser(Guided()), plan, batch_size=4, backend=backend)
        weighed = []
        sampler.run(range(1), 0)
        for evaluation in sampler.workspace._evaluations.values():
            bound = evaluation.bound
            if bound.machine.mix is not None:
                evaluation.bound = Counted(bound, weighed)
        found[backend] = sampler.run(range(4), [0, 1, 2, 0])
        assert torch.allclose(found[backend].double(), expected, atol=1e-4), backend
    assert len({x.numpy().tobytes() for x in found.values()}) == 1


class Counted:
    def __init__(self, bound, calls):
        self.bound, self.calls = bound, calls

    def __getattr__(self, name):
        return getattr(self.bound, name)

    def weigh(self, *F):
        self.calls.append(1)
        self.bound.weigh(*F)


def test_weighing_is_one_launch_in_guided_rows_and_none_without():
    for options in ({}, dict(guidance_rescale=0.5)):
        plan = rs.Plan.build(steps=6, guidance_scale=3.0, guidance_interval=(0.1, 30.0), **options)
        sampler = rs.Sampler(denoiser(Guided()), plan, batch_size=4)
        sampler.run(range(4), 0)
        (evaluation,) = sampler.workspace._evaluations.values()
        calls = []
        evaluation.bound = Counted(evaluation.bound, calls)
        launches = plan.network_calls - plan.nfe if options else 0
        counts = Calls()
        with sampler.observed(counts):
            sampler.run(range(4), 0)
        assert counts.counts == {"network": plan.nfe, "update": plan.nfe + 1}  # with the latent
        assert len(calls) == launches
        assert (evaluation.machine.mix is not None) == bool(launches)


@pytest.mark.parametrize("solver", ["euler", "ddpm"])
def test_cfg_plus_plus_draws_what_the_literal_loop_draws(solver):
    plan = rs.Plan.build(steps=7, solver=solver, guidance_scale=0.6, guidance="cfg++")
    x = rs.Sampler(denoiser(Guided()), plan, batch_size=4).run(range(4), 2)
    fn, hot = Guided(), torch.tensor([[0.0, 0.0, 1.0]] * 4, dtype=torch.float64)
    y = plan.grid[0] * rs.noise.normal(range(4), 0, SHAPE).double()
    for k, (t, s) in enumerate(pairwise(plan.grid)):
        level = torch.full((4,), t, dtype=torch.float64)
        c, u = fn(y, level, hot), fn(y, level, torch.zeros_like(hot))
        up = s * (1 - (s / t) ** 2) ** 0.5 if solver == "ddpm" else 0.0
        y = u + 0.6 * (c - u) + (s * s - up * up) ** 0.5 * (y - u) / t
        y = y + up * rs.noise.normal(range(4), k + 1, SHAPE).double() if up else y
    assert torch.allclose(x.double(), y, atol=5e-5)


def test_first_evaluations_without_network():
    fn = Guided()
    plan = rs.Plan.build(steps=6, guidance_scale=3.0, guidance="zero-star", zero_init=2)
    x = rs.Sampler(denoiser(fn), plan, batch_size=4).run(range(4), [0, 1, 2, 0])
    assert sum(fn.rows) == 4 * plan.network_calls == 4 * 2 * (plan.nfe - 2)
    assert torch.allclose(x.double(), by_hand(plan, range(4), [0, 1, 2, 0]), atol=1e-4)
    rows = list(rs.Sampler(denoiser(Guided()), plan, batch_size=4).trace(range(4), [0, 1, 2, 0]))
    assert (rows[0].D == 0).all() and not (rows[2].D == 0).any()
