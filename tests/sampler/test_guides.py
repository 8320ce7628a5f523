"""A guide that is told less than the network: what it is told, and what comes of it, under every executor."""

from __future__ import annotations

import pytest
import torch
from support import edm2_golden, literal
from support.random_runs import VE, Net
from support.replays import with_graph
from support.tape import make_capture

import restart_sampling as rs
from restart_sampling.plan import guidance
from restart_sampling.sampler.executors.graph import MODES

SHAPE = (2, 3, 4)
SEEDS = [1, 2**33, 7, 40, 3]
N = len(SEEDS)
LABELS = torch.tensor([0, 2, 1, 2, 0])
MEAN = torch.linspace(-2, 2, N)
BIAS = torch.linspace(-0.5, 0.5, 24).view(SHAPE)
CONDITIONS = {"mean": rs.Condition((), null=0.5), "bias": rs.Condition(SHAPE, shared=True)}
TOLD = ((), ("class_labels",), ("mean",), ("bias",), ("class_labels", "bias"), ("mean", "bias"))
EVERYTHING = ("class_labels", "mean", "bias")


class Strict(Net):
    """A network that takes its own conditions alone, and only with values."""

    def __init__(self, name, strength, told):
        super().__init__(name, strength)
        self.told = told

    def __call__(self, net_in, c_noise, class_labels=None, **others):
        given = {"class_labels": class_labels, **others}
        assert {name for name, value in given.items() if value is not None} == set(self.told)
        assert all(value is None or len(value) == len(net_in) for value in given.values())
        return super().__call__(net_in, c_noise, class_labels, **others)


def network(strength, told):
    conditions = {name: spec for name, spec in CONDITIONS.items() if name in told}
    label_dim = 3 if "class_labels" in told else 0
    return rs.Denoiser(Strict("edm", strength, told), VE["edm"], SHAPE, label_dim, conditions=conditions)


def plan_of(steps=6, solver="heun", guidance_scale=2.0, **options):
    options = {"restart": [[3, 2, 0.3, 2.0]], "sigma_min": 0.05, "sigma_max": 10.0, **options}
    return rs.Plan.build(steps=steps, solver=solver, guidance_scale=guidance_scale, **options)


def values(names, null):
    """What a network is told of the samples, in float64."""
    given = {"class_labels": torch.eye(3, dtype=torch.float64)[LABELS], "mean": MEAN.double(), "bias": BIAS.double()}
    nulls = {"class_labels": torch.zeros(N, 3, dtype=torch.float64), "mean": torch.full((N,), 0.5, dtype=torch.float64)}
    return {name: value for name, value in (given | (nulls if null else {})).items() if name in names}


def by_hand(plan, told, null=False):
    """F_g + w·(F − F_g), row by row in float64, each network told what it has."""
    F, G = Net("edm", 0.8), Net("edm", 0.5)
    return literal.run(
        plan,
        lambda net_in, c_noise: F.output(net_in, c_noise, **values(EVERYTHING, False)),
        SEEDS,
        SHAPE,
        D_u=lambda net_in, c_noise: G.output(net_in, c_noise, **values(told, null)),
        weights=guidance.weights(plan),
        coefficients=VE["edm"].coefficients,
    )


def drawn(sampler, device):
    given = {"mean": MEAN.to(device), "bias": BIAS.to(device)}
    return sampler.run(SEEDS, LABELS, conditions=given).double().cpu()


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("told", TOLD)
def test_a_guide_is_told_what_it_has(told, dtype, null, device):
    plan = plan_of(guidance_interval=(0.2, 3.0))
    want, calls = by_hand(plan, told, null)
    assert 0 < calls[1] < calls[0] == plan.nfe
    main, guide = network(0.8, EVERYTHING), network(0.5, told)
    sampler = rs.Sampler(main.guided_by(guide, null=null), plan, 2, register_dtype=dtype, device=device)
    found = drawn(sampler, device)
    assert (found - want).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * want.abs().max()
    assert guide.network.rows * plan.nfe == main.network.rows * calls[1] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("told", TOLD)
def test_replays_tell_it_the_same(told, mode, device):
    plan = plan_of(guidance_interval=(0.2, 3.0))
    denoiser = network(0.8, EVERYTHING).guided_by(network(0.5, told))
    eager = rs.Sampler(denoiser, plan, N, graph="off", device=device)
    want, _ = by_hand(plan, told)
    sampler = with_graph(rs.Sampler(denoiser, plan, N, graph="off", device=device), mode, make_capture(device))
    found = [drawn(sampler, device) for _ in range(2)]
    assert sampler.executor.note == "" and torch.equal(found[0], found[1])
    assert (found[0] - want).abs().max() <= 1e-5 * want.abs().max()
    assert (found[0] - drawn(eager, device)).abs().max() <= 1e-6 * want.abs().max()


@pytest.mark.parametrize("mode", ["off", "loop"])
@pytest.mark.parametrize("told", TOLD)
def test_plans_that_share_a_batch(told, mode, device):
    """Lanes are refilled while others run; each sample is that of its own plan, by hand."""
    plans = [plan_of(guidance_interval=(0.2, 3.0)), plan_of(8, "ddpm", 1.0), plan_of(5, "euler", 3.0)]
    denoiser = network(0.8, EVERYTHING).guided_by(network(0.5, told))
    sampler = rs.Sampler(denoiser, plans[0], 2, graph="off", device=device)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    pairs = [(seed, plans[i % 3]) for i, seed in enumerate(SEEDS)]
    given = {"mean": MEAN.to(device), "bias": BIAS.to(device)}
    found = sampler.run(pairs, LABELS, conditions=given).double().cpu()
    for i in range(N):
        want = by_hand(plans[i % 3], told)[0][i]
        assert (found[i] - want).abs().max() <= 1e-5 * want.abs().max(), i


@pytest.mark.parametrize("name", ["guided by itself", "guided by itself, null"])
def test_limiting_cases(name, device):
    """The network itself, and classifier-free guidance, which is the same sum in another order."""
    null = name.endswith("null")
    main = network(0.8, EVERYTHING)
    want = drawn(rs.Sampler(main, plan_of(guidance_scale=2.0 if null else 1.0), N, device=device), device)
    found = drawn(rs.Sampler(main.guided_by(main, null=null), plan_of(), N, device=device), device)
    assert (found - want).abs().max() <= 1e-6 * want.abs().max()
    plain = drawn(rs.Sampler(main, plan_of(guidance_scale=1.0), N, device=device), device)
    assert ((want - plain).abs().max() > 0.01) == null


def test_edm2_guided_by_its_unconditional_network(device):
    """As EDM2's classifier-free guidance: D_g + w·(D − D_g) with D_g told no class, in float64 by the literal loop."""
    main, guide = edm2_golden.network(), edm2_golden.network({"model_channels": 16, "label_dim": 0}, first=500)
    plan, labels = plan_of(4, restart=None, guidance_scale=1.4), torch.tensor([1, 3, 0])

    def D(net, classes):
        den = rs.Denoiser(net.double(), net.parameterization, net.shape, net.label_dim)
        return lambda x, level: den(x, level, classes)

    with torch.no_grad():
        want, _ = literal.run(
            plan,
            D(main, torch.eye(5, dtype=torch.float64)[labels]),
            SEEDS[:3],
            main.shape,
            D_u=D(guide, None),
            weights=guidance.weights(plan),
        )
    mine, its = (rs.Denoiser(net, net.parameterization, net.shape, net.label_dim) for net in (main, guide))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for net in (main, guide):
            net.to(dtype)
        sampler = rs.Sampler(mine.guided_by(its), plan, 2, register_dtype=dtype, device=device)
        found = sampler.run(SEEDS[:3], labels).double().cpu()
        assert (found - want).abs().max() <= tolerance * want.abs().max()
    unguided = rs.sample(mine, plan_of(4, restart=None, guidance_scale=1.0), SEEDS[:3], labels, device=device)
    assert (found - unguided.double().cpu()).abs().max() > 1e-3 * want.abs().max()


def test_slices_on_threads(two_threads):
    plan, n = plan_of(), 21

    def denoiser(concurrent):
        nets = network(0.8, EVERYTHING), network(0.5, ())
        for net in nets:
            net.network.concurrent = concurrent
        return nets[0].guided_by(nets[1])

    given = {"mean": torch.linspace(-2, 2, n), "bias": BIAS}
    sampler = rs.Sampler(denoiser(True), plan, 32, device="cpu")
    assert sampler.workspace.slices(n) is not None
    want = rs.Sampler(denoiser(False), plan, 32, device="cpu").run(range(n), conditions=given)
    assert (sampler.run(range(n), conditions=given) - want).abs().max() <= 1e-6 * want.abs().max()


# --- golden numbers: 6 steps of EDM2's sampler from noise √12·(u(2000) − 0.5), the guide with C = 16 and k from 500

GOLDEN = {
    "unguided": (dict(guidance_scale=1.0), (17.0032, 15.2838)),
    "guided": (dict(guidance_scale=2.1), (70.9428, 51.4456)),
    "guided in steps 2 and 3": (
        dict(guidance_scale=2.1, guidance_interval=(0.5, 9.0), guidance_interval_rounding="grid"),
        (59.5013, 42.6091),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", GOLDEN)
def test_samples_of_edm2_by_its_authors(name, dtype, device):
    """The first two rows are of the original code, the third of a loop in float64 that was written for it."""
    options, norms = GOLDEN[name]
    plan = rs.Plan.build(steps=6, **options)
    main, guide = edm2_golden.pair()
    den = main.guided_by(guide)
    if name.endswith("3"):
        assert [row.index for row, w in zip(plan.rows, guidance.weights(plan), strict=True) if w != 1] == [4, 5, 6, 7]
    if dtype == torch.float64:
        for each in (den, den.guide):
            each.network.double()
    noise = edm2_golden.latents()
    # A run begins at start + σ·ε(seed): with this start it begins at σ times the noise of the golden numbers.
    start = 80 * (noise - rs.noise.normal([0, 1], 0, (3, 8, 8)).double())
    sampler = rs.Sampler(den, plan, 2, register_dtype=dtype, device=device)
    x = sampler.run([0, 1], torch.tensor([1, 3]), start=start.to(device, dtype), strength=1.0).double().cpu()
    assert x.flatten(1).norm(dim=1).tolist() == pytest.approx(norms, rel=1e-5)
