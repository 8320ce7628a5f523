"""Continuous batching: (seed, plan) pairs share batches, and each gives what its own run gives."""

from __future__ import annotations

import pytest
import torch
from support.replays import PLAN, denoiser

import restart_sampling as rs

PLANS = (
    dict(steps=6, restart=[3, 2, 0.1, 0.5]),
    dict(steps=6, restart=[3, 5, 0.1, 0.5]),
    dict(steps=12),
    dict(steps=5, solver="euler"),
    dict(steps=7, solver="dpm++2m"),
    dict(steps=5, s_churn=5.0),
)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("label_dim", [0, 4])
def test_each_sample_is_bit_equal_to_its_own_run(batch_size, label_dim, device):
    plans = [rs.Plan.build(**plan) for plan in PLANS]
    pairs = [(100 + i, plans[(i * i) % len(plans)]) for i in range(13)]
    sampler = rs.Sampler(denoiser(label_dim), plans[0], batch_size=batch_size, device=device)
    found = sampler.run(pairs)
    for i, (seed, plan) in enumerate(pairs):
        assert torch.equal(found[i : i + 1], rs.sample(denoiser(label_dim), plan, [seed], device=device)), i


def test_one_seed_with_different_k_in_one_batch(device):
    """Same noise until the plans part; both samples are those of their own runs."""
    few, many = (rs.Plan.build(steps=8, restart=[3, k, 0.1, 0.5]) for k in (1, 4))
    x = rs.Sampler(denoiser(), few, batch_size=2, device=device).run([(5, few), (5, many)])
    assert torch.equal(x[:1], rs.sample(denoiser(), few, [5], device=device))
    assert torch.equal(x[1:], rs.sample(denoiser(), many, [5], device=device))
    assert not torch.equal(x[0], x[1])


def calls(run):
    """Samples of each network call while `run(denoiser)` runs."""
    sizes = []
    base = denoiser()

    def fn(x, sigma):
        sizes.append(len(x))
        return base.network(x, sigma, None)

    run(rs.Denoiser.from_function(fn, shape=base.shape))
    return sizes


def test_lanes_are_refilled_so_that_the_batch_stays_full():
    short, long = rs.Plan.build(steps=4), rs.Plan.build(steps=12)
    pairs = [(i, long if i % 4 == 0 else short) for i in range(32)]
    plan_of = {id(short): short, id(long): long}
    sizes = calls(lambda den: rs.Sampler(den, short, batch_size=8).run(pairs))
    work = sum(plan_of[id(plan)].nfe for _, plan in pairs)
    assert sum(sizes) == work  # no evaluation of an idle lane: the batch narrows when nothing is left to start
    assert sizes.count(8) * 8 >= 0.9 * work


def test_results_come_in_the_order_of_the_request_and_say_where_they_belong():
    short, long = rs.Plan.build(steps=4), rs.Plan.build(steps=12)
    pairs = [(9, long), (8, short), (7, short), (6, long), (5, short)]
    sampler = rs.Sampler(denoiser(4), short, batch_size=2)
    batches = list(sampler.iterate(pairs))
    assert sorted(int(i) for batch in batches for i in batch.index) == list(range(5))
    for batch in batches:
        assert batch.seeds.tolist() == [pairs[i][0] for i in batch.index]
        assert torch.equal(batch.labels, rs.noise.class_labels(batch.seeds, 4))
    whole = sampler.run(pairs)
    for batch in batches:
        assert torch.equal(whole[batch.index], batch.x)


def test_guided_and_plain_plans_share_a_batch(device):
    plain, guided = rs.Plan.build(steps=4), rs.Plan.build(steps=6, guidance_scale=3.0)
    x = rs.Sampler(denoiser(4), plain, batch_size=4, device=device).run([(0, plain), (1, guided), (2, guided)])
    expected = [rs.sample(denoiser(4), plan, [i], device=device) for i, plan in enumerate((plain, guided, guided))]
    assert torch.equal(x[1:], torch.cat(expected[1:]))
    # weight 1 of the guided form is F_u + (F_c − F_u): equal to rounding, not to the bit
    assert torch.allclose(x[:1], expected[0], rtol=0, atol=1e-4)


def test_a_bad_sample_is_named_with_the_row_of_its_own_plan():
    def fn(x, sigma):
        poison = (x.flatten(1).sum(1) > 1e9).view(-1, 1, 1, 1)
        return torch.where(poison | (sigma.view(-1, 1, 1, 1) == bad_sigma), torch.nan, x * 0.5)

    short, long = rs.Plan.build(steps=4), rs.Plan.build(steps=9)
    bad_sigma = torch.tensor(long.rows[5].sigma, dtype=torch.float32)
    den = rs.Denoiser.from_function(fn, shape=(1, 2, 2))
    with pytest.raises(rs.NonFiniteError) as caught:
        rs.Sampler(den, short, batch_size=2).run([(0, short), (1, long), (2, short), (3, short)])
    (failure,) = caught.value.failures
    assert (failure["seed"], failure["row"]) == (1, 5)
    assert caught.value.samples[[0, 2, 3]].isfinite().all()


def test_progress_counts_finished_samples():
    seen = []
    short, long = rs.Plan.build(steps=4), rs.Plan.build(**PLAN)
    rs.Sampler(denoiser(), short, batch_size=2).run([(0, short), (1, long), (2, short)], callback=seen.append)
    assert seen[0].total == 3
    assert seen[-1].done <= 3
    assert len(seen) >= long.nfe


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([(0, "heun")], "plan must be a Plan"),
        ([(0, None)], "plan must be a Plan"),
        ([(-1, rs.Plan.build())], "seed must be ≥ 0"),
        ([0, (1, rs.Plan.build())], "all integers or all"),
        ([(0, rs.Plan.build(), 1)], "all integers or all"),
        ([(0, rs.Plan.build(guidance_scale=2.0))], "needs a class-conditional network"),
    ],
)
def test_bad_pairs_are_refused_with_a_sentence(seeds, message):
    with pytest.raises(rs.RestartError, match=message):
        rs.Sampler(denoiser(), rs.Plan.build()).run(seeds)


def test_latents_go_with_pairs():
    """Each sample begins with its own, whatever the plans beside it."""
    plans = [rs.Plan.build(steps=n) for n in (3, 6, 4)]
    latents = rs.noise.normal(range(40, 43), 0, (3, 4, 5))
    x = rs.Sampler(denoiser(), plans[0], batch_size=2).run(list(enumerate(plans)), latents=latents)
    for i, plan in enumerate(plans):
        alone = rs.Sampler(denoiser(), plan, batch_size=1).run([i], latents=latents[i : i + 1])
        assert torch.allclose(x[i], alone[0], atol=1e-6)
