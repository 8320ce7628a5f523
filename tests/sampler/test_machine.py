"""What the machine can say: solvers with long histories and shared draws, lowered and run on every backend.

That its rows give the published results is in tests/solvers/test_golden.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import golden, rows, sheet
from support.steps import states

import restart_kernels as rk
from restart_kernels import layout as L
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.solvers import SOLVERS, get_solver
from restart_sampling.solvers.trace import Solver, Update

EDM = parameterization.edm()
SPECS = list(dict.fromkeys(g.solver for g in golden.GOLDEN if g.ve is not None))

# history registers and noise terms of a whole run; the ones not named need (1, 1)
NEEDS = {
    "euler": (0, 1), "ddpm": (0, 1), "euler-ancestral": (0, 1), "lcm": (0, 1),
    "dpm++sde": (1, 2), "dpm++sde:r=0.4": (1, 2), "seeds2": (1, 2), "seeds3": (1, 2),
    "dpm++3m": (2, 1), "dpm++3m:variant=k-diffusion": (2, 1), "dpm++3m-sde:variant=k-diffusion": (2, 1),
    "unipc:order=2": (2, 1), "sa-solver:predictor=2,corrector=2,simple=true": (2, 1),
    "er-sde:variant=published": (2, 1),
    "deis": (2, 1), "deis:lower_final=true,variant=log-rho": (2, 1), "ipndm:order=3": (2, 1),
    "dpm-solver:lower_final=true,order=3,variant=diffusers": (2, 1),
    "unipc": (3, 1), "unipc:variant=bh1": (3, 1), "lms": (3, 1), "lms:to_zero=k-diffusion": (3, 1), "ipndm": (3, 1),
    "sa-solver:tau_min=0.25,tau_max=5": (3, 1), "sa-solver:pece=true,tau_min=0.25,tau_max=5": (3, 1),
}  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_registers_and_noise_terms(spec):
    program = rows.program(spec, golden.VE, EDM)
    assert (program.registers, program.noises) == NEEDS.get(spec, (1, 1))


@pytest.mark.parametrize("spec", SPECS)
def test_jumps_and_churn_keep_the_two_terms(spec):
    """A lift merges with the fresh noise of the step before it, never with a draw that stages share."""
    solver = get_solver(spec)
    path = Trajectory(10.0, "ve", 1.003, 1.0)
    path.backward((10.0, 4.0, 1.6), solver, lambda t: 0.0, remaining=6)
    for _ in range(2):
        path.forward(1.6, 5.0)
        path.forget()
        path.backward((5.0, 3.0, 1.6), solver, lambda t: 0.0, interval=0)
    path.backward((1.6, 0.7, 0.0), solver, lambda t: 0.0)
    steps = path.steps()
    rows.table(steps, EDM)
    numbers = [n for step in steps for n in (*step.draws, step.draw) if n]
    assert numbers == list(range(1, len(numbers) + 1))
    jumps = [step for step in steps if step.lift_to > step.s]
    assert len(jumps) == 2
    for jump in jumps:
        assert jump.noise > 1.003 * np.sqrt(25 - 1.6**2) * (1 - 1e-12)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("spec", ["unipc", "seeds3", "dpm++sde", "dpm++3m-sde", "sa-solver:pece=true"])
def test_the_machine_runs_what_the_loop_runs(spec, backend):
    """Backends on 5 samples of 7 elements, with the scheme's own noise, against the loop in float64."""
    if backend not in rk.available_backends("cpu"):
        pytest.skip(f"no {backend} backend")
    steps = rows.trajectory(spec, golden.VE).steps()
    coef, code, sigma, c = rows.table(steps, EDM, initial=10.0)
    program = rows.Program(coef, code, sigma, c)
    seeds, numel = torch.arange(5), 7
    dtype = torch.float64 if backend == "reference" else torch.float32
    zeros = {name: torch.full((5, numel), torch.nan, dtype=dtype) for name in ("x", "h", "h2", "h3", "net_in")}
    for unused in ("h", "h2", "h3")[program.registers :]:
        zeros[unused] = None
    first_bad = torch.full((5,), L.NEVER, dtype=torch.int32)
    machine = rk.Machine(
        coef=torch.tensor(coef, dtype=dtype),
        code=torch.tensor(code),
        cursor=torch.zeros(1, dtype=torch.int32),
        seeds=seeds,
        first_bad=first_bad,
        noises=program.noises,
        **zeros,
    )
    bound = rk.bind(machine, backend)
    bound.run_row()
    bound.advance()

    F = program.F(sheet.denoiser)
    for k in range(len(coef) - 1):
        bound.run_row(machine.net_in.double().apply_(lambda v, k=k: F(k, v)).to(dtype))
        bound.advance()
    noise = {k: rk.normal(seeds, k, numel, backend="reference").double() for k in range(20)}
    for b in range(5):
        for i in range(numel):
            draws = [float(noise[k][b, i]) for k in range(1, 20)]
            literal = rows.run(coef, code, F, 10.0 * float(noise[0][b, i]), draws)
            assert float(machine.x[b, i]) == pytest.approx(literal, abs=1e-11 if dtype == torch.float64 else 2e-4)
    assert (first_bad == L.NEVER).all()


def test_a_step_beyond_the_machine_is_refused():
    def five_kept(x, t, s, D, position):
        d = D(x, t)
        return Update(x + (s - t) * sum(position.history, d), keep=(d, *position.history)[:5])

    def three_draws(x, t, s, D, position):
        a, b = D.draw(), D.draw()
        d = D(D(x, t) + a + b, t)
        return Update(d + 2.0 * a - b, noise=1.0)

    def elsewhere(x, t, s, D, position):
        return Update(D(0.5 * x, t))

    refused = (five_kept, "keep fewer"), (three_draws, "more than 2 draws"), (elsewhere, "at the state it is given")
    for step, reason in refused:
        with pytest.raises(ConfigError, match=reason):
            rows.table(rows.trajectory(Solver("x", step, 1, "x", "a paper"), golden.VE).steps(), EDM)


@pytest.mark.parametrize("spec", ["dpm++sde", "seeds3", "dpm++2m-sde", "sa-solver", "exp-heun:sde=true"])
def test_s_noise_is_a_factor_of_shared_and_of_fresh_noise(spec):
    def noise(s_noise):
        steps = rows.trajectory(spec, golden.VE, s_noise=s_noise).steps()
        forms = [form for step in steps for form in (*(stage.z for stage in step.stages), step.result)]
        return np.array([*(a for form in forms for a in form.noise), *(step.noise for step in steps)])

    assert noise(1.0).any()
    assert noise(1.3) == pytest.approx(1.3 * noise(1.0), rel=1e-12)


def test_what_is_kept_has_no_part_in_the_noise_of_the_arrival():
    """Where registers are scarce, a kept output is written as a combination of x: of x as it will be, noise and all."""
    draws = [0.7, -1.3, 0.4, 1.1, -0.2, 0.9]
    for spec in ("sa-solver:pece=true", "sa-solver:pece=true,predictor=2,corrector=3"):
        steps = rows.trajectory(spec, golden.VE).steps()
        program = rows.Program(*rows.table(steps, EDM))
        *_, want = states(steps, sheet.denoiser, 9.0, lambda number: draws[number - 1])
        assert program.run(sheet.denoiser, 9.0, draws) == pytest.approx(want, abs=1e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_history_ends_where_a_jump_or_churn_lifts_the_state(name):
    solver = SOLVERS[name]
    process, levels = solver.processes[0], (0.9, 0.7, 0.5, 0.35)
    path = Trajectory(0.9, process, 1.0, 1.0)
    path.backward(levels, solver, lambda t: 0.1 if t == 0.5 else 0.0, remaining=9, first=0.9)
    *_, before, churned = path.steps()
    assert churned.t > before.s
    assert not any(any(form.history) for form in (churned.result, *(stage.z for stage in churned.stages)))


def test_another_solver_begins_without_the_history_of_the_one_before():
    path = Trajectory(10.0, "ve", 1.0, 1.0)
    path.backward((10.0, 4.0, 1.6), get_solver("dpm++2m"), lambda t: 0.0, remaining=6)
    path.backward((1.6, 0.7), get_solver("lms"), lambda t: 0.0)  # it keeps slopes, the other one D
    assert not any(path.steps()[-1].result.history)


@pytest.mark.parametrize("s_noise", [0.0, 1.0])
@pytest.mark.parametrize("spec", SPECS)
def test_no_row_sums_terms_that_cancel(spec, s_noise):
    """Of the ways to keep what later rows need, one is taken in which rounding errors do not grow.

    Without noise x may stand for what is kept as well, so there are more ways, and worse ones.
    """
    coef = rows.program(spec, golden.VE, EDM, s_noise=s_noise).coef[1:]
    columns = [L.Y_X, L.G_X, L.Y_H, L.G_H, L.Y_H2, L.G_H2, L.Y_H3, L.G_H3]
    assert np.abs(coef[:, columns]).max() <= 5
