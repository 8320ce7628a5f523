"""Rollouts: states, means and log-probabilities of a run's steps, against the steps written literally."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import restart_sampling as rs

SHAPE = (2, 3)
N = 6


def gaussian(x, sigma):
    """The denoiser of N(0.3, 0.5²)."""
    s = sigma.view(-1, 1, 1)
    return 0.3 + 0.25 / (0.25 + s * s) * (x - 0.3)


def flow(x, t):
    """The denoiser of N(0.3, 0.5²) on states (1 − t)·x₀ + t·ε."""
    t = t.view(-1, 1, 1)
    gain = (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + t * t)
    return 0.3 + gain * (x - (1 - t) * 0.3)


def sampler(solver, **options):
    process = "flow" if solver in ("flow-grpo", "cps") else "ve"
    fn = flow if process == "flow" else gaussian
    den = rs.Denoiser.from_function(fn, SHAPE, process=process)
    plan = rs.Plan.build(steps=N, solver=solver, schedule="flow" if process == "flow" else "edm", **options)
    return rs.Sampler(den, plan, batch_size=3), fn


def step(solver, fn, x, t, s, eta):
    """(mean, std) of one step as its paper writes it, in float64."""
    D = fn(x, torch.full((len(x),), t, dtype=torch.float64))
    if solver == "ddpm":
        std = eta * s * math.sqrt(1 - (s / t) ** 2)
        return D + math.sqrt(s * s - std * std) / t * (x - D), std
    v = (x - D) / t
    if solver == "flow-grpo":
        g = eta * math.sqrt(t / (1 - t if t < 1 else 1 - s)) if s > 0 else 0.0
        dt = s - t
        drift = v + g * g / (2 * t) * (x + (1 - t) * v)
        return x + drift * dt, g * math.sqrt(-dt)
    std = s * math.sin(eta * math.pi / 2)
    return (1 - s) * (x - t * v) + math.sqrt(s * s - std * std) * (x + (1 - t) * v), std


@pytest.mark.parametrize("eta", [1.0, 0.6])
@pytest.mark.parametrize("solver", ["ddpm", "flow-grpo", "cps"])
def test_states_means_and_probabilities_are_those_of_the_steps(solver, eta):
    made, fn = sampler(solver, eta=eta)
    found = made.rollout(range(7))
    x = made.run(range(7))
    assert torch.equal(found.samples, x)
    assert found.latents.shape == (7, N + 1, *SHAPE)
    assert torch.equal(found.latents[:, -1], x)
    assert found.rows == tuple(range(N))
    grid = made.plan.grid
    draw = 0
    for k, (t, s) in enumerate(pairwise(grid)):
        mean, std = step(solver, fn, found.latents[:, k].double(), t, s, eta)
        assert float(found.stds[k]) == pytest.approx(std, rel=1e-9, abs=1e-12)
        assert torch.allclose(found.means[:, k].double(), mean, atol=2e-5 * max(1.0, t))
        if std == 0:
            assert (found.log_probs[:, k] == 0).all()
            continue
        draw += 1
        eps = rs.noise.normal(range(7), draw, SHAPE).double()
        literal = -0.5 * (eps**2).flatten(1).mean(1) - math.log(std) - 0.5 * math.log(2 * math.pi)
        assert torch.allclose(found.log_probs[:, k].double(), literal, atol=1e-3)
        density = torch.distributions.Normal(mean, std).log_prob(found.latents[:, k + 1].double())
        assert torch.allclose(found.log_probs[:, k].double(), density.flatten(1).mean(1), atol=1e-3)
    assert torch.equal(found.sigmas, torch.tensor(grid[:-1], dtype=torch.float64))


def test_a_seed_and_a_plan_replay_to_the_last_bit():
    made, _ = sampler("ddpm")
    one, other = made.rollout(range(5)), made.rollout([3, 0])
    again = sampler("ddpm")[0].rollout(range(5))
    for name in ("latents", "means", "log_probs", "samples"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert torch.equal(getattr(one, name)[[3, 0]], getattr(other, name))


def test_the_ratio_of_the_same_denoiser_is_1_and_has_a_gradient():
    made, _ = sampler("ddpm")
    found = made.rollout(range(5))
    mean = torch.tensor(0.3, requires_grad=True)
    for k in range(N - 1):
        x, s = found.latents[:, k], float(found.sigmas[k])
        D = mean + 0.25 / (0.25 + s * s) * (x - mean)
        ratio = (found.log_prob(k, D) - found.log_probs[:, k]).exp()
        assert torch.allclose(ratio, torch.ones(5), atol=1e-4)
        (gradient,) = torch.autograd.grad(ratio.sum(), mean)
        assert float(gradient) != 0
    with pytest.raises(rs.RestartError, match="draws no noise"):
        found.log_prob(N - 1, found.samples)


def test_a_window_of_noise_is_a_window_of_rows():
    made, _ = sampler("flow-grpo", eta=0.7, eta_window=(2, 4))
    whole = made.rollout(range(4))
    assert (whole.stds > 0).tolist() == [False, False, True, True, False, False]
    part = made.rollout(range(4), window=(2, 4))
    assert part.latents.shape == (4, 3, *SHAPE)
    assert torch.equal(part.latents, whole.latents[:, 2:5])
    assert torch.equal(part.log_probs, whole.log_probs[:, 2:4])
    assert torch.equal(part.samples, whole.samples)
    plain = sampler("flow-grpo", eta=0.0)[0]
    assert torch.equal(plain.rollout(range(4)).latents[:, :3], whole.latents[:, :3])


def test_a_jump_is_part_of_the_step_that_arrives_there():
    made, _ = sampler("ddpm", restart=[3, 2, 0.3, 2.0])
    found = made.rollout(range(4))
    assert len(found.rows) == made.plan.nfe > N
    for k, row in enumerate(made.plan.rows):
        assert float(found.stds[k]) == pytest.approx(row.noise)
        eps = (found.latents[:, k + 1] - found.means[:, k]) / max(row.noise, 1e-9)
        if row.noise:
            expected = rs.noise.normal(range(4), row.draw, SHAPE)
            assert torch.allclose(eps, expected, atol=2e-4 + 2e-6 * row.sigma / row.noise)


def test_conditions_go_through():
    def fn(x, sigma, mean):
        s = sigma.view(-1, 1, 1)
        return mean.view(-1, 1, 1) + 0.25 / (0.25 + s * s) * (x - mean.view(-1, 1, 1))

    den = rs.Denoiser.from_function(fn, SHAPE, conditions={"mean": rs.Condition(())})
    made = rs.Sampler(den, rs.Plan.build(steps=N, solver="ddpm"), batch_size=2)
    means = torch.linspace(-3, 3, 5)
    found = made.rollout(range(5), conditions={"mean": means})
    assert torch.equal(found.samples, made.run(range(5), conditions={"mean": means}))
    assert found.samples.mean((1, 2)).sub(means).abs().max() < 1.5


@pytest.mark.parametrize("solver", ["heun", "dpm++2m", "dpm2"])
def test_other_solvers_are_refused(solver):
    with pytest.raises(rs.RestartError, match="steps of one evaluation without history"):
        sampler(solver)[0].rollout(range(2))


@pytest.mark.parametrize("window", [(2, 2), (-1, 3), (0, 99), (1,), "ab"])
def test_windows_that_are_none(window):
    with pytest.raises(rs.RestartError, match="window must be two rows"):
        sampler("ddpm")[0].rollout(range(2), window=window)
