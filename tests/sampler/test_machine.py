"""What the machine can say: solvers with long histories and shared draws, lowered and run, against published results.

The results are those of k-diffusion, ComfyUI and diffusers, run in float64 on a problem with a closed-form denoiser
(`support/sheet.py`); no solver here is one that ships.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import sheet

import restart_kernels as rk
from restart_kernels import layout as L
from restart_kernels.registers import HISTORY
from restart_sampling.common.errors import ConfigError
from restart_sampling.models import parameterization
from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.sampler.lowering import Lowering
from restart_sampling.sampler.table import UNREAD, write_step
from restart_sampling.solvers.trace import Solver, Update

NETWORKS = {
    "edm": parameterization.edm(),
    "denoiser": parameterization.denoiser(),
    "eps": parameterization.discrete(np.geomspace(0.01, 20, 1000), "eps"),
    "v": parameterization.discrete(np.geomspace(0.01, 20, 1000), "v"),
}


def trajectory(step, levels=sheet.LEVELS):
    solver = Solver("x", step, 1, "x", "a paper")
    path = Trajectory(levels[0], "ve", 1.0, 1.0)
    path.backward(levels, solver, lambda t: 0.0)
    return path


def table(steps, network, initial=0.0):
    """coef, code and sigma of the rows of `steps`, row 0 included."""
    rows = [stage.level for step in steps for stage in step.stages]
    c = network.coefficients(np.array(rows))
    coef, code = np.zeros((len(rows) + 1, L.NUM_COEF)), np.zeros((len(rows) + 1, L.NUM_CODE), dtype=np.int32)
    coef[:, UNREAD] = -0.0
    at, lowering = 1, Lowering()
    for step in steps:
        stop = at + len(step.stages)
        part = type(c)(*(column[at - 1 : stop - 1] for column in c))
        write_step(lowering, step, part, coef[at:stop], code[at:stop])
        at = stop
    coef[0, L.S], code[0, L.FLAGS] = initial, L.STORE_X
    coef[:-1, L.C_IN] = c.c_in
    code[:-1, L.FLAGS] |= L.STORE_NET
    return coef, code, np.array([rows[0], *rows]), c


def run(coef, code, network_output, start, draws):
    """The rows in float64 Python, on one number; `network_output(k, net_in)` is F of evaluation k."""
    x, h, net = start, [np.nan] * 3, coef[0, L.C_IN] * start
    for k, (c, (flags, *numbers)) in enumerate(zip(coef[1:], code[1:], strict=True)):
        F = network_output(k, net)
        y, g = c[L.Y_F] * F, c[L.G_F] * F
        if flags & L.READ_X:
            y, g = y + c[L.Y_X] * x, g + c[L.G_X] * x
        for j, (in_y, in_g, read, _) in enumerate(HISTORY):
            if flags & read:
                y, g = y + c[in_y] * h[j], g + c[in_g] * h[j]
        for std, number in ((c[L.S], numbers[0]), (c[L.S2], numbers[1])):
            y += std * draws[number - 1] if std else 0.0
        for j, (_, _, _, store) in enumerate(HISTORY):
            h[j] = g if flags & store else h[j]
        x = y if flags & L.STORE_X else x
        net = c[L.C_IN] * y
    return x


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", sheet.GOLDEN)
def test_a_solver_gives_the_published_result(name, network):
    step, registers, noises, expected = sheet.GOLDEN[name]
    steps = trajectory(step).steps()
    coef, code, sigma, c = table(steps, NETWORKS[network])

    def F(k, net_in):
        z = net_in / c.c_in[k]
        return (sheet.denoiser(z, sigma[k + 1]) - c.c_skip[k] * z) / c.c_out[k]

    draws = sheet.DRAWS
    if name == "exp_heun_2_x0_sde":  # it takes every other draw of the list
        draws = sheet.DRAWS[::2]
    assert run(coef, code, F, sheet.START, draws) == pytest.approx(expected, abs=2e-10)
    used = max([0, *(j + 1 for j, (_, _, read, _) in enumerate(HISTORY) if (code[:, L.FLAGS] & read).any())])
    assert used == registers if network == "edm" else used <= registers
    assert (2 if coef[:, L.S2].any() else 1) == noises


@pytest.mark.parametrize("name", sheet.GOLDEN)
def test_jumps_and_churn_keep_the_two_terms(name):
    """A lift merges with the fresh noise of the step before it, never with a draw that stages share."""
    step, *_ = sheet.GOLDEN[name]
    solver = Solver("x", step, 1, "x", "a paper")
    path = Trajectory(10.0, "ve", 1.003, 1.0)
    path.backward((10.0, 4.0, 1.6), solver, lambda t: 0.0, remaining=6)
    for _ in range(2):
        path.forward(1.6, 5.0)
        path.forget()
        path.backward((5.0, 3.0, 1.6), solver, lambda t: 0.0, interval=0)
    path.backward((1.6, 0.7, 0.0), solver, lambda t: 0.0)
    steps = path.steps()
    table(steps, NETWORKS["edm"])
    numbers = [n for step in steps for n in (*step.draws, step.draw) if n]
    assert numbers == list(range(1, len(numbers) + 1))
    jumps = [step for step in steps if step.lift_to > step.s]
    assert len(jumps) == 2
    for jump in jumps:
        assert jump.noise > 1.003 * np.sqrt(25 - 1.6**2) * (1 - 1e-12)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("name", ["unipc-3", "seeds_3", "dpmpp_sde", "dpmpp_3m_sde"])
def test_the_machine_runs_what_the_loop_runs(name, backend):
    """Backends on 5 samples of 7 elements, with the scheme's own noise, against the loop in float64."""
    if backend not in rk.available_backends("cpu"):
        pytest.skip(f"no {backend} backend")
    step, registers, noises, _ = sheet.GOLDEN[name]
    steps, network = trajectory(step).steps(), NETWORKS["edm"]
    coef, code, sigma, c = table(steps, network, initial=10.0)
    seeds, numel = torch.arange(5), 7
    dtype = torch.float64 if backend == "reference" else torch.float32
    zeros = {name: torch.full((5, numel), torch.nan, dtype=dtype) for name in ("x", "h", "h2", "h3", "net_in")}
    for unused in ("h", "h2", "h3")[registers:]:
        zeros[unused] = None
    first_bad = torch.full((5,), L.NEVER, dtype=torch.int32)
    machine = rk.Machine(
        coef=torch.tensor(coef, dtype=dtype),
        code=torch.tensor(code),
        cursor=torch.zeros(1, dtype=torch.int32),
        seeds=seeds,
        first_bad=first_bad,
        noises=noises,
        **zeros,
    )
    bound = rk.bind(machine, backend)
    bound.run_row()
    bound.advance()

    def F(k, net_in):
        z = float(net_in) / c.c_in[k]
        return (sheet.denoiser(z, sigma[k + 1]) - c.c_skip[k] * z) / c.c_out[k]

    for k in range(len(coef) - 1):
        bound.run_row(machine.net_in.double().apply_(lambda v, k=k: F(k, v)).to(dtype))
        bound.advance()
    noise = {k: rk.normal(seeds, k, numel, backend="reference").double() for k in range(20)}
    for b in range(5):
        for i in range(numel):
            draws = [float(noise[k][b, i]) for k in range(1, 20)]
            literal = run(coef, code, F, 10.0 * float(noise[0][b, i]), draws)
            assert float(machine.x[b, i]) == pytest.approx(literal, abs=1e-11 if dtype == torch.float64 else 2e-4)
    assert (first_bad == L.NEVER).all()


def test_a_step_beyond_the_machine_is_refused():
    def five_kept(x, t, s, D, position):
        d = D(x, t)
        return Update(x + (s - t) * sum(position.history, d), keep=(d, *position.history)[:5])

    def three_draws(x, t, s, D, position):
        a, b = D.draw(), D.draw()
        d = D(x + a + b, t)
        return Update(d + 2.0 * a - b, noise=1.0)

    for step, reason in ((five_kept, "keep fewer"), (three_draws, "more than 2 draws")):
        with pytest.raises(ConfigError, match=reason):
            table(trajectory(step).steps(), NETWORKS["edm"])


@pytest.mark.parametrize("name", ["dpmpp_sde", "seeds_3", "dpmpp_2m_sde"])
def test_s_noise_is_a_factor_of_shared_and_of_fresh_noise(name):
    def noise(s_noise):
        path = Trajectory(10.0, "ve", s_noise, 1.0)
        path.backward(sheet.LEVELS, Solver("x", sheet.GOLDEN[name][0], 1, "x", "a paper"), lambda t: 0.0)
        steps = path.steps()
        forms = [form for step in steps for form in (*(stage.z for stage in step.stages), step.result)]
        return np.array([*(a for form in forms for a in form.noise), *(step.noise for step in steps)])

    assert noise(1.0).any()
    assert noise(1.3) == pytest.approx(1.3 * noise(1.0), rel=1e-12)
