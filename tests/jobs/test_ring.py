"""The ring of pinned buffers, with stand-ins for the GPU's copies: buffers are used again, and copies end early or
late.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.jobs import pixels as ring_module
from restart_sampling.jobs.formats.base import Written
from restart_sampling.jobs.pipeline import Pipeline
from restart_sampling.jobs.pixels import HostRing, PinnedCopies
from restart_sampling.jobs.shards import Shards
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.source import SamplerSource
from restart_sampling.sampler.seeds import parse_seeds

PLAN = rs.Plan.build(steps=3, sigma_min=0.02, sigma_max=20.0)


class Copies(PinnedCopies):
    """A stream of copies: each is done at once ("early"), or only when it or a later one is waited for ("late")."""

    def __init__(self, when: str) -> None:
        self.when, self.started = when, []
        self.waits = 0

    def buffer(self, numel, dtype):
        return torch.full((numel,), 77, dtype=dtype)

    def start(self, made, buffer):
        self.started.append(lambda: buffer.copy_(made))
        copies, mine = self, len(self.started)

        class Event:
            def synchronize(self):
                copies.waits += 1
                copies.end(mine)

        if self.when == "early":
            self.end(mine)
        return Event()

    def end(self, count):
        """End the first `count` copies, in order, each once."""
        for i in range(count):
            self.started[i]()
            self.started[i] = lambda: None


class Tight:
    """A denoiser whose memory holds `fits` samples; in its first `roomy` calls, any number."""

    def __init__(self, fits, roomy=0):
        self.fits, self.roomy, self.calls, self.failed = fits, roomy, 0, 0

    def __call__(self, x, sigma):
        self.calls += 1
        if len(x) > self.fits and self.calls > self.roomy:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))


def images_of(network, batch, seeds, ring=None):
    """Seed → pixels of a job's pipeline, and the batch that it ended with."""
    written = {}
    source = SamplerSource(rs.Denoiser.from_function(network, (1, 4, 4)), PLAN, batch, {"device": "cpu"})
    source.ring = ring or source.ring

    def write(data):
        written.update(zip(data.seeds.tolist(), data.images, strict=True))
        return Written((), 0, "")

    shards = Shards(parse_seeds(seeds), 50)
    result = Pipeline(source, write, lambda line, data, before: None, PLAN.digest, Stop()).run(iter(shards))
    assert result.images == len(written)
    return written, source.batch


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize(
    ("fits", "batch", "count", "failures"),
    [
        (16, 64, 128, 2),  # 64 samples as 16 + 16 + 32; 32 images of the batch before it were once lost
        (8, 9, 18, 1),  # 9 samples as 4 + 4 + 1; here one image was lost
        (8, 40, 120, 3),  # 40, 20, 10, 5: pieces that do not divide
    ],
)
@pytest.mark.parametrize("batches_before", [0, 1])
def test_every_image_survives_a_batch_that_did_not_fit(fits, batch, count, failures, batches_before, when):
    """While a batch is on its way to the host, the pieces of the one behind it, which did not fit, need buffers too."""
    seeds = f"0-{count - 1}"
    want, _ = images_of(Tight(10**6), batch, seeds)
    network = Tight(fits, roomy=batches_before * PLAN.nfe)
    found, last = images_of(network, batch, seeds, HostRing("uint8", copies=Copies(when)))
    assert sorted(found) == sorted(want)
    assert [seed for seed in want if not np.array_equal(found[seed], want[seed])] == []
    assert (network.failed, last) == (failures, batch >> failures)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_batch_is_never_overwritten_whatever_the_order_of_fetching(slots, when):
    copies = Copies(when)
    ring = HostRing("float32", slots=slots, copies=copies)
    batches = [torch.randn(n, 1, 2, 2) for n in (5, 7, 2, 7, 1, 6, 7)]
    fetches = [ring.take(x) for x in batches]
    assert copies.waits == len(batches) - slots  # each of those had to leave its buffer
    for i in (4, 0, 6, 1, 5, 2, 3, 0):  # one of them twice
        np.testing.assert_array_equal(fetches[i](), batches[i].numpy())
    assert copies.waits == len(batches)
    assert len(ring.buffers) == slots


def test_batches_that_are_fetched_in_time_make_nobody_wait():
    """As the pipeline does it: the next batch is taken, then the last one fetched, which is when its copy is waited
    for.
    """
    copies = Copies("late")
    ring = HostRing("uint8", slots=3, copies=copies)
    before, first = None, None
    for i in range(8):
        x = torch.full((2, 1, 2, 2), -1 + i / 8)
        fetch, before = before, ring.take(x)
        assert copies.waits == max(0, i - 1)
        if fetch is not None:
            fetch()
        first = ring.buffers[0] if i == 0 else first
    assert ring.buffers[0] is first
    assert len(ring.buffers) == 3


def test_arrays_belong_to_who_fetched_them():
    """Neither the ring nor a batch that nobody waits for keeps a copy."""
    copies = Copies("early")
    ring = HostRing("uint8", slots=2, copies=copies)
    fetch = ring.take(torch.zeros(2, 1, 2, 2))
    array = fetch()
    kept = weakref.ref(array)
    del array, fetch
    gc.collect()
    assert kept() is None
    for _ in range(5):
        ring.take(torch.zeros(2, 1, 2, 2))
    assert copies.waits == 1


def test_the_event_is_recorded_on_the_stream_of_the_copy(monkeypatch):
    """On the device of the samples, also where another one is current."""
    log = []

    class Event:
        def record(self, stream=None):
            log.append(("record", stream))

        def synchronize(self):
            log.append(("wait",))

    class Buffer:
        def copy_(self, made, non_blocking):
            log.append(("copy", str(made.device), non_blocking))

    class OnGpu1:
        device = torch.device("cuda:1")

    class Current:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            log.append(("enter", str(self.device)))

        def __exit__(self, *_):
            log.append(("leave", str(self.device)))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "device", Current)
    event = ring_module.PinnedCopies().start(OnGpu1(), Buffer())
    event.synchronize()
    assert log == [
        ("enter", "cuda:1"),
        ("copy", "cuda:1", True),
        ("record", "stream of cuda:1"),
        ("leave", "cuda:1"),
        ("wait",),
    ]


def test_a_sampler_that_did_not_fit_is_let_go(tmp_path):
    """A smaller batch has the memory of the larger one: nobody holds the old sampler, its lanes and its network."""
    from restart_sampling.jobs.generate import run_job

    alive = []

    class Noted(Tight):
        def __call__(self, x, sigma):
            if len(x) <= self.fits:
                alive.append([ref() is not None for ref in made])
            return super().__call__(x, sigma)

    made: list[weakref.ref] = []
    original = SamplerSource._make

    def make(self, batch):
        sampler = original(self, batch)
        made.append(weakref.ref(sampler))
        return sampler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SamplerSource, "_make", make)
        network = Noted(8)
        denoiser = rs.Denoiser.from_function(network, (1, 4, 4))
        run_job(denoiser, PLAN, "0-31", tmp_path / "out", batch=32, options={"device": "cpu"}, sheets=0)
    assert network.failed == 2
    assert len(made) == 3
    assert alive
    assert all(states == [False, False, True] for states in alive)


def test_batches_of_a_gpu_are_never_overwritten(device):
    """With real pinned buffers, and copies that wait behind other work."""
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    ring = HostRing("float32", slots=2)
    batches = [torch.randn(n, 3, 16, 16, device=device) for n in (5, 7, 2, 7, 6)]
    fetches = []
    for x in batches:
        torch.cuda._sleep(10**7)
        fetches.append(ring.take(x))
    for fetch, x in reversed(list(zip(fetches, batches, strict=True))):
        np.testing.assert_array_equal(fetch(), x.cpu().numpy())
