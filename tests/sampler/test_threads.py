"""Slices of a batch on CPU threads: same samples, errors and interrupts of any slice end the run."""

from __future__ import annotations

import threading

import pytest
import torch

import restart_sampling as rs
from restart_sampling.sampler.executors import threads

SHAPE = (3, 4, 5)
PLAN = dict(steps=6, restart=[3, 2, 0.1, 0.5])


class Net(torch.nn.Module):
    """Elementwise, so that its bits do not depend on the batch; remembers who called it with how many samples."""

    concurrent = True

    def __init__(self):
        super().__init__()
        self.calls = []
        self.fail_on = None

    def forward(self, x, c_noise, labels):
        self.calls.append((threading.get_ident(), len(x), torch.get_num_threads()))
        if self.fail_on is not None:
            self.fail_on(x)
        shift = 0.0 if labels is None else labels[:, :1].view(-1, 1, 1, 1)
        return (x + shift) / (1 + c_noise.view(-1, 1, 1, 1) ** 2)

    def __deepcopy__(self, memo):
        return self


def denoiser(label_dim=0):
    base = rs.Denoiser.from_function(lambda x, sigma: x, shape=SHAPE)
    return rs.Denoiser(Net(), base.parameterization, SHAPE, label_dim)


def test_sizes_cover_the_batch_evenly():
    assert threads.sizes(17, 3) == [6, 6, 5]
    assert [threads.count(n, 4) for n in (1, 15, 16, 24, 64)] == [1, 1, 2, 3, 4]
    assert threads.count(64, 1) == 1


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.0}])
def test_slices_give_the_samples_of_the_whole_batch(two_threads, options):
    plan = rs.Plan.build(**PLAN, **options)
    den = denoiser(4)
    sampler = rs.Sampler(den, plan, batch_size=16)
    caller, met, meet = threading.get_ident(), set(), threading.Barrier(2)

    def side_by_side(x):
        """The first slice waits for the second, or a quick thread would take both."""
        if (who := threading.get_ident()) not in (caller, *met):
            met.add(who)
            meet.wait(60)

    den.network.fail_on = side_by_side
    found = sampler.run(range(40))  # two full batches and one of eight, which is not cut
    calls = den.network.calls
    copies = 2 if options else 1
    assert {size for _, size, _ in calls} == {8 * copies}
    assert len({who for who, _, _ in calls}) == 3  # two slices, and the last batch on the caller's own thread
    assert {n for who, _, n in calls if who != threading.get_ident()} == {1}
    assert torch.get_num_threads() == 2
    sampler.workspace.slices = lambda n: None
    assert torch.equal(found, sampler.run(range(40)))


def test_latents_are_cut_with_the_seeds(two_threads):
    sampler = rs.Sampler(denoiser(), rs.Plan.build(**PLAN), batch_size=16)
    latents = rs.noise.normal(range(16), 0, SHAPE)
    assert torch.equal(sampler.run(range(16)), sampler.run(range(16), latents=latents))


def test_progress_is_of_the_slowest_slice_and_on_the_callers_thread(two_threads):
    seen = []
    sampler = rs.Sampler(denoiser(), rs.Plan.build(**PLAN), batch_size=16)
    sampler.run(range(16), callback=lambda p: seen.append((p.row, p.done, threading.get_ident())))
    nfe = sampler.plan.nfe
    assert [row for row, _, _ in seen] == list(range(nfe))
    assert seen[-1][1] == 16
    assert {who for _, _, who in seen} == {threading.get_ident()}


def test_an_error_of_one_slice_ends_the_run(two_threads):
    den = denoiser()
    lock, left = threading.Lock(), [5]

    def fail(x):
        with lock:
            left[0] -= 1
            if left[0] == 0:
                raise ZeroDivisionError("from the network")

    den.network.fail_on = fail
    sampler = rs.Sampler(den, rs.Plan.build(steps=300), batch_size=16)
    with pytest.raises(ZeroDivisionError, match="from the network"):
        sampler.run(range(16))
    assert len(den.network.calls) < 300  # the other slice stopped too
    den.network.fail_on = None
    assert sampler.run(range(16)).isfinite().all()  # and the sampler still works


def test_an_interrupt_stops_all_slices(two_threads):
    den = denoiser()
    sampler = rs.Sampler(den, rs.Plan.build(steps=300), batch_size=16)

    def interrupt(progress):
        if progress.row == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.run(range(16), callback=interrupt)
    calls = len(den.network.calls)
    assert calls < 2 * sampler.plan.nfe
    assert len(den.network.calls) == calls


def test_a_bad_sample_is_named_in_any_slice(two_threads):
    den = denoiser()
    plan = rs.Plan.build(**PLAN)
    latents = rs.noise.normal(range(16), 0, SHAPE)
    latents[13] = 3e38  # times sigma it is infinite

    with pytest.raises(rs.NonFiniteError, match="seed 13") as caught:
        rs.Sampler(den, plan, batch_size=16).run(range(16), latents=latents)
    (failure,) = caught.value.failures
    assert failure == {"seed": 13, "row": None, "sigma": plan.rows[0].sigma}
    assert "seed 13 in its initial latent (sigma 80)" in str(caught.value)


def test_only_networks_that_say_so_are_sliced(two_threads):
    """A user's function may keep state; a compiled network is one graph for one shape."""
    plan = rs.Plan.build(**PLAN)
    sizes = []
    fn = rs.Denoiser.from_function(lambda x, sigma: sizes.append(len(x)) or x * 0.5, shape=SHAPE)
    rs.Sampler(fn, plan, batch_size=16).run(range(16))
    assert set(sizes) == {16}
    for den, compile, sliced in (
        (denoiser(), "off", True),
        (denoiser(), "on", False),
        (rs.load("fashion-mnist"), "auto", True),
    ):
        sampler = rs.Sampler(den, plan, batch_size=16, compile=compile)
        sampler.workspace.entries(sampler.table)
        assert (sampler.workspace.slices(16) is not None) == sliced
