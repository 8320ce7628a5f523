"""The engine against the papers' literal loops in float64, with the same noise and the same denoiser."""

from __future__ import annotations

import pytest
import torch
from support import problems, steps

import restart_sampling as rs
from restart_sampling.sampler import reference

SHAPE = (1, 4, 4)
STEPS = {"heun": reference.heun_step, "euler": reference.euler_step, "dpm2": steps.dpm2_step}
IMAGENET_623 = [(10, 3, 19.35, 40.79), (10, 3, 1.09, 1.92), (7, 6, 0.59, 1.09), (7, 6, 0.30, 0.59), (7, 25, 0.06, 0.30)]

CASES = {
    "heun": dict(),
    "one_level": dict(intervals=[(3, 2, 0.14, 0.30)]),
    "one_level_long": dict(intervals=[(9, 30, 0.06, 0.20)], steps=20),
    "multi_level": dict(intervals=IMAGENET_623, steps=36, s_noise=1.003),
    "order_given_does_not_matter": dict(intervals=IMAGENET_623[::-1], steps=36, s_noise=1.003),
    "same_grid_point": dict(intervals=[(3, 2, 0.59, 1.09), (4, 1, 1.09, 1.92)], steps=14),
    "main_churn": dict(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003),
    "restart_churn": dict(intervals=[(3, 2, 0.14, 0.30)], restart_gamma=0.05, s_min=0.01, s_max=1.0, s_noise=1.003),
    "both_churns": dict(intervals=[(4, 3, 0.59, 1.09)], s_churn=20.0, restart_gamma=0.05, s_noise=1.003),
    "s_noise_0": dict(intervals=[(3, 2, 0.14, 0.30)], s_noise=0.0),
    "K_0_is_plain_heun": dict(intervals=[(3, 0, 0.14, 0.30)]),
    "euler": dict(intervals=[(3, 2, 0.14, 0.30)], step="euler"),
    "dpm2": dict(intervals=[(3, 2, 0.14, 0.30)], step="dpm2"),
}


def run(case, register_dtype, device):
    denoiser = rs.Denoiser.from_function(problems.mixture(SHAPE), shape=SHAPE)
    options = dict(case)
    options["restart"] = [list(i) for i in options.pop("intervals", [])] or None
    plan = rs.Plan.build(solver=options.pop("step", "heun"), **options)
    calls = []

    def counted(x, sigma, **cond):
        calls.append(len(x))
        return problems.mixture(SHAPE)(x, sigma)

    denoiser = rs.Denoiser.from_function(counted, shape=SHAPE)
    seeds = list(range(7))
    x = rs.Sampler(denoiser, plan, batch_size=7, register_dtype=register_dtype, device=device).run(seeds)
    assert len(calls) == plan.nfe
    return x.cpu(), plan, seeds


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_equals_the_papers_algorithm(name, precision, device):
    case = CASES[name]
    x, _, seeds = run(case, getattr(torch, precision), device)
    data = problems.mixture(SHAPE)

    def D(y, level):
        sigma = torch.full((len(y),), level, dtype=torch.float64)
        # With float32 registers the network gets sigma in float32; read it the same way so that only the sampler is
        # compared.
        return data(y, sigma.float().double() if precision == "float32" else sigma)

    options = dict(case)
    options["step"] = STEPS[options.pop("step", "heun")]
    want = reference.restart(D, lambda k: rs.noise.normal(seeds, k, SHAPE).double(), **options)
    tolerance = 1e-6 if precision == "float32" else 1e-12
    assert torch.isfinite(want).all()
    assert ((x.double() - want).abs().max() / want.abs().max()).item() <= tolerance


def test_official_reading_of_a_collision_is_an_option(device):
    case = dict(CASES["same_grid_point"], on_collision="last")
    x, plan, seeds = run(case, torch.float64, device)
    options = {k: v for k, v in case.items() if k != "on_collision"}
    data = problems.mixture(SHAPE)
    want = reference.restart(
        lambda y, level: data(y, torch.full((len(y),), level, dtype=torch.float64)),
        lambda k: rs.noise.normal(seeds, k, SHAPE).double(),
        on_collision="last",
        **options,
    )
    assert (x - want).abs().max() <= 1e-12 * want.abs().max()
    assert "only interval 1 runs" in plan.explain()


def test_dpm3_equals_its_papers_algorithm(device):
    """The VP configuration of the Restart paper: order 3, then 2, then Euler; intervals always order 3."""
    case = dict(steps=8, intervals=[(3, 1, 0.06, 0.3)], sigma_min=0.010486, sigma_max=152.167)
    data = problems.mixture(SHAPE)
    plan = rs.Plan.build(steps=8, solver="dpm3", sigma_min=0.010486, sigma_max=152.167, restart=[3, 1, 0.06, 0.3])
    assert plan.nfe == 27
    seeds = [0, 1, 2]
    denoiser = rs.Denoiser.from_function(data, shape=SHAPE)
    x = rs.Sampler(denoiser, plan, register_dtype=torch.float64, device=device).run(seeds).cpu()
    grid = [*reference.karras(8, case["sigma_min"], case["sigma_max"]).tolist(), 0.0]

    def step(D, y, t, s):
        if s == 0:
            return reference.euler_step(D, y, t, s)
        return steps.dpm2_step(D, y, t, s) if s == grid[7] and t == grid[6] else steps.dpm3_step(D, y, t, s)

    want = reference.restart(
        lambda y, level: data(y, torch.full((len(y),), level, dtype=torch.float64)),
        lambda k: rs.noise.normal(seeds, k, SHAPE).double(),
        step=step,
        **case,
    )
    assert (x - want).abs().max() <= 1e-11 * want.abs().max()


@pytest.mark.parametrize(
    "churn", [dict(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003), dict(s_churn=9.0), dict(s_churn=0.0)]
)
def test_edm_stochastic_equals_its_papers_algorithm(churn, device):
    """EDM's Algorithm 2, written apart from Restart's: the engine, and Restart's loop without an interval."""
    data, seeds = problems.mixture(SHAPE), [3, 4]

    def D(y, level):
        return data(y, torch.full((len(y),), level, dtype=torch.float64))

    def draw(k):
        return rs.noise.normal(seeds, k, SHAPE).double()

    want = reference.edm_stochastic(D, draw, steps=11, **churn)
    plan = rs.Plan.build(steps=11, solver="edm-stochastic", **churn)
    denoiser = rs.Denoiser.from_function(data, shape=SHAPE)
    x = rs.Sampler(denoiser, plan, register_dtype=torch.float64, device=device).run(seeds).cpu()
    assert (x - want).abs().max() <= 1e-12 * want.abs().max()
    loop = reference.restart(D, draw, steps=11, **churn)
    assert (loop - want).abs().max() <= 1e-12 * want.abs().max()
