"""NVTX ranges: names, nesting, one domain; and nothing missing without the package."""

from __future__ import annotations

import pytest
import torch
from support.replays import with_graph
from support.tape import TapeCapture

import restart_sampling as rs
from restart_sampling.common import marks

SHAPE = (1, 2, 2)
PLAN = dict(steps=10, restart=[[3, 2, 0.1, 0.5], [2, 1, 1.0, 5.0]])


class FakeNvtx:
    """Records what a profiler would see."""

    def __init__(self):
        self.seen, self.domains = [], []

    def get_domain(self, name):
        self.domains.append(name)
        return self

    def get_event_attributes(self, message):
        return message

    def push_range(self, attributes):
        self.seen.append(f"+{attributes}")

    def pop_range(self):
        self.seen.append("-")


@pytest.fixture
def nvtx():
    fake = FakeNvtx()
    with marks.sent_to(fake):
        yield fake


def sampler():
    den = rs.Denoiser.from_function(lambda x, sigma: x * 0.5, shape=SHAPE)
    return rs.Sampler(den, rs.Plan.build(**PLAN), batch_size=2, device="cpu", graph="off")


def run():
    return sampler().run([0, 1])


SPANS = ["main", "restart 1 iteration 0", "main", "restart 0 iteration 0", "restart 0 iteration 1", "main"]
MARKED_SPANS = [word for name in SPANS for word in (f"+{name}", "-")]


def test_a_run_is_marked_by_batch_and_restart_iteration(nvtx):
    run()
    assert nvtx.seen == ["+batch", *MARKED_SPANS, "-"]
    assert set(nvtx.domains) == {"restart_sampling"}


@pytest.mark.parametrize("mode", ["step", "loop", "trajectory"])
def test_captures_and_replays_are_marked(nvtx, mode):
    """The first batch captures, the second only replays; a whole trajectory is one range."""
    graph = sampler()
    with_graph(graph, mode, TapeCapture())
    replays = ["+trajectory", "-"] if mode == "trajectory" else MARKED_SPANS
    graph.run([0, 1])
    assert not graph.notes
    assert nvtx.seen == ["+batch", "+capture", "-", *replays, "-"]
    nvtx.seen.clear()
    graph.run([2, 3])
    assert nvtx.seen == ["+batch", *replays, "-"]


def test_ranges_are_made_once(nvtx):
    run()
    made = len(nvtx.domains)
    run()
    assert len(nvtx.domains) == made


def test_a_range_ends_with_an_error_too(nvtx):
    with pytest.raises(ZeroDivisionError), marks.mark("write"):
        raise ZeroDivisionError
    assert nvtx.seen == ["+write", "-"]


def test_files_are_written_in_a_range(nvtx, tmp_path):
    from restart_sampling.cli.app import main

    with pytest.raises(SystemExit):
        main(["generate", "--steps", "2", "--seeds", "0-1", "--device", "cpu", "--out", str(tmp_path)])
        raise SystemExit
    assert nvtx.seen.count("+write") == 1  # the shard, by a writer
    assert nvtx.seen[-2:] == ["+write", "-"]


def test_without_the_package_the_ranges_are_those_of_pytorch():
    """They know no domains, so the name carries it."""

    class Calls:
        def __init__(self):
            self.seen = []

        def range_push(self, name):
            self.seen.append(f"+{name}")

        def range_pop(self):
            self.seen.append("-")

    calls = Calls()
    with marks.sent_to(marks.TorchNvtx(calls)):
        assert marks.provider() == "torch"
        run()
    spans = [f"+restart_sampling: {word[1:]}" if word != "-" else word for word in MARKED_SPANS]
    assert calls.seen == ["+restart_sampling: batch", *spans, "-"]


def test_who_makes_the_ranges_is_known(nvtx, monkeypatch):
    assert marks.provider() == "nvtx"
    with marks.sent_to(None):
        assert marks.provider() == "none"
    monkeypatch.delattr(torch._C, "_nvtx", raising=False)  # a PyTorch without CUDA: its calls would raise
    assert marks._torch_nvtx() is None
    monkeypatch.setattr(torch._C, "_nvtx", object(), raising=False)
    assert isinstance(marks._torch_nvtx(), marks.TorchNvtx)


def test_without_nvtx_everything_runs():
    with marks.sent_to(None):
        assert run().isfinite().all()


def test_ranges_come_back_after_a_profiler(nvtx):
    other = FakeNvtx()
    with marks.sent_to(other), marks.mark("write"):
        pass
    with marks.mark("batch"):
        pass
    assert (other.seen, nvtx.seen) == (["+write", "-"], ["+batch", "-"])
