"""Steps of a solver lowered to rows, and the rows run in float64 Python on one number: no tensor, no backend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from restart_kernels import layout as L
from restart_kernels.registers import HISTORY
from restart_sampling.plan.trajectory import Trajectory
from restart_sampling.sampler.lowering import Lowering
from restart_sampling.sampler.table import UNREAD, write_step
from restart_sampling.solvers import get_solver


def trajectory(solver, levels, process="ve", eta=1.0, s_noise=1.0):
    """One leg of a solver down `levels`."""
    solver = get_solver(solver) if isinstance(solver, str) else solver
    path = Trajectory(levels[0], process, s_noise, eta)
    path.backward(tuple(levels), solver, lambda t: 0.0)
    return path


def table(steps, network, initial=0.0):
    """coef, code and sigma of the rows of `steps`, row 0 included, and the network's coefficients."""
    rows = [stage.network for step in steps for stage in step.stages]
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
    """The rows on one number; `network_output(k, net_in)` is F of evaluation k."""
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


@dataclass(frozen=True)
class Program:
    """Rows for a network, with its coefficients."""

    coef: np.ndarray
    code: np.ndarray
    sigma: np.ndarray
    network: object

    def F(self, denoiser):
        """(k, net_in) → F of evaluation k, for a denoiser D(x, t)."""
        c = self.network

        def output(k, net_in):
            z = net_in / c.c_in[k]
            return (denoiser(z, self.sigma[k + 1]) - c.c_skip[k] * z) / c.c_out[k]

        return output

    def run(self, denoiser, start, draws):
        return run(self.coef, self.code, self.F(denoiser), start, draws)

    @property
    def registers(self):
        flags = self.code[:, L.FLAGS]
        return max([0, *(j + 1 for j, (_, _, read, _) in enumerate(HISTORY) if (flags & read).any())])

    @property
    def noises(self):
        return 2 if self.coef[:, L.S2].any() else 1


def program(solver, levels, network, process="ve", eta=1.0, s_noise=1.0, stop=False):
    """The rows of one leg of a solver for a network's parameterization; `stop` leaves out the last step."""
    steps = trajectory(solver, levels, process, eta, s_noise).steps()
    return Program(*table(steps[:-1] if stop else steps, network))
