"""The trace: x, D and noise of every row are those of a float64 loop, and tracing changes no bit under any executor."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support import problems, steps
from support.replays import PLAN, SHAPE, captured, denoiser, eager, with_graph
from support.tape import TapeCapture, make_capture
from support.traces import assert_equal_traces, by_sample, traced

import restart_sampling as rs
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler import reference
from restart_sampling.sampler.executors.chunks import CHUNKS, cut
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.solvers.registry import handling

SEEDS = [5, 0, 2**40]
RESTART = [[3, 2, 0.1, 0.5], [2, 2, 1.0, 5.0]]


def exact(data, precision):
    """D(x, sigma) in float64, sigma rounded as float32 registers have it."""

    def D(x, level):
        sigma = torch.full((len(x),), level, dtype=torch.float64)
        return data(x, sigma.float().double() if precision == torch.float32 else sigma)

    return D


def draws(seeds, shape):
    return lambda k: rs.noise.normal(seeds, k, shape).double()


def assert_close(rows, evaluations, plan, ulps):
    """Each row of the trace against an evaluation of the float64 loop, which is (x, sigma, D).

    The tolerance is a few roundings of the largest state on the way; D, a sum of a few modes, amplifies what x has.
    """
    assert [row.row for row in rows] == list(range(plan.nfe)) == [row.index for row in plan.rows]
    assert len(evaluations) == plan.nfe
    tolerance = ulps * torch.finfo(rows[0].x.dtype).eps * max(x.abs().max() for x, _, _ in evaluations)
    for (row, sigma, x, D, noise), (want_x, level, want_D) in zip(rows, evaluations, strict=True):
        assert sigma == pytest.approx(level, rel=1e-12)
        assert noise == pytest.approx(plan.rows[row].noise, rel=1e-12)
        assert rows[row].draw == plan.rows[row].draw
        assert (x.double().cpu() - want_x).abs().max() <= tolerance, row
        assert (D.double().cpu() - want_D).abs().max() <= 4 * tolerance, row
    return tolerance


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("restart", [None, RESTART], ids=["alone", "restart"])
@pytest.mark.parametrize("solver", handling("ve"))
def test_every_row_is_that_of_the_plans_steps_in_float64(solver, restart, precision, device):
    data = problems.mixture(SHAPE)
    churn = dict(s_churn=20.0, s_noise=1.003) if solver == "edm-stochastic" else {}
    plan = rs.Plan.build(steps=7, solver=solver, restart=restart, **churn)
    den = rs.Denoiser.from_function(data, SHAPE)
    rows, x = traced(rs.Sampler(den, plan, register_dtype=precision, device=device), SEEDS)
    evaluations, want = steps.run_steps(plan, exact(data, precision), draws(SEEDS, SHAPE))
    terms = 2 if any(step.draws for step in plan.steps) else 1  # two noise terms are twice as many roundings a row
    tolerance = assert_close(rows, evaluations, plan, ulps=8 * terms)
    assert (x.double().cpu() - want).abs().max() <= tolerance


@pytest.mark.parametrize("restart", [(), tuple(map(tuple, RESTART))], ids=["alone", "restart"])
@pytest.mark.parametrize(
    ("solver", "step"),
    [("euler", reference.euler_step), ("heun", reference.heun_step), ("dpm2", steps.dpm2_step)],
    ids=["euler", "heun", "dpm2"],
)
def test_every_row_is_that_of_the_papers_loop(solver, step, restart, device):
    """`sampler/reference.py`, which knows neither plans nor tables; its D is called once for each row."""
    data, evaluations = problems.mixture(SHAPE), []

    def D(x, level):
        evaluations.append((x, level, exact(data, torch.float64)(x, level)))
        return evaluations[-1][2]

    plan = rs.Plan.build(steps=7, solver=solver, restart=[list(interval) for interval in restart] or None)
    reference.restart(D, draws(SEEDS, SHAPE), steps=7, intervals=restart, step=step)
    den = rs.Denoiser.from_function(data, SHAPE)
    rows, _ = traced(rs.Sampler(den, plan, register_dtype=torch.float64, device=device), SEEDS)
    assert_close(rows, evaluations, plan, ulps=64)


@pytest.mark.parametrize("network", ["edm", "guided"])
def test_D_is_that_of_the_network(network, device):
    """c_skip, c_out and guidance of every row; the state x of a network in bfloat16 is not rounded to bfloat16."""
    if network == "edm":
        den = rs.Denoiser(lambda net_in, c_noise, labels: torch.tanh(net_in) + c_noise, edm(0.5), SHAPE)
        plan, labels, dtype = rs.Plan.build(steps=6, restart=RESTART), None, "bf16"
    else:
        den, dtype, labels = denoiser(4), "fp32", 0
        plan = rs.Plan.build(steps=6, restart=RESTART, guidance_scale=2.5, guidance_interval=(0.05, 10.0))
    one_hot = None if labels is None else torch.eye(4, device=device)[[labels] * len(SEEDS)]
    rows, _ = traced(rs.Sampler(den, plan, dtype=dtype, device=device), SEEDS, labels)
    for row, sigma, x, D, _ in rows:
        c = den.parameterization.coefficients(sigma)
        net_in = (float(c.c_in) * x).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
        c_noise = torch.tensor([float(c.c_noise)], dtype=torch.float32, device=device)
        F = den.network(net_in, c_noise, one_hot).double()
        if labels is not None and 0.05 <= sigma <= 10.0:
            uncond = den.network(net_in, c_noise, torch.zeros_like(one_hot)).double()
            F = uncond + 2.5 * (F - uncond)
        want = float(c.c_skip) * x.double() + float(c.c_out) * F
        # bfloat16: net_in may round to a neighbour where c_in·x here differs in the last bit of float32.
        close = (D.double() - want).abs() <= 1e-5 * max(1.0, want.abs().max())
        assert close.float().mean() >= (0.99 if dtype == "bf16" else 1.0), row


@pytest.mark.parametrize("rows", [None, [0], [3, 4, 5, 12], [24], []], ids=str)
@pytest.mark.parametrize("mode", [None, *MODES])
def test_a_trace_of_any_rows_under_any_executor(mode, rows, device):
    """The rows are those of an eager trace of all, the samples those of a run without a trace, to the last bit."""
    plan = rs.Plan.build(**PLAN)
    assert plan.nfe == 25
    everything, want = traced(eager(plan, device), range(6))
    assert torch.equal(want, eager(plan, device).run(range(6)))
    sampler = eager(plan, device) if mode is None else captured(mode, make_capture(device), device)
    found, x = traced(sampler, range(6), rows=rows)
    assert torch.equal(x, want)
    assert sampler.executor.note == ""
    chosen = range(25) if rows is None else rows
    assert_equal_traces(by_sample(found), {k: v for k, v in by_sample(everything).items() if k[1] in chosen})
    assert torch.equal(sampler.run(range(6)), want)  # and it runs on without one


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_not_traced_are_replayed(mode, device):
    """The host launches the traced row, and the one before it where the state between them is stored nowhere."""
    launched, base = [], denoiser()

    def fn(x, sigma):
        launched.append(len(x))
        return base.network(x, sigma, None)

    plan = rs.Plan.build(**PLAN)
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE), plan, batch_size=4, graph="off", device=device)
    with_graph(sampler, mode, make_capture(device))
    traced(sampler, range(4), rows=[10])  # captures
    for row, by_host in ((10, [10]), (11, [10, 11])):  # beginning and inside of a step
        assert (plan.rows[row].stage == 0) == (len(by_host) == 1)
        launched.clear()
        before = sampler.executor.launches
        traced(sampler, range(4), rows=[row])
        assert launched == [4] * len(by_host)
        rest = [by_host[0], plan.nfe - 1 - by_host[-1]]
        expected = sum(rest) if mode == "step" else sum(len(cut(n)) for n in rest)
        assert sampler.executor.launches - before == expected


class Net(torch.nn.Module):
    """Elementwise, and may be sliced."""

    concurrent = True

    def forward(self, x, c_noise, labels):
        return x / (1 + c_noise.view(-1, 1, 1, 1) ** 2)


@pytest.mark.parametrize("rows", [None, [7, 8, 20]], ids=str)
def test_a_trace_of_slices(rows, two_threads):
    den = rs.Denoiser(Net(), denoiser().parameterization, SHAPE)
    plan = rs.Plan.build(**PLAN)
    sampler, whole = (rs.Sampler(den, plan, batch_size=size, device="cpu") for size in (16, 16))
    assert sampler.workspace.slices(16) is not None
    whole.workspace.slices = lambda n: None
    (found, x), (expected, want) = traced(sampler, range(19), rows=rows), traced(whole, range(19), rows=rows)
    assert_equal_traces(by_sample(found), by_sample(expected))
    assert torch.equal(x, want)
    assert torch.equal(x, sampler.run(range(19)))


@pytest.mark.parametrize("mode", [None, "loop", "step"])
@pytest.mark.parametrize("rows", [None, [2, 3, 9]], ids=str)
def test_a_trace_of_mixed_plans(mode, rows, device):
    """Samples of different plans, on lanes that change and narrow: each has the rows of its own plan."""
    plans = [rs.Plan.build(**PLAN), rs.Plan.build(steps=5), rs.Plan.build(steps=4, solver="dpm++2m")]
    pairs = [(seed, plans[seed % 3]) for seed in range(7)]
    sampler = eager(plans[0], device) if mode is None else captured(mode, TapeCapture(), "cpu")
    found, x = traced(sampler, pairs, rows=rows)
    assert torch.equal(x, sampler.run(pairs))
    expected = {}
    for i, (seed, plan) in enumerate(pairs):
        own = [row for row in rows or range(plan.nfe) if row < plan.nfe]
        alone = by_sample(traced(eager(plan, sampler.device), [seed], rows=own)[0])
        expected |= {(i, row): value for (_, row), value in alone.items()}
    assert_equal_traces(by_sample(found), expected)
    assert all(row.plan.rows[row.row].sigma == row.sigma for row in found)


@pytest.mark.parametrize("mode", [None, "trajectory"])
def test_a_trace_of_pfgmpp(mode, device):
    """The noise has a size for each sample: x of the next step is what it adds up to."""
    den = rs.Denoiser.from_function(lambda x, sigma: x, SHAPE, augmented_dim=16)  # D = x: the ODE stands still
    plan = rs.Plan.build(steps=5, restart=[3, 2, 0.3, 1.0], sigma_max=2.0)
    sampler = rs.Sampler(den, plan, batch_size=3, graph="off", device=device)
    if mode is not None:
        with_graph(sampler, mode, make_capture(device))
    seeds = range(4)
    rows, x = traced(sampler, seeds)
    assert torch.equal(x, sampler.run(seeds))
    for batch in (range(3), range(3, 4)):
        own = [row for row in rows if row.index.tolist() == list(batch)]
        assert [row.row for row in own] == list(range(plan.nfe))
        for row, after in pairwise(own):
            eps = rs.noise.normal(row.seeds, row.draw, SHAPE, device=device)
            moved = row.noise.view(-1, 1, 1, 1).to(device) * eps if row.draw else 0.0
            assert row.noise.shape == (len(batch),)
            assert torch.allclose(after.x.double(), row.x.double() + moved, rtol=0, atol=1e-4)
        assert sum(row.draw > 0 for row in own) == 2
        assert len({*own[0].noise.tolist()}) == 1
        assert len({*next(row for row in own if row.draw).noise.tolist()}) == len(batch)


def test_a_callback_may_ask_for_x_and_D(device):
    """It gets what a trace yields, row by row, and the samples are the same."""
    plan = rs.Plan.build(**PLAN)
    sampler, seen = eager(plan, device), []
    x = sampler.run(range(6), callback=seen.append, callback_fields=("x", "D", "seeds"))
    assert torch.equal(x, sampler.run(range(6)))
    rows, _ = traced(sampler, range(6))
    assert [(p.row, p.nfe, p.batch, p.total) for p in seen] == [(r.row, 25, len(r.seeds), 6) for r in rows]
    assert [p.done for p in seen if p.row == 24] == [4, 6]
    for progress, row in zip(seen, rows, strict=True):
        assert torch.equal(progress.x, row.x)
        assert torch.equal(progress.D, row.D)
        assert torch.equal(progress.seeds, row.seeds)
    seen.clear()
    sampler.run([0], callback=seen.append, callback_fields=["D"])
    assert seen[0].x is None
    assert seen[0].D is not None
    assert "tensor" not in repr(seen[0])


def test_a_trace_shows_where_a_sample_broke(device):
    """A NaN raises nothing: the row of the failure is the first whose D has it."""
    plan = rs.Plan.build(**PLAN)
    level = torch.tensor(plan.rows[3].sigma, dtype=torch.float32, device=device)

    def fn(x, sigma):
        return torch.where(sigma.view(-1, 1, 1, 1) == level, torch.nan, 0.5 * x)

    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE), plan, device=device)
    with pytest.raises(rs.NonFiniteError) as caught:
        sampler.run([3])
    rows, x = traced(sampler, [3])
    assert not x.isfinite().all()
    assert next(row.row for row in rows if not row.D.isfinite().all()) == caught.value.failures[0]["row"] == 3
    assert rows[3].x.isfinite().all()
    assert repr(rows[3]) == f"TracedRow(row=3, sigma={plan.rows[3].sigma:.6g}, x=[1, 3, 4, 5] on {device})"


def test_an_error_of_the_network_comes_after_the_rows_before_it():
    left = [4]

    def fn(x, sigma):
        left[0] -= 1
        if left[0] == 0:
            raise ZeroDivisionError
        return 0.5 * x

    seen = []
    sampler = rs.Sampler(rs.Denoiser.from_function(fn, SHAPE), rs.Plan.build(**PLAN), device="cpu")
    with pytest.raises(ZeroDivisionError):
        for row in sampler.trace([0]):
            seen.append(row.row)
    assert seen == [0, 1, 2]
    assert sampler.workspace.observers.network == []
    left[0] = -1
    assert sampler.run([0]).isfinite().all()


@pytest.mark.parametrize("between", [lambda s: s.run([7]), lambda s: list(s.trace([7]))])
def test_another_run_between_two_rows_is_refused(between):
    sampler = eager(rs.Plan.build(**PLAN), "cpu")
    trace = sampler.trace([0, 1])
    next(trace)
    between(sampler)
    with pytest.raises(rs.RestartError, match="whose samples were under way"):
        next(trace)
    assert torch.equal(sampler.run([0, 1]), eager(sampler.plan, "cpu").run([0, 1]))


def test_latents_are_traced(device):
    sampler = eager(rs.Plan.build(**PLAN), device)
    latents = rs.noise.normal([8], 0, SHAPE, device=device)
    (given, x), (drawn, y) = traced(sampler, [8], latents=latents), traced(sampler, [8])
    assert torch.equal(x, y)
    assert torch.equal(given[0].x, drawn[0].x)


REFUSED = {
    "row": (lambda s: list(s.trace([0], rows=[25])), "a row must be an integer ≤ 24, got 25"),
    "negative": (lambda s: list(s.trace([0], rows=[-1])), "a row must be an integer"),
    "float": (lambda s: list(s.trace([0], rows=[1.5])), "a row must be an integer"),
    "number": (lambda s: list(s.trace([0], rows=3)), "rows must be row numbers of the plan, such as"),
    "text": (lambda s: list(s.trace([0], rows="3")), "rows must be row numbers of the plan, such as"),
    "field": (lambda s: s.run([0], callback=print, callback_fields=("y",)), "a callback field must be one of x, D, s"),
    "field text": (lambda s: s.run([0], callback=print, callback_fields="xD"), "callback_fields must be names"),
    "no callback": (lambda s: s.run([0], callback_fields=("x",)), "without a callback"),
    "no callback but a bar": (lambda s: s.run([0], callback_fields=("x",), progress=True), "without a callback"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_a_sentence(name):
    call, message = REFUSED[name]
    with pytest.raises(rs.RestartError, match=message):
        call(eager(rs.Plan.build(**PLAN), "cpu"))


def test_chunks_of_traces_are_those_of_other_runs():
    """A trace captures no length that another plan would not."""
    capture = TapeCapture()
    sampler = captured("trajectory", capture, "cpu")
    traced(sampler, range(4), rows=[9])
    assert {length for length, _ in capture.recorded} == set(CHUNKS)
    sampler.run(range(4))
    assert len(capture.recorded) == len(CHUNKS)
