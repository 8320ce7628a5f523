"""AdaSDE against its formulas, written out, with noise of its own; and its limiting case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import restart_sampling as rs

OPTIONS = {
    "r": [0.4, 0.55, 0.6],
    "w": [1.0, 0.9, 1.0],
    "c": [1.02, 0.97, 1.0],
    "a": [0.9, 1.1, 1.05],
    "gamma": [0.01, 0.02, 0.005],
}
SIGMAS = (20.0, 5.0, 1.0, 0.2)


def D(x, sigma):
    """A denoiser that is not linear."""
    return torch.tanh(x / (1 + sigma)) * 0.7 + x / (1 + sigma**2)


@pytest.mark.parametrize("afs", [False, True])
def test_a_run_is_the_formulas(afs):
    plan = rs.Plan.build(sigmas=SIGMAS, solver="ada-sde", solver_options={**OPTIONS, "afs": afs})
    assert plan.nfe == 7 - afs and plan.draws == 3 and plan.config.family == "sde"
    den = rs.Denoiser.from_function(lambda x, sigma: D(x, sigma.view(-1, 1)), shape=(5,))
    seeds = range(4)
    x = rs.Sampler(den, plan, batch_size=4).run(seeds)
    noise = [rs.noise.normal(seeds, draw=k, shape=(5,)).double() for k in range(4)]
    want = SIGMAS[0] * noise[0]
    for i, (t, s) in enumerate(zip((*SIGMAS[:3],), SIGMAS[1:], strict=True)):
        r, w, c, a, gamma = (OPTIONS[name][i] for name in OPTIONS)
        up = t * (1 + gamma)
        raised = want + math.sqrt(up**2 - t**2) * noise[i + 1]
        d = raised / math.sqrt(1 + up**2) if afs and i == 0 else (raised - D(raised, up)) / up
        m = s**r * up ** (1 - r)
        middle = raised + (m - up) * d
        want = raised + w * c * (s - up) * (middle - D(middle, torch.tensor(a * m))) / m
        if a != 1:  # the level told differs from the state's: the function is asked there
            assert plan.rows[2 * i + 1 - afs].sigma == pytest.approx(a * m)
    want = D(want, SIGMAS[-1])
    np.testing.assert_allclose(x.numpy(), want.numpy(), rtol=2e-5, atol=1e-5)


def test_without_values_it_is_dpm2():
    plain, other = (rs.Plan.build(steps=6, sigma_min=0.05, solver=name) for name in ("ada-sde", "dpm2"))
    assert plain.nfe == other.nfe
    for a, b in zip(plain.steps, other.steps, strict=True):
        assert [stage.level for stage in a.stages] == pytest.approx([stage.level for stage in b.stages])
        assert a.result.D == pytest.approx(b.result.D) and a.result.x == pytest.approx(b.result.x)
