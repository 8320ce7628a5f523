"""The limiting cases that the solvers state, on numbers: a step is arithmetic, so floats serve for forms."""

from __future__ import annotations

import math

import pytest
from support.steps import states

from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.plan import Plan
from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.solvers import SOLVERS, edm_stochastic, euler, get_solver
from restart_sampling.solvers.process import alpha, log_snr, rise
from restart_sampling.solvers.trace import Position

T = 0.7


def D(z, level):
    """A denoiser that depends on both."""
    return z / (1 + level * level) + 0.1 * math.sin(3 * level)


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self, z, level):
        self.calls += 1
        return D(z, level)

    def draw(self):
        return 0.0


def step(name, s, x=1.3, **position):
    counted = Counted()
    solver = SOLVERS[name]
    at = Position(remaining=9, options=solver.settings, first=1.0, **position)
    return solver.step(x, T, s, counted, at), counted.calls


ANEW = {"cps", "tcd", "lcm"}  # these draw all noise anew


@pytest.mark.parametrize("process", ["ve", "flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_s_near_t_is_the_identity(name, process):
    """A step of no length changes nothing: the state by as much as the step is long, the noise by its root."""
    if process not in SOLVERS[name].processes:
        assert process != SOLVERS[name].processes[0]
        return
    update, _ = step(name, T * (1 - 1e-10), eta=0.0 if name in ANEW else 1.0, process=process)
    assert update.x == pytest.approx(D(1.3, T) * (1 - T) ** (process == "flow") if name == "lcm" else 1.3, abs=1e-7)
    assert update.noise == pytest.approx(T if name == "lcm" else 0, abs=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_s_0_is_one_euler_step_which_returns_D(name):
    update, calls = step(name, 0.0, process=SOLVERS[name].processes[0])
    assert update.x == pytest.approx(D(1.3, T), abs=1e-14)
    assert (update.noise, calls) == (0, 1)


def test_the_last_step_of_dpm3_before_0_is_dpm2():
    counted = Counted()
    update = SOLVERS["dpm3"].step(1.3, T, 0.2, counted, Position(remaining=2))
    assert update.x == SOLVERS["dpm2"].step(1.3, T, 0.2, D, Position(remaining=2)).x
    assert counted.calls == 2
    inside = SOLVERS["dpm3"].step(1.3, T, 0.2, Counted(), Position(remaining=2, restart=True))
    assert inside.x != update.x


def test_a_fresh_history_of_dpmpp_2m_is_euler():
    update, _ = step("dpm++2m", 0.2)
    assert update.x == pytest.approx(euler.step(1.3, T, 0.2, D, Position()).x, abs=1e-14)
    assert step("dpm++2m", 0.2, history=(0.4,), levels=(1.1,))[0].x != pytest.approx(update.x, abs=1e-3)


def test_eta_0_of_ddpm_is_ddim():
    update, _ = step("ddpm", 0.2, eta=0.0)
    assert update.x == pytest.approx(euler.step(1.3, T, 0.2, D, Position()).x, abs=1e-14)
    assert update.noise == 0


def test_churn_never_more_than_doubles_the_variance():
    assert (1 + edm_stochastic.gamma(1.0, 1e9, 0.0, 2.0, 18)) ** 2 == pytest.approx(2.0)
    assert edm_stochastic.gamma(1.0, 0.0, 0.0, 2.0, 18) == 0
    assert edm_stochastic.gamma(3.0, 40.0, 0.0, 2.0, 18) == 0


@pytest.mark.parametrize("process", ["ve", "flow"])
def test_a_rise_to_the_same_level_is_the_identity(process):
    assert rise(process, T, T) == (1.0, 0.0)
    assert log_snr(process, 0.0) == math.inf


def test_pure_noise_of_a_flow():
    assert alpha("flow", 1.0) == 0
    assert log_snr("flow", 1.0) == -math.inf


def flow_grpo(x, v, t, s, eta):
    """The mean and std of Flow-GRPO's step as its paper and code write it (arXiv 2505.05470, eq. 12)."""
    dt, g = s - t, eta * math.sqrt(t / (1 - (t if t < 1 else s)))
    drift = v + g * g / (2 * t) * (x + (1 - t) * v)
    return x + drift * dt, g * math.sqrt(-dt)


@pytest.mark.parametrize("t, s", [(1.0, 0.9), (0.7, 0.4), (0.2, 0.1)])
def test_flow_grpo_is_the_step_of_its_paper(t, s):
    counted = Counted()
    update = SOLVERS["flow-grpo"].step(1.3, t, s, counted, Position(remaining=9, process="flow", eta=0.7))
    mean, std = flow_grpo(1.3, (1.3 - D(1.3, t)) / t, t, s, 0.7)
    assert (update.x, update.noise) == pytest.approx((mean, std), abs=1e-13)


def test_eta_0_of_the_solvers_of_flows_is_euler():
    expected = euler.step(1.3, T, 0.2, D, Position(process="flow")).x
    for name in ("flow-grpo", "cps"):
        update, _ = step(name, 0.2, eta=0.0, process="flow")
        assert (update.x, update.noise) == (pytest.approx(expected, abs=1e-14), 0)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_cps_keeps_the_coefficients_of_the_level(eta):
    """x₀ has weight 1 − s, and the predicted and the fresh noise together s (arXiv 2509.05952)."""
    x0, eps = 0.4, -1.1
    s, x = 0.2, (1 - T) * x0 + T * eps
    update = SOLVERS["cps"].step(x, T, s, lambda z, level: x0, Position(process="flow", eta=eta))
    weight = (update.x - (1 - s) * x0) / eps
    assert update.noise == pytest.approx(s * math.sin(eta * math.pi / 2))
    assert weight * weight + update.noise**2 == pytest.approx(s * s)


@pytest.mark.parametrize("process, first", [("ve", 10.0), ("flow", 1.0), ("flow", 0.95)])
@pytest.mark.parametrize("name", [*SOLVERS, "unipc:order=2", "deis:order=2,variant=log-rho", "dpm-solver:order=3"])
def test_a_constant_denoiser_gives_a_straight_line(name, process, first):
    """Where D is c at every level the ODE is x = α·c + t·e, from pure noise too; eta is 0. Restart jumps are on top."""
    solver = get_solver(name)
    if process not in solver.processes:
        return
    levels, c, x = (first, 0.7 * first, 0.4 * first, 0.2 * first), 0.3, 1.7
    path = Trajectory(first, process, 1.0, 0.0)
    path.backward(levels, solver, lambda t: 0.0, remaining=9)
    if name == "lcm":  # it draws anew whatever eta is
        return
    a = alpha(process, first)
    e = (x - a * c) / first
    for t, state in zip(levels[1:], states(path.steps(), lambda z, level: c, x, lambda number: 0.0), strict=True):
        assert state == pytest.approx(alpha(process, t) * c + t * e, abs=1e-5)


@pytest.mark.parametrize("solver", ["unipc:variant=bh1", "sa-solver:predictor=2,corrector=2,simple=true"])
def test_weights_that_have_no_limit_are_refused(solver):
    with pytest.raises(ConfigError, match="a step from t = 1 of a flow is infinitely long in λ"):
        Plan.build(steps=6, schedule="flow", solver=solver)
    assert Plan.build(steps=6, schedule="flow", solver=solver, sigma_max=0.999).nfe == 6


@pytest.mark.parametrize("solver", ["dpm++sde", "exp-heun", "seeds2", "seeds3", "unipc", "dpm++2m-sde"])
def test_levels_of_a_flow_that_are_both_pure_noise_are_refused(solver):
    with pytest.raises(ConfigError, match=r"levels 1 and 0\.999999999 of a flow cannot be told apart"):
        Plan.build(sigmas=[1.0, 0.999999999, 0.5], schedule="flow", solver=solver)


def histories(solver):
    """For each step of a plan with one interval: the interval or None, and the weights of what earlier steps kept."""
    plan = Plan.build(steps=12, solver=solver, restart=[5, 1, 0.3, 2.0])
    return [(step.interval, step.result.history) for step in plan.steps]


def test_slopes_of_an_interval_are_used_by_weights_that_follow_the_steps_alone():
    """ipndm's weights are those of equal steps, and the main grid has others than the interval."""
    for solver, goes_on in (("ipndm", False), ("lms", True), ("dpm++3m", True)):
        steps = histories(solver)
        after = next(k for k, (interval, _) in enumerate(steps) if k and interval is None and steps[k - 1][0] == 0)
        assert any(steps[after][1]) == goes_on
        assert any(steps[after - 1][1]) and any(steps[after + 1][1])


def test_the_order_is_lowered_before_0_and_not_at_the_end_of_an_interval():
    for solver in ("unipc", "sa-solver", "dpm-solver:order=3,lower_final=true"):
        steps = histories(solver)
        inside = [weights for interval, weights in steps if interval == 0]
        assert sum(map(bool, inside[-1])) >= sum(map(bool, inside[-2])) >= 2
        last, before = steps[-1][1], steps[-2][1]  # to 0, and the step above it
        assert sum(map(bool, before)) >= sum(map(bool, last))


@pytest.mark.parametrize(("left", "want"), [(9, 3), (3, 3), (2, 2), (1, 1)])
def test_orders_of_the_last_steps(left, want):
    assert Position(remaining=left).lowered(3) == want
    assert Position(remaining=left).lowered(3, 1) == max(1, min(3, left - 1))
    assert Position(remaining=left, restart=True).lowered(3) == 3
