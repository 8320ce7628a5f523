"""NVTX ranges: names, nesting, one domain; and nothing missing without the package."""

from __future__ import annotations

import pytest

import restart_sampling as rs
from restart_sampling import marks

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
def nvtx(monkeypatch):
    fake = FakeNvtx()
    monkeypatch.setattr(marks, "nvtx", fake)
    marks.mark.cache_clear()
    yield fake
    marks.mark.cache_clear()


def run():
    den = rs.Denoiser.from_function(lambda x, sigma: x * 0.5, shape=SHAPE)
    return rs.Sampler(den, rs.Plan.build(**PLAN), batch_size=2, device="cpu").run([0, 1])


def test_a_run_is_marked_by_batch_and_restart_iteration(nvtx):
    run()
    names = [
        "main",
        "restart 1 iteration 0",
        "main",
        "restart 0 iteration 0",
        "restart 0 iteration 1",
        "main",
    ]
    assert nvtx.seen == ["+batch", *(word for name in names for word in (f"+{name}", "-")), "-"]
    assert set(nvtx.domains) == {"restart_sampling"}


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
    from restart_sampling.cli import main

    with pytest.raises(SystemExit):
        main(["generate", "--steps", "2", "--seeds", "0-1", "--device", "cpu", "--out", str(tmp_path)])
        raise SystemExit
    assert nvtx.seen.count("+write") == 1


def test_without_nvtx_everything_runs(monkeypatch):
    monkeypatch.setattr(marks, "nvtx", None)
    marks.mark.cache_clear()
    assert run().isfinite().all()
    marks.mark.cache_clear()
