"""The one hook on evaluations: what it is told of, by whom, when it is refused, and that it changes nothing."""

from __future__ import annotations

import threading

import pytest
import torch
from support.replays import PLAN, SHAPE, captured, denoiser, eager
from support.tape import TapeCapture

import restart_sampling as rs
from restart_sampling.sampler.executors import Observer, observed_network


class Log(Observer):
    """Everything that it is told."""

    def __init__(self, parts=Observer.parts):
        self.parts, self.calls, self.outputs, self.threads = parts, [], [], set()

    def before(self, part, evaluation):
        self.calls.append(f"+{part}")

    def after(self, part, evaluation, F=None):
        self.calls.append(f"-{part}")
        self.threads.add(threading.get_ident())
        if part == "network":
            self.outputs.append(F.clone())
        else:
            assert F is None


UPDATE = ["+update", "-update", "+advance", "-advance"]
EVALUATION = ["+network", "-network", *UPDATE]


def test_the_parts_come_in_order_and_nothing_changes(device):
    """The initial latent is an update without a network call."""
    plan = rs.Plan.build(**PLAN)
    sampler = eager(plan, device)
    with sampler.observed(log := Log()):
        x = sampler.run(range(6))
    assert log.calls == [*UPDATE, *EVALUATION * plan.nfe] * 2
    assert [len(F) for F in log.outputs] == [4] * plan.nfe + [2] * plan.nfe
    assert torch.equal(x, eager(plan, device).run(range(6)))
    log.calls.clear()
    assert torch.equal(sampler.run(range(6)), x)
    assert log.calls == []


def test_an_observer_chooses_its_parts(device):
    sampler = eager(rs.Plan.build(steps=3), device)
    with sampler.observed(network := Log(("network",))), sampler.observed(update := Log(("update",))):
        sampler.run([0])
    assert network.calls == ["+network", "-network"] * 5
    assert update.calls == ["+update", "-update"] * 6


def test_given_latents_and_mixed_plans_are_observed(device):
    short, long = rs.Plan.build(steps=2), rs.Plan.build(steps=4)
    sampler = eager(long, device)
    with sampler.observed(log := Log()):
        sampler.run([0], latents=rs.noise.normal([0], 0, SHAPE, device=device))
    assert log.calls == [*UPDATE, *EVALUATION * 7]
    with sampler.observed(log := Log()):
        sampler.run([(0, short), (1, long)])
    assert log.calls == [*UPDATE, *EVALUATION * 7]


def test_slices_are_observed_on_their_own_threads(two_threads):
    class Net(torch.nn.Module):
        concurrent = True

        def forward(self, x, c_noise, labels):
            return 0.5 * x

    plan = rs.Plan.build(steps=3)
    sampler = rs.Sampler(rs.Denoiser(Net(), denoiser().parameterization, SHAPE), plan, batch_size=16, device="cpu")
    with sampler.observed(log := Log(("network",))):
        sampler.run(range(16))
    assert len(log.calls) == 2 * 2 * plan.nfe
    assert threading.get_ident() not in log.threads


def test_an_error_detaches_it():
    def fn(x, sigma):
        raise ZeroDivisionError

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE), rs.Plan.build(steps=2), device="cpu")
    with pytest.raises(ZeroDivisionError), sampler.observed(log := Log()):
        sampler.run([0])
    assert log.calls == [*UPDATE, "+network"]
    with pytest.raises(ZeroDivisionError):
        sampler.run([0])
    assert log.calls == [*UPDATE, "+network"]


def test_a_replayed_graph_cannot_be_observed_and_says_so():
    sampler = captured("loop", TapeCapture(), "cpu")
    with pytest.raises(rs.RestartError, match="graph='loop' replays graphs, which call no Python; use graph='off'"):
        sampler.observed(Log())
    sampler.workspace.executor.note = "graph=loop fell back to eager launches: because"
    with sampler.observed(log := Log(("network",))):
        sampler.run(range(4))
    assert len(log.calls) == 2 * sampler.plan.nfe


def test_a_loop_outside_of_the_engine_is_observed_by_its_network():
    class Loop:
        def __init__(self):
            self.network = torch.nn.Linear(2, 2)

    loop = Loop()
    network = loop.network
    with observed_network(loop, log := Log()):
        loop.network(torch.zeros(1, 2))
        assert loop.network.in_features == 2  # for the rest it is the network
    assert log.calls == ["+network", "-network"]
    assert loop.network is network
