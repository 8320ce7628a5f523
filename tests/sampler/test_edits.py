"""Starts, known images and masks, under every executor, against the literal loop and against other libraries."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import literal, problems
from support.random_runs import FLOW, VE, Net
from support.replays import with_graph
from support.tape import make_capture
from torch import nn

import restart_sampling as rs
from restart_sampling.plan.start import beginning
from restart_sampling.sampler import reference
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.sampler.table import PASTE_DRAWS, bind
from restart_sampling.solvers.process import alpha
from restart_sampling.solvers.registry import SOLVERS

SHAPE = (2, 3, 4)
SEEDS = [3, 2**40, 5, 17, 0]
N = len(SEEDS)
RESTART = [[3, 2, 0.1, 0.6]]
SOLVED = [(process, name) for name, solver in SOLVERS.items() for process in solver.processes]


def plan_of(process="ve", solver="heun", steps=6, **options):
    levels = dict(sigma_min=0.02, sigma_max=10.0) if process == "ve" else dict(schedule="flow", sigma_min=0.02)
    return rs.Plan.build(steps=steps, solver=solver, **{**levels, **options})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 2


def edits_of(kind, soft=False, each=True, paste="initial"):
    """Edits of a kind, its images and masks one for each sample, or one for all."""
    batch = (N,) if each else ()
    mask = torch.rand(*batch, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = {}
    if "start" in kind:
        found |= dict(start=random(*batch, *SHAPE, seed=2), strength=0.7)
    if "latents" in kind:
        found |= dict(latents=2 * random(N, *SHAPE, seed=3))
    if "known" in kind:
        found |= dict(known=random(*batch, *SHAPE, seed=4), mask=mask if soft else (mask > 0.4).float(), paste=paste)
    return found


def network(name="denoiser", process="ve"):
    """A denoiser of a parameterization, and its literal arguments."""
    net, parameters = Net(name, 0.8), (VE if process == "ve" else FLOW)[name]
    return rs.Denoiser(net, parameters, SHAPE), dict(D=net.output, coefficients=parameters.coefficients)


def wanted(plan, denoiser, oracle, edits, seeds=SEEDS):
    """The samples of the literal loop, float64."""
    plan = bind(plan, denoiser.parameterization).plan
    if "start" in edits:
        plan = beginning(plan, edits.get("strength"), edits.get("sigma"))
    tensors = {name: edits[name].double() for name in ("start", "latents", "known", "mask") if name in edits}
    tensors = {name: value.expand(len(seeds), *SHAPE) for name, value in tensors.items()}
    oracle = {**oracle, **tensors}
    return literal.run(plan, oracle.pop("D"), seeds, SHAPE, fresh=edits.get("paste") == "fresh", **oracle)[0]


def assert_close(found, want, tolerance):
    error = (found.double().cpu() - want).abs().max() / want.abs().max()
    assert error <= tolerance, float(error)


def moved(edits, device):
    return {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in edits.items()}


def elementwise(x, sigma):
    """A function whose bits do not depend on the batch."""
    return x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


# --- the literal loop


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["start", "known", "start, known", "latents, known"])
@pytest.mark.parametrize(("process", "solver"), SOLVED)
def test_every_solver_is_the_literal_loop(process, solver, kind, dtype, device):
    """Hard masks, an image for each sample, with Restart, in batches of 2 and 1."""
    plan = plan_of(process, solver, restart=RESTART)
    denoiser, oracle = network("denoiser", process)
    edits = edits_of(kind, paste="fresh" if "latents" in kind else "initial")
    sampler = rs.Sampler(denoiser, plan, 2, register_dtype=dtype, device=device)
    found = sampler.run(SEEDS, **moved(edits, device))
    assert_close(found, wanted(plan, denoiser, oracle, edits), 1e-9 if dtype == torch.float64 else 1e-5)
    if "known" in edits:
        kept = edits["mask"] == 0
        assert torch.equal(found.cpu()[kept], edits["known"].to(dtype)[kept])


@pytest.mark.parametrize("restart", [None, RESTART, "repaint:j=2,r=3"])
@pytest.mark.parametrize("paste", ["initial", "fresh"])
@pytest.mark.parametrize("name", [*VE, "flow"])
def test_soft_masks_do_not_care_what_the_network_predicts(name, paste, restart, device):
    """One denoiser is D of the pasted state whether the network predicts D, noise or something between."""
    process = "flow" if name == "flow" else "ve"
    for solver in ("heun", "dpm++2m"):
        plan = plan_of(process, solver, restart=restart, s_churn=2.0 if solver == "heun" else 0.0, s_noise=1.01)
        denoiser, oracle = network(name, process)
        edits = edits_of("start, known", soft=True, each=False, paste=paste)
        exact = rs.Sampler(denoiser, plan, 3, register_dtype=torch.float64, device=device)
        want = wanted(plan, denoiser, oracle, edits)
        assert_close(exact.run(SEEDS, **moved(edits, device)), want, 1e-9)
        assert_close(rs.Sampler(denoiser, plan, 3, device=device).run(SEEDS, **moved(edits, device)), want, 1e-5)


def test_a_soft_mask_beyond_the_machine_is_refused():
    denoiser, _ = network("edm")
    sampler = rs.Sampler(denoiser, plan_of(solver="dpm3"), 2)
    with pytest.raises(rs.RestartError, match=r"solver 'dpm3', step .* or give a mask of 0 and 1 alone$"):
        sampler.run(SEEDS, **edits_of("known", soft=True))
    assert denoiser.network.calls == 0
    sampler.run(SEEDS, **edits_of("known"))


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("restart", [None, [[2, 2, 0.1, 0.5], [3, 1, 1.0, 9.0]], "repaint:j=2,r=2"])
def test_a_start_at_any_strength(strength, restart, device):
    plan, (denoiser, oracle) = plan_of(steps=10, restart=restart), network()
    edits = dict(start=random(*SHAPE), strength=strength)
    assert_close(
        rs.Sampler(denoiser, plan, device=device).run(SEEDS, **moved(edits, device)),
        wanted(plan, denoiser, oracle, edits),
        1e-5,
    )


def test_full_strength_is_the_whole_plan_from_the_image_in_the_most_noise(device):
    plan, image = plan_of(restart=RESTART), random(*SHAPE)
    sampler = rs.Sampler(network()[0], plan, device=device)
    found = sampler.run(SEEDS, start=image.to(device), strength=1.0)
    latents = rs.noise.normal(SEEDS, 0, SHAPE) + image / plan.grid[0]
    torch.testing.assert_close(found, sampler.run(SEEDS, latents=latents.to(device)), rtol=1e-5, atol=1e-5)


def test_sigma_begins_at_the_nearest_point(device):
    plan, image = plan_of(steps=12), random(*SHAPE).to(device)
    sampler = rs.Sampler(network()[0], plan, device=device)
    level = plan.grid[5] * 1.02
    assert torch.equal(
        sampler.run(SEEDS, start=image, sigma=level), sampler.run(SEEDS, start=image, strength=7.01 / 12)
    )


# --- executors


def alone(plans, edits, device):
    """Each sample by a sampler of its own."""
    rows = []
    for i, seed in enumerate(SEEDS):
        own = {
            name: v[i : i + 1] if isinstance(v, torch.Tensor) and v.ndim > len(SHAPE) else v
            for name, v in edits.items()
        }
        denoiser = rs.Denoiser.from_function(elementwise, SHAPE)
        rows.append(rs.Sampler(denoiser, plans[i % len(plans)], 1, device=device).run([seed], **own))
    return torch.cat(rows)


KINDS = [
    dict(kind="start", each=True),
    dict(kind="known", each=True),
    dict(kind="known", each=False, soft=True, paste="fresh"),
    dict(kind="start, known", each=True, paste="fresh"),
]


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("mode", ["off", *MODES])
def test_a_sample_is_the_same_in_every_batch(mode, batch_size, device):
    """Whole batches and mixed ones, eager and captured, have the bits of each sample alone; images never recapture."""
    plans = [
        plan_of(restart=RESTART),
        plan_of(solver="ddpm", steps=8),
        plan_of(solver="dpm++2m", restart="repaint:j=2,r=2"),
    ]
    sampler = rs.Sampler(
        rs.Denoiser.from_function(elementwise, SHAPE), plans[0], batch_size, graph="off", device=device
    )
    capture = make_capture(device)
    if mode != "off":
        with_graph(sampler, mode, capture)
    for kind in KINDS:
        edits = moved(edits_of(**kind), device)
        assert torch.equal(sampler.run(SEEDS, **edits), alone(plans[:1], edits, device)), kind
        pairs = [(seed, plans[i % 3]) for i, seed in enumerate(SEEDS)]
        assert torch.equal(sampler.run(pairs, **edits), alone(plans, edits, device)), kind
    assert sampler.executor.note == ""
    recorded = len(capture.recorded)
    for kind in KINDS[1:]:  # other images, masks and pastes; rows that paste need no graph of their own
        edits = moved(edits_of(**kind), device)
        edits |= {"known": -edits["known"], "mask": 1 - edits["mask"]}
        assert torch.equal(sampler.run(SEEDS, **edits), alone(plans[:1], edits, device))
    assert len(capture.recorded) == recorded


def test_runs_with_and_without_edits_take_turns(device):
    """Nothing of an edit is left in the buffers of the next run."""
    plan = plan_of(restart=RESTART)
    sampler = rs.Sampler(rs.Denoiser.from_function(elementwise, SHAPE), plan, 3, device=device)
    plain = sampler.run(SEEDS)
    for kind in KINDS:
        edits = moved(edits_of(**kind), device)
        first = sampler.run(SEEDS, **edits)
        assert torch.equal(sampler.run(SEEDS), plain)
        assert torch.equal(sampler.run(SEEDS[::-1]), plain.flip(0))
        assert torch.equal(sampler.run(SEEDS, **edits), first) and not torch.equal(first, plain)


class Sliced(nn.Module):
    """A network that several threads may call."""

    concurrent = True

    def forward(self, net_in, c_noise, labels=None):
        return elementwise(net_in, c_noise)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_slices_on_threads(kind, two_threads):
    n = 21
    edits = {
        name: v.repeat(5, 1, 1, 1)[:n] if isinstance(v, torch.Tensor) and v.ndim > 3 else v
        for name, v in edits_of(**KINDS[kind]).items()
    }
    denoiser = rs.Denoiser(Sliced(), VE["denoiser"], SHAPE)
    sampler = rs.Sampler(denoiser, plan_of(restart=RESTART), 32, device="cpu")
    assert sampler.workspace.slices(n) is not None
    found = sampler.run(range(n), **edits)
    whole = rs.Sampler(rs.Denoiser.from_function(elementwise, SHAPE), plan_of(restart=RESTART), 32, device="cpu")
    assert torch.equal(found, whole.run(range(n), **edits))


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_backends_are_bit_equal(kind, device):
    edits = moved(edits_of(**KINDS[kind]), device)
    denoiser, plan = network("edm")[0], plan_of(solver="heun", steps=2, restart=[2, 1, 0.02, 0.6])
    runs = [rs.Sampler(denoiser, plan, backend=b, device=device).run(SEEDS, **edits) for b in ("reference", "triton")]
    runs.append(rs.Sampler(denoiser, plan, device=device).run(SEEDS, **edits))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_replay_that_is_not_what_the_network_does_is_found_under_a_mask(seed):
    """The self-check of captures must see the network's output although nothing is free yet in fresh lanes."""

    def asks_the_host(x, sigma):
        return elementwise(x, sigma) * (2.0 if float(sigma.max()) > 1 else 0.5)

    denoiser, edits = rs.Denoiser.from_function(asks_the_host, SHAPE), edits_of("known")
    eager = rs.Sampler(denoiser, plan_of(), 4, graph="off").run(SEEDS, **edits)
    sampler = with_graph(rs.Sampler(denoiser, plan_of(), 4, graph="off"), "loop", make_capture("cpu"))
    assert torch.equal(sampler.run(SEEDS, **edits), eager)
    assert "differ" in sampler.executor.note or "another" in sampler.executor.note


# --- what the network sees


@pytest.mark.parametrize("paste", ["initial", "fresh"])
@pytest.mark.parametrize(("process", "solver"), [("ve", "heun"), ("ve", "dpm3"), ("flow", "dpm++2m")])
def test_the_network_sees_the_known_image_at_its_level(process, solver, paste, device):
    """At every evaluation, where M = 0; under "fresh" the first one sees the latent alone."""
    plan = plan_of(process, solver, restart=RESTART)
    edits, seen = edits_of("known", paste=paste), []

    def recording(x, sigma):
        seen.append((x.clone().cpu(), float(sigma[0])))
        return elementwise(x, sigma)

    denoiser = rs.Denoiser.from_function(recording, SHAPE, process=process)
    rs.Sampler(denoiser, plan, N, device=device).run(SEEDS, **moved(edits, device))
    assert len(seen) == plan.nfe
    kept = edits["mask"] == 0
    for row, (x, level) in enumerate(seen):
        assert level == np.float32(plan.rows[row].sigma)
        if paste == "fresh" and row == 0:
            assert torch.equal(x, np.float32(plan.initial_noise) * rs.noise.normal(SEEDS, 0, SHAPE))
            continue
        eps = rs.noise.normal(SEEDS, PASTE_DRAWS + row if paste == "fresh" else 0, SHAPE)
        noisy = np.float32(alpha(process, plan.rows[row].sigma)) * edits["known"] + np.float32(level) * eps
        assert torch.equal(x[kept], noisy[kept]), row
        assert row == 0 or not torch.equal(x[~kept], noisy[~kept])


@pytest.mark.parametrize("intervals", [(), [(3, 2, 0.1, 0.6), (2, 1, 1.0, 4.0)]])
def test_a_hard_mask_is_the_noise_mask_of_comfyui(intervals, device):
    """ComfyUI gives the network u = M·x + (1 − M)·(K + σ·ε₀) and returns M·D(u) + (1 − M)·K; the state stays."""
    edits, draw = edits_of("known"), literal.normals(SEEDS, SHAPE)
    D, M, K = Net("denoiser", 0.8).output, edits["mask"].double(), edits["known"].double()

    def masked(x, sigma):
        u = M * x + (1 - M) * (K + float(sigma) * draw(0))
        return M * D(u, float(sigma)) + (1 - M) * K

    want = reference.restart(masked, draw, steps=6, sigma_min=0.02, sigma_max=10.0, intervals=intervals)
    plan = plan_of(restart=[list(i) for i in intervals])
    exact = rs.Sampler(network()[0], plan, 3, register_dtype=torch.float64, device=device)
    assert_close(exact.run(SEEDS, **moved(edits, device)), want, 1e-12)
    assert_close(rs.Sampler(network()[0], plan, 3, device=device).run(SEEDS, **moved(edits, device)), want, 1e-5)


# --- closed forms: Gaussian data whose elements are correlated

COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)


def correlated(x, sigma):
    """E[x₀ | x] of N(0, COVARIANCE), samples [B, 2]."""
    level = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1)[0]
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + level**2 * torch.eye(2, dtype=torch.float64))
    return x @ gain.to(x.device, x.dtype).T


GIVEN = dict(known=torch.tensor([1.5, 0.0]), mask=torch.tensor([0.0, 1.0]))


def closed_form(plan, fresh):
    """Mean and covariance of the samples: the sampler is affine in its draws, so each is put to 0 or to a unit."""
    used = sorted({0, *(step.draw for step in plan.steps if step.draw)})
    used += [PASTE_DRAWS + row for row in range(1, plan.nfe + 1)] if fresh else []
    columns = {(d, i): 1 + 2 * k + i for k, d in enumerate(used) for i in range(2)}

    def draw(number):
        units = torch.zeros(1 + len(columns), 2, dtype=torch.float64)
        for i in range(2):
            units[columns[number, i], i] = 1.0
        return units

    given = {name: value.double() for name, value in GIVEN.items()}
    x, _ = literal.run(plan, correlated, [], (2,), draw=draw, fresh=fresh, **given)
    A = x[1:] - x[0]
    return x[0], A.T @ A


@pytest.mark.parametrize("restart", [None, [[4, 3, 0.1, 1.0]], "repaint:j=3,r=3"])
@pytest.mark.parametrize("paste", ["initial", "fresh"])
@pytest.mark.parametrize("solver", ["ddpm", "heun"])
def test_mean_and_variance_after_jumps_and_pastes(solver, paste, restart, device):
    """Every draw is independent of every other, or is one that was meant to be made again."""
    n = 40_000
    plan = rs.Plan.build(steps=8, solver=solver, sigma_min=0.05, sigma_max=10.0, restart=restart)
    denoiser = rs.Denoiser.from_function(correlated, (2,))
    x = rs.Sampler(denoiser, plan, n, device=device).run(range(n), paste=paste, **moved(GIVEN, device)).double().cpu()
    mean, covariance = closed_form(plan, paste == "fresh")
    assert (x[:, 0] == 1.5).all() and mean[0] == 1.5
    std = covariance[1, 1].sqrt()
    assert abs(x[:, 1].mean() - mean[1]) < 4.5 * std / math.sqrt(n)
    assert abs(x[:, 1].std() / std - 1) < 4.5 / math.sqrt(2 * n)


def test_repaint_tends_to_the_posterior_and_replacement_is_biased():
    """E[x₂ | x₁ = 1.5] = 1.35; the bias of the mean falls with the number of times that each stretch is walked."""
    bias, n = [], 20_000
    for r in (1, 3, 10, 30):
        plan = rs.Plan.build(steps=16, solver="ddpm", sigma_min=0.05, sigma_max=10.0, restart=f"repaint:j=2,r={r}")
        mean, _ = closed_form(plan, True)
        bias.append(abs(float(mean[1]) - 1.35))
        if r in (1, 10):
            sampler = rs.Sampler(rs.Denoiser.from_function(correlated, (2,)), plan, n, device="cpu")
            x = sampler.run(range(n), paste="fresh", **GIVEN)
            assert abs(x[:, 1].mean() - mean[1]) < 4.5 * x[:, 1].std() / math.sqrt(n)
    assert bias[0] > 0.2 and bias[-1] < bias[0] / 5, bias
    assert all(a > b for a, b in pairwise(bias)), bias


# --- RePaint


@pytest.mark.parametrize(("T", "j", "r"), [(12, 3, 3), (9, 1, 2), (10, 4, 2), (12, 10, 2)])
def test_repaint_is_that_of_diffusers(T, j, r, monkeypatch, device):
    """Its scheduler with our noise, in float64. A jump is j steps there; their noises are parts of one draw of ours."""
    module = pytest.importorskip("diffusers.schedulers.scheduling_repaint")
    betas = np.linspace(0.02, 0.4, T)
    scheduler = module.RePaintScheduler(T, trained_betas=betas, eta=1.0, clip_sample=False)
    scheduler.set_timesteps(T, jump_length=j, jump_n_sample=r)
    scheduler.eta = 1.0
    total = scheduler.alphas_cumprod
    sigmas = ((1 - total) / total).sqrt()

    plan = rs.Plan.build(sigmas=sigmas.flip(0).tolist(), solver="ddpm", restart=f"repaint:j={j},r={r}")
    edits = edits_of("known", paste="fresh")
    denoiser, oracle = network()
    K, M, D = edits["known"].double(), edits["mask"].double(), oracle["D"]
    draw = literal.normals(SEEDS, SHAPE)
    queue = []
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: queue.pop(0))

    def noises(row, t, jump):
        """The noise of step t, then those of the steps up, whose sum with it is one draw for each element."""
        step = plan.steps[row]
        low = float(sigmas[t - 1]) if t else 0.0
        own = math.sqrt(float(scheduler._get_variance(t) / total[t - 1])) if t else 0.0
        up = [math.sqrt(float(scheduler.betas[i] / total[i])) for i in jump]
        S, S_known = math.hypot(own, *up), math.hypot(low, *up)
        assert step.noise == pytest.approx(S, rel=1e-9) and step.t == pytest.approx(float(sigmas[t]))
        free, known = draw(step.draw) if S else 0 * K, draw(PASTE_DRAWS + row + 1)

        def part(of_free, of_known):
            return M * free * (of_free / S if S else 0.0) + (1 - M) * known * (of_known / S_known if S_known else 0.0)

        return [part(own, low), *(part(std, std) for std in up)]

    timesteps = scheduler.timesteps.tolist()
    y, row = draw(0) * plan.initial_noise * total[-1].sqrt(), 0
    for k, (before, t) in enumerate(pairwise([timesteps[0] + 1, *timesteps])):
        if t < before:
            jump = []
            for a, b in pairwise(timesteps[k:]):
                if b < a:
                    break
                jump.append(a)
            queue += noises(row, t, jump)
            x = y / total[t].sqrt()
            eps = (x - D(x, float(sigmas[t]))) / sigmas[t]
            y = scheduler.step(eps, t, y, K, 1 - M).prev_sample
            row += 1
        else:
            y = scheduler.undo_step(y, before)
    assert not queue and row == plan.nfe
    exact = rs.Sampler(denoiser, plan, 3, register_dtype=torch.float64, device=device)
    assert_close(exact.run(SEEDS, **moved(edits, device)), y, 1e-9)


@pytest.mark.parametrize("solver", ["heun", "dpm++2m"])
def test_repaint_in_few_evaluations_keeps_the_known_part(solver, device):
    plan = rs.Plan.build(steps=12, solver=solver, restart="repaint:j=3,r=3", sigma_max=20.0)
    assert plan.nfe <= 60
    edits = edits_of("known", paste="fresh")
    denoiser, oracle = network("edm")
    found = rs.Sampler(denoiser, plan, 3, device=device).run(SEEDS, **moved(edits, device)).cpu()
    assert torch.equal(found[edits["mask"] == 0], edits["known"][edits["mask"] == 0])
    assert_close(found, wanted(plan, denoiser, oracle, edits), 1e-5)


# --- what is given


def test_masks_of_every_form(device):
    """[H, W], [1, H, W], [C, H, W] and with a dimension for the samples; bool, integers and every float."""
    hard = torch.rand(3, 4) > 0.5
    sampler = rs.Sampler(rs.Denoiser.from_function(elementwise, SHAPE), plan_of(), 3, device=device)
    known = random(*SHAPE).to(device)

    def run(mask):
        return sampler.run(SEEDS, known=known, mask=mask)

    want = run(hard.float().expand(N, *SHAPE).to(device))
    for shape in ((3, 4), (1, 3, 4), SHAPE, (1, 1, 3, 4), (N, 1, 3, 4), (1, *SHAPE)):
        assert torch.equal(run(hard.float().to(device).expand(shape)), want), shape
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        assert torch.equal(run(hard.to(device, dtype)), want), dtype
    assert torch.equal(run(hard.tolist()), want)
    assert torch.equal(run(hard.int().tolist()), want)
    assert torch.equal(run(hard.numpy()), want)
    one = run(1.0)
    assert torch.equal(one, sampler.run(SEEDS)) and torch.equal(run(0), known.expand_as(one))


def test_no_seeds_give_an_empty_result(device):
    sampler = rs.Sampler(network()[0], plan_of(), device=device)
    for edits in (dict(start=random(*SHAPE), strength=0.5), dict(known=random(*SHAPE), mask=torch.ones(3, 4))):
        assert sampler.run([], **moved(edits, device)).shape == (0, *SHAPE)


IMAGE, FREE = random(*SHAPE), torch.ones(3, 4)
REFUSED = {
    "start alone": (dict(start=IMAGE), "needs one of strength and sigma, got neither"),
    "start, both": (dict(start=IMAGE, strength=0.5, sigma=1.0), "got both"),
    "strength alone": (dict(strength=0.5), "give start as well"),
    "sigma alone": (dict(sigma=0.5), "give start as well"),
    "strength 0": (dict(start=IMAGE, strength=0.0), "strength must be"),
    "strength small": (dict(start=IMAGE, strength=0.1), "leaves no step to run"),
    "strength NaN": (dict(start=IMAGE, strength=math.nan), "strength must be"),
    "strength text": (dict(start=IMAGE, strength="half"), "strength must be"),
    "sigma low": (dict(start=IMAGE, sigma=1e-3), "nearest to 0"),
    "sigma negative": (dict(start=IMAGE, sigma=-1.0), "sigma must be"),
    "start, latents": (dict(start=IMAGE, strength=0.5, latents=random(N, *SHAPE)), "begins with one of them"),
    "start shape": (dict(start=random(3, 4), strength=0.5), r"start must be a floating tensor \[2, 3, 4\]"),
    "start count": (dict(start=random(N - 1, *SHAPE), strength=0.5), "one for each sample"),
    "start bytes": (dict(start=torch.zeros(SHAPE, dtype=torch.uint8), strength=0.5), "x / 127.5 - 1 of bytes"),
    "start NaN": (dict(start=IMAGE * math.nan, strength=0.5), "start holds NaN"),
    "start text": (dict(start="cat.png", strength=0.5), "start must be a floating tensor"),
    "known alone": (dict(known=IMAGE), "known and mask go together"),
    "mask alone": (dict(mask=FREE), "known and mask go together"),
    "known shape": (dict(known=random(9), mask=FREE), "known must be a floating tensor"),
    "known infinite": (dict(known=IMAGE / 0, mask=FREE), "known holds NaN or infinite"),
    "mask shape": (dict(known=IMAGE, mask=torch.ones(5)), "mask must be numbers in .* got .5."),
    "mask count": (dict(known=IMAGE, mask=torch.ones(N + 1, *SHAPE)), "mask must be numbers in"),
    "mask above": (dict(known=IMAGE, mask=2 * FREE), "from 2 to 2: 1 is free, 0 is kept"),
    "mask below": (dict(known=IMAGE, mask=-FREE), "from -1 to -1"),
    "mask bytes": (dict(known=IMAGE, mask=(255 * FREE).byte()), "from 255 to 255"),
    "mask NaN": (dict(known=IMAGE, mask=FREE * math.nan), "mask must be numbers in"),
    "mask text": (dict(known=IMAGE, mask="left"), "mask must be numbers in"),
    "mask complex": (dict(known=IMAGE, mask=FREE + 0j), "mask must be numbers in"),
    "paste": (dict(known=IMAGE, mask=FREE, paste="new"), "paste must be one of initial, fresh"),
    "paste alone": (dict(paste="fresh"), "give known and mask as well"),
    "latents, initial": (dict(latents=random(N, *SHAPE), known=IMAGE, mask=FREE), "use paste='fresh'"),
    "latents shape": (dict(latents=random(*SHAPE)), "latents must have shape"),
    "latents NaN": (dict(latents=random(N, *SHAPE) * math.nan), "latents hold NaN"),
}


@pytest.mark.parametrize("how", ["run", "pairs", "trace"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_one_sentence(name, how):
    edits, reason = REFUSED[name]
    denoiser, plan = network()[0], plan_of()
    sampler = rs.Sampler(denoiser, plan, 2)
    with pytest.raises(rs.RestartError, match=reason) as error:
        if how == "run":
            sampler.run(SEEDS, **edits)
        elif how == "pairs":
            sampler.run([(seed, plan) for seed in SEEDS], **edits)
        else:
            list(sampler.trace(SEEDS, **edits))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert denoiser.network.calls == 0


def test_pfgmpp_takes_a_start_and_no_other_edit():
    denoiser = rs.Denoiser.from_function(problems.gaussian(), SHAPE, augmented_dim=128)
    for kind in ("known", "latents", "start, known"):
        with pytest.raises(rs.RestartError, match="PFGM"):
            rs.sample(denoiser, plan_of(), SEEDS, **edits_of(kind))
    edits = edits_of("start")
    begun = rs.sample(denoiser, plan_of(), SEEDS, **edits)
    black = rs.sample(denoiser, plan_of(), SEEDS, **edits | {"start": 0 * edits["start"]})
    gain = (begun - black) / edits["start"]  # of data N(0, c²): linear
    assert gain.std() < 1e-4 and 0 < gain.mean() < 1


def test_another_name_is_refused_where_edits_are_passed_on():
    sampler = rs.Sampler(network()[0], plan_of())
    for call in (sampler.iterate, sampler.trace):
        with pytest.raises(rs.RestartError, match=r"no argument 'masks'.*mask"):
            next(iter(call(SEEDS, masks=FREE)))


def test_each_run_of_a_sampler_begins_where_it_is_asked():
    """Tables are kept; a run with another strength, level or image is another run."""
    den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1) ** 2), (2, 3))
    plan, image = rs.Plan.build(steps=10), torch.ones(2, 3)
    sampler = rs.Sampler(den, plan, batch_size=2)
    asked = [dict(strength=0.3), dict(strength=0.8), dict(sigma=1.0), dict(strength=0.3)]
    found = [sampler.run(range(2), start=image, **begin) for begin in asked]
    for x, begin in zip(found, asked, strict=True):
        assert torch.equal(x, rs.Sampler(den, plan, batch_size=2).run(range(2), start=image, **begin))
    assert torch.equal(found[0], found[3]) and not torch.equal(found[0], found[1])
    assert torch.equal(sampler.run(range(2)), rs.Sampler(den, plan, batch_size=2).run(range(2)))
