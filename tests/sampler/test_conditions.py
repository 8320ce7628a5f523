"""Conditions: each reaches its sample and no other, under every executor; nulls, shared ones, classes, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import problems
from support.allocations import Allocations
from support.replays import with_graph
from support.tape import make_capture
from torch import nn

import restart_sampling as rs
from restart_sampling.models.conditions import CLASS
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler.autobatch import choose_batch
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.sampler.executors.selfcheck import addresses

SHAPE = (3, 4, 5)
PLAN = dict(steps=8, restart=[3, 2, 0.1, 0.5], sigma_min=0.01, sigma_max=10.0)
S = 0.1  # std of the data around their mean
MEAN = rs.Condition((), null=0.0)


def gaussian(**options):
    """Data N(mean, S²) whose mean is a condition; elementwise, so that its bits do not depend on the batch."""
    return rs.Denoiser.from_function(
        problems.conditional_gaussian(S), SHAPE, conditions={"mean": rs.Condition((), **options)}, name="gaussian"
    )


def mixed_kinds(x, sigma, class_labels, kind, picture, bias):
    """Elementwise, and every condition matters: a class, an id, a picture, and a picture that all samples share."""
    assert (class_labels.dtype, kind.dtype, picture.dtype, bias.dtype) == (
        *(torch.float32, torch.int64, torch.bfloat16, torch.float32),
    )
    assert kind.shape == x.shape[:1] and picture.shape == x.shape == bias.shape
    shift = class_labels[:, 1:2] + 2 * class_labels[:, 2:3]
    levels = sigma.view(-1, 1, 1, 1)
    target = shift.view(-1, 1, 1, 1) + kind.view(-1, 1, 1, 1) / 7 + picture.float() + 0.25 * bias
    return (x + levels**2 * target) / (1 + levels**2)


def kinds(**options):
    conditions = {
        "kind": rs.Condition((), torch.int64, null=11),
        "picture": rs.Condition(SHAPE, torch.bfloat16, null=torch.full(SHAPE, 0.5)),
        "bias": rs.Condition(SHAPE, shared=True),
    }
    return rs.Denoiser.from_function(mixed_kinds, SHAPE, label_dim=3, conditions={**conditions, **options})


def values(n, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    found = {
        "kind": torch.randint(0, 9, (n,), generator=generator),
        "picture": torch.randn(n, *SHAPE, generator=generator),
        "bias": torch.randn(SHAPE, generator=generator),
    }
    return {name: value.to(device) for name, value in found.items()}


def rows(given, index):
    """The values of some samples; the shared one as it is."""
    return {name: value if name == "bias" else value[index] for name, value in given.items()}


# --- every executor


def test_samples_have_the_mean_of_their_condition(device):
    mean = torch.linspace(-8, 8, 40, device=device)
    x = rs.sample(gaussian(), rs.Plan.build(**PLAN), range(40), conditions={"mean": mean}, batch_size=7, device=device)
    error = (x.flatten(1).mean(1) - mean).abs()
    assert error.max() < 5 * S / math.sqrt(x[0].numel())
    assert 0.5 * S < (x - mean.view(-1, 1, 1, 1)).std() < 1.5 * S


def lone(denoiser, plans, n, given, labels, device):
    """Each sample by a sampler of its own."""
    found = []
    for i in range(n):
        sampler = rs.Sampler(denoiser, plans[i % len(plans)], 1, device=device)
        found.append(sampler.run([100 + i], labels[i], conditions=rows(given, slice(i, i + 1))))
    return torch.cat(found)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_condition_reaches_its_sample_and_no_other(batch_size, guidance, device):
    n, plan = 10, rs.Plan.build(**PLAN, guidance_scale=guidance)
    given, labels = values(n, device=device), [i % 3 for i in range(n)]
    want = lone(kinds(), [plan], n, given, labels, device)
    assert len({tuple(x.flatten().tolist()) for x in want}) == n
    sampler = rs.Sampler(kinds(), plan, batch_size, device=device)
    assert torch.equal(sampler.run(range(100, 100 + n), labels, conditions=given), want)
    order = torch.tensor([7, 2, 9, 0, 4, 1])
    picked = rows(given, order)
    found = sampler.run((order + 100).tolist(), [labels[i] for i in order], conditions=picked)
    assert torch.equal(found, want[order])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("mode", MODES)
def test_captured_graphs_serve_any_conditions(mode, guidance, device):
    """The second run has other conditions, the shared one included, and captures nothing."""
    n, plan = 7, rs.Plan.build(**PLAN, guidance_scale=guidance)
    capture = make_capture(device)
    sampler = with_graph(rs.Sampler(kinds(), plan, 4, graph="off", device=device), mode, capture)
    eager = rs.Sampler(kinds(), plan, 4, graph="off", device=device)
    recorded = None
    for seed in range(3):
        given, labels = values(n, seed, device), [(i + seed) % 3 for i in range(n)]
        found = sampler.run(range(n), labels, conditions=given)
        assert torch.equal(found, eager.run(range(n), labels, conditions=given))
        assert recorded in (None, len(capture.recorded))
        recorded = len(capture.recorded)
    assert sampler.executor.note == "" and sampler.executor.launches > 0


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("mode", ["off", "loop", "while"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_plans_and_conditions_share_batches(batch_size, mode, guidance, device):
    """(seed, plan) with conditions of n rows, and (seed, plan, conditions): both give what each sample alone gives."""
    n, guided = 11, dict(guidance_scale=guidance)
    plans = [rs.Plan.build(**PLAN, **guided), rs.Plan.build(steps=5, **guided), rs.Plan.build(steps=12, **guided)]
    given, labels = values(n, device=device), [i % 3 for i in range(n)]
    want = lone(kinds(), plans, n, given, labels, device)
    sampler = rs.Sampler(kinds(), plans[0], batch_size, graph="off", device=device)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    pairs = [(100 + i, plans[i % 3]) for i in range(n)]
    assert torch.equal(sampler.run(pairs, labels, conditions=given), want)
    triples = [
        (*pair, {"kind": int(given["kind"][i]), "picture": given["picture"][i], CLASS: labels[i]})
        for i, pair in enumerate(pairs)
    ]
    assert torch.equal(sampler.run(triples, conditions={"bias": given["bias"]}), want)
    batches = list(sampler.iterate(triples, conditions={"bias": given["bias"]}))
    for batch in batches:
        assert torch.equal(batch.x, want[batch.index])
        assert batch.labels.tolist() == [labels[i] for i in batch.index]
        assert torch.equal(batch.conditions["kind"], given["kind"][batch.index.to(device)])
    assert sampler.executor.note == ""


class Net(nn.Module):
    """A network that may be called by several threads, under EDM's preconditioning."""

    concurrent = True

    def forward(self, net_in, c_noise, class_labels=None, *, mean, bias):
        return torch.tanh(net_in + mean.view(-1, 1, 1, 1).to(net_in.dtype) + bias.to(net_in.dtype))


def net():
    conditions = {"mean": MEAN, "bias": rs.Condition(SHAPE, shared=True)}
    return rs.Denoiser(Net(), edm(0.5), SHAPE, conditions=conditions)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_slices_on_threads(guidance, two_threads):
    n, plan = 21, rs.Plan.build(**PLAN, guidance_scale=guidance)
    given = {"mean": torch.linspace(-1, 1, n), "bias": torch.randn(SHAPE)}
    sampler = rs.Sampler(net(), plan, 32, device="cpu")
    assert sampler.workspace.slices(n) is not None
    found = sampler.run(range(n), conditions=given)
    for i in range(n):
        one = {"mean": given["mean"][i : i + 1], "bias": given["bias"]}
        assert torch.equal(found[i : i + 1], rs.Sampler(net(), plan, 1, device="cpu").run([i], conditions=one))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_conditions_arrive_as_declared_whatever_the_precision(dtype, device):
    seen = {}

    class Spy(Net):
        def forward(self, net_in, c_noise, class_labels=None, **conditions):
            seen.update(conditions, net_in=net_in, labels=class_labels)
            return net_in * 0

    conditions = {
        "mean": rs.Condition((2,)),
        "mask": rs.Condition((), torch.bool),
        "half": rs.Condition((4,), torch.float16),
        "kind": rs.Condition((2,), torch.int64),
    }
    denoiser = rs.Denoiser(Spy().to(device), edm(0.5), SHAPE, 3, conditions=conditions)
    given = {"mean": [[1, 2], [3, 4]], "mask": np.array([True, False]), "half": [0.5] * 4, "kind": [[1, 2], [3, 4]]}
    rs.Sampler(denoiser, rs.Plan.build(steps=2), 2, dtype=dtype, device=device).run([0, 1], [2, 0], conditions=given)
    declared = {"mean": torch.float32, "mask": torch.bool, "half": torch.float16, "kind": torch.int64}
    assert {name: seen[name].dtype for name in declared} == declared
    assert seen["net_in"].dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert seen["labels"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert seen["mean"].tolist() == [[1, 2], [3, 4]] and seen["mask"].tolist() == [True, False]
    assert seen["half"].tolist() == [[0.5] * 4] * 2 and seen["kind"].tolist() == [[1, 2], [3, 4]]


def test_floats_are_float64_with_float64_registers(device):
    seen = set()

    def fn(x, sigma, class_labels, mean, kind):
        seen.update((x.dtype, class_labels.dtype, mean.dtype, kind.dtype))
        return problems.conditional_gaussian(S)(x, sigma, mean)

    conditions = {"mean": MEAN, "kind": rs.Condition((), torch.int64)}
    denoiser = rs.Denoiser.from_function(fn, SHAPE, label_dim=2, conditions=conditions)
    sampler = rs.Sampler(denoiser, rs.Plan.build(**PLAN), 2, register_dtype=torch.float64, device=device)
    x = sampler.run([0], conditions={"mean": 1 / 3, "kind": 1})
    assert seen == {torch.float64, torch.int64} and x.dtype == torch.float64


def test_samples_of_pfgmpp_have_their_conditions(device):
    fn = problems.conditional_gaussian(S)
    denoiser = rs.Denoiser.from_function(fn, SHAPE, augmented_dim=128, conditions={"mean": MEAN})
    mean, plan = torch.linspace(-2, 2, 9, device=device), rs.Plan.build(**PLAN)
    whole = rs.sample(denoiser, plan, range(9), conditions={"mean": mean}, batch_size=4, device=device)
    for i in range(9):
        one = rs.sample(denoiser, plan, [i], conditions={"mean": mean[i : i + 1]}, device=device)
        assert torch.equal(whole[i : i + 1], one)


def test_a_trace_has_the_conditions_of_the_run(device):
    plan, mean = rs.Plan.build(**PLAN, guidance_scale=2.0), torch.linspace(-2, 2, 5, device=device)
    sampler = rs.Sampler(gaussian(null=-1.0), plan, 3, device=device)
    D = problems.conditional_gaussian(S)

    def traced():
        x = yield from sampler.trace(range(5), conditions={"mean": mean}, rows=[0, 6])
        assert torch.equal(x, sampler.run(range(5), conditions={"mean": mean}))

    for row in traced():
        x, level = row.x.double(), torch.tensor([row.sigma], dtype=torch.float64, device=device)
        u = D(x, level, torch.full((len(x),), -1.0, device=device))
        want = u + 2 * (D(x, level, mean[row.index.to(device)]) - u)
        torch.testing.assert_close(row.D.double(), want, rtol=1e-5, atol=1e-5)


# --- guidance


@pytest.mark.parametrize("mode", ["run", "mixed"])
def test_the_second_half_is_told_the_null(mode, device):
    """Guided float64 runs equal those of two denoisers combined by hand, with an id, a picture, a class."""
    w, n, plan = 2.5, 4, rs.Plan.build(**PLAN)
    guided = rs.Plan.build(**PLAN, guidance_scale=w)
    given = values(n, device=device)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}

    def fn(x, sigma, class_labels, kind, picture, bias):
        levels = sigma.view(-1, 1, 1, 1) ** 2
        shift = (class_labels @ class_labels.new_tensor([1.0, -2.0, 3.0]) + kind / 7).view(-1, 1, 1, 1)
        return (x + levels * (shift + picture + bias)) / (1 + levels)

    def combined(x, sigma):
        index = slice(0, len(x))
        told = {name: value if name == "bias" else value[index] for name, value in wide.items()}
        hot = torch.eye(3, dtype=x.dtype, device=x.device)[torch.arange(len(x)) % 3]
        null = {"kind": torch.full_like(told["kind"], 11), "picture": torch.full_like(told["picture"], 0.5)}
        c, u = fn(x, sigma, hot, **told), fn(x, sigma, 0 * hot, **{**told, **null})
        return u + w * (c - u)

    declared = kinds(picture=rs.Condition(SHAPE, null=0.5)).conditions
    denoiser = rs.Denoiser.from_function(fn, SHAPE, conditions=declared)
    options = dict(batch_size=4, register_dtype=torch.float64, device=device)
    seeds = range(n) if mode == "run" else [(i, guided) for i in range(n)]
    found = rs.Sampler(denoiser, guided, **options).run(seeds, [0, 1, 2, 0], conditions=given)
    want = rs.Sampler(rs.Denoiser.from_function(combined, SHAPE), plan, **options).run(range(n))
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def halves(null, mode, device):
    """What both halves of guided batches were told of each sample, by lane."""
    seen = []

    def fn(x, sigma, mean, other):
        seen.append((mean.clone(), other.clone()))
        return x * 0.5

    conditions = {"mean": MEAN, "other": rs.Condition((2,), null=null)}
    plans = [rs.Plan.build(steps=k, guidance_scale=2.0) for k in (3, 5)]
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE, conditions=conditions), plans[0], 4, device=device)
    given = {"mean": torch.arange(1.0, 7.0, device=device), "other": torch.arange(12.0, device=device).view(6, 2)}
    seeds = range(6) if mode == "run" else [(i, plans[i % 2]) for i in range(6)]
    sampler.run(seeds, conditions=given)
    for mean, other in seen:
        n = len(mean) // 2
        assert mean[n:].tolist() == [0] * n
        live = mean[:n] > 0
        index = mean[:n][live].long() - 1
        assert torch.equal(other[:n][live], given["other"][index])
        yield other[n:], other[:n], live


@pytest.mark.parametrize("mode", ["run", "mixed"])
def test_a_null_may_be_a_tensor(mode, device):
    null = torch.tensor([7.0, -7.0])
    for second, _, _ in halves(null, mode, device):
        assert torch.equal(second, null.to(device).expand_as(second))


@pytest.mark.parametrize("mode", ["run", "mixed"])
def test_a_null_that_is_the_same(mode, device):
    """Both halves are told the sample's own value, such as an image that is to be sharpened."""
    for second, first, live in halves("same", mode, device):
        assert torch.equal(second[live], first[live])


def test_padding_is_told_the_null(device):
    capture, seen = make_capture(device), []

    def fn(x, sigma, mean):
        seen.append(mean.clone())
        return problems.conditional_gaussian(S)(x, sigma, mean)

    denoiser = rs.Denoiser.from_function(fn, SHAPE, conditions={"mean": rs.Condition((), null=-3.0)})
    sampler = with_graph(rs.Sampler(denoiser, rs.Plan.build(steps=3), 4, device=device), "loop", capture)
    sampler.run(range(4), conditions={"mean": torch.ones(4, device=device)})
    sampler.run(range(3), conditions={"mean": torch.ones(3, device=device)})
    evaluation = sampler.workspace.evaluation(4)
    assert evaluation.conditions.others["mean"].tolist() == [1, 1, 1, -3]


def test_a_smaller_batch_is_told_nothing_of_the_batch_before(device):
    """Where the second half begins depends on the lanes, so conditional rows of one batch are null rows of the next."""
    plan = rs.Plan.build(**PLAN, guidance_scale=3.0)
    given, labels = values(5, device=device), [2, 1, 2, 1, 2]
    want = lone(kinds(), [plan], 5, given, labels, device)
    for seeds in (range(100, 103), [(100 + i, plan) for i in range(3)]):
        sampler = rs.Sampler(kinds(), plan, 5, device=device)
        sampler.run(range(5), labels, conditions=given)
        found = sampler.run(seeds, labels[:3], conditions=rows(given, slice(0, 3)))
        assert torch.equal(found, want[:3])


def test_guidance_needs_a_null_of_every_condition():
    called = []

    def fn(x, sigma, **_):
        called.append(1)
        return x

    guided = rs.Plan.build(**PLAN, guidance_scale=2.0)
    for conditions, label_dim, message in (
        ({"mean": rs.Condition(())}, 0, "null of every condition, and 'mean' of 'fn' has none"),
        ({"mean": rs.Condition(()), "b": MEAN}, 3, "and 'mean' of 'fn' has none"),
        ({CLASS: rs.Condition((3,))}, 0, "and 'class_labels' of 'fn' has none"),
        ({"b": rs.Condition((), shared=True)}, 0, "needs a class-conditional network, or one with another condition"),
        ({"b": rs.Condition((), null="same")}, 0, "needs a class-conditional network"),
    ):
        denoiser = rs.Denoiser.from_function(fn, SHAPE, label_dim=label_dim, conditions=conditions)
        with pytest.raises(rs.RestartError, match=message):
            rs.Sampler(denoiser, guided)
        with pytest.raises(rs.RestartError, match=message):
            told = {name: 0.0 for name in conditions if name != CLASS}
            rs.Sampler(denoiser, rs.Plan.build(**PLAN)).run([(0, guided)], conditions=told)
    assert called == []


# --- shared conditions


def test_each_run_has_the_shared_values_that_it_began_with(device):
    """Runs that alternate batch by batch, on one buffer."""
    plan = rs.Plan.build(**PLAN)
    fn = problems.conditional_gaussian(S)
    denoiser = rs.Denoiser.from_function(fn, SHAPE, conditions={"mean": rs.Condition((), shared=True)})
    sampler = rs.Sampler(denoiser, plan, 2, device=device)
    one = sampler.iterate(range(6), conditions={"mean": 5.0})
    other = sampler.iterate(range(6), conditions={"mean": torch.tensor([-5.0], device=device)})
    address = addresses(sampler.workspace.evaluation(2))
    for _ in range(3):
        assert (next(one).x.mean() - 5).abs() < 0.1
        assert (next(other).x.mean() + 5).abs() < 0.1
    assert addresses(sampler.workspace.evaluation(2)) == address
    with pytest.raises(rs.RestartError, match="'mean' of 'D' is missing"):
        sampler.run([0])  # nothing stays from the run before


def test_a_shared_default(device):
    fn = problems.conditional_gaussian(S)
    condition = rs.Condition((), shared=True, default=2.0)
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE, conditions={"mean": condition}), rs.Plan.build(**PLAN))
    for conditions, mean in ((None, 2), ({"mean": -4.0}, -4), (None, 2)):
        assert (sampler.run(range(4), conditions=conditions).mean() - mean).abs() < 0.1


# --- what an evaluation costs


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.inference_mode()
def test_no_allocation_and_no_read_per_evaluation(per_sample, guidance, device):
    still = torch.zeros(4, *SHAPE, device=device)

    def fn(x, sigma, class_labels, kind, picture, bias):
        return still[: len(x)]

    denoiser = rs.Denoiser.from_function(fn, SHAPE, conditions=kinds().conditions)
    plan = rs.Plan.build(**PLAN, guidance_scale=guidance)
    sampler = rs.Sampler(denoiser, plan, batch_size=2, graph="off", device=device)
    if sampler.backend == "reference":
        pytest.skip("the native library is not built here, and the reference step makes temporaries")
    sampler.run([0, 1], conditions=values(2, device=device))
    evaluation = sampler.workspace.evaluation(2, per_sample)
    (entry,) = sampler.workspace.entries(sampler.table)
    evaluation.load(entry, torch.arange(2, device=device))
    with Allocations() as seen:
        sampler.executor.run(evaluation, entry.spans)
    assert evaluation.machine.cursor.tolist() == [-1] * len(evaluation.machine.cursor)
    assert seen.made == [] and seen.synced == []


def test_a_graph_knows_the_buffers_of_conditions(device):
    sampler = rs.Sampler(kinds(), rs.Plan.build(**PLAN), 2, device=device)
    evaluation = sampler.workspace.evaluation(2)
    told = [evaluation.conditions.labels, *evaluation.conditions.others.values()]
    assert len(told) == 4 and {t.data_ptr() for t in told} <= set(addresses(evaluation))


@pytest.mark.compiles
def test_a_network_is_compiled_once_for_any_conditions(device):
    sampler = rs.Sampler(net(), rs.Plan.build(**PLAN), 4, compile="on", device=device)
    eager = rs.Sampler(net(), rs.Plan.build(**PLAN), 4, compile="off", device=device)
    for seed in range(2):
        given = {"mean": torch.randn(4, device=device) + seed, "bias": torch.randn(SHAPE, device=device)}
        found = sampler.run(range(4), conditions=given)
        torch.testing.assert_close(found, eager.run(range(4), conditions=given), rtol=1e-4, atol=1e-5)
    assert (sampler.network.compilations, sampler.network.recompiles) == (1, 0)
    assert sampler.notes == () or "compile" not in " ".join(sampler.notes)


def test_warmup_needs_no_conditions(device):
    capture = make_capture(device)
    sampler = with_graph(rs.Sampler(kinds(), rs.Plan.build(**PLAN), 4, graph="off", device=device), "loop", capture)
    sampler.warmup()
    recorded = len(capture.recorded)
    assert recorded > 0
    sampler.run(range(4), conditions=values(4, device=device))
    assert len(capture.recorded) == recorded


def test_the_batch_leaves_room_for_conditions():
    seen = {}

    class Prompted(nn.Module):
        def forward(self, net_in, c_noise, class_labels=None, *, prompt):
            seen["prompt"] = prompt
            return net_in

    plain = rs.Denoiser.from_function(lambda x, sigma: x, SHAPE)
    prompt = rs.Condition((1000, 1000), torch.float16, null=1.0)
    prompted = rs.Denoiser(Prompted(), plain.parameterization, SHAPE, conditions={"prompt": prompt})
    options = dict(free_memory=lambda device: 1 << 30)
    free = choose_batch(plain, 4096, "cuda", **options)
    told = choose_batch(prompted, 4096, "cuda", **options)
    assert free == 4096 and told == math.ceil(4096 / math.ceil(4096 / ((1 << 29) // (2_000_000 + 24 * 4 * 60))))
    assert choose_batch(prompted, 4096, "cuda", guided=True, **options) < 0.6 * told
    assert seen["prompt"].dtype == torch.float16 and bool((seen["prompt"] == 1).all())


def test_parity_has_conditions():
    found = rs.parity(net(), rs.Plan.build(**PLAN), seeds=range(4), conditions={"mean": 0.5, "bias": torch.ones(SHAPE)})
    assert found.samples == 4 and 0 < max(row.rms for row in found.rows) < 0.05


# --- classes


def test_classes_in_every_form(device):
    plan, named = rs.Plan.build(**PLAN), kinds()
    named = rs.Denoiser(named.network, named.parameterization, SHAPE, 3, ("a", "b", "c"), conditions=named.conditions)
    sampler = rs.Sampler(named, plan, 2, device=device)
    given, hot = values(3, device=device), torch.eye(3)[[2, 0, 2]]
    want = sampler.run(range(3), [2, 0, 2], conditions=given)
    for labels in (
        torch.tensor([2, 0, 2]),
        np.array([2, 0, 2]),
        ["c", "A", 2],
        hot,
        hot.double().numpy(),
        hot.long(),
        hot.bool(),
        hot.to(device),
        hot.tolist(),
        list(hot),
    ):
        batches = list(sampler.iterate(range(3), labels, conditions=given))
        assert torch.equal(torch.cat([batch.x for batch in batches]), want)
        assert torch.equal(sampler.run(range(3), conditions={**given, CLASS: labels}), want)
        assert torch.cat([batch.labels for batch in batches]).tolist() == [2, 0, 2]
        triples = [(i, plan, {CLASS: label}) for i, label in enumerate(labels)]
        assert torch.equal(sampler.run(triples, conditions=given), want)
    assert torch.equal(sampler.run(range(3), hot[:1], conditions=given), sampler.run(range(3), "c", conditions=given))
    with pytest.raises(rs.RestartError, match="class_labels was given twice"):
        sampler.run(range(3), 1, conditions={**given, CLASS: 1})
    with pytest.raises(rs.RestartError, match="class_labels was given twice"):
        sampler.run(triples, 1, conditions=given)


def test_classes_are_drawn_from_the_seed_where_a_sample_has_none(device):
    plan = rs.Plan.build(**PLAN)
    sampler = rs.Sampler(kinds(), plan, 2, device=device)
    given, drawn = values(3, device=device), rs.noise.class_labels(range(3), 3).tolist()
    want = sampler.run(range(3), [drawn[0], 1, drawn[2]], conditions=given)
    assert torch.equal(sampler.run([(0, plan), (1, plan, {CLASS: 1}), (2, plan)], conditions=given), want)
    row = torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(sampler.run([(0, plan), (1, plan, {CLASS: row}), (2, plan)], conditions=given), want)


def test_soft_rows_are_taken_as_they_are(device):
    seen = []

    def fn(x, sigma, class_labels):
        seen.append(class_labels.clone())
        return x * 0.5

    soft = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [2.0, -1.0, 0.5]], device=device)
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE, label_dim=3), rs.Plan.build(steps=2), 3, device=device)
    (batch,) = sampler.iterate(range(3), soft)
    assert batch.labels is None and torch.equal(seen[0], soft)
    mixed = [(0, sampler.plan, {CLASS: soft[0]}), (1, sampler.plan, {CLASS: 1}), (2, sampler.plan, {CLASS: soft[2]})]
    seen.clear()
    sampler.run(mixed)
    assert torch.equal(seen[0], soft)


def test_a_class_picks_rows_of_defaults(device):
    """As the prompts that a pipeline was loaded with."""
    table, plan = torch.tensor([4.0, -4.0, 8.0]), rs.Plan.build(**PLAN, guidance_scale=1.5)
    conditions = {
        "mean": rs.Condition((), null=0.0, default=table),
        "scale": rs.Condition((2,), null="same", default=torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])),
        "size": rs.Condition((2,), null="same", default=1.0),
    }

    def fn(x, sigma, mean, scale, size):
        return problems.conditional_gaussian(S)(x, sigma, mean * scale[:, 0] * size[:, 0])

    denoiser = rs.Denoiser.from_function(fn, SHAPE, conditions=conditions)
    assert denoiser.label_dim == 3 and CLASS not in denoiser.conditions
    sampler = rs.Sampler(denoiser, plan, 2, device=device)
    labels = [2, 0, 1, 1, 2]
    want = sampler.run(range(5), labels)
    scale = torch.tensor([3.0, 1, 2, 2, 3], device=device)
    mean = table.to(device)[labels]
    expected = 1.5 * mean * scale
    assert (want.flatten(1).mean(1) - expected).abs().max() < 5 * S
    given = {"mean": mean, "scale": scale[:, None].expand(5, 2)}
    assert torch.equal(sampler.run(range(5), conditions=given), want)
    assert torch.equal(sampler.run(range(5), torch.eye(3)[labels]), want)
    assert torch.equal(sampler.run(range(5), labels, conditions={"mean": mean}), want)
    assert torch.equal(sampler.run([(i, plan, {CLASS: k}) for i, k in enumerate(labels)]), want)
    (batch,) = sampler.iterate(range(2))
    assert torch.equal(batch.labels, rs.noise.class_labels(range(2), 3))
    assert next(iter(sampler.iterate([0], conditions={"mean": 1.0, "scale": 1.0 + torch.zeros(2)}))).labels is None
    assert torch.equal(denoiser(want, 0.5, torch.eye(3)[labels]), denoiser(want, 0.5, mean=mean, scale=given["scale"]))
    with pytest.raises(rs.RestartError, match="'scale' of 'fn' is missing"):
        sampler.run(range(5), conditions={"mean": mean})
    with pytest.raises(rs.RestartError, match="give one of the two"):
        sampler.run(range(5), labels, conditions=given)
    with pytest.raises(rs.RestartError, match="not mixtures of classes"):
        sampler.run([0], torch.full((1, 3), 0.5))


# --- what is refused, each before any network call


def refused(conditions=None, seeds=(0, 1, 2), class_labels=None, declared=None, name="fn"):
    called = []

    def fn(x, sigma, **_):
        called.append(1)
        return x

    declared = {"low": rs.Condition((1, 4)), "kind": rs.Condition((), torch.int32)} if declared is None else declared
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE, conditions=declared), rs.Plan.build(steps=2), 2)
    with pytest.raises(rs.RestartError) as caught:
        sampler.run(seeds, class_labels, conditions=conditions)
    assert called == []
    return str(caught.value)


LOW = torch.zeros(3, 1, 4)
GOOD = {"low": LOW, "kind": 1}
PAIR = (0, rs.Plan.build(steps=2))
WANTED = "condition 'low' must be float32 [3, 1, 4], or [1, 4] for all samples, got "
REFUSED = {
    "nothing": (None, "condition 'low' of 'fn' is missing; give conditions={'low': float32 [1, 4]}, or [n, 1, 4]"),
    "missing": ({"low": LOW}, "condition 'kind' of 'fn' is missing; give conditions={'kind': int32 []}, or [n] for n"),
    "unknown": ({**GOOD, "kinds": 1}, "'fn' has no condition 'kinds'; did you mean 'kind'?"),
    "far_off": ({**GOOD, "zebra": 1}, "'fn' has no condition 'zebra'; its conditions are low, kind"),
    "no_name": ({**GOOD, 3: 1}, "'fn' has no condition 3; its conditions are low, kind"),
    "shape": ({**GOOD, "low": torch.zeros(3, 4)}, WANTED + "float32 [3, 4]"),
    "one_row": ({**GOOD, "low": torch.zeros(1, 1, 4)}, WANTED + "float32 [1, 1, 4]: 1 for 3 samples"),
    "count": ({**GOOD, "low": torch.zeros(2, 1, 4)}, WANTED + "float32 [2, 1, 4]: 2 for 3 samples"),
    "dtype": ({**GOOD, "low": torch.zeros(3, 1, 4, dtype=torch.int64)}, WANTED + "int64 [3, 1, 4]"),
    "bool": ({**GOOD, "low": torch.zeros(3, 1, 4, dtype=torch.bool)}, WANTED + "bool [3, 1, 4]"),
    "complex": ({**GOOD, "low": LOW * 1j}, WANTED + "a Tensor of shape [3, 1, 4] that is not an ordinary one"),
    "meta": ({**GOOD, "low": LOW.to("meta")}, WANTED + "a Tensor of shape [3, 1, 4] that is not an ordinary one"),
    "text": ({**GOOD, "low": "a fox"}, WANTED + "'a fox'"),
    "none": ({**GOOD, "low": None}, WANTED + "None"),
    "ragged": ({**GOOD, "low": [[1], [1, 2]]}, WANTED + "[[1], [1, 2]]"),
    "nan": (
        {**GOOD, "low": LOW.double() * math.nan},
        "condition 'low', declared float32 [1, 4], given as float64 [3, 1, 4], holds NaN or infinite values",
    ),
    "too_large": ({**GOOD, "low": LOW.double() + 1e300}, "float64 [3, 1, 4], holds NaN or infinite values"),
    "float_id": ({**GOOD, "kind": 1.0}, "condition 'kind' must be int32 [3], or [] for all samples, got float64 []"),
    "bool_id": ({**GOOD, "kind": True}, "condition 'kind' must be int32 [3], or [] for all samples, got bool []"),
    "large_id": ({**GOOD, "kind": 2**40}, "given as int64 [], holds integers outside of int32"),
    "no_dict": (LOW, "conditions must be a dict of values by name, got a Tensor of shape [3, 1, 4]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_condition_is_refused_with_a_sentence(name):
    given, message = REFUSED[name]
    assert message in refused(given)


def test_other_refusals():
    assert "class_labels were given, but 'fn' has no classes" in refused({**GOOD, CLASS: 1})
    assert "'fn' has no condition 'low'; it has none; leave it out" in refused({"low": LOW}, declared={})
    shared = {"map": rs.Condition((2,), shared=True)}
    message = "condition 'map' must be float32 [2], got float32 [3, 2]: 3 for 1 sample"
    assert message in refused({"map": torch.zeros(3, 2)}, declared=shared)
    triple = [(*PAIR, {"map": torch.zeros(2)})]
    assert "'map' is shared by all samples of a run; give it in conditions=" in refused(seeds=triple, declared=shared)
    triples = [(*PAIR, {"low": LOW[0], "kind": 1}), (*PAIR, {"low": LOW[0]})]
    assert "condition 'kind' of 'fn' is missing for sample 1" in refused(seeds=triples)
    assert "kind was given twice" in refused({"kind": 1}, seeds=[(*PAIR, GOOD | {"low": LOW[0]})])
    assert "condition 'low' must be float32 [1, 4], got float32 [4]" in refused(seeds=[(*PAIR, {"low": LOW[0, 0]})])
    assert "all integers or all" in refused(GOOD, seeds=[(*PAIR, LOW)])
    own = [(*PAIR, {"low": LOW[0], "kind": kind}) for kind in (1, 2**40)]
    assert "given as int64 [2], holds integers outside of int32" in refused(seeds=own)
    own = [(*PAIR, {"low": low, "kind": 1}) for low in (LOW[0], [[1, 2, 3, math.inf]], LOW[0].double())]
    assert "given as float32 [3, 1, 4], holds NaN or infinite values" in refused(seeds=own)
    assert "'kind' must be int32 [], got float64 []" in refused(seeds=[(*PAIR, {"low": LOW[0], "kind": 0.5})])


def test_a_condition_on_another_device():
    condition = rs.Condition((2,))
    with pytest.raises(rs.RestartError, match=r"on cuda:1 as the sampler, got float32 \[3, 2\] on cpu; move it there"):
        condition.read("low", torch.zeros(3, 2), 3, torch.device("cuda:1"))


def test_conditions_require_no_gradient(device):
    mean = torch.ones(2, requires_grad=True, device=device)
    x = rs.sample(gaussian(), rs.Plan.build(**PLAN), [0, 1], conditions={"mean": mean}, device=device)
    assert not x.requires_grad


@pytest.mark.parametrize("shape", [(7,), (5, 16), (2, 3, 4, 5), (21, 4, 4)])
def test_samples_of_any_shape(shape, device):
    """Sequences, frames, volumes, many channels: alone, in shared batches, traced, guided and in graphs alike."""
    field = torch.linspace(-3, 3, math.prod(shape), device=device).view(shape)
    conditions = {"mean": rs.Condition(shape, null=torch.zeros(shape))}
    denoiser = rs.Denoiser.from_function(problems.conditional_gaussian(S), shape, conditions=conditions)
    plans = [rs.Plan.build(**PLAN, guidance_scale=w) for w in (1.5, 2.0)]
    sampler = rs.Sampler(denoiser, plans[0], 2, device=device)
    given = {"mean": torch.stack([field, -field, field / 2])}
    x = sampler.run(range(3), conditions=given)
    assert x.shape == (3, *shape) and (x - 1.5 * given["mean"]).abs().max() < 1.5 * 6 * S
    mixed = sampler.run([(i, plans[i % 2]) for i in range(3)], conditions=given)
    assert torch.equal(mixed[::2], x[::2]) and not torch.equal(mixed[1], x[1])
    (row, *_) = sampler.trace(range(3), conditions=given, rows=[0])
    assert row.x.shape == row.D.shape == (2, *shape)
    graph = with_graph(rs.Sampler(denoiser, plans[0], 2, device=device), "trajectory", make_capture(device))
    assert torch.equal(graph.run(range(3), conditions=given), x)
    found = rs.parity(denoiser, plans[0], seeds=range(3), conditions=given, dtype="bf16", device=device)
    assert 0 < found.changed < 1 and found.psnr > 20
    assert repr(denoiser) and denoiser(x, 0.5, mean=given["mean"]).shape == x.shape
