"""The graph executor, on a capture that needs no GPU (`tape.py`): launches, equality, fallback, padding."""

from __future__ import annotations

import pytest
import torch
from tape import TapeCapture

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.executors.graph import MODES, GraphExecutor
from restart_sampling.spans import spans

SHAPE = (3, 4, 5)
PLAN = dict(steps=6, restart=[[3, 2, 0.1, 0.5], [2, 3, 1.0, 5.0]])


def denoiser(label_dim=0):
    """Elementwise, so that its bits do not depend on the batch."""

    def fn(x, sigma, class_labels=None):
        shift = 0.0 if class_labels is None else class_labels[:, :1].view(-1, 1, 1, 1)
        return (x + shift) / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    return rs.Denoiser.from_function(fn, shape=SHAPE, label_dim=label_dim)


def captured(mode, capture=None, plan=None, label_dim=0, batch_size=4):
    """A sampler whose evaluations are captured on tapes."""
    sampler = rs.Sampler(denoiser(label_dim), plan or rs.Plan.build(**PLAN), batch_size=batch_size)
    sampler.executor = GraphExecutor(mode, capture or TapeCapture())
    sampler.pads = True
    return sampler


def test_spans_cut_a_plan_where_its_restarts_are():
    plan = rs.Plan.build(**PLAN)
    cut = spans(plan)
    assert sum(span.rows for span in cut) == plan.nfe
    assert [span for span in cut if span.name.startswith("restart 0")] == [
        ("restart 0 iteration 0", 4),
        ("restart 0 iteration 1", 4),
    ]
    assert [span.name for span in cut if span.name.startswith("restart 1")] == [
        f"restart 1 iteration {k}" for k in range(3)
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label_dim", [0, 4])
def test_replays_give_the_bits_of_eager_launches(mode, label_dim):
    plan = rs.Plan.build(**PLAN, guidance_scale=2.0 if label_dim else 1.0)
    sampler = captured(mode, plan=plan, label_dim=label_dim)
    expected = rs.Sampler(denoiser(label_dim), plan, batch_size=4, graph="off").run(range(10))
    assert torch.equal(sampler.run(range(10)), expected)  # two full batches and one of two samples
    assert sampler.executor.note == ""
    assert sampler.executor.launches > 0


def test_launches_of_each_mode():
    """`trajectory` is one launch a batch, `loop` one a span, `step` one an evaluation."""
    plan = rs.Plan.build(**PLAN)
    for mode, expected in (("trajectory", 1), ("loop", len(spans(plan))), ("step", plan.nfe)):
        sampler = captured(mode)
        seen = []
        sampler.run(range(4), callback=lambda p, seen=seen: seen.append(p.row))
        assert sampler.executor.launches == expected == len(seen)
        assert seen[-1] == plan.nfe


def test_a_restart_loop_is_captured_once_and_replayed_k_times():
    capture = TapeCapture()
    sampler = captured("loop", capture, plan=rs.Plan.build(steps=8, restart=[3, 9, 0.1, 0.5]))
    sampler.run(range(8))
    lengths = [n for n, _ in capture.recorded]
    assert len(lengths) == len(set(lengths))
    assert lengths.count(4) == 1
    assert sampler.executor.launches == 2 * len(spans(sampler.plan))


def test_what_one_evaluation_launches():
    """The network's operators, one step, one advance: the length of a tape is linear in the evaluations it holds."""
    capture = TapeCapture()
    sampler = captured("trajectory", capture)
    sampler.run([0])
    ((nfe, entries),) = capture.recorded
    assert nfe == sampler.plan.nfe
    network = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            network.append(func)
            return func(*args, **(kwargs or {}))

    evaluation = sampler._evaluation(4)
    with torch.inference_mode(), Count():
        sampler.network(evaluation.machine.net_in, evaluation.machine.c_noise, None)
    assert entries == nfe * (len(network) + 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_new_plan_needs_no_new_capture_of_step(mode):
    """Only the table changes; spans of lengths not seen before are captured, and `step` has one length."""
    capture = TapeCapture()
    sampler = captured(mode, capture)
    sampler.run(range(4))
    before = len(capture.recorded)
    other = rs.Plan.build(steps=6, restart=[[3, 2, 0.15, 0.6], [2, 3, 1.1, 4.0]], rho=5.0, s_noise=1.01)
    sampler.set_plan(other)
    expected = rs.Sampler(denoiser(), other, batch_size=4, graph="off").run(range(4))
    assert torch.equal(sampler.run(range(4)), expected)
    assert len(capture.recorded) == before


def test_a_capture_that_fails_ends_in_eager_launches_and_says_why():
    class Broken(TapeCapture):
        def capture(self, body, repeats):
            raise RuntimeError("operation not permitted when stream is capturing\n(extra lines)")

    sampler = captured("loop", Broken())
    expected = rs.Sampler(denoiser(), sampler.plan, batch_size=4, graph="off").run(range(6))
    assert torch.equal(sampler.run(range(6)), expected)
    assert sampler.notes == (
        "graph=loop fell back to eager launches: operation not permitted when stream is capturing (extra lines)",
    )


def test_a_network_that_asks_the_host_is_found_out_by_the_self_check():
    """Its answer is frozen in a capture: the replay differs from eager launches, and is not used."""

    def fn(x, sigma):
        return x * (0.5 if float(sigma[0]) > 1.0 else 0.25)

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, shape=SHAPE), rs.Plan.build(**PLAN), batch_size=4)
    expected = sampler.run(range(4))
    sampler.executor = GraphExecutor("trajectory", TapeCapture())
    sampler.pads = True
    assert torch.equal(sampler.run(range(4)), expected)
    assert "gives another" in sampler.notes[0]


def test_replaced_parameters_are_captured_again():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, c_noise, labels):
            return x * self.weight

    net = Net()
    base = denoiser()
    den = rs.Denoiser(net, base.parameterization, SHAPE)
    sampler = rs.Sampler(den, rs.Plan.build(**PLAN), batch_size=2)
    capture = TapeCapture()
    sampler.executor = GraphExecutor("step", capture)
    sampler.pads = True
    evaluation = None
    first = sampler.run([0, 1])
    evaluation = sampler._evaluation(2)
    evaluation.network = net  # the addresses of its own parameters are watched
    sampler.run([0, 1])
    captures = len(capture.recorded)
    net.weight = torch.nn.Parameter(torch.tensor(0.25))
    assert not torch.equal(sampler.run([0, 1]), first)
    assert len(capture.recorded) == captures + 1


def test_mixed_plans_replay_one_evaluation_at_a_time():
    plans = [rs.Plan.build(**PLAN), rs.Plan.build(steps=9), rs.Plan.build(steps=4, solver="euler")]
    pairs = [(seed, plans[seed % 3]) for seed in range(11)]
    expected = rs.Sampler(denoiser(), plans[0], batch_size=4, graph="off").run(pairs)
    capture = TapeCapture()
    sampler = captured("trajectory", capture)
    assert torch.equal(sampler.run(pairs), expected)
    assert [n for n, _ in capture.recorded] == [1]


def test_the_table_grows_and_the_captures_follow():
    capture = TapeCapture()
    sampler = captured("step", capture)
    sampler.run([0])
    long = rs.Plan.build(steps=700)
    sampler.set_plan(long)
    assert torch.equal(sampler.run([5]), rs.Sampler(denoiser(), long, graph="off").run([5]))
    assert sampler.program.generation == 1
    assert len(capture.recorded) == 2


def test_graphs_are_refused_where_there_are_none():
    for mode in (*MODES, "while"):
        with pytest.raises(rs.RestartError, match=f"graph='{mode}' needs a CUDA device"):
            rs.Sampler(denoiser(), rs.Plan.build(), graph=mode, device="cpu")
    with pytest.raises(
        rs.RestartError, match="graph must be one of auto, off, step, loop, trajectory, while"
    ):
        rs.Sampler(denoiser(), rs.Plan.build(), graph="cuda")


def test_idle_lanes_are_left_alone_by_a_padded_batch():
    sampler = captured("loop")
    x = sampler.run([7])
    assert torch.equal(x, rs.Sampler(denoiser(), sampler.plan, graph="off").run([7]))
    assert sampler._evaluation(4).machine.first_bad.tolist() == [layout.NEVER] * 4
