"""The adapter for PhysicsNeMo against a stub of its documented protocols: networks, schedulers, solvers, CorrDiff."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import physicsnemo_stub as stub

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError, RestartTypeError, RestartValueError
from restart_sampling.integrations.physicsnemo import CorrDiff, RestartSolver, denoiser_of, sample, stochastic_sampler
from restart_sampling.jobs.inputs.inputs import Inputs
from restart_sampling.plan.schedule import karras

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (2, 4, 6)
RESTART = "[3, 2, 0.1, 0.5]"
LOW = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))


# --- networks ----------------------------------------------------------------------------------------------------


def test_a_network_of_each_kind_is_called_by_its_own_arguments():
    plan = rs.Plan.build(steps=6)
    seeds, labels = range(5), [0, 1, 2, 0, 1]
    shift = torch.tensor([-1.0, 0.0, 1.0])[labels].view(-1, 1, 1, 1)
    mean = LOW[:2]

    def expected(mean, plan=plan, shape=SHAPE):
        exact = rs.Denoiser.from_function(lambda x, sigma: stub.posterior(x, sigma, mean), shape)
        return rs.sample(exact, plan, seeds)

    super_resolution = denoiser_of(stub.SuperResolution())
    assert super_resolution.shape == SHAPE and list(super_resolution.conditions) == ["img_lr"]
    assert super_resolution.conditions["img_lr"].shape == (3, 4, 6) and not super_resolution.conditions["img_lr"].shared
    x = rs.sample(super_resolution, plan, seeds, conditions={"img_lr": LOW})
    torch.testing.assert_close(x, expected(mean), rtol=0, atol=1e-5)

    conditional = denoiser_of(stub.Conditional(), condition=(3, 4, 6), shared=True)
    assert conditional.label_dim == 3 and conditional.conditions["condition"].shared
    x = rs.sample(conditional, plan, seeds, class_labels=labels, conditions={"condition": LOW})
    torch.testing.assert_close(x, expected(mean + shift), rtol=0, atol=1e-5)

    plain = denoiser_of(stub.Unconditional())
    assert plain.shape == (2, 4, 4) and not plain.conditions and plain.name == "Unconditional"
    assert (plain.parameterization.sigma_min, plain.parameterization.sigma_max) == (0.02, 100.0)
    low = rs.Plan.build(steps=6, sigma_min=0.02)
    torch.testing.assert_close(
        rs.sample(plain, plan, seeds), expected(torch.tensor(0.25), low, (2, 4, 4)), rtol=0, atol=1e-5
    )


def test_the_network_keeps_its_weights_and_its_levels():
    """The wrapper is a module: device, digest and rounding are the network's."""

    class Rounded(stub.Unconditional):
        u = torch.tensor([80.0, 10.0, 1.0, 0.1])

        def round_sigma(self, sigma):
            sigma = torch.as_tensor(sigma)
            return self.u[(sigma.reshape(-1, 1) - self.u).abs().argmin(1)].to(sigma.dtype).reshape(sigma.shape)

    net = Rounded()
    den = denoiser_of(net)
    assert len(den.parameters) == 1 and len(den.weights_sha256()) == 64
    sampler = rs.Sampler(den, rs.Plan.build(steps=12, sigma_min=0.1))
    assert sorted(set(sampler.plan.grid)) == pytest.approx([0.0, 0.1, 1.0, 10.0, 80.0])


def test_what_else_a_network_is_given_is_declared_by_name():
    den = denoiser_of(stub.SuperResolution(), conditions={"lead_time_label": rs.Condition(())})
    plan, conditions = rs.Plan.build(steps=6), {"img_lr": LOW, "lead_time_label": torch.tensor([0.0, 5.0])}
    x = rs.sample(den, plan, [3, 3], conditions=conditions)
    assert (x[1] - x[0]).mean() == pytest.approx(5.0, abs=0.2)


def test_each_input_of_a_job_has_its_own_image(tmp_path):
    np.save(tmp_path / "low.npy", torch.stack([LOW, -LOW]).numpy())
    inputs = Inputs.read(denoiser_of(stub.SuperResolution()), conditions=tmp_path / "low.npy", per_input=2)
    told = inputs.told(np.arange(4))["img_lr"]
    assert torch.equal(told, torch.stack([LOW, LOW, -LOW, -LOW]))


def test_networks_that_do_not_fit_are_one_sentence():
    class Silent(torch.nn.Module):
        def forward(self, x, sigma):
            return x

    for arguments, options, error, message in (
        ((3,), {}, RestartTypeError, "net must be a network of PhysicsNeMo"),
        ((Silent(),), {}, RestartValueError, r"Silent does not say what its samples are; give shape=\(C, H, W\)"),
        (
            (Silent(), SHAPE),
            {"condition": SHAPE},
            RestartValueError,
            "takes neither img_lr nor condition, but x, sigma",
        ),
        ((Silent(), SHAPE), {"conditions": {"lead": rs.Condition(())}}, RestartValueError, "Silent takes no lead"),
        ((lambda x, img_lr, sigma: x, SHAPE), {}, RestartValueError, "say of which shape as condition="),
    ):
        with pytest.raises(error, match=message):
            denoiser_of(*arguments, **options)


# --- sample, and the solver --------------------------------------------------------------------------------------


def case(name, dtype=torch.float32, steps=10, batch=3):
    """(denoiser, xN, scheduler, steps) of Gaussian data around 0.25."""
    scheduler = {"edm": stub.EDM, "vp": stub.VP, "flow": stub.Flow}[name]()
    first = scheduler.timesteps(steps, dtype=dtype)[:1]

    def x0(x, t):
        at = t.reshape(-1, 1, 1, 1)
        alpha, sigma = scheduler.alpha(at), scheduler.sigma(at)
        gain = alpha * stub.DATA**2 / (alpha**2 * stub.DATA**2 + sigma**2)
        return 0.25 + gain * (x - alpha * 0.25)

    noise = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)
    xN = scheduler.sigma(first).reshape(-1, 1, 1, 1) * noise
    return scheduler.get_denoiser(x0_predictor=x0), xN, scheduler, steps


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_without_restart_heun_is_that_of_the_protocol(name):
    """Levels are times there, so the steps are the same; float64 against the loop of the stub."""
    denoiser, xN, scheduler, steps = case(name, torch.float64)
    want = stub.sample(stub.Heun(denoiser), xN, scheduler, steps)
    torch.testing.assert_close(sample(denoiser, xN, scheduler, steps), want, rtol=0, atol=1e-9)
    solver = RestartSolver(denoiser, scheduler, steps, like=xN)
    torch.testing.assert_close(stub.sample(solver, xN, scheduler, steps), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["edm", "vp", "flow"])
def test_the_ode_is_solved_whatever_the_schedule(name):
    """Gaussian data: the exact flow takes a state to mean + (state − alpha·mean)·std ratio; the error is of order 2."""
    errors = []
    for steps in (20, 40):
        denoiser, xN, scheduler, _ = case(name, torch.float64, steps)
        first = scheduler.timesteps(steps, dtype=torch.float64)[:1]
        alpha, sigma = scheduler.alpha(first), scheduler.sigma(first)
        total = torch.sqrt((alpha * stub.DATA) ** 2 + sigma**2)
        exact = 0.25 + stub.DATA * (xN - alpha * 0.25) / total
        errors.append(float((sample(denoiser, xN, scheduler, steps) - exact).abs().max()))
    assert errors[1] < 0.05 and errors[0] / errors[1] > 2


@pytest.mark.parametrize("name", ["edm", "vp", "flow"])
def test_a_step_at_a_time_gives_the_samples_of_one_run(name):
    """The solver inside the protocol's loop, with jumps: the same noise by seeds, the same rows."""
    denoiser, xN, scheduler, steps = case(name)
    options = {"restart": RESTART, "seeds": [4, 5, 2**60]}
    whole = sample(denoiser, xN, scheduler, steps, **options)
    solver = RestartSolver(denoiser, scheduler, steps, **options)
    assert len(solver.plan.intervals) == 1 and solver.plan.nfe == 2 * steps - 1 + 8
    torch.testing.assert_close(stub.sample(solver, xN, scheduler, steps), whole, rtol=0, atol=2e-5)
    plain = sample(denoiser, xN, scheduler, steps)
    assert (whole - plain).abs().max() > 0.01
    states = sample(denoiser, xN, scheduler, steps, time_eval=[3, steps - 1], **options)
    wanted = stub.sample(solver, xN, scheduler, steps, time_eval=[3, steps - 1])
    for state, want in zip(states, wanted, strict=True):
        torch.testing.assert_close(state, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["edm", "vp"])
def test_a_jump_goes_to_its_level_in_the_schedule_s_own_state(name):
    """The first call after a jump sees alpha(t)·x with the variance of the law at t, sigma/alpha = t_max."""
    denoiser, xN, scheduler, steps = case(name, torch.float64, 40, 3000)
    seen = []

    def watched(x, t):
        alpha, sigma = (float(f(t[:1].double())) for f in (scheduler.alpha, scheduler.sigma))
        seen.append((sigma / alpha, float(x.var()) / ((alpha * stub.DATA) ** 2 + sigma**2)))
        return denoiser(x, t)

    sample(watched, xN, scheduler, steps, restart="[3, 2, 0.1, 0.5]", seeds=range(3000))
    ups = [now for before, now in itertools.pairwise(seen) if now[0] > before[0]]
    assert [level for level, _ in ups] == pytest.approx([0.5, 0.5], rel=1e-9)
    assert [ratio for _, ratio in ups] == pytest.approx([1, 1], rel=0.03)


def test_other_solvers_time_steps_and_schedulers():
    denoiser, xN, scheduler, _ = case("edm")
    steps = torch.tensor([80.0, 10.0, 1.0, 0.1])
    found = sample(denoiser, xN, scheduler, 0, "euler", time_steps=steps)
    x = xN
    for t, s in itertools.pairwise(steps):
        x = x + (s - t) * denoiser(x, t.expand(len(x)))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-4)
    sample(denoiser, xN, scheduler, 8, "dpm++2m", restart=RESTART, seeds=range(3))
    minimal = sample(lambda x, t: x / t.reshape(-1, 1, 1, 1), torch.ones(1, 1, 2, 2), stub.Minimal(), 4)
    torch.testing.assert_close(minimal, torch.zeros(1, 1, 2, 2), rtol=0, atol=1e-6)


def test_the_noise_of_jumps_is_the_host_s_where_it_is_given():
    denoiser, xN, scheduler, steps = case("edm")
    drawn = []

    def randn_like(x):
        drawn.append(x.shape)
        return torch.zeros_like(x)

    found = sample(denoiser, xN, scheduler, steps, restart=RESTART, randn_like=randn_like)
    assert drawn == [xN.shape] * 2
    assert torch.isfinite(found).all()


def test_what_cannot_run_is_one_sentence():
    denoiser, xN, scheduler, steps = case("edm")

    class StudentT(stub.EDM):
        nu = 10

    class Odd(stub.Minimal):
        alpha = staticmethod(lambda t: 1 - t / 4)
        sigma = staticmethod(lambda t: t)

    solver = RestartSolver(denoiser, scheduler, steps)
    multistep = RestartSolver(denoiser, scheduler, steps, solver="dpm++2m")
    t = torch.tensor(scheduler.timesteps(steps, dtype=torch.float32).tolist())
    for call, error, message in (
        (lambda: sample(denoiser, xN, StudentT(), steps), ConfigError, "Student-t noise"),
        (
            lambda: sample(denoiser, xN, Odd(), steps),
            ConfigError,
            "Odd has an alpha or a sigma of its own and no drift",
        ),
        (lambda: sample(denoiser, xN, object(), steps), RestartTypeError, "must have timesteps"),
        (lambda: sample(denoiser, xN, scheduler, steps, solver), RestartTypeError, "physicsnemo's own sample"),
        (lambda: sample(denoiser, xN, scheduler, steps, "hein"), ConfigError, "heun"),
        (lambda: sample(denoiser, xN, scheduler, steps, time_eval=[10]), RestartValueError, "from 0 to 9"),
        (lambda: sample(lambda x, t: x[0], xN, scheduler, steps), RestartTypeError, "must return dx/dt of the shape"),
        (lambda: sample(denoiser, [1], scheduler, steps), RestartTypeError, "a floating tensor"),
        (lambda: sample(denoiser, xN, scheduler, 0, time_steps=[1.0, 1.0, 0.0]), ConfigError, "must descend"),
        (lambda: solver.step(xN, t[0:1] * 1.5, t[1:2]), RestartValueError, "is none of the time steps"),
        (lambda: solver.step(xN, t[0:1], t[2:3]), RestartValueError, "these are 0 and 2"),
        (lambda: multistep.step(xN, t[0:1], t[1:2]), ConfigError, "remembers the steps before"),
        (lambda: RestartSolver(3, scheduler, steps), RestartTypeError, "denoiser must be a function"),
    ):
        with pytest.raises(error, match=message):
            call()


# --- the sampler that CorrDiff calls -----------------------------------------------------------------------------


def latents(batch=3):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(5))


def test_without_restart_it_is_heun_on_the_grid_of_edm():
    net, img_lr = stub.SuperResolution(), LOW.expand(3, -1, -1, -1)
    found = stochastic_sampler(net, latents(), img_lr, num_steps=9, sigma_max=200)
    assert len(net.calls) == 17 and net.calls[0] == pytest.approx(200)
    want = stub.legacy(stub.SuperResolution(), latents(), img_lr, [*karras(9, 0.002, 200, 7.0), 0.0])
    torch.testing.assert_close(found, want.float(), rtol=0, atol=1e-4)


def test_with_restart_it_is_the_engine_on_the_same_plan():
    net, img_lr = stub.SuperResolution(), LOW.expand(3, -1, -1, -1)
    plan = rs.Plan.build(steps=9, sigma_max=800, restart=RESTART)
    want = rs.sample(denoiser_of(net), plan, [1, 2, 3], conditions={"img_lr": LOW}, latents=latents())
    found = stochastic_sampler(net, latents(), img_lr, num_steps=9, restart=RESTART, seeds=[1, 2, 3])
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)
    drawn = []

    def randn_like(x):
        drawn.append(1)
        return torch.randn_like(x)

    stochastic_sampler(net, latents(), img_lr, randn_like=randn_like, num_steps=9, restart=RESTART)
    assert len(drawn) == 2


def test_networks_with_a_condition_classes_mean_and_lead_time():
    img_lr, mean = LOW[2:].expand(3, -1, -1, -1), LOW[None, :2]
    labels = torch.eye(3)
    net = stub.Conditional()
    found = stochastic_sampler(net, latents(), img_lr, labels, mean_hr=mean, num_steps=9)
    shifted = found - torch.tensor([-1.0, 0.0, 1.0]).view(-1, 1, 1, 1)
    want = stochastic_sampler(stub.SuperResolution(), latents(), LOW.expand(3, -1, -1, -1), num_steps=9)
    torch.testing.assert_close(shifted, want, rtol=0, atol=5e-3)  # the first state is around 0 and not around the mean
    late = stochastic_sampler(
        stub.SuperResolution(), latents(), LOW.expand(3, -1, -1, -1), lead_time_label=torch.tensor([2.0]), num_steps=9
    )
    torch.testing.assert_close(late, want + 2, rtol=0, atol=1e-2)


def test_patches_are_drawn_apart_and_fused():
    """The stub network is local, so halves give what the whole gives."""

    class Local(stub.SuperResolution):
        img_in_channels = 6

        def forward(self, x, img_lr, sigma, embedding_selector=None, **kwargs):
            assert x.shape[2] == 2 and embedding_selector(torch.zeros(1, 4, 6)).shape == (6, 1, 2, 6)
            return super().forward(x, img_lr, sigma, **kwargs)

    img_lr = LOW.expand(3, -1, -1, -1)
    found = stochastic_sampler(Local(), latents(), img_lr, patching=stub.Patching(), num_steps=6)
    torch.testing.assert_close(found, stochastic_sampler(stub.SuperResolution(), latents(), img_lr, num_steps=6))


def test_its_mistakes_are_one_sentence():
    net, img_lr = stub.SuperResolution(), LOW.expand(3, -1, -1, -1)
    for call, message in (
        (lambda: stochastic_sampler(net, latents(), img_lr[:2]), "img_lr has 2 rows, and latents 3"),
        (lambda: stochastic_sampler(net, latents(), img_lr, torch.eye(3)), "SuperResolution takes no class_labels"),
        (lambda: stochastic_sampler(stub.Unconditional(), latents(), img_lr), "takes neither img_lr nor condition"),
        (lambda: stochastic_sampler(net, latents(), img_lr, num_steps=1), "are no grid; give num_steps ≥ 2"),
    ):
        with pytest.raises(RestartValueError, match=message):
            call()


# --- CorrDiff ----------------------------------------------------------------------------------------------------


def test_members_are_the_mean_and_residuals():
    """Told the mean before the image, the stub's residuals are N(mean, 0.4²); so members are around twice the mean."""
    plan = rs.Plan.build(steps=8, restart=RESTART)

    class Told(stub.SuperResolution):
        img_in_channels = 5

    corrdiff = CorrDiff(denoiser_of(Told()), stub.Regression(), plan, mean_conditioned=True)
    torch.testing.assert_close(corrdiff.mean(LOW), LOW[:2])
    members = corrdiff(LOW, range(7))
    told = torch.cat([LOW[:2], LOW])
    residuals = rs.sample(denoiser_of(Told()), plan, range(7), conditions={"img_lr": told})
    torch.testing.assert_close(members, LOW[:2] + residuals)
    torch.testing.assert_close(corrdiff(LOW, [6, 0]), members[[6, 0]])
    whole = CorrDiff(denoiser_of(stub.SuperResolution(), shared=True), None, plan)
    torch.testing.assert_close(
        whole(LOW, range(7)), rs.sample(denoiser_of(stub.SuperResolution()), plan, range(7), conditions={"img_lr": LOW})
    )


def test_corrdiff_mistakes_are_one_sentence():
    plan = rs.Plan.build(steps=4)
    with pytest.raises(RestartValueError, match="mean_conditioned needs the regression network"):
        CorrDiff(denoiser_of(stub.SuperResolution()), None, plan, mean_conditioned=True)
    with pytest.raises(RestartValueError, match="is told nothing; make it with denoiser_of"):
        CorrDiff(denoiser_of(stub.Unconditional()), None, plan)
    wrong = CorrDiff(denoiser_of(stub.SuperResolution()), lambda x, img_lr: img_lr, plan)
    with pytest.raises(RestartValueError, match=r"returned \[1, 3, 4, 6\], and samples are \[2, 4, 6\]"):
        wrong(LOW, [0])


def test_nothing_of_physicsnemo_is_imported():
    code = (
        "import sys, restart_sampling.integrations.physicsnemo as p\n"
        "[getattr(p, name) for name in p.__all__]\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('physicsnemo', 'modulus', 'diffusers')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
