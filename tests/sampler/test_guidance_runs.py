"""Guidance in runs: what the network is asked for and how often, and what comes of it, under every executor."""

from __future__ import annotations

import math
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import literal, problems
from support.random_runs import VE, Net
from support.replays import with_graph
from support.tape import make_capture
from torch import nn

import restart_sampling as rs
from restart_sampling.models.parameterization import edm, iddpm, vp
from restart_sampling.plan import guidance
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.sampler.table import bind

SHAPE = (2, 3, 4)
SEEDS = [1, 2**33, 7, 40, 3]
N = len(SEEDS)
MEAN = torch.linspace(-2, 2, N)
RESTART = [[3, 2, 0.3, 2.0]]
INTERVALS = {
    "everywhere": {},
    "a part": dict(guidance_interval=(0.2, 1.5)),
    "low": dict(guidance_interval=(0.0, 0.5)),
    "high": dict(guidance_interval=(1.0, None)),
    "nowhere": dict(guidance_interval=(20.0, 30.0)),
    "zero_init": dict(guidance="zero-star", zero_init=3, guidance_interval=(0.1, 1.5)),
    "zero_init of all": dict(guidance="zero-star", zero_init=99),
}


def plan_of(steps=6, solver="heun", guidance_scale=2.0, **options):
    options = {"restart": RESTART, "sigma_min": 0.05, "sigma_max": 10.0, **options}
    return rs.Plan.build(steps=steps, solver=solver, guidance_scale=guidance_scale, **options)


class Counting(nn.Module):
    """D of data around a mean, elementwise; counts the samples it is asked for in a tensor, so that replays count."""

    def __init__(self, std=0.3, concurrent=False):
        super().__init__()
        self.std, self.concurrent = std, concurrent
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, net_in, c_noise, labels=None, mean=None):
        self.rows.add_(len(net_in))
        return problems.conditional_gaussian(self.std)(net_in, c_noise, mean)

    def __deepcopy__(self, memo):  # a sampler's copy counts here
        return self


def counting(std=0.3, concurrent=False):
    return rs.Denoiser(
        Counting(std, concurrent), VE["denoiser"], SHAPE, conditions={"mean": rs.Condition((), null=0.5)}
    )


def asked(sampler, *arguments, **options):
    """The samples of a run, and for how many samples each of its networks was asked."""
    modules = [network.module for network in sampler.workspace.networks]
    before = [int(m.rows) for m in modules]
    x = sampler.run(*arguments, **options)
    return x, [int(m.rows) - b for m, b in zip(modules, before, strict=True)]


# --- intervals: what is asked, and what comes of it


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "off") for name in INTERVALS), *(("zero_init", mode) for mode in MODES), ("low", "while")],
)
def test_the_network_is_asked_as_the_plan_says(name, mode, device):
    """The second run captures nothing, so each of its calls is one of the plan's."""
    plan = plan_of(**INTERVALS[name])
    sampler = rs.Sampler(counting().to(device), plan, N, graph="off", device=device)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    seen, given = [], {"mean": MEAN.to(device)}
    first = sampler.run(SEEDS, conditions=given)
    lanes = sampler.workspace.lanes_for(N)
    x, rows = asked(sampler, SEEDS, conditions=given, callback=lambda p: seen.append((p.row, p.network_calls)))
    assert rows == [lanes * plan.network_calls] and torch.equal(x, first)
    calls = np.cumsum(guidance.kinds(plan)).tolist()
    assert seen[-1] == (plan.nfe - 1, plan.network_calls) and all(calls[row] == n for row, n in seen)
    assert sampler.executor.note == ""
    text = plan.explain()
    if plan.network_calls != plan.nfe:
        assert f"{plan.nfe} NFE · {plan.network_calls} network calls" in text
    else:
        assert "network calls" not in text


@pytest.mark.parametrize("name", INTERVALS)
def test_what_is_not_asked_changes_nothing_but_rounding(name, device):
    """Every row evaluated in full, in float64, is the literal loop; and W = 1 there is F_c itself."""
    plan = plan_of(**INTERVALS[name])
    D = problems.conditional_gaussian(0.3)
    want, calls = literal.run(
        plan,
        lambda x, level: D(x, torch.tensor([level], dtype=torch.float64), MEAN),
        SEEDS,
        SHAPE,
        D_u=lambda x, level: D(x, torch.tensor([level], dtype=torch.float64), torch.full_like(MEAN, 0.5)),
        weights=guidance.weights(plan),
    )
    assert sum(calls) == plan.network_calls
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        sampler = rs.Sampler(counting().to(device), plan, 2, register_dtype=dtype, device=device)
        x = sampler.run(SEEDS, conditions={"mean": MEAN.to(device)}).double().cpu()
        assert (x - want).abs().max() <= tolerance * (want.abs().max() + 1e-3)


@pytest.mark.parametrize("methods", [{}, dict(guidance="apg", apg_eta=0.5), dict(guidance_rescale=0.7)])
@pytest.mark.parametrize(("batch_size", "mode"), [(2, "off"), (8, "off"), (2, "loop"), (8, "while")])
def test_plans_that_share_a_batch(mode, batch_size, methods, device):
    """Both outputs as soon as one lane needs both; each lane has the bits that it has alone."""
    plans = [
        plan_of(guidance_interval=(0.2, 1.5), **methods),
        plan_of(8, "ddpm", 1.0),
        plan_of(5, "euler", 3.0, guidance_interval=(1.0, None), **methods),
        plan_of(4, "dpm++2m", 2.0, guidance="zero-star", zero_init=2),
    ]
    backend = "reference" if torch.device(device).type == "cpu" else "auto"
    given = {"mean": MEAN.to(device)}
    alone = torch.cat(
        [
            rs.Sampler(counting().to(device), plans[i % 4], 1, backend=backend, device=device).run(
                [seed], conditions={"mean": given["mean"][i : i + 1]}
            )
            for i, seed in enumerate(SEEDS)
        ]
    )
    sampler = rs.Sampler(counting().to(device), plans[0], batch_size, backend, graph="off", device=device)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    pairs = [(seed, plans[i % 4]) for i, seed in enumerate(SEEDS)]
    assert torch.equal(sampler.run(pairs, conditions=given), alone)
    x, rows = asked(sampler, pairs, conditions=given)
    assert torch.equal(x, alone) and sampler.executor.note == ""
    if mode == "off" and batch_size == 8:  # all begin together: a call is what the live lane that needs most says
        kinds = [guidance.kinds(plans[i % 4]) for i in range(N)]
        live = [[k[row] for k in kinds if len(k) > row] for row in range(max(map(len, kinds)))]
        assert rows == [sum(len(now) * int(max(now)) for now in live)]


def test_slices_on_threads(two_threads):
    plan, n = plan_of(guidance_interval=(0.2, 1.5)), 21
    given = {"mean": torch.linspace(-2, 2, n)}
    sampler = rs.Sampler(counting(concurrent=True), plan, 32, device="cpu")
    assert sampler.workspace.slices(n) is not None
    x = sampler.run(range(n), conditions=given)
    assert torch.equal(x, rs.Sampler(counting(), plan, 32, device="cpu").run(range(n), conditions=given))


def poisonous(x, sigma, mean):
    """D, and NaN for the null at levels where guidance does not act."""
    D = problems.conditional_gaussian(0.3)(x, sigma, mean)
    levels = sigma.expand(len(x)).view(-1, 1, 1, 1)
    bad = (mean.view(-1, 1, 1, 1) == 99) & ((levels < 0.2) | (levels > 1.5))
    return torch.where(bad, torch.nan, D)


@pytest.mark.parametrize("backend", ["reference", "triton", "auto"])
@pytest.mark.parametrize("methods", [{}, dict(guidance="apg"), dict(guidance_rescale=0.7)])
def test_nan_of_the_null_does_not_leak_from_where_guidance_does_not_act(methods, backend, device):
    """Alone it is not even asked for there; in a shared batch it is there beside the others, and not read."""
    denoiser = rs.Denoiser.from_function(poisonous, SHAPE, conditions={"mean": rs.Condition((), null=99.0)})
    options = dict(sigma_min=0.1, restart=[2, 1, 0.1, 1.5], solver="euler", guidance_interval=(0.2, 1.5))
    plans = [plan_of(3, **options, **methods), plan_of(4, **options, **methods)]
    given = {"mean": MEAN[:2].to(device)}
    sampler = rs.Sampler(denoiser, plans[0], 2, backend, device=device)
    alone = [sampler.run([5], conditions={"mean": given["mean"][:1]})]
    sampler.set_plan(plans[1])
    alone.append(sampler.run([6], conditions={"mean": given["mean"][1:]}))
    x = sampler.run([(5, plans[0]), (6, plans[1])], conditions=given)
    assert x.isfinite().all() and torch.equal(x, torch.cat(alone))


# --- autoguidance


def guided(null=False, concurrent=(False, False)):
    main, guide = counting(0.3, concurrent[0]), counting(0.6, concurrent[1])
    return main.guided_by(guide, null=null)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("mode", ["off", *MODES])
def test_a_guide_is_called_where_guidance_acts_and_the_network_everywhere(mode, null, device):
    plan = plan_of(guidance_interval=(0.2, 1.5))
    twice = plan.network_calls - plan.nfe
    assert 0 < twice < plan.nfe
    sampler = rs.Sampler(guided(null), plan, N, graph="off", device=device)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    given = {"mean": MEAN.to(device)}
    first = sampler.run(SEEDS, conditions=given)
    x, rows = asked(sampler, SEEDS, conditions=given)
    lanes = sampler.workspace.lanes_for(N)
    assert rows == [lanes * plan.nfe, lanes * twice] and torch.equal(x, first)
    pairs = [(seed, plan) for seed in SEEDS]
    assert torch.equal(sampler.run(pairs, conditions=given), x)
    assert sampler.executor.note == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("null", [False, True])
def test_autoguidance_is_the_mix_of_two_networks(null, dtype, device):
    """By hand in float64, D_g + w·(D − D_g) as in its paper, which is what the guider of diffusers computes."""
    guiders = pytest.importorskip("diffusers.guiders")
    guider = guiders.AutoGuidance(1.7, auto_guidance_layers=[0], dropout=0.1)
    plan = plan_of(guidance_scale=1.7)
    D, G = problems.conditional_gaussian(0.3), problems.conditional_gaussian(0.6)

    def mixed(x, sigma):
        told = torch.full_like(MEAN, 0.5) if null else MEAN
        return guider.forward(D(x, sigma, MEAN), G(x, sigma, told)).pred

    want = rs.Sampler(
        rs.Denoiser.from_function(mixed, SHAPE),
        plan_of(guidance_scale=1.0),
        N,
        register_dtype=torch.float64,
        device="cpu",
    ).run(SEEDS)
    sampler = rs.Sampler(guided(null), plan, N, register_dtype=dtype, device=device)
    x = sampler.run(SEEDS, conditions={"mean": MEAN.to(device)}).double().cpu()
    assert (x - want).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * want.abs().max()


def test_a_guide_of_networks_without_conditions(device):
    nets = Net("edm", 0.8), Net("edm", 0.5)
    main, other = (rs.Denoiser(net, VE["edm"], SHAPE) for net in nets)
    with pytest.raises(rs.RestartError, match="needs a class-conditional network"):
        rs.Sampler(main, plan_of())
    plan = plan_of()
    x = rs.sample(main.guided_by(other), plan, SEEDS, device=device).double().cpu()
    want, _ = literal.run(
        plan,
        nets[0].output,
        SEEDS,
        SHAPE,
        D_u=nets[1].output,
        weights=guidance.weights(plan),
        coefficients=VE["edm"].coefficients,
    )
    assert (x - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("concurrent", [(True, True), (True, False), (False, True)])
def test_slices_need_two_networks_that_threads_may_call(concurrent, two_threads):
    plan, n = plan_of(), 21
    sampler = rs.Sampler(guided(concurrent=concurrent), plan, 32, device="cpu")
    assert (sampler.workspace.slices(n) is not None) == all(concurrent)
    given = {"mean": torch.linspace(-2, 2, n)}
    whole = rs.Sampler(guided(), plan, 32, device="cpu")
    assert torch.equal(sampler.run(range(n), conditions=given), whole.run(range(n), conditions=given))


class Alone(Counting):
    """Raises if two threads are in it at once."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, *arguments, **options):
        assert self.lock.acquire(blocking=False), "two threads at once"
        time.sleep(1e-3)
        try:
            return super().forward(*arguments, **options)
        finally:
            self.lock.release()


def test_a_guide_that_is_not_for_threads_is_called_by_one(two_threads):
    main, other = counting(concurrent=True), counting()
    object.__setattr__(other, "network", Alone())
    sampler = rs.Sampler(main.guided_by(other), plan_of(3, restart=None), 32, device="cpu")
    sampler.run(range(21), conditions={"mean": torch.zeros(21)})


class Scaled(nn.Module):
    """A network of one parameter."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, net_in, c_noise, labels=None):
        return self.scale * torch.tanh(net_in)


def test_a_replaced_parameter_of_the_guide_is_captured_anew(device):
    main, other = (rs.Denoiser(Scaled(s).to(device), VE["edm"], SHAPE) for s in (0.8, 0.5))
    sampler = rs.Sampler(main.guided_by(other), plan_of(), N, graph="off", compile="off", device=device)
    with_graph(sampler, "loop", make_capture(device))
    before = sampler.run(SEEDS)
    module = sampler.workspace.guide.module
    module.scale = nn.Parameter(torch.tensor(0.1, device=device), requires_grad=False)
    found = sampler.run(SEEDS)
    third = rs.Denoiser(Scaled(0.1).to(device), VE["edm"], SHAPE)
    want = rs.Sampler(main.guided_by(third), plan_of(), N, graph="off", compile="off", device=device).run(SEEDS)
    assert torch.equal(found, want) and not torch.equal(found, before)


def test_outputs_of_two_dtypes_or_of_no_element_order(device):
    """What the networks return is mixed as it is: views, strides and a guide in another precision, or one refusal."""

    def strided(x, sigma):
        return (0.5 * x).transpose(-1, -2).contiguous().transpose(-1, -2)

    main, other = (rs.Denoiser.from_function(f, SHAPE) for f in (lambda x, sigma: 0.8 * x, strided))
    plain = rs.Denoiser.from_function(lambda x, sigma: 0.5 * x, SHAPE)
    want = rs.sample(main.guided_by(plain), plan_of(), SEEDS, device=device)
    assert torch.equal(rs.sample(main.guided_by(other), plan_of(), SEEDS, device=device), want)


def refusals():
    """(main, guide, options of guided_by, reason)."""
    base, edm_like = Net("edm", 0.8), VE["edm"]
    main = rs.Denoiser(base, edm_like, SHAPE, name="main")

    def other(parameters=edm_like, shape=SHAPE, **options):
        return rs.Denoiser(base, parameters, shape, name="guide", **options)

    told = {"mean": rs.Condition((), null=0.0)}
    yield main, other(edm(0.6)), {}, "another parameterization"
    yield main, other(vp()), {}, "another parameterization"
    yield other(iddpm()), other(iddpm(np.array([80.0, 20.0, 5.0, 1.0, 0.1, 0.01, 0.0]))), {}, "another parameterization"
    yield main, other(shape=(1, 3, 4)), {}, "they must be equal"
    yield main, other(conditions=told), {}, "condition 'mean' of 'main' is none and that of the guide 'guide' float32"
    yield (
        other(conditions={"mean": rs.Condition((2,))}),
        other(conditions=told),
        {},
        "those it has must be the network's",
    )
    yield main, base, {}, "guided_by needs a Denoiser"
    yield main, main.guided_by(other()), {}, "'main' has a guide of its own, 'guide'"
    yield main.guided_by(other()), other(), {}, "'main' has a guide of its own, 'guide'"
    bare = {"mean": rs.Condition(())}
    yield other(conditions=bare), other(conditions=bare), dict(null=True), "needs a null of condition 'mean'"
    shared = {"mean": rs.Condition((), shared=True)}
    yield other(conditions=told), other(conditions=shared), {}, "that of the guide 'guide' float32 .., shared"
    yield main, other(augmented_dim=128), {}, "are none of 'main' and D = 128 of the guide"
    named = (other(label_dim=3, classes=names) for names in (("a", "b", "c"), ("a", "c", "b")))
    yield *named, {}, "have other names"
    encoded = (other(info={"encoder": {"kind": "vae", "scale": [scale]}}) for scale in (0.1, 0.2))
    yield *encoded, {}, "are encoded otherwise"
    yield other(info={"encoder": {"kind": "rgb"}}), other(), {}, None
    yield other(label_dim=3, classes=("a", "b", "c")), other(label_dim=3), {}, None
    yield other(conditions=told), main, {}, None
    yield other(conditions=bare), main, dict(null=True), None
    yield main, other(edm(0.5, 100.0, 200.0)), {}, None
    yield other(edm(0.5, 0.01, 1.0)), other(edm(0.5, 2.0, 80.0)), {}, "another parameterization"


@pytest.mark.parametrize("place", range(20))
def test_networks_that_do_not_go_together(place):
    main, guide, options, reason = list(refusals())[place]
    if reason is None:
        main.guided_by(guide, **options)
        return
    with pytest.raises(rs.RestartError, match=reason) as error:
        main.guided_by(guide, **options)
    assert "\n" not in str(error.value)


def test_a_plan_is_cut_to_the_levels_that_both_networks_know(device):
    main = rs.Denoiser(Net("edm", 0.8), edm(0.5, 0.002, 80.0), SHAPE)
    guide = rs.Denoiser(Net("edm", 0.5), edm(0.5, 0.05, 5.0), SHAPE)
    sampler = rs.Sampler(main.guided_by(guide), plan_of(sigma_min=0.01), device=device)
    assert sampler.plan.grid[0] == 5.0 and sampler.plan.grid[-2] == 0.05
    assert sum("the network knows" in note for note in sampler.plan.notes) == 2
    assert sampler.run([0]).isfinite().all()


# --- CFG++


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ["euler", "ddpm"])
def test_cfg_plus_plus_is_its_algorithm(solver, dtype, device):
    """Denoise by the guided D, renoise by the unconditional one (arXiv 2406.08070, Algorithm 2), in float64."""
    w, plan = 0.6, plan_of(8, solver, 0.6, restart=None, guidance="cfg++")
    D, null = problems.conditional_gaussian(0.3), torch.full_like(MEAN, 0.5)
    x, draw = plan.grid[0] * rs.noise.normal(SEEDS, 0, SHAPE).double(), 0
    for t, s in pairwise(plan.grid):
        level = torch.tensor([t], dtype=torch.float64)
        c, u = D(x, level, MEAN), D(x, level, null)
        up = s * math.sqrt(1 - (s / t) ** 2) if solver == "ddpm" else 0.0
        x = u + w * (c - u) + math.sqrt(s * s - up * up) * (x - u) / t
        if up:
            draw += 1
            x = x + up * rs.noise.normal(SEEDS, draw, SHAPE).double()
    sampler = rs.Sampler(counting(), plan, 2, register_dtype=dtype, device=device)
    found = sampler.run(SEEDS, conditions={"mean": MEAN.to(device)}).double().cpu()
    assert (found - x).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * x.abs().max()


def test_cfg_plus_plus_before_a_jump_to_pure_noise(device):
    """There the output is not used, W = w·0/0 has no meaning, and nothing is asked."""
    plan = rs.Plan.build(
        steps=4, solver="euler", schedule="flow", restart=[3, 1, 0.5, 1.0], guidance="cfg++", guidance_scale=0.6
    )
    assert np.isfinite(guidance.weights(plan)).all() and plan.network_calls == 2 * (plan.nfe - 1)
    denoiser = rs.Denoiser.from_function(
        problems.conditional_gaussian(0.3), SHAPE, process="flow", conditions={"mean": rs.Condition((), null=0.5)}
    )
    assert rs.sample(denoiser, plan, SEEDS, conditions={"mean": MEAN.to(device)}, device=device).isfinite().all()


# --- methods that look at a whole sample

METHODS = {
    "rescale": dict(guidance_rescale=0.7),
    "zero-star": dict(guidance="zero-star"),
    "apg": dict(guidance="apg", apg_eta=0.3),
    "apg, clipped": dict(guidance="apg", apg_eta=0.0, apg_norm=0.5),
}
W = 3.0


def outputs(shape=SHAPE):
    """A denoiser of a condition whose two outputs differ in more than a constant."""
    net = Net("denoiser", 0.8)
    return net, rs.Denoiser(net, VE["denoiser"], shape, conditions={"mean": rs.Condition((), null=0.5)})


def guider_of(name):
    """The guided output of diffusers, on float64 tensors."""
    guiders = pytest.importorskip("diffusers.guiders")
    if name == "rescale":
        guider = guiders.ClassifierFreeGuidance(W, guidance_rescale=0.7)
    elif name == "zero-star":
        guider = guiders.ClassifierFreeZeroStarGuidance(W, zero_init_steps=0)
    else:
        norm = 0.5 if "clipped" in name else 0.0
        options = dict(eta=0.0 if norm else 0.3, use_original_formulation=True)  # c + (W − 1)·…, as in its paper
        guider = guiders.AdaptiveProjectedGuidance(W - 1, adaptive_projected_guidance_rescale=norm, **options)
    guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor(1))
    return lambda c, u: guider.forward(c, u).pred


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_diffusers(name, device):
    """The samples of runs, guided in an interval; the guider of CFG-Zero* computes its scale in float32."""
    net, denoiser = outputs()
    plan = plan_of(guidance_scale=W, guidance_interval=(0.2, 3.0), **METHODS[name])
    mix = guider_of(name)

    def D(x, sigma):
        c = net.output(x, sigma, mean=MEAN)
        if not 0.2 <= float(sigma[0]) <= 3.0:
            return c
        return mix(c, net.output(x, sigma, mean=torch.full_like(MEAN, 0.5)))

    plain = rs.Denoiser.from_function(D, SHAPE)
    options = dict(batch_size=N, register_dtype=torch.float64)
    want = rs.Sampler(plain, plan_of(guidance_scale=1.0), device="cpu", **options).run(SEEDS)
    given = {"mean": MEAN.to(device)}
    exact = rs.Sampler(denoiser, plan, device=device, **options).run(SEEDS, conditions=given).cpu()
    assert (exact - want).abs().max() <= (1e-5 if name == "zero-star" else 1e-9) * want.abs().max()
    found = rs.Sampler(denoiser, plan, 2, device=device).run(SEEDS, conditions=given).double().cpu()
    assert (found - exact).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_backends_are_bit_equal(name, device):
    plan = plan_of(3, guidance_scale=W, restart=None, **METHODS[name])
    given = {"mean": MEAN[:2].to(device)}
    runs = [
        rs.Sampler(outputs()[1], plan, 2, backend, device=device).run([4, 5], conditions=given)
        for backend in ("reference", "triton", "auto")
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


class Launches:
    """A bound machine that counts its calls."""

    def __init__(self, bound):
        self.bound, self.calls = bound, []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self.bound, name)


@pytest.mark.parametrize("name", [None, *METHODS])
def test_a_method_costs_one_launch_where_guidance_acts(name, device):
    plan = plan_of(guidance_scale=W, guidance_interval=(0.2, 3.0), **METHODS.get(name, {}))
    sampler = rs.Sampler(outputs()[1], plan, N, graph="off", device=device)
    sampler.run(SEEDS, conditions={"mean": MEAN.to(device)})
    evaluation = sampler.workspace.evaluation(N)
    evaluation.bound = launches = Launches(evaluation.bound)
    sampler.run(SEEDS, conditions={"mean": MEAN.to(device)})
    twice = plan.network_calls - plan.nfe
    want = dict(run_row=plan.nfe + 1, advance=plan.nfe + 1, weigh=twice if name else 0)
    assert {call: launches.calls.count(call) for call in want} == want and 0 < twice < plan.nfe
    assert len(launches.calls) == sum(want.values())


def test_a_trace_has_a_row_that_leaves_out_the_network(device):
    """F counts as 0 there: with a network that is D, D is 0."""
    plan = plan_of(guidance="zero-star", zero_init=2, restart=None)
    sampler = rs.Sampler(counting().to(device), plan, N, device=device)
    rows = list(sampler.trace(SEEDS, conditions={"mean": MEAN.to(device)}))
    assert [bool((row.D == 0).all()) for row in rows] == [True, True, *[False] * (plan.nfe - 2)]
    assert [row.row for row in rows] == list(range(plan.nfe))


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("solver", ["euler", "heun", "dpm3", "dpm++2m"])
@pytest.mark.parametrize("levels", [edm(), vp()], ids=["edm", "vp"])
def test_the_table_asks_what_the_plan_says(name, solver, levels):
    """The plan counts by weights and forms, the table by what its rows read."""
    table = bind(plan_of(solver=solver, **INTERVALS[name]), levels)
    assert (table.kinds == guidance.kinds(table.plan)).all()
