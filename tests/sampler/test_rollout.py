"""Rollouts: states, means and log-probabilities against a literal loop, and what a trainer does with them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from support import problems
from support.random_runs import FLOW, VE, Net
from support.replays import with_graph
from support.tape import make_capture
from torch import nn

import restart_sampling as rs
from restart_sampling.models.parameterization import flow
from restart_sampling.plan.start import beginning
from restart_sampling.sampler.executors.graph import MODES

SHAPE = (2, 3)
SEEDS = [4, 2**35, 11]
SIGMAS = [1.0, 0.8, 0.55, 0.3, 0.1]


def velocity(net_in, c_noise, labels=None):
    """F of a flow, ε − x₀, in closed form for data around 0.3."""
    t = (c_noise / 1000).view(-1, 1, 1)
    D = 0.3 + 0.04 * (1 - t) / (0.04 * (1 - t) ** 2 + t * t) * (net_in - 0.3 * (1 - t))
    return (net_in - D) / t


def flow_plan(solver, **options):
    return rs.Plan.build(sigmas=SIGMAS, schedule="flow", solver=solver, **options)


def flow_denoiser():
    return rs.Denoiser(velocity, flow(), SHAPE)


def flow_grpo(x, v, t, s, eta):
    """The mean and the std of Flow-GRPO's step (arXiv 2505.05470, eq. 12), as its authors write it."""
    dt = s - t
    std = math.sqrt(t / (1 - (t if t < 1 else s))) * eta
    mean = x * (1 + std**2 / (2 * t) * dt) + v * (1 + std**2 * (1 - t) / (2 * t)) * dt
    return mean, std * math.sqrt(-dt)


def cps(x, v, t, s, eta):
    """The mean and the std of a step of coefficients-preserving sampling (arXiv 2509.05952)."""
    x_0, x_1 = x - t * v, x + (1 - t) * v
    std = s * math.sin(eta * math.pi / 2)
    return x_0 * (1 - s) + x_1 * math.sqrt(s * s - std * std), std


def euler(x, v, t, s, eta):
    return x + (s - t) * v, 0.0


def ddim(x, eps, t, s, eta):
    """The mean and the std of DDIM's step with η (arXiv 2010.02502, eq. 12 and 16), on x₀ + σ·ε."""
    std = eta * math.sqrt(s * s / (t * t) * (t * t - s * s))
    return x - t * eps + math.sqrt(s * s - std * std) * eps, std


STEPS = {"flow-grpo": flow_grpo, "cps": cps, "euler": euler, "ddpm": ddim}


def literal(step, slope, levels, eta, first=1.0):
    """(states, means, stds, log-probabilities) in float64: a step's log p is that of its density, by torch."""
    x = first * rs.noise.normal(SEEDS, 0, SHAPE).double()
    states, means, stds, log_probs, draw = [x], [], [], [], 0
    for t, s in pairwise([*levels, 0.0]):
        mean, std = (euler if s == 0 and step is flow_grpo else step)(x, slope(x, t), t, s, eta)
        x = mean
        if std:
            draw += 1
            x = mean + std * rs.noise.normal(SEEDS, draw, SHAPE).double()
            density = torch.distributions.Normal(mean, std).log_prob(x)
            log_probs.append(density.flatten(1).mean(1))
        else:
            log_probs.append(torch.zeros(len(x), dtype=torch.float64))
        states, means, stds = [*states, x], [*means, mean], [*stds, std]
    return (
        torch.stack(states, 1),
        torch.stack(means, 1),
        torch.tensor(stds, dtype=torch.float64),
        torch.stack(log_probs, 1),
    )


def case(solver, eta):
    """A denoiser, a plan and the literal loop's arguments."""
    if solver == "ddpm":
        net, levels = Net("eps", 0.8), [20.0, 5.0, 1.0, 0.3, 0.1]
        denoiser = rs.Denoiser(net, VE["eps"], SHAPE)
        plan = rs.Plan.build(sigmas=levels, solver="ddpm", eta=eta)

        def slope(x, t):
            *_, c_in, c_noise = map(float, VE["eps"].coefficients(t))
            return net.output(c_in * x, c_noise)

        return denoiser, plan, (ddim, slope, levels, eta, levels[0])
    slope = lambda x, t: velocity(x, torch.tensor([1000 * t], dtype=torch.float64))  # noqa: E731
    return flow_denoiser(), flow_plan(solver, eta=eta), (STEPS[solver], slope, SIGMAS, eta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", [0.7, 1.0, 0.0])
@pytest.mark.parametrize("solver", STEPS)
def test_a_rollout_is_the_literal_loop(solver, eta, dtype, device):
    denoiser, plan, loop = case(solver, eta)
    sampler = rs.Sampler(denoiser, plan, 2, register_dtype=dtype, device=device)
    rollout = sampler.rollout(SEEDS)
    states, means, stds, log_probs = literal(*loop)
    B, T, tolerance = len(SEEDS), len(SIGMAS), 1e-9 if dtype == torch.float64 else 1e-5
    assert rollout.latents.shape == (B, T + 1, *SHAPE) and rollout.means.shape == (B, T, *SHAPE)
    assert rollout.log_probs.shape == (B, T) and rollout.stds.shape == rollout.sigmas.shape == (T,)
    size = states.abs().max()
    assert (rollout.latents.double().cpu() - states).abs().max() <= tolerance * size
    assert (rollout.means.double().cpu() - means).abs().max() <= tolerance * size
    torch.testing.assert_close(rollout.stds, stds, rtol=1e-12, atol=1e-12)
    # ε = (x' − mean)/std: what rounds in x' is divided by the least std.
    least = float(stds[stds > 0].min()) if stds.any() else 1.0
    assert (rollout.log_probs.double().cpu() - log_probs).abs().max() <= 10 * tolerance * float(size) / least
    assert torch.equal(rollout.latents[:, -1], rollout.samples) and torch.equal(rollout.samples, sampler.run(SEEDS))
    assert rollout.sigmas.tolist() == loop[2] and rollout.rows == tuple(range(T)) and rollout.seeds.tolist() == SEEDS
    assert rollout.timesteps.tolist() == denoiser.parameterization.coefficients(rollout.sigmas.numpy()).c_noise.tolist()
    assert rollout.stds[-1] == 0 and (rollout.log_probs[:, -1] == 0).all()
    assert f"{int((stds > 0).sum())} of 5 steps with noise" in repr(rollout)


@pytest.mark.parametrize("mode", ["off", *MODES])
@pytest.mark.parametrize("solver", ["flow-grpo", "cps"])
def test_a_replay_has_the_same_bits(solver, mode, device):
    """Whatever the batch and the executor: what a trainer must keep is the seed."""

    def make(batch_size):
        return rs.Sampler(flow_denoiser(), flow_plan(solver, eta=0.7), batch_size, graph="off", device=device)

    first, sampler = make(3).rollout(SEEDS), make(2)
    if mode != "off":
        with_graph(sampler, mode, make_capture(device))
    for _ in range(2):
        again = sampler.rollout(SEEDS[::-1])
        for name in ("latents", "means", "log_probs", "samples"):
            assert torch.equal(getattr(again, name).flip(0), getattr(first, name)), name
    assert sampler.executor.note == ""


@pytest.mark.parametrize("solver", ["flow-grpo", "cps", "ddpm"])
def test_the_ratio_is_1_where_D_is_the_same(solver, device):
    denoiser, plan, _ = case(solver, 0.7)
    rollout = rs.Sampler(denoiser, plan, 3, device=device).rollout(SEEDS)
    for k in range(len(rollout.rows) - 1):
        log_p = rollout.log_prob(k, denoiser(rollout.latents[:, k], float(rollout.sigmas[k])))
        assert ((log_p - rollout.log_probs[:, k]).exp() - 1).abs().max() < 1e-3, k
        other = rollout.log_prob(k, denoiser(rollout.latents[:, k], float(rollout.sigmas[k])) + 1)
        assert ((other - rollout.log_probs[:, k]).exp() - 1).abs().min() > 1e-3
    with pytest.raises(rs.RestartError, match="step 4 draws no noise"):
        rollout.log_prob(4, rollout.latents[:, 4])


class Trained(nn.Module):
    """A velocity with two parameters."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.1))

    def forward(self, net_in, c_noise, labels=None):
        return self.scale * net_in + self.shift * c_noise.view(-1, 1, 1) / 1000


def test_the_gradient_of_log_prob_is_that_of_the_density(device):
    denoiser = rs.Denoiser(Trained().to(device), flow(), SHAPE)
    rollout = rs.Sampler(denoiser, flow_plan("flow-grpo", eta=0.7), 3, device=device).rollout(SEEDS)
    assert not rollout.latents.requires_grad and not rollout.log_probs.requires_grad
    k, t = 2, float(rollout.sigmas[2])
    x, network = rollout.latents[:, k], denoiser.network
    rollout.log_prob(k, denoiser(x, t)).sum().backward()
    found = [p.grad.item() for p in network.parameters()]

    wide = [p.detach().cpu().double().requires_grad_() for p in network.parameters()]
    x, after = x.cpu().double(), rollout.latents[:, k + 1].cpu().double()
    mean, std = flow_grpo(x, wide[0] * x + wide[1] * t, t, SIGMAS[k + 1], 0.7)
    torch.distributions.Normal(mean, std).log_prob(after).flatten(1).mean(1).sum().backward()
    assert found == pytest.approx([p.grad.item() for p in wide], rel=1e-3)
    assert all(abs(g) > 1e-3 for g in found)


@pytest.mark.parametrize("window", [(0, 5), (0, 1), (1, 3), (4, 5)])
def test_a_window_is_a_part_of_the_whole(window, device):
    sampler = rs.Sampler(flow_denoiser(), flow_plan("flow-grpo", eta=0.7), 2, device=device)
    whole, part = sampler.rollout(SEEDS), sampler.rollout(SEEDS, window=window)
    a, b = window
    assert part.rows == tuple(range(a, b)) and part.latents.shape == (3, b - a + 1, *SHAPE)
    assert torch.equal(part.latents, whole.latents[:, a : b + 1])
    for name in ("means", "log_probs"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, a:b])
    for name in ("stds", "sigmas", "timesteps", "a", "b"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[a:b])
    assert torch.equal(part.samples, whole.samples)


def test_an_eta_window_leaves_noise_to_a_few_steps(device):
    plan = flow_plan("cps", eta=0.7, eta_window=(1, 3))
    rollout = rs.Sampler(flow_denoiser(), plan, 2, device=device).rollout(SEEDS)
    assert [std > 0 for std in rollout.stds.tolist()] == [False, True, True, False, False]
    plain = rs.Sampler(flow_denoiser(), flow_plan("euler"), 2, device=device).rollout(SEEDS)
    torch.testing.assert_close(rollout.latents[:, 1], plain.latents[:, 1], rtol=1e-5, atol=1e-6)
    noise = (rollout.latents[:, 2] - rollout.means[:, 1]) / float(rollout.stds[1])
    torch.testing.assert_close(noise.cpu(), rs.noise.normal(SEEDS, 1, SHAPE), rtol=1e-3, atol=1e-4)
    assert (rollout.log_probs[:, [0, 3, 4]] == 0).all()


def test_a_jump_is_part_of_the_noise_of_its_step(device):
    plan = rs.Plan.build(sigmas=[10.0, 2.0, 0.5, 0.1], solver="ddpm", eta=0.5, restart=[2, 2, 0.5, 1.5])
    denoiser = rs.Denoiser.from_function(problems.gaussian(), SHAPE)
    rollout = rs.Sampler(denoiser, plan, 2, device=device).rollout(SEEDS)
    assert plan.nfe == 6 == len(rollout.rows)
    for k, step in enumerate(plan.steps):
        assert float(rollout.stds[k]) == step.noise
        x, after = rollout.latents[:, k], rollout.latents[:, k + 1]
        D = denoiser(x, float(rollout.sigmas[k]))
        torch.testing.assert_close(rollout.mean(k, D), rollout.means[:, k], rtol=1e-5, atol=1e-5)
        drawn = step.noise * rs.noise.normal(SEEDS, step.draw, SHAPE).to(device) if step.noise else 0.0
        torch.testing.assert_close(rollout.means[:, k] + drawn, after, rtol=1e-5, atol=1e-5)


def test_conditions_and_guidance_are_those_of_the_run(device):
    mean = torch.tensor([-1.0, 0.5, 2.0], device=device)
    denoiser = rs.Denoiser.from_function(
        problems.conditional_gaussian(0.3), SHAPE, conditions={"mean": rs.Condition((), null=0.0)}
    )
    plan = rs.Plan.build(steps=6, solver="ddpm", guidance_scale=2.0, guidance_interval=(0.5, 5.0))
    sampler = rs.Sampler(denoiser, plan, 2, device=device)
    rollout = sampler.rollout(SEEDS, conditions={"mean": mean})
    assert torch.equal(rollout.samples, sampler.run(SEEDS, conditions={"mean": mean}))
    for k, sigma in enumerate(rollout.sigmas.tolist()[:-1]):
        x = rollout.latents[:, k]
        c, u = denoiser(x, sigma, mean=mean), denoiser(x, sigma, mean=0 * mean)
        D = u + 2 * (c - u) if 0.5 <= sigma <= 5 else c
        assert ((rollout.log_prob(k, D) - rollout.log_probs[:, k]).exp() - 1).abs().max() < 1e-3


def test_a_rollout_may_begin_at_an_image_or_at_latents(device):
    plan = rs.Plan.build(steps=8, solver="ddpm")
    denoiser = rs.Denoiser.from_function(problems.gaussian(), SHAPE)
    sampler = rs.Sampler(denoiser, plan, 2, device=device)
    begin = dict(start=torch.ones(SHAPE, device=device), strength=0.5)
    rollout = sampler.rollout(SEEDS, **begin)
    later = beginning(plan, strength=0.5)
    assert rollout.rows == tuple(range(later.nfe)) and rollout.sigmas.tolist() == [r.sigma for r in later.rows]
    assert torch.equal(rollout.samples, sampler.run(SEEDS, **begin))
    for k in range(later.nfe - 1):
        D = denoiser(rollout.latents[:, k], float(rollout.sigmas[k]))
        torch.testing.assert_close(rollout.log_prob(k, D), rollout.log_probs[:, k], rtol=1e-3, atol=1e-3)
    latents = rs.noise.normal(SEEDS, 0, SHAPE).to(device)
    rollout = sampler.rollout(SEEDS, latents=-latents)
    torch.testing.assert_close(rollout.latents[:, 0], -80 * latents)


REFUSED = {
    "heun": (dict(solver="heun"), {}, "'heun' has others; use euler, ddpm, flow-grpo or cps"),
    "dpm++2m": (dict(solver="dpm++2m"), {}, "'dpm\\+\\+2m' has others"),
    "restart by heun": (dict(solver="ddpm", restart=[3, 1, 0.1, 0.5], restart_solver="heun"), {}, "has others"),
    "window reversed": ({}, dict(window=(3, 1)), "0 ≤ first < end ≤ 5"),
    "window long": ({}, dict(window=(0, 6)), "0 ≤ first < end ≤ 5"),
    "window text": ({}, dict(window="all"), "window must be two rows"),
    "window number": ({}, dict(window=3), "window must be two rows"),
    "pairs": ({}, dict(seeds=[(0, rs.Plan.build(steps=5, solver="ddpm"))]), "a rollout is of one plan"),
    "no seeds": ({}, dict(seeds=[]), "needs a seed or more"),
    "known": ({}, dict(known=torch.zeros(SHAPE), mask=torch.ones(SHAPE)), "a known image changes the state"),
    "mask": ({}, dict(mask=torch.ones(SHAPE)), "known and mask go together"),
    "rows": ({}, dict(rows=[1]), "no argument 'rows'; window="),
    "unknown": ({}, dict(latent=1), "no argument 'latent'.*latents"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rollout_is_refused_before_any_call(name):
    options, arguments, reason = REFUSED[name]
    net = Net("denoiser", 0.8)
    plan = rs.Plan.build(**{"steps": 5, "solver": "ddpm", **options})
    sampler = rs.Sampler(rs.Denoiser(net, VE["denoiser"], SHAPE), plan)
    with pytest.raises(rs.RestartError, match=reason) as error:
        sampler.rollout(**{"seeds": SEEDS, **arguments})
    assert "\n" not in str(error.value) and net.calls == 0


def test_a_pfgmpp_network_has_no_rollout():
    denoiser = rs.Denoiser.from_function(problems.gaussian(), SHAPE, augmented_dim=16)
    with pytest.raises(rs.RestartError, match="a size for each sample"):
        rs.Sampler(denoiser, rs.Plan.build(steps=5, solver="ddpm")).rollout(SEEDS)


def test_a_plan_of_another_process_is_refused():
    with pytest.raises(rs.RestartError, match="'ve'"):
        rs.Sampler(rs.Denoiser(velocity, FLOW["flow"], SHAPE), rs.Plan.build(steps=5, solver="ddpm"))
