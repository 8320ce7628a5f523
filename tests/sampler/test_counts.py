"""What an evaluation costs besides the network, for every kind of machine: launches, allocations and host reads."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.allocations import Allocations
from support.replays import with_graph
from support.tape import Tape, TapedMachine, make_capture

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.models.parameterization import edm
from restart_sampling.plan.guidance import BOTH, NONE, ONE
from restart_sampling.plan.segments import spans
from restart_sampling.sampler.edits import Asked
from restart_sampling.sampler.executors.graph import MODES

SHAPE = (2, 3, 4)
N = 3
VIEWS = {
    "aten::slice",
    "aten::view",
    "aten::expand",
    "aten::split",
    "aten::detach",
    "aten::alias",
    "aten::_unsafe_view",
}
EDIT = dict(known=torch.ones(SHAPE), mask=torch.full(SHAPE, 0.5))
IMAGE = dict(start=torch.ones(SHAPE), strength=1.0)
INSIDE = dict(guidance_scale=2.0, guidance_interval=(0.2, 2.0))
# name: (options of the plan, edits, registers, noise terms)
CASES = {
    "plain": (dict(), {}, 1, 1),
    "restart": (dict(restart=[3, 2, 0.1, 0.5]), {}, 1, 1),
    "two registers": (dict(solver="unipc:order=2"), {}, 2, 1),
    "three registers": (dict(solver="unipc"), {}, 3, 1),
    "two draws": (dict(solver="seeds3"), {}, 1, 2),
    "start": (dict(), IMAGE, 1, 1),
    "paste": (dict(restart="repaint:j=2,r=2"), EDIT, 1, 1),
    "paste fresh, from an image": (dict(solver="ddpm"), {**EDIT, **IMAGE, "paste": "fresh"}, 1, 1),
    "paste, two draws": (dict(solver="dpm++sde"), {**EDIT, "mask": torch.ones(SHAPE)}, 1, 2),
    "guidance": (INSIDE, {}, 1, 1),
    "guidance, three registers, paste": (INSIDE | dict(solver="unipc"), {**EDIT, "mask": torch.ones(SHAPE)}, 3, 1),
    "rescale": (INSIDE | dict(guidance_rescale=0.5), {}, 1, 1),
    "zero-star": (INSIDE | dict(guidance="zero-star", zero_init=2), {}, 1, 1),
    "apg, two draws": (INSIDE | dict(guidance="apg", apg_norm=1.0, solver="seeds3"), {}, 1, 2),
    "guide": (INSIDE | dict(guide=True), {}, 1, 1),
    "guide, apg, paste": (INSIDE | dict(guide=True, guidance="apg"), EDIT, 1, 1),
}


def make(name, device, batch_size=N):
    """A sampler of a case and the edits of its run; its network makes nothing, and has three kinds of conditions."""
    options, edits, registers, noises = CASES[name]
    still = torch.full((2 * N, *SHAPE), 0.25, device=device)

    def network(net_in, c_noise, labels=None, *, mean, field, bias):
        return still[: len(net_in)]

    conditions = {
        "mean": rs.Condition((), null=0.0, default=1.0),
        "field": rs.Condition(SHAPE, torch.bfloat16, null=0.0, default=0.5),
        "bias": rs.Condition(SHAPE, shared=True, default=0.0),
    }
    denoiser = rs.Denoiser(network, edm(0.5), SHAPE, conditions=conditions)
    options = dict(options)
    if options.pop("guide", False):
        denoiser = denoiser.guided_by(denoiser)
    plan = rs.Plan.build(**{"steps": 6, "sigma_min": 0.02, "sigma_max": 10.0, **options})
    sampler = rs.Sampler(denoiser, plan, batch_size, graph="off", device=device)
    if sampler.backend == "reference":
        pytest.skip("the native library is not built here, and the reference step makes temporaries")
    edits = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in edits.items()}
    table = sampler.workspace.bind(plan, Asked(**edits).read(N, SHAPE, sampler.device))
    assert (max(1, table.registers), table.noises) == (registers, noises)
    assert set(table.kinds) <= {NONE, ONE, BOTH}
    return sampler, table, edits


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_nothing_is_allocated_and_nothing_read(name, per_sample, device):
    sampler, table, edits = make(name, device)
    seeds = [(seed, sampler.plan) for seed in range(N)] if per_sample else range(N)
    expected = sampler.run(seeds, **edits)
    workspace = sampler.workspace
    evaluation = workspace.evaluation(N, per_sample)
    (entry,) = workspace.entries(table)
    given = Asked(**edits).read(N, SHAPE, workspace.device).take(slice(0, N))
    evaluation.load(entry, torch.arange(N, device=device), None, given)
    with Allocations() as seen:
        workspace.executor.run(evaluation, entry.spans)
    assert (evaluation.machine.cursor == layout.IDLE).all()  # all of it ran
    assert seen.made == [] and seen.synced == []
    assert torch.equal(evaluation.machine.x, expected)


def launches_of(evaluation, kind):
    """The launches of one evaluation besides views: calls of the bound machine, and operators."""
    bound, tape = evaluation.bound, Tape()
    evaluation.bound = TapedMachine(bound, tape)
    try:
        with tape:
            evaluation(kind)
    finally:
        evaluation.bound = bound
    names = [getattr(f, "__name__", str(f)) if not hasattr(f, "_schema") else f._schema.name for f, *_ in tape.entries]
    return [name for name in names if name not in VIEWS]


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_an_evaluation_is_two_launches_and_one_to_weigh(name, device):
    sampler, table, edits = make(name, device)
    sampler.run(range(N), **edits)
    evaluation = sampler.workspace.evaluation(N)
    for kind in set(table.kinds.tolist()):
        weighs = ["weigh"] if kind == BOTH and table.weighed else []
        assert launches_of(evaluation, kind) == [*weighs, "run_row", "advance"]


@pytest.mark.parametrize("name", ["plain", "paste", "zero-star", "guide, apg, paste"])
@torch.inference_mode()
def test_so_it_is_in_mixed_batches(name, device):
    sampler, table, edits = make(name, device)
    sampler.run([(seed, sampler.plan) for seed in range(N)], **edits)
    evaluation = sampler.workspace.evaluation(N, per_sample=True)
    for kind in set(table.kinds.tolist()):
        if kind == BOTH and evaluation.guide is None:
            continue  # the test below
        weighs = ["weigh"] if kind == BOTH and table.weighed else []
        assert launches_of(evaluation, kind) == [*weighs, "run_row", "advance"]


@torch.inference_mode()
def test_so_it_is_in_mixed_batches_with_both_halves(device):
    sampler, _, _ = make("guidance", device)
    sampler.run([(seed, sampler.plan) for seed in range(N)])
    assert len(launches_of(sampler.workspace.evaluation(N, per_sample=True), BOTH)) <= 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["three registers", "two draws", "paste", "zero-star", "guide, apg, paste"])
def test_captured_runs_capture_once_and_launch_what_their_mode_says(name, mode, device):
    """Seeds, images, masks and conditions are copied into buffers: the second run has as many graphs as the first."""
    sampler, table, edits = make(name, device)
    expected = sampler.run(range(N), **edits)
    capture = make_capture(device)
    with_graph(sampler, mode, capture)
    assert torch.equal(sampler.run(range(N), **edits), expected) and sampler.executor.note == ""
    captures, before = sampler.executor.captures, sampler.executor.launches
    other = {k: 0.5 * v if isinstance(v, torch.Tensor) else v for k, v in edits.items()}
    told = {"mean": torch.arange(N, dtype=torch.float32, device=device), "bias": torch.ones(SHAPE, device=device)}
    sampler.run(range(5, 5 + N), conditions=told, **other)
    assert sampler.executor.captures == captures == len(capture.recorded)
    parts = [span.rows for span in spans(table.plan)]
    runs = 1 + sum(a != b for a, b in pairwise(table.kinds))
    most = {
        "step": table.nfe,
        "loop": sum(rows // 8 + 3 for rows in parts),
        "trajectory": table.nfe // 8 + 3 * runs,
        "while": 1 if runs == 1 else table.nfe // 8 + 3 * runs,
    }
    assert sampler.executor.launches - before <= most[mode]
