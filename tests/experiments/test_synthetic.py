"""The paper's synthetic finding (arXiv 2306.14878, section 5.1) at small size; benchmarks/ has the full run."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic_curves as curves
import synthetic_mixture as synthetic

RUNS = 3


@pytest.fixture(scope="module")
def errors():
    """Errors of K = 0 and K = 16: an exact denoiser with a fixed error of 20 %, coarse Euler steps, 300 samples."""
    denoiser = synthetic.exact_denoiser(error=0.2, n=500)
    grid = synthetic.Grid(above=3, inside=2, below=10)
    return {K: [synthetic.errors(denoiser, grid, K, n=300, seed=seed) for seed in range(RUNS)] for K in (0, 16)}


def mean(errors, K, key):
    return float(np.mean([run[key] for run in errors[K]]))


def test_restart_contracts_the_accumulated_error(errors):
    assert mean(errors, 16, "contracted") < 0.85 * mean(errors, 0, "contracted")


def test_restart_adds_some_error(errors):
    assert mean(errors, 16, "additional") > 1.03 * mean(errors, 0, "additional")


def test_restart_lowers_the_total_error(errors):
    assert mean(errors, 16, "total") < 0.85 * mean(errors, 0, "total")


def test_total_is_at_most_contracted_plus_additional(errors):
    """W1 is a metric: a check of the matching itself, run by run."""
    for run in (run for runs in errors.values() for run in runs):
        assert run["total"] <= run["contracted"] + run["additional"] + 1e-12
        assert run["additional"] <= run["contracted"] + run["total"] + 1e-12


def test_w1_of_a_shift_is_its_length():
    points = np.random.default_rng(0).standard_normal((50, 20))
    shift = np.full(20, 0.1)
    assert synthetic.W1(points, points + shift) == pytest.approx(np.linalg.norm(shift))


def test_every_configuration_of_the_curves_runs_what_it_says():
    for c in curves.configurations():
        plan = c.plan()
        jumps = c.K * (c.N - 1) if c.K else 0
        per_step = 2 if c.solver == "heun" else 1
        assert plan.nfe == per_step * (c.steps + jumps) - (c.solver == "heun")
        assert (c.family == "restart") == bool(plan.intervals)


@pytest.fixture
def few(monkeypatch):
    """Three configurations, one of them in two experiments, and how often each was drawn."""
    drawn = []

    def draw(denoiser, plan, n, seed):
        drawn.append((plan.nfe, seed))
        return synthetic.make_data(n, seed=50 + seed) + 1 / plan.nfe

    some = [
        curves.Configuration("curve", "sde", "euler", 12, s_churn=5.0),
        curves.Configuration("curve", "restart", "euler", 18, 0.0, 3, 2, 1.0, 1.5),
        curves.Configuration("K", "restart", "euler", 18, 0.0, 3, 2, 1.0, 1.5),
        curves.Configuration("K", "ode", "euler", 18),
    ]
    monkeypatch.setattr(curves, "configurations", lambda: iter(some))
    monkeypatch.setattr(curves, "draw", draw)
    monkeypatch.setattr(synthetic, "train", lambda steps: None)
    return drawn


def test_curves_measure_each_configuration_once_and_go_on(few, tmp_path):
    path = tmp_path / "curves.csv"
    curves.measure(60, 2, 0, path)
    assert sorted(few) == [(12, 0), (12, 1), (18, 0), (18, 1), (22, 0), (22, 1)]
    first = curves.load(path)
    assert [r["experiment"] for r in first] == ["floor"] * 2 + ["curve"] * 4 + ["K"] * 4
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")  # stopped before the last rows
    few.clear()
    curves.measure(60, 2, 0, path)
    assert few == [(18, 0), (18, 1)]  # the jumps are known from the curve
    again = curves.load(path)
    assert sorted(map(str, again)) == sorted(map(str, first))


def test_the_curves_claim_is_the_share_of_the_sde_s_evaluations(few, tmp_path):
    path = tmp_path / "curves.csv"
    curves.measure(60, 2, 0, path)
    found = curves.claim(curves.load(path))  # 1/22 from the data is nearer than 1/12
    assert (found.nfe_sde, found.nfe_restart, found.blocks) == (12, 22.0, 2)
    assert found.fraction == pytest.approx(22 / 12)
    curves.plot(
        curves.load(path) + [{**curves.load(path)[-1], "experiment": e} for e in ("N_main", "interval")],
        tmp_path / "curves.png",
    )
    assert (tmp_path / "curves.png").stat().st_size > 10_000
