"""PFGM++: the per-sample stds against the literal construction in N + D dimensions, and the sampler that uses them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.sampler import pfgmpp
from restart_sampling.sampler.table import bind

N_SEEDS = 4000
GOLDEN_SIZES = ["0x1.f804bcd7ebf07p-1", "0x1.f076a1f1ba1c8p-1", "0x1.01ff2a8786920p+0"]
GOLDEN_U = ["-0x1.d62b8355c1e2ap-7", "-0x1.37bf35037f213p-5", "-0x1.e4c7df985d670p-6"]


def still(D: int | None, shape=(1, 2, 3), **options) -> rs.Denoiser:
    """D(x; σ) = x: the ODE stands still, so a sample is the sum of all that was injected."""
    return rs.Denoiser.from_function(lambda x, sigma: x, shape, augmented_dim=D, **options)


def literal(rng, t_0: float, t_1: float, N: int, D: int, n: int, root: int) -> np.ndarray:
    """The move of x, [n, N]: the augmented point walks along a Gaussian direction from the r_0 sphere to the r_1
    sphere.
    """
    r_0, r_1 = t_0 * math.sqrt(D), t_1 * math.sqrt(D)
    z = rng.standard_normal((n, D))
    z *= r_0 / np.linalg.norm(z, axis=1, keepdims=True)
    g = rng.standard_normal((n, N + D))
    g /= np.linalg.norm(g[:, N:], axis=1, keepdims=True)
    q = (z * g[:, N:]).sum(1)
    m = -q + root * np.sqrt(q * q + r_1**2 - r_0**2)
    assert np.allclose(np.linalg.norm(z + m[:, None] * g[:, N:], axis=1), r_1)
    return m[:, None] * g[:, :N]


@pytest.mark.parametrize("D", [3, 64, 2048])
@pytest.mark.parametrize("root", [1, -1])
def test_jumps_have_the_law_of_the_literal_construction(D, root):
    """Either root of the reference gives the law of ours: one coordinate, and the length of the whole move."""
    plan = rs.Plan.build(steps=18, restart="[3, 1, 0.14, 0.30]")
    table = bind(plan, still(D).parameterization)
    row = int(np.flatnonzero(table.coef[:, layout.S])[1])
    S = pfgmpp.stds(table, range(N_SEEDS), D)[:, row]
    ours = S[:, None] * rs.noise.normal(range(N_SEEDS), 1, (6,)).numpy()
    theirs = literal(np.random.default_rng(D), plan.intervals[0].t_min, 0.30, 6, D, N_SEEDS, root)
    assert stats.ks_2samp(ours[:, 0], theirs[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)).pvalue > 1e-3


def test_the_wrong_size_would_be_seen():
    """The same test refuses a plain Gaussian jump at D = 64: the comparison above can fail."""
    rng = np.random.default_rng(0)
    theirs = literal(rng, 0.1395, 0.30, 6, 3, N_SEEDS, 1)
    gaussian = math.sqrt(0.30**2 - 0.1395**2) * rng.standard_normal((N_SEEDS, 6))
    assert stats.ks_2samp(np.linalg.norm(gaussian, axis=1), np.linalg.norm(theirs, axis=1)).pvalue < 1e-6


@pytest.mark.parametrize("D", [4, 128])
def test_the_prior_radius_is_beta_prime(D):
    """R² / (σ_max²·D) ~ BetaPrime(N/2, D/2) (PFGM++, section 3.1)."""
    plan = rs.Plan.build(steps=2)
    x = rs.Sampler(still(D), plan, batch_size=500).run(range(2000)).double()
    radius = x.flatten(1).square().sum(1).numpy() / (80.0**2 * D)
    assert stats.kstest(radius, stats.betaprime(3, D / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("D, spread, rms", [(2048, 0.020, 0.2655), (64, 0.11, 0.2708)], ids=["D=2048", "D=64"])
def test_the_spread_of_a_jump(D, spread, rms):
    """[0.14, 0.30]: the std of the move over samples, against values computed with the reference's formula."""
    table = bind(rs.Plan.build(steps=18, restart="[3, 1, 0.14, 0.30]"), still(D).parameterization)
    row = int(np.flatnonzero(table.coef[:, layout.S])[1])
    S = pfgmpp.stds(table, range(20_000), D)[:, row]
    assert S.std() / S.mean() == pytest.approx(spread, rel=0.06)
    assert np.sqrt((S**2).mean()) == pytest.approx(rms, rel=3e-3)


def test_large_D_is_diffusion():
    plan = rs.Plan.build(steps=6, restart="[3, 2, 0.3, 1.0]", s_churn=2.0, s_noise=1.01)
    table = bind(plan, still(1).parameterization)
    S = pfgmpp.stds(table, range(4), 2**19)
    assert np.allclose(S, table.coef[:, layout.S], rtol=0.01)
    assert ((S != 0) == (table.coef[:, layout.S] != 0)).all()


def test_sizes_against_exact_sums():
    """χ² and u from the normals of stream 2, by fractions; and equal bits alone, in a batch and in another order."""
    import restart_kernels

    D = 37
    size, u = pfgmpp.sizes([5, 9, 2**40 + 1], 3, D)
    z = restart_kernels.normal(torch.tensor([5, 9, 2**40 + 1]), 3, 2 * D, stream=2).double().numpy()
    for b in range(3):
        assert size[b] == pytest.approx(math.sqrt(math.fsum(v * v for v in z[b, :D]) / D), rel=1e-9)
        assert u[b] == pytest.approx(z[b, D] / math.sqrt(math.fsum(v * v for v in z[b, D:])), rel=1e-9)
    again, u_again = pfgmpp.sizes([2**40 + 1, 5], 3, D)
    assert (again == size[[2, 0]]).all() and (u_again == u[[2, 0]]).all()
    assert not np.isin(pfgmpp.sizes([5], 4, D)[0], size).any()  # another draw is another size


def test_the_scheme_is_frozen():
    """Stream 2 is part of what a seed means: these values may never change."""
    size, u = pfgmpp.sizes([0, 1, 2**62], 1, 2048)
    assert [v.hex() for v in size] == GOLDEN_SIZES
    assert [v.hex() for v in u] == GOLDEN_U


def test_a_sample_is_the_sum_of_its_draws():
    """Through the sampler: prior and both jumps with the sizes of this seed, whatever the batch."""
    plan, D = rs.Plan.build(steps=5, restart="[3, 2, 0.3, 1.0]", s_noise=1.02), 16
    den = still(D)
    table = bind(plan, den.parameterization)
    S = pfgmpp.stds(table, range(7), D)
    rows = np.flatnonzero(table.coef[:, layout.S])
    assert len(rows) == 3
    want = sum(
        S[:, row, None, None, None] * rs.noise.normal(range(7), draw, den.shape).double().numpy()
        for draw, row in enumerate(rows)
    )
    x = rs.Sampler(den, plan, batch_size=3).run(range(7))
    assert np.allclose(x.double().numpy(), want, rtol=1e-5, atol=1e-4)
    assert torch.equal(x[4:5], rs.Sampler(den, plan, batch_size=8).run([4]))
    assert torch.equal(x[[6, 0]], rs.Sampler(den, plan, batch_size=2).run([6, 0]))
    assert not torch.equal(x, rs.Sampler(still(None), plan, batch_size=3).run(range(7)))


def test_pairs_of_seeds_and_plans():
    D = 16
    one, two = rs.Plan.build(steps=4), rs.Plan.build(steps=5, restart="[3, 1, 0.3, 1.0]")
    den = still(D)
    x = rs.Sampler(den, one, batch_size=3).run([(0, one), (1, two), (2, two), (0, two)])
    assert torch.equal(x[0], rs.Sampler(den, one).run([0])[0])
    assert torch.equal(x[1:], rs.Sampler(den, two).run([1, 2, 0]))


def test_ancestral_noise_lifts_from_below_the_end_of_the_step():
    """Of a DDPM step the noise is a lift too: with D(x; σ) = x the variance of a large D is that of the diffusion."""
    plan = rs.Plan.build(steps=6, solver="ddpm")
    table = bind(plan, still(1).parameterization)
    S = pfgmpp.stds(table, range(200), 256)
    used = table.coef[:, layout.S] != 0
    assert np.allclose((S**2).mean(0)[used], table.coef[used, layout.S] ** 2, rtol=0.05)


def test_progress_counts_all_samples():
    seen = []
    rs.Sampler(still(8), rs.Plan.build(steps=3), batch_size=2).run(range(5), callback=seen.append)
    assert seen[0].total == 5 and max(p.done for p in seen) == 4 and seen[-1].evaluations == seen[-1].nfe


@pytest.mark.parametrize(
    "D, plan, message",
    [
        (8, dict(steps=4, schedule="flow"), "needs a 've' schedule"),
        (2**22, dict(steps=4), "D = 4,194,304 is not supported"),
    ],
)
def test_what_pfgmpp_cannot_do(D, plan, message):
    den = still(D, process="flow" if "schedule" in plan else "ve")
    with pytest.raises(rs.ConfigError, match=message):
        rs.Sampler(den, rs.Plan.build(**plan)).run([0])


def test_given_latents_are_refused():
    sampler = rs.Sampler(still(8), rs.Plan.build(steps=3))
    with pytest.raises(rs.RestartError, match="latents are not taken with a PFGM"):
        sampler.run([0], latents=torch.zeros(1, 1, 2, 3))


@pytest.mark.parametrize("D", [0, -1, 2.5, True])
def test_augmented_dim_is_checked(D):
    with pytest.raises(rs.RestartError, match="augmented_dim must be an integer ≥ 1"):
        still(D)
