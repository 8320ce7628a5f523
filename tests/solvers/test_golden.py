"""Every solver gives what the libraries of the field give, in both states, lowered to rows and run in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support import golden, rows, sheet

from restart_sampling.models import parameterization
from restart_sampling.solvers import SOLVERS

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


def test_every_solver_of_other_libraries_has_a_result():
    own = {"edm-stochastic", "dpm3", "flow-grpo", "cps", "tcd", "ab2", "ada-sde"}
    assert set(SOLVERS) - {g.solver.partition(":")[0] for g, _ in CASES} == own & set(SOLVERS)
