"""The graph executor: launches, equality, fallback, padding. On the CPU captures are tapes (`tape.py`); with
`--device cuda` the same tests, and those at the end, run on CUDA graphs."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from support.replays import PLAN, SHAPE, captured, denoiser, eager, with_graph
from support.tape import TapeCapture, make_capture

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.models import build_network
from restart_sampling.plan.guidance import ONE
from restart_sampling.plan.segments import spans
from restart_sampling.sampler.executors.capture import CudaCapture
from restart_sampling.sampler.executors.captured import UNTIL_IDLE
from restart_sampling.sampler.executors.chunks import CHUNKS, cut
from restart_sampling.sampler.executors.graph import MODES


@pytest.fixture
def capture(device):
    return make_capture(device)


def test_spans_cut_a_plan_where_its_restarts_are():
    plan = rs.Plan.build(**PLAN)
    cut = spans(plan)
    assert sum(span.rows for span in cut) == plan.nfe
    assert [span for span in cut if span.name.startswith("restart 0")] == [
        ("restart 0 iteration 0", 4, ONE),
        ("restart 0 iteration 1", 4, ONE),
    ]
    assert [span.name for span in cut if span.name.startswith("restart 1")] == [
        f"restart 1 iteration {k}" for k in range(3)
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label_dim", [0, 4])
def test_replays_give_the_bits_of_eager_launches(mode, label_dim, capture, device):
    plan = rs.Plan.build(**PLAN, guidance_scale=2.0 if label_dim else 1.0)
    sampler = captured(mode, capture, device, plan=plan, label_dim=label_dim)
    expected = eager(plan, device, label_dim).run(range(10))
    assert torch.equal(sampler.run(range(10)), expected)  # two full batches and one of two samples
    assert sampler.executor.note == ""
    assert sampler.executor.launches > 0


def test_launches_of_each_mode(device):
    """`while`: one launch a batch; `trajectory`: chunks of all rows; `loop`: chunks of each span; `step`: one a row."""
    plan = rs.Plan.build(**PLAN)
    in_spans = sum(len(cut(span.rows)) for span in spans(plan))
    assert plan.nfe == 8 + 8 + 8 + 1
    for mode, expected in (("while", 1), ("trajectory", 4), ("loop", in_spans), ("step", plan.nfe)):
        sampler = captured(mode, make_capture(device), device)
        seen = []
        sampler.run(range(4), callback=lambda p, seen=seen: seen.append(p.row))
        assert sampler.executor.launches == expected == len(seen)
        assert seen[-1] == plan.nfe - 1


def test_a_restart_loop_is_captured_once_and_replayed_k_times(capture, device):
    plan = rs.Plan.build(steps=8, restart=[3, 9, 0.1, 0.5])
    sampler = captured("loop", capture, device, plan=plan)
    sampler.run(range(8))
    lengths = [n for n, _ in capture.recorded]
    assert len(lengths) == len(set(lengths))
    iterations = [span for span in spans(plan) if span.name.startswith("restart")]
    assert {span.rows for span in iterations} == {4}
    assert sampler.executor.launches == 2 * sum(len(cut(span.rows)) for span in spans(sampler.plan))


def test_what_one_evaluation_launches():
    """The network's operators, one step, one advance: the length of a tape is linear in the evaluations it holds."""
    capture = TapeCapture()
    sampler = captured("trajectory", capture, "cpu")
    sampler.run([0])
    assert [length for length, _ in capture.recorded] == [8, 1]
    network = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            network.append(func)
            return func(*args, **(kwargs or {}))

    evaluation = sampler.workspace.evaluation(1)
    with torch.inference_mode(), Count():
        sampler.network(evaluation.machine.net_in, evaluation.machine.c_noise, None)
    for length, entries in capture.recorded:
        assert entries == length * (len(network) + 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_new_plan_needs_no_new_capture(mode, capture, device):
    """Only the table changes; chunks that no plan had before are captured by all but `step` and `while`."""
    sampler = captured(mode, capture, device)
    sampler.run(range(4))
    before = len(capture.recorded)
    other = rs.Plan.build(steps=6, restart=[[3, 2, 0.15, 0.6], [2, 3, 1.1, 4.0]], rho=5.0, s_noise=1.01)
    sampler.set_plan(other)
    assert torch.equal(sampler.run(range(4)), eager(other, device).run(range(4)))
    assert len(capture.recorded) == before
    longer = rs.Plan.build(steps=8)
    assert cut(longer.nfe) == [8, 4, 2, 1]
    sampler.set_plan(longer)
    assert torch.equal(sampler.run(range(4)), eager(longer, device).run(range(4)))
    lengths = [n for n, _ in capture.recorded]
    assert len(lengths) == len(set(lengths))
    assert set(lengths) == {"step": {1}, "while": {UNTIL_IDLE}}.get(mode, set(CHUNKS))


def test_a_capture_that_fails_ends_in_eager_launches_and_says_why(device):
    class Broken(TapeCapture):
        def capture(self, body, repeats):
            raise RuntimeError("operation not permitted when stream is capturing\n(extra lines)")

    sampler = captured("loop", Broken(), device)
    assert torch.equal(sampler.run(range(6)), eager(sampler.plan, device).run(range(6)))
    note = "graph=loop fell back to eager launches: operation not permitted when stream is capturing (extra lines)"
    assert note in sampler.notes


def test_a_network_that_asks_the_host_is_found_out_by_the_self_check():
    """Its answer is frozen in a capture: the replay differs from eager launches, and is not used."""

    def fn(x, sigma):
        return x * (0.5 if float(sigma[0]) > 1.0 else 0.25)

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, shape=SHAPE), rs.Plan.build(**PLAN), batch_size=4)
    expected = sampler.run(range(4))
    with_graph(sampler, "trajectory", TapeCapture())
    assert torch.equal(sampler.run(range(4)), expected)
    assert "gives another" in sampler.executor.note
    assert sampler.executor.note in sampler.notes


def test_a_network_that_does_not_repeat_itself_is_held_to_its_own_scatter():
    """Two eager runs differ in the last bits: a replay may differ as much, and no more."""
    generator = torch.Generator().manual_seed(0)

    def fn(x, sigma, scale=1e-6):
        return 0.5 * x + scale * torch.rand(x.shape, generator=generator)

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, shape=SHAPE), rs.Plan.build(**PLAN), batch_size=4)
    with_graph(sampler, "loop", TapeCapture())
    sampler.run(range(4))
    assert sampler.executor.note == ""


def test_replaced_parameters_are_captured_again(capture, device):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5, device=device))

        def forward(self, x, c_noise, labels):
            return x * self.weight

    net = Net()
    den = rs.Denoiser(net, denoiser().parameterization, SHAPE)
    sampler = rs.Sampler(den, rs.Plan.build(**PLAN), batch_size=2, graph="off", compile="off", device=device)
    with_graph(sampler, "step", capture)
    first = sampler.run([0, 1])
    evaluation = sampler.workspace.evaluation(2)
    evaluation.network = net  # the addresses of its own parameters are watched
    sampler.run([0, 1])
    captures = len(capture.recorded)
    net.weight = torch.nn.Parameter(torch.tensor(0.25, device=device))
    assert not torch.equal(sampler.run([0, 1]), first)
    assert len(capture.recorded) == captures + 1


@pytest.mark.parametrize(
    ("mode", "lengths"), [("step", [1]), ("loop", CHUNKS), ("trajectory", CHUNKS), ("while", CHUNKS)]
)
def test_mixed_plans_replay_chunks(mode, lengths, capture, device):
    """As many evaluations as there are until a lane is done, and the captures for fewer lanes at the end of the run."""
    long, short = rs.Plan.build(**PLAN), rs.Plan.build(steps=4, solver="euler")
    pairs = [(seed, long if seed == 3 else short) for seed in range(10)]
    sampler = captured(mode, capture, device)
    assert torch.equal(sampler.run(pairs), eager(long, device).run(pairs))
    assert sampler.executor.note == ""
    assert list(sampler.workspace._evaluations) == [(4, True), (1, True)]
    assert [n for n, _ in capture.recorded] == [*lengths] * 2


def test_the_table_grows_and_the_captures_follow(capture, device):
    sampler = captured("step", capture, device)
    sampler.run([0])
    sampler.run([1])
    long = rs.Plan.build(steps=700)
    sampler.set_plan(long)
    assert torch.equal(sampler.run([5]), eager(long, device).run([5]))
    assert sampler.workspace.program.generation == 1
    assert len(capture.recorded) == 2


def test_captures_die_with_the_buffers_they_refer_to(capture, device):
    """A guided plan needs other buffers: the graphs of the old ones, and their memory, are let go."""
    plain, guided = rs.Plan.build(**PLAN), rs.Plan.build(**PLAN, guidance_scale=2.0)
    sampler = captured("loop", capture, device, plan=plain, label_dim=4)
    for plan in (plain, guided, plain):
        sampler.set_plan(plan)
        assert torch.equal(sampler.run(range(4)), eager(plan, device, 4).run(range(4)))
        gc.collect()
        assert len(sampler.executor._graphs) == 1
    assert sampler.executor.note == ""


def test_graphs_are_refused_where_there_are_none():
    for mode in MODES:
        with pytest.raises(rs.RestartError, match=f"graph='{mode}' needs a CUDA device"):
            rs.Sampler(denoiser(), rs.Plan.build(), graph=mode, device="cpu")
    with pytest.raises(rs.RestartError, match="graph must be one of auto, off, step, loop, trajectory, while"):
        rs.Sampler(denoiser(), rs.Plan.build(), graph="cuda")


def test_idle_lanes_are_left_alone_by_a_padded_batch(capture, device):
    sampler = captured("loop", capture, device)
    x = sampler.run([7, 8, 9])
    assert torch.equal(x, eager(sampler.plan, device).run([7, 8, 9]))
    assert sampler.workspace.evaluation(4).machine.first_bad.tolist() == [layout.NEVER] * 4


# What only a GPU can show.

SONG = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 0,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


@pytest.fixture
def cuda(device):
    if device.type != "cuda":
        pytest.skip("needs a GPU: pytest --device cuda")
    return device


def song():
    network = build_network(SONG, seed=0)
    return rs.Denoiser(network, network.parameterization, (3, 8, 8))


@pytest.mark.parametrize(
    ("mode", "dtype", "compile"),
    [(mode, dtype, "off") for mode in MODES for dtype in ("fp32", "bf16")]
    + [pytest.param("loop", "fp32", "on", marks=pytest.mark.compiles)],
)
def test_a_u_net_gives_the_same_bits_in_every_mode(mode, dtype, compile, cuda):
    plan = rs.Plan.build(**PLAN)
    options = dict(batch_size=4, device=cuda, dtype=dtype, compile=compile)
    sampler = rs.Sampler(song(), plan, graph="off", **options)
    expected = sampler.run(range(8))
    # The same network goes on: compiled anew it may be tuned otherwise, and then rounds otherwise.
    found = with_graph(sampler, mode, make_capture(cuda)).run(range(8))
    assert sampler.executor.note == ""
    assert sampler.executor.launches > 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["step", "loop", "trajectory"])
def test_replays_neither_wait_nor_allocate(mode, cuda):
    sampler = rs.Sampler(song(), rs.Plan.build(**PLAN), batch_size=4, graph=mode, device=cuda, compile="off")
    sampler.run(range(4))
    evaluation, entry = sampler.workspace.evaluation(4), sampler.workspace.entries(sampler.table)[0]
    with torch.inference_mode():
        evaluation.load(entry, torch.arange(4, device=cuda), None)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats(cuda)["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampler.executor.run(evaluation, entry.spans)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats(cuda)["allocation.all.allocated"] == before


@pytest.mark.parametrize("mode", MODES)
def test_a_network_that_synchronizes_falls_back_and_the_device_goes_on(mode, cuda):
    def fn(x, sigma):
        return x * (0.5 if float(sigma[0]) > 1.0 else 0.25)

    plan, den = rs.Plan.build(**PLAN), rs.Denoiser.from_function(fn, shape=SHAPE)
    expected = rs.Sampler(den, plan, batch_size=4, graph="off", device=cuda).run(range(8))
    stream = torch.cuda.current_stream()
    sampler = rs.Sampler(den, plan, batch_size=4, graph=mode, device=cuda)
    assert torch.equal(sampler.run(range(8)), expected)
    assert "fell back to eager launches" in sampler.notes[-1]
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # the allocator no longer believes in a capture
    torch.randn(2, device=cuda)  # nor does the generator
    good = rs.Sampler(denoiser(), plan, batch_size=4, graph=mode, device=cuda)
    good.run(range(4))
    assert good.executor.note == ""


def test_another_thread_may_use_the_device_during_a_capture(cuda):
    """A writer thread allocates, copies and waits while graphs are captured."""
    stop, errors = threading.Event(), []

    def work():
        size = 1 << 20
        try:
            while not stop.is_set():
                torch.ones(size, device=cuda).sum().cpu()
                size = 1 << 20 if size > 1 << 26 else size + (1 << 21)  # new blocks, so that the driver is called
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        plan = rs.Plan.build(**PLAN)
        expected = rs.Sampler(song(), plan, batch_size=4, graph="off", device=cuda, compile="off").run(range(4))
        for _ in range(5):
            sampler = rs.Sampler(song(), plan, batch_size=4, graph="loop", device=cuda, compile="off")
            assert torch.equal(sampler.run(range(4)), expected)
            assert sampler.executor.note == ""
    finally:
        stop.set()
        thread.join()
    assert errors == []


def test_a_capture_is_made_on_the_stream_and_used_on_the_current_one(cuda):
    """The result is right on another stream than the one of the warm-up."""
    plan = rs.Plan.build(**PLAN)
    expected = rs.Sampler(denoiser(), plan, batch_size=4, graph="off", device=cuda).run(range(8))
    sampler = with_graph(
        rs.Sampler(denoiser(), plan, batch_size=4, graph="off", device=cuda), "loop", CudaCapture(cuda)
    )
    side = torch.cuda.Stream(cuda)
    with torch.cuda.stream(side):
        found = sampler.run(range(8))
    side.synchronize()
    assert torch.equal(found, expected)
    assert torch.equal(sampler.run(range(8)), expected)
