"""The paper's synthetic finding (arXiv 2306.14878, section 5.1) at small size; benchmarks/ has the full run."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic_mixture as synthetic

RUNS = 3


@pytest.fixture(scope="module")
def errors():
    """Errors of K = 0 and K = 16 with an exact denoiser spoiled by a fixed 20 % error, coarse Euler steps, 300 samples."""
    denoiser = synthetic.exact_denoiser(error=0.2, n=500)
    grid = synthetic.Grid(above=3, inside=2, below=10)
    return {
        K: [synthetic.errors(denoiser, grid, K, n=300, seed=seed) for seed in range(RUNS)] for K in (0, 16)
    }


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
