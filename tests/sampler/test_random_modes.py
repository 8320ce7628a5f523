"""Random samplers of every mode against eager batches of one plan, bit for bit:
`pytest tests/sampler/test_random_modes.py --trials 100 --trial-seed 7`."""

from __future__ import annotations

import pytest
import torch
from support.replays import SHAPE, with_graph
from support.tape import TapeCapture
from support.traces import by_sample, traced

import restart_sampling as rs
from restart_sampling.sampler.executors.graph import MODES

SOLVERS = ("euler", "heun", "dpm2", "dpm++2m", "edm-stochastic")


class Network(torch.nn.Module):
    """Elementwise, so that its bits do not depend on the batch; may be sliced where `concurrent` says so."""

    def __init__(self, concurrent):
        super().__init__()
        self.concurrent = concurrent

    def forward(self, x, c_noise, labels=None):
        shift = 0.0 if labels is None else labels[:, :1].view(-1, 1, 1, 1)
        return (x + shift) / (1 + c_noise.view(-1, 1, 1, 1) ** 2)


def random_plan(rng, guided):
    options = dict(steps=rng.randint(2, 9), solver=rng.choice(SOLVERS), rho=rng.choice([3.0, 7.0]))
    if rng.random() < 0.6:
        low = rng.uniform(0.05, 1.0)
        options["restart"] = [[rng.randint(2, 4), rng.randint(1, 3), low, low * rng.uniform(1.5, 20.0)]]
    if options["solver"] == "edm-stochastic":
        options["s_churn"] = rng.choice([0.0, 5.0, 40.0])
    if guided:
        options["guidance_scale"] = rng.choice([0.0, 1.7, 4.0])
    try:
        return rs.Plan.build(**options)
    except rs.RestartError:  # an interval that does not fit the grid
        return rs.Plan.build(**options | {"restart": None})


def random_case(rng, trial):
    """(options of a network, plans, options of a Sampler, mode or None): modes in turn, every tenth case in slices.

    Guided plans and plain ones are not mixed: weight 1 of a guided batch is F_u + (F_c − F_u), which is F_c but for
    rounding."""
    mode, sliced = (None, *MODES)[trial % (1 + len(MODES))], trial % 10 == 0
    label_dim = rng.choice([0, 4])
    augmented_dim = None if sliced else rng.choice([None, None, 16])
    network = dict(label_dim=label_dim, augmented_dim=augmented_dim, concurrent=sliced or rng.random() < 0.5)
    guided = bool(label_dim) and rng.random() < 0.5
    plans = [random_plan(rng, guided) for _ in range(rng.randint(1, 3))]
    batch_size = rng.choice([1, 3, 4, 8, 12, 20])
    return network, plans, dict(batch_size=batch_size, batch_invariant=sliced or rng.random() < 0.3), mode


def make(network, plan, **options):
    base = rs.Denoiser.from_function(lambda x, sigma: x, shape=SHAPE)
    den = rs.Denoiser(
        Network(network["concurrent"]),
        base.parameterization,
        SHAPE,
        network["label_dim"],
        augmented_dim=network["augmented_dim"],
    )
    return rs.Sampler(den, plan, graph="off", device="cpu", **options)


def expected(network, plans, seeds, labels):
    """Each plan's samples of all seeds in one eager batch, [plans, seeds, …]."""
    return torch.stack(
        [make(network | {"concurrent": False}, plan, batch_size=len(seeds)).run(seeds, labels) for plan in plans]
    )


def one_run(rng, sampler, plans, want, seeds, labels, where):
    """One random call of a sampler: a plan for all or for each, seeds in any order, warmed up or not, traced or not."""
    picked = rng.sample(range(len(seeds)), rng.randint(1, len(seeds)))
    some = None if labels is None else [labels[i] for i in picked]
    which = rng.randrange(len(plans))
    if rng.random() < 0.3:
        sampler.set_plan(plans[which])
        sampler.warmup(rng.randint(1, 30))
    if rng.random() < 0.5:
        sampler.set_plan(plans[which])
        chosen, request = [plans[which]] * len(picked), [seeds[i] for i in picked]
        right = want[which, picked]
    else:
        of = [rng.randrange(len(plans)) for _ in picked]
        chosen = [plans[k] for k in of]
        request = [(seeds[i], plan) for i, plan in zip(picked, chosen, strict=True)]
        right = want[of, picked]
    if rng.random() < 0.4:
        rows = rng.sample(range(max(plan.nfe for plan in chosen)), 2)
        shown, found = traced(sampler, request, some, rows=rows)
        lengths = [sampler.workspace.bind(plan).nfe for plan in chosen]
        assert by_sample(shown).keys() == {(i, row) for i, nfe in enumerate(lengths) for row in rows if row < nfe}, (
            where
        )
    else:
        found = sampler.run(request, some)
    assert torch.equal(found, right), f"{where}, samples {picked}"
    assert sampler.executor.note == "", where


def test_every_mode_gives_the_bits_of_eager_batches(trials, monkeypatch):
    """Buckets, chunks, narrowing batches, slices, guidance, PFGM++ and fixed lanes, in turn on one sampler."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # slices are made, on any machine
    rng, seen = trials.random("modes"), set()
    for trial in range(trials.count(30)):
        network, plans, options, mode = random_case(rng, trial)
        where = f"trial {trial} of seed {trials.seed}: {network}, {options}, graph {mode}, {plans}"
        seeds = rng.sample(range(2**40), 24)
        labels = [rng.randrange(4) for _ in seeds] if network["label_dim"] and rng.random() < 0.5 else None
        want = expected(network, plans, seeds, labels)
        sampler = make(network, plans[0], **options)
        if mode is not None:
            with_graph(sampler, mode, TapeCapture())
        for _ in range(3):
            one_run(rng, sampler, plans, want, seeds, labels, where)
        seen |= {mode, bool(sampler.workspace._slices), *((key, value) for key, value in network.items())}
    assert {None, *MODES, True, ("augmented_dim", 16), ("label_dim", 4)} <= seen


@pytest.mark.parametrize("wrong", ["seed", "row"])
def test_the_comparison_above_can_fail(wrong, trials):
    """Another seed, or another plan, is another sample."""
    network, plans, seeds = (dict(label_dim=0, augmented_dim=None, concurrent=False), [rs.Plan.build(steps=4)], [3, 4])
    want = expected(network, plans, seeds, None)
    if wrong == "seed":
        want = want.flip(1)
    else:
        plans = [rs.Plan.build(steps=5)]
    with pytest.raises(AssertionError):
        for _ in range(4):
            one_run(trials.random("wrong"), make(network, plans[0]), plans, want, seeds, None, "")
