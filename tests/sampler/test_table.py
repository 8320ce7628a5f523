"""Plans bound to networks: whatever F predicts, the same D gives the same trajectory, and float32 costs little."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.models import parameterization
from restart_sampling.plan.schedule import sd_sigmas
from restart_sampling.sampler import reference
from restart_sampling.sampler.table import Variant, bind
from restart_sampling.solvers.registry import handling

SHAPE = (1, 3, 5)
SEEDS = list(range(8))
PLAN = dict(steps=8, sigma_min=0.03, sigma_max=14.0, restart=[[4, 2, 0.3, 2.0], [3, 1, 2.0, 6.0]], s_noise=1.003)
KINDS = {
    "edm": lambda: parameterization.edm(0.5),
    "vp": parameterization.vp,
    "ve": parameterization.ve,
    "eps": lambda: parameterization.discrete(sd_sigmas(), "eps"),
    "v": lambda: parameterization.discrete(sd_sigmas(), "v"),
    "x0": lambda: parameterization.discrete(sd_sigmas(), "x0"),
}


def as_network(data, p):
    """The raw network F of `data`'s denoiser under parameterization p: F = (D(x; σ) − c_skip·x)/c_out, x = net_in/c_in.

    σ is found from c_noise by bisection, since every c_noise here rises with σ.
    """

    def sigma_of(c_noise: float) -> float:
        low, high = np.log(1e-4), np.log(1e4)
        for _ in range(200):
            middle = 0.5 * (low + high)
            if p.coefficients(np.exp(middle)).c_noise < c_noise:
                low = middle
            else:
                high = middle
        return float(np.exp(0.5 * (low + high)))

    def network(net_in, c_noise, class_labels):
        sigma = sigma_of(float(c_noise[0]))
        c = p.coefficients(sigma)
        x = net_in.double() / float(c.c_in)
        D = data(x, torch.full((len(x),), sigma, dtype=torch.float64, device=x.device))
        return ((D - float(c.c_skip) * x) / float(c.c_out)).to(net_in.dtype)

    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", handling("ve"))
def test_what_the_network_predicts_does_not_matter(kind, solver):
    data, p = problems.mixture(SHAPE), KINDS[kind]()
    plan = rs.Plan.build(solver=solver, **PLAN)
    denoiser = rs.Denoiser(as_network(data, p), p, SHAPE)
    x = rs.Sampler(denoiser, plan, register_dtype=torch.float64).run(SEEDS)
    plain = rs.Denoiser.from_function(data, SHAPE)
    want = rs.Sampler(plain, plan, register_dtype=torch.float64).run(SEEDS)
    assert (x - want).abs().max() <= 1e-9 * want.abs().max()


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++2m"])
def test_flow_matching_gives_gaussian_data(solver):
    """x_t = (1 − t)x₀ + tε for data N(0, c²): the sampler's variance is the data's, with Restart in between."""
    c = 0.5

    def velocity(x, t, **_):
        t = t.view(-1, 1, 1, 1)
        # E[ε − x₀ | x_t] of jointly Gaussian variables
        return x * (t - (1 - t) * c * c) / ((1 - t) ** 2 * c * c + t * t)

    network = lambda net_in, c_noise, labels: velocity(net_in, c_noise / 1000)  # noqa: E731
    denoiser = rs.Denoiser(network, parameterization.flow(), (1, 16, 16))
    steps = 400 if solver == "euler" else 100
    plan = rs.Plan.build(schedule="flow", steps=steps, solver=solver, restart=[60, 2, 0.3, 0.6])
    x = rs.Sampler(denoiser, plan, register_dtype=torch.float64).run(range(64))
    assert x.std().item() == pytest.approx(c, rel=0.02)


def test_float32_error_is_at_most_twice_a_plain_loops(device):
    """EDM network, five intervals: error against float64 of the fused float32 rows and of a plain float32 loop."""
    data, p = problems.mixture((3, 8, 8)), parameterization.edm(0.5)
    intervals = [(4, 2, 19.35, 40.79), (4, 2, 1.09, 1.92), (5, 3, 0.59, 1.09), (5, 3, 0.30, 0.59), (5, 8, 0.06, 0.30)]
    plan = rs.Plan.build(steps=36, restart=[list(i) for i in intervals])
    network = as_network(data, p)

    def run(register_dtype):
        denoiser = rs.Denoiser(network, p, (3, 8, 8))
        return rs.Sampler(denoiser, plan, register_dtype=register_dtype, device=device).run(SEEDS).double().cpu()

    def D(x, level):
        c = p.coefficients(level)
        F = network(float(c.c_in) * x, torch.tensor([float(c.c_noise)], dtype=x.dtype), None)
        return float(c.c_skip) * x + float(c.c_out) * F

    exact = run(torch.float64)
    fused = (run(torch.float32) - exact).abs()
    plain = (
        reference.restart(D, lambda k: rs.noise.normal(SEEDS, k, (3, 8, 8)), steps=36, intervals=intervals).double()
        - exact
    )
    assert fused.max() <= 2 * plain.abs().max()
    assert fused.mean() <= 2 * plain.abs().mean()
    assert fused.max() <= 1e-6 * exact.abs().max()


def test_rows_are_finite_and_flags_follow_the_coefficients():
    for solver in handling("ve"):
        table = bind(rs.Plan.build(solver=solver, **PLAN), parameterization.edm())
        assert np.isfinite(table.coef).all()
        for row, (coef, code) in enumerate(zip(table.coef, table.code, strict=True)):
            flags = code[layout.FLAGS]
            for flag, y, g in ((layout.READ_X, 0, 4), (layout.READ_H, 1, 5), (layout.READ_F, 2, 6)):
                assert bool(flags & flag) == bool(coef[y] or coef[g])
            assert bool(flags & layout.STORE_NET) == (row < table.nfe)
        terms = ((layout.S, layout.DRAW), (layout.S2, layout.DRAW2))
        used = [number for std, draw in terms for number in table.code[table.coef[:, std] != 0, draw].tolist()]
        assert sorted(set(used)) == list(range(table.plan.draws + 1))
        shared = sum(number > 0 for step in table.plan.steps for number in step.draws)
        assert len(set(used)) <= len(used) <= len(set(used)) + 2 * shared


def test_h_is_never_read_before_it_is_written():
    """Along every plan, a row reads h only if an earlier row of the same step, or the step before, stored it."""
    for solver in handling("ve"):
        table = bind(rs.Plan.build(solver=solver, **PLAN), parameterization.edm())
        stored = False
        for flags in table.code[:, layout.FLAGS]:
            assert stored or not flags & layout.READ_H
            stored = stored or bool(flags & layout.STORE_H)


def test_a_step_that_needs_another_register_is_refused():
    """Six evaluations whose inputs and result take six different combinations of those before."""
    from restart_sampling.plan.trajectory import Step
    from restart_sampling.solvers.trace import Form, Stage, X

    rng = np.random.default_rng(0)
    forms = [X, *(Form(x=1.0, D=tuple(rng.normal(size=k))) for k in range(1, 10))]
    stages = tuple(Stage(3.0 - 0.1 * k, form) for k, form in enumerate(forms))
    step = Step(3.0, 1.0, stages, Form(x=1.0, D=tuple(rng.normal(size=10))))
    plan = dataclasses.replace(rs.Plan.build(steps=3), steps=(step,))
    with pytest.raises(
        rs.ConfigError, match=r"^solver 'heun', step from sigma 3 to 1: what follows evaluation \d needs"
    ):
        bind(plan, parameterization.ve(0.001, 100.0))
    few = dataclasses.replace(plan, steps=(dataclasses.replace(step, stages=stages[:4], result=forms[4]),))
    assert bind(few, parameterization.ve(0.001, 100.0)).registers == 2


def test_the_key_of_a_table_is_that_of_before_and_has_all_that_is_new():
    """The first is the digest that the layout of 12 columns had; images that are kept by it stay valid."""
    levels = parameterization.edm()
    assert bind(rs.preset("fashion-mnist-22"), levels).key == "4541f7fcc442"
    recipes = [
        dict(),
        dict(guidance="apg"),
        dict(guidance="apg", apg_eta=0.5),
        dict(guidance="apg", apg_norm=2.0),
        dict(guidance_rescale=0.5),
        dict(guidance_rescale=0.7),
        dict(guidance="zero-star"),
    ]
    plans = [rs.Plan.build(steps=5, guidance_scale=2.0, **recipe) for recipe in recipes]
    pasted = [bind(plans[0], levels, Variant(paste=noise)) for noise in ("initial", "fresh")]
    keys = {table.key for table in (*(bind(plan, levels) for plan in plans), *pasted)}
    assert len(keys) == len(recipes) + 2
