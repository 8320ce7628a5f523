"""How many lanes and captures a run takes: buckets of 1, 2, 4, … lanes, chunks of 8, 4, 2 and 1 evaluations, and what
is kept of them. Captures are tapes (`tape.py`); batches are counted in the network."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from support.networks import tiny
from support.replays import PLAN, SHAPE, captured, denoiser, eager, with_graph
from support.tape import TapeCapture

import restart_sampling as rs
from restart_sampling.jobs.source import SamplerSource
from restart_sampling.plan.segments import spans
from restart_sampling.sampler.executors.buckets import batches, bucket
from restart_sampling.sampler.executors.chunks import CHUNKS, cut
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.sampler.seeds import parse_seeds


def counted(**options):
    """A sampler on the CPU that runs as graphs make it run, and the lanes of each of its network calls."""
    sizes, base = [], denoiser()

    def fn(x, sigma):
        sizes.append(len(x))
        return base.network(x, sigma, None)

    den = rs.Denoiser.from_function(fn, shape=SHAPE, augmented_dim=options.pop("augmented_dim", None))
    sampler = rs.Sampler(den, rs.Plan.build(**PLAN), graph="off", device="cpu", **options)
    sampler.workspace.pads = True
    return sampler, sizes


def test_buckets_are_the_powers_of_two_and_the_batch_size():
    assert [bucket(n, 12) for n in range(1, 13)] == [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]
    assert all(bucket(n, 10**6) < 2 * n for n in range(1, 2000))
    assert batches(40, 16) == (16, 8)
    assert batches(32, 16) == (16,)
    assert batches(3, 16) == (3,)


def test_chunks_add_up_in_few_launches():
    for rows in range(1, 600):
        assert sum(cut(rows)) == rows
        assert len(cut(rows)) == rows // 8 + (rows % 8).bit_count()
        assert set(cut(rows)) <= set(CHUNKS)


@pytest.mark.parametrize("batch_size", [1, 12, 16])
@pytest.mark.parametrize("augmented_dim", [None, 64])
def test_at_most_2n_lanes_for_every_number_of_samples(batch_size, augmented_dim):
    sampler, sizes = counted(batch_size=batch_size, augmented_dim=augmented_dim)
    for n in range(1, 34):
        sizes.clear()
        assert len(sampler.run(range(n))) == n
        assert n * sampler.plan.nfe <= sum(sizes) < 2 * n * sampler.plan.nfe
    assert len(sampler.workspace._evaluations) <= batch_size.bit_length() + 1


def test_batch_invariant_keeps_one_batch_size():
    sampler, sizes = counted(batch_size=12, batch_invariant=True)
    for n in (1, 5, 13):
        sampler.run(range(n))
    assert set(sizes) == {12}
    short = rs.Plan.build(steps=2)
    sampler.run([(0, sampler.plan), (1, short), (2, short)])
    assert set(sizes) == {12}


def test_a_mixed_batch_narrows_to_the_bucket_of_its_live_samples():
    """At each call fewer than twice the live samples; the samples moved on their way are those of their own runs."""
    sampler, sizes = counted(batch_size=8)
    long, middle, short = sampler.plan, rs.Plan.build(steps=5), rs.Plan.build(steps=2)
    pairs = [(seed, (short, long, middle, short, short, middle, short)[seed]) for seed in range(7)]
    x = sampler.run(pairs)
    live = [sum(plan.nfe > row for _, plan in pairs) for row in range(long.nfe)]
    assert sizes == [bucket(n, 8) for n in live]
    assert set(sizes) == {8, 4, 1}
    for i, (seed, plan) in enumerate(pairs):
        assert torch.equal(x[i : i + 1], rs.sample(denoiser(), plan, [seed], device="cpu"))


@pytest.mark.parametrize(("label_dim", "guidance"), [(0, 1.0), (4, 1.0), (4, 2.0)])
def test_captures_on_the_way_of_a_mixed_batch_leave_its_samples_alone(label_dim, guidance):
    """The batch narrows to sizes that are captured, and checked, while samples are under way."""
    long = rs.Plan.build(**PLAN, guidance_scale=guidance)
    short = rs.Plan.build(steps=2, guidance_scale=guidance)
    pairs = [(seed, long if seed in (2, 5) else short) for seed in range(6)]
    capture = TapeCapture()
    sampler = captured("loop", capture, "cpu", plan=long, label_dim=label_dim, batch_size=8)
    assert torch.equal(sampler.run(pairs), eager(long, "cpu", label_dim).run(pairs))
    assert sampler.executor.note == ""
    assert list(sampler.workspace._evaluations) == [(8, True), (2, True)]
    assert len(capture.recorded) == 2 * len(CHUNKS)


@pytest.mark.parametrize("mode", MODES)
def test_buckets_give_the_bits_of_eager_launches(mode):
    sampler = captured(mode, TapeCapture(), "cpu", batch_size=12)
    alone = eager(sampler.plan, "cpu")
    for n in range(1, 18):
        assert torch.equal(sampler.run(range(n)), alone.run(range(n))), n
    assert sampler.executor.note == ""
    assert {size for size, _ in sampler.workspace._evaluations} == {1, 2, 4, 8, 12}


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_plans_needs_a_constant_number_of_captures(mode):
    """As in a search over plans: at most a chunk of each length, and the checks of so many evaluations, once."""
    calls, base = [], denoiser()

    def fn(x, sigma):
        calls.append(len(x))
        return base.network(x, sigma, None)

    plans = [rs.Plan.build(steps=steps, restart=[2, K, 0.1, 0.5]) for steps in range(3, 15) for K in (1, 3)]
    den = rs.Denoiser.from_function(fn, shape=SHAPE)
    capture = TapeCapture()
    sampler = with_graph(rs.Sampler(den, plans[0], batch_size=2, graph="off", device="cpu"), mode, capture)
    assert len({span.rows for plan in plans for span in spans(plan)}) > 12
    for plan in plans:
        sampler.set_plan(plan)
        sampler.run([0, 1])
    lengths = [length for length, _ in capture.recorded]
    assert len(lengths) == sampler.executor.captures == {"step": 1, "while": 1}.get(mode, len(CHUNKS))
    # Warming up, capturing, and the eager half of the checks: replays call no Python.
    captured_rows = sum(length or 1 for length in lengths)
    checked = plans[0].nfe if mode == "while" else 2 * captured_rows
    assert len(calls) <= 1 + captured_rows + checked


def test_the_graphs_of_the_batch_sizes_used_last_are_kept():
    capture = TapeCapture()
    sampler = captured("step", capture, "cpu", batch_size=8)
    with_graph(sampler, "step", capture, limit=2)
    alone = eager(sampler.plan, "cpu")
    for n, captures in ((1, 1), (2, 2), (1, 2), (8, 3), (1, 3), (2, 4), (8, 5)):
        assert torch.equal(sampler.run(range(n)), alone.run(range(n)))
        assert sampler.executor.captures == len(capture.recorded) == captures, n
        assert len(sampler.executor._graphs) <= 2


def test_what_is_captured_is_described():
    capture = TapeCapture()
    sampler = captured("loop", capture, "cpu", plan=rs.Plan.build(steps=8), batch_size=4)
    assert "graph loop, network" in sampler.describe()
    sampler.run(range(6))
    nodes = sum(entries for _, entries in capture.recorded)
    expected = f"graph loop (8 graphs for 2 batch sizes, 30 evaluations, {nodes:,} nodes, 8 MiB), network"
    assert expected in sampler.describe()
    capture.bytes = None
    sampler.run(range(1))
    assert "12 graphs for 3 batch sizes, 45 evaluations" in sampler.describe()
    assert "unknown memory" in sampler.describe()
    sampler.executor.note = "graph=loop fell back to eager launches: because"
    assert "graph loop (fell back to eager launches), network" in sampler.describe()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augmented_dim", [None, 64])
@pytest.mark.parametrize("n", [None, 3, 11])
def test_after_a_warmup_a_run_captures_nothing(mode, augmented_dim, n):
    den = rs.Denoiser.from_function(
        lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=SHAPE, augmented_dim=augmented_dim
    )
    plan, capture = rs.Plan.build(**PLAN), TapeCapture()
    sampler = with_graph(rs.Sampler(den, plan, batch_size=4, graph="off", device="cpu"), mode, capture)
    assert sampler.warmup(n) is sampler
    before = len(capture.recorded)
    assert before > 0
    seeds = range(4 if n is None else n)
    x = sampler.run(seeds)
    assert len(capture.recorded) == before
    assert sampler.executor.note == ""
    assert torch.equal(x, rs.Sampler(den, plan, batch_size=4, graph="off", device="cpu").run(seeds))


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "4"])
def test_a_warmup_of_no_number_is_refused(n):
    with pytest.raises(rs.RestartError, match="n must be an integer ≥ 1"):
        captured("loop", TapeCapture(), "cpu").warmup(n)


def test_a_warmup_of_slices_changes_nothing():
    plan = rs.Plan.build(steps=2)
    den = tiny("cpu")
    den.network.concurrent = True
    plain, warm = (rs.Sampler(den, plan, batch_size=32, device="cpu", batch_invariant=True) for _ in range(2))
    assert torch.equal(warm.warmup().run(range(20)), plain.run(range(20)))


def test_a_network_is_compiled_once_for_each_bucket(device):
    """By the warmup or on first need; whatever dynamo's limit for one function is, and without a warning."""
    import torch._dynamo

    sampler = rs.Sampler(tiny(device), rs.Plan.build(steps=2), batch_size=4, compile="on", device=device)
    with torch._dynamo.config.patch(recompile_limit=1), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        sampler.warmup()
        assert (sampler.network.compilations, sampler.network.recompiles) == (1, 0)
        for n in (4, 3, 2, 6):
            sampler.run(range(n))
    assert {size for size, _ in sampler.workspace._evaluations} == {4, 2}
    assert (sampler.network.compilations, sampler.network.recompiles) == (2, 0)


def test_a_mixed_batch_of_a_compiled_network_keeps_its_size(device):
    short, long = rs.Plan.build(steps=2), rs.Plan.build(steps=4)
    sampler = rs.Sampler(tiny(device), short, batch_size=8, compile="on", device=device)
    sampler.run([(0, long), (1, short), (2, short)])
    assert list(sampler.workspace._evaluations) == [(4, True)]
    assert (sampler.network.compilations, sampler.network.recompiles) == (1, 0)


# Failures


class OutOfMemory(TapeCapture):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def capture(self, body, repeats):
        if self.error is not None and body.n > 2:
            raise self.error
        return super().capture(body, repeats)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_a_capture_without_memory_is_out_of_memory(error):
    """Not slow launches in silence: a job then halves its batch, and another capture is tried."""
    capture = OutOfMemory(error)
    sampler = captured("loop", capture, "cpu", batch_size=8)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        sampler.run(range(8))
    assert sampler.notes == captured("loop", TapeCapture(), "cpu").notes
    plan = sampler.plan
    assert torch.equal(sampler.run(range(2)), eager(plan, "cpu").run(range(2)))  # smaller batches still run
    capture.error = None
    assert torch.equal(sampler.run(range(8)), eager(plan, "cpu").run(range(8)))
    assert sampler.executor.note == ""


def test_a_job_draws_smaller_batches_when_a_capture_runs_out_of_memory():
    events = []
    source = SamplerSource(
        denoiser(),
        rs.Plan.build(steps=2),
        16,
        {"device": "cpu", "graph": "off"},
        note=lambda event, details: events.append((event, details["batch"], details["next"])),
    )
    with_graph(source.sampler, "loop", OutOfMemory(torch.OutOfMemoryError("CUDA out of memory")))
    assert source.draw(parse_seeds("0-15")).fetch().shape[0] == 16
    assert events == [("out of memory", 16, 8)]


def test_an_error_of_the_network_itself_is_raised_as_it_is():
    """It is no fault of the capture: launched eagerly, as the check does first, the network fails too."""

    def fn(x, sigma):
        raise ValueError("my own mistake")

    den = rs.Denoiser.from_function(fn, shape=SHAPE)
    sampler = rs.Sampler(den, rs.Plan.build(**PLAN), batch_size=2, graph="off", device="cpu")
    with pytest.raises(ValueError, match="my own mistake"):
        with_graph(sampler, "loop", TapeCapture()).run([0])
    assert sampler.executor.note == ""


class Large:
    """Stands for a tensor that a frame holds."""


def test_the_frames_of_a_failed_capture_are_let_go():
    """Without a garbage collection: they hold the network's activations."""
    held = []

    class Broken(TapeCapture):
        def capture(self, body, repeats):
            large = Large()
            held.append(weakref.ref(large))
            raise RuntimeError("no")

    sampler = captured("loop", Broken(), "cpu")
    gc.collect()
    gc.disable()
    try:
        sampler.run(range(4))
        assert "fell back to eager launches: no" in sampler.executor.note
        assert [ref() for ref in held] == [None]
    finally:
        gc.enable()


def test_the_tensors_of_the_prepared_network_are_watched():
    """A parameter or buffer that is replaced inside it is captured again; a graph holds its address."""
    capture = TapeCapture()
    sampler = rs.Sampler(tiny("cpu"), rs.Plan.build(steps=3), batch_size=2, graph="off", device="cpu")
    with_graph(sampler, "step", capture)
    first = sampler.run([0, 1])
    module = sampler.network.module
    module.weight = torch.nn.Parameter(module.weight * 0.5, requires_grad=False)
    assert not torch.equal(sampler.run([0, 1]), first)
    assert len(capture.recorded) == 2
    module.register_buffer("offset", torch.zeros(3))
    sampler.run([0, 1])
    assert len(capture.recorded) == 3


@pytest.mark.parametrize("threshold", [1.0, 0.01, 20.0])
def test_a_decision_on_the_host_is_found_wherever_the_level_is(threshold):
    """The check compares the start and the end of a plan: what is frozen in a capture is wrong in one of them."""

    def fn(x, sigma):
        return x * (0.5 if float(sigma[0]) > threshold else 0.25)

    sampler = rs.Sampler(
        rs.Denoiser.from_function(fn, shape=SHAPE), rs.Plan.build(steps=18), batch_size=4, device="cpu"
    )
    expected = sampler.run(range(4))
    for mode in MODES:
        assert torch.equal(with_graph(sampler, mode, TapeCapture()).run(range(4)), expected)
        assert "gives another" in sampler.executor.note


def test_a_network_that_gives_nan_and_does_not_repeat_itself_is_still_captured():
    """NaN in both runs is the same value; only the rest is held to the scatter of two runs."""
    generator = torch.Generator().manual_seed(0)

    def fn(x, sigma):
        out = 0.5 * x + 1e-6 * torch.rand(x.shape, generator=generator)
        out[0, 0, 0, 0] = torch.nan
        return out

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, shape=SHAPE), rs.Plan.build(**PLAN), batch_size=2)
    with_graph(sampler, "loop", TapeCapture())
    with pytest.raises(rs.NonFiniteError):
        sampler.run(range(2))
    assert sampler.executor.note == ""
