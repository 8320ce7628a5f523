"""Every solver gives what the libraries of the field give, in both states, lowered to rows and run in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support import golden, rows, sheet

from restart_sampling.models import parameterization
from restart_sampling.solvers import SOLVERS, deis
from restart_sampling.solvers.process import BETA_D, BETA_MIN

CASES = [(g, process) for g in golden.GOLDEN for process in ("ve", "flow") if getattr(g, process) is not None]
NETWORKS = {
    "ve": {
        "edm": parameterization.edm(),
        "denoiser": parameterization.denoiser(),
        "eps": parameterization.discrete(np.geomspace(0.01, 20, 1000), "eps"),
        "v": parameterization.discrete(np.geomspace(0.01, 20, 1000), "v"),
    },
    "flow": {"velocity": parameterization.flow()},
}


def cases():
    for g, process in CASES:
        for name in NETWORKS[process]:
            yield pytest.param(g, process, name, id=f"{g.solver}-eta{g.eta:g}-{process}-{name}" + "-stop" * g.stop)


@pytest.mark.parametrize("g, process, network", list(cases()))
def test_a_solver_gives_the_published_result(g, process, network):
    levels, net = golden.LEVELS[process], NETWORKS[process][network]
    program = rows.program(g.solver, levels, net, process=process, eta=g.eta, stop=g.stop)
    found = program.run(sheet.denoiser_of(process), golden.STARTS[process], g.draws)
    assert found == pytest.approx(getattr(g, process), abs=g.within)


def test_deis_is_that_of_diff_sampler_but_for_its_sum(monkeypatch):
    """diff-sampler adds 10,000 points in VP time where deis.py has the integral; with its sum the results are equal."""

    def added(clock, t, s, levels):
        if len(levels) == 1:
            return [s - t]
        (first, last), nodes, n = clock(np.array([t, s])), clock(np.array(levels)), 10_000
        tau = np.linspace(first, last, n)
        growth = np.exp(BETA_D * tau**2 / 2 + BETA_MIN * tau)  # 1 + σ²
        rate = (BETA_D * tau + BETA_MIN) * growth / (2 * np.sqrt(growth - 1))  # dσ/dτ
        l_j = [np.prod([(tau - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes]
        return [float(np.sum(rate * value)) * (last - first) / n for value in l_j]

    monkeypatch.setattr(deis, "polynomial_in", added)
    for process, published in (("ve", 0.7280037248), ("flow", 0.7424726572)):
        (network, *_) = NETWORKS[process].values()
        program = rows.program("deis", golden.LEVELS[process], network, process=process)
        found = program.run(sheet.denoiser_of(process), golden.STARTS[process], ())
        assert found == pytest.approx(published, abs=2e-10)


def test_every_solver_of_other_libraries_has_a_result():
    own = {"edm-stochastic", "dpm3", "flow-grpo", "cps", "tcd", "ab2", "ada-sde"}
    assert set(SOLVERS) - {g.solver.partition(":")[0] for g, _ in CASES} == own & set(SOLVERS)
