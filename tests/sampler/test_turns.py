"""One set of buffers: a run that begins inside another one, or between two batches of one, changes no sample of it."""

from __future__ import annotations

import threading

import pytest
import torch
from support.replays import SHAPE, denoiser, with_graph
from support.tape import TapeCapture

import restart_sampling as rs

SHORT, MIDDLE, LONG = (rs.Plan.build(steps=steps) for steps in (3, 4, 6))
PAIRS = [(seed, (SHORT, MIDDLE, LONG)[seed % 3]) for seed in range(9)]


def make(augmented_dim=None, **options):
    base = denoiser(4)
    den = rs.Denoiser.from_function(
        lambda x, sigma, class_labels: base.network(x, sigma, class_labels),
        SHAPE,
        label_dim=4,
        augmented_dim=augmented_dim,
    )
    return rs.Sampler(den, MIDDLE, batch_size=4, device="cpu", **options)


@pytest.mark.parametrize("augmented_dim", [None, 64])
def test_other_runs_may_come_between_the_batches_of_one_plan(augmented_dim):
    """Also of another plan, guided or not; a run keeps the plan that it began with."""
    guided = rs.Plan.build(steps=2, guidance_scale=2.0)
    want = make(augmented_dim).run(range(10))
    sampler, found = make(augmented_dim), torch.zeros_like(want)
    for batch in sampler.iterate(range(10)):
        found[batch.index] = batch.x
        for plan in (guided, LONG):
            sampler.set_plan(plan)
            sampler.run([77])
        sampler.run([(78, SHORT), (79, guided)])
    assert torch.equal(found, want)


@pytest.mark.parametrize("between", [lambda s: s.run([77]), lambda s: s.run(PAIRS), lambda s: s.warmup()])
def test_samples_under_way_are_never_those_of_another_run(between):
    sampler = make()
    mixed = sampler.iterate(PAIRS)
    next(mixed)
    between(sampler)
    with pytest.raises(rs.RestartError, match="came between two batches"):
        next(mixed)
    assert torch.equal(sampler.run(PAIRS), make().run(PAIRS))


def test_a_mixed_run_may_be_left_and_another_one_begun():
    sampler = make()
    next(sampler.iterate(PAIRS))
    last = list(sampler.iterate(PAIRS))[-1]
    assert torch.equal(last.x, make().run(PAIRS)[last.index])


def test_nothing_is_under_way_after_the_last_batch():
    sampler = make()
    for _ in sampler.iterate([(0, SHORT), (1, SHORT)]):
        sampler.run([5])


@pytest.mark.parametrize("inner", [lambda s: s.run([77]), lambda s: s.run(PAIRS), lambda s: s.warmup()])
@pytest.mark.parametrize("seeds", [range(4), PAIRS])
def test_a_run_inside_a_callback_is_refused(seeds, inner):
    sampler = make()
    with pytest.raises(rs.RestartError, match="in the middle of another run"):
        sampler.run(seeds, callback=lambda _: inner(sampler))
    assert torch.equal(sampler.run(range(4)), make().run(range(4)))  # and it is free again


def test_a_run_in_another_thread_is_refused():
    sampler, errors = make(), []

    def work():
        try:
            sampler.run([1])
        except rs.RestartError as error:
            errors.append(str(error))

    def callback(_):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    x = sampler.run([0], callback=callback)
    assert len(errors) == MIDDLE.nfe
    assert "make a Sampler for each" in errors[0]
    assert torch.equal(x, make().run([0]))


def test_a_warmup_of_pfgmpp_makes_room_for_the_tables_of_a_whole_batch():
    """Each sample has one: a program that grows in the run would be captured again."""
    capture = TapeCapture()
    den = rs.Denoiser.from_function(lambda x, sigma: 0.5 * x, SHAPE, augmented_dim=64)
    sampler = with_graph(rs.Sampler(den, rs.Plan.build(steps=18), batch_size=64, graph="off"), "step", capture)
    sampler.warmup()
    assert len(capture.recorded) == 1
    sampler.run(range(130))
    assert sampler.workspace.program.generation == 1
    assert [length for length, _ in capture.recorded] == [1, 1]  # 64 lanes, and the 2 that are left
