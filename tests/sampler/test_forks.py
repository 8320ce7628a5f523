"""Forked children: a sampler goes on in a child, which has none of the parent's threads (its pool: test_native.py)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

import restart_sampling as rs
from restart_sampling.common import forked
from restart_sampling.sampler.executors import threads

LIMIT = 40.0  # seconds; a child that waits for threads it does not have waits for ever
SHAPE = (3, 64, 64)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Net(torch.nn.Module):
    """Says that it may be sliced, so that a batch runs on a pool of threads."""

    concurrent = True

    def forward(self, x, c_noise, labels):
        return x / (1 + c_noise.view(-1, 1, 1, 1) ** 2)


def in_a_child(work):
    """Exit status of a forked child that runs `work`, 0 if that returned True; None if it took longer than LIMIT."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def sampler(sliced: bool, backend: str = "auto") -> rs.Sampler:
    if sliced:
        base = rs.Denoiser.from_function(lambda x, sigma: x, shape=SHAPE)
        den = rs.Denoiser(Net(), base.parameterization, SHAPE)
    else:
        den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=SHAPE)
    return rs.Sampler(den, rs.Plan.build(steps=2), batch_size=16, backend=backend)


@pytest.mark.parametrize(("sliced", "backend"), [(True, "auto"), (False, "auto"), (False, "reference")])
def test_a_sampler_that_has_run_goes_on_in_a_child(two_threads, sliced, backend):
    s = sampler(sliced, backend)
    expected = s.run(range(16))
    assert bool(s.workspace._pools) == sliced
    assert in_a_child(lambda: torch.equal(s.run(range(16)), expected)) == 0
    assert torch.equal(s.run(range(16)), expected)  # the parent is as before
    assert torch.get_num_threads() == 2
    assert forked.NOTE not in s.notes


def test_a_warmup_in_a_child_ends(two_threads):
    s = sampler(False)
    s.run(range(16))
    assert in_a_child(lambda: s.warmup() is s) == 0


def test_a_sampler_made_in_the_child_and_a_grandchild(two_threads):
    expected = sampler(False).run(range(16))

    def fresh():
        s = sampler(False)
        assert forked.NOTE in s.notes
        return torch.equal(s.run(range(16)), expected)

    assert in_a_child(lambda: fresh() and in_a_child(fresh_again) == 0) == 0


def fresh_again():
    return sampler(False).run(range(16)).isfinite().all().item()


def test_slices_start_a_pool_of_their_own(two_threads):
    executor = threads.ThreadExecutor(2, 2)
    s = sampler(True)
    s.run(range(16))
    slices, (entry,) = next(iter(s.workspace._slices.values())), s.workspace.entries(s.table)

    def again():
        torch.set_num_threads(1)
        with torch.no_grad():
            slices.load(entry, torch.arange(16), None)
            executor.threads = 1
            executor.run(slices, entry.spans)
        return executor.process == os.getpid()

    assert in_a_child(again) == 0


def test_noise_in_a_child(two_threads):
    expected = rs.noise.normal(range(16), shape=SHAPE, backend="reference")
    assert in_a_child(lambda: torch.equal(rs.noise.normal(range(16), shape=SHAPE, backend="reference"), expected)) == 0


class Drawn(torch.utils.data.Dataset):
    """Draws its items in the worker, as an augmentation by a generative model does."""

    def __init__(self, s):
        self.s = s

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.s.run([i])[0]


def test_in_workers_of_a_data_loader(two_threads):
    s = sampler(True)
    expected = s.run(range(4))
    context = multiprocessing.get_context("fork")
    loader = torch.utils.data.DataLoader(
        Drawn(s), batch_size=2, num_workers=2, multiprocessing_context=context, timeout=LIMIT
    )
    assert torch.equal(torch.cat(list(loader)), expected)
