"""Scores of ensembles: against closed forms, a double loop over the members, and ensembles that are calibrated."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from restart_sampling.common.errors import BackendError, RestartTypeError, RestartValueError
from restart_sampling.experiments.measure.ensembles import EnsembleScorer, scores

pytest.importorskip("scoringrules")


def scored(members, truths, **options):
    """The scores of members [inputs, m, …] and truths [inputs, …]."""
    scorer = EnsembleScorer(**options)
    for x, y in zip(members, truths, strict=True):
        scorer.add(x, y)
    return scorer.result()


def brute(members, truths):
    """crps, crps_fair, spread and rmse by definition: loops over inputs, members and pairs of members."""
    crps = fair = variance = square = 0.0
    n, m = members.shape[:2]
    for x, y in zip(members.astype(np.float64), truths.astype(np.float64), strict=True):
        apart = sum(np.abs(x[j] - x[k]).mean() for j in range(m) for k in range(m))
        away = sum(np.abs(x[k] - y).mean() for k in range(m)) / m
        crps += (away - apart / (2 * m * m)) / n
        fair += (away - apart / (2 * m * (m - 1))) / n
        mean = sum(x[k] for k in range(m)) / m
        variance += sum(np.square(x[k] - mean).mean() for k in range(m)) / (m - 1) / n
        square += np.square(mean - y).mean() / n
    return crps, fair, math.sqrt(variance), math.sqrt(square)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 4), (6,)])
def test_every_score_is_that_of_the_double_loop(shape, kind, monkeypatch):
    """Also where an input is scored in several blocks."""
    rng = np.random.default_rng(1)
    members, truths = rng.normal(100, 20, (4, 5, *shape)), rng.normal(110, 20, (4, *shape))
    if kind == "bfloat16":
        members, truths = (torch.from_numpy(a).bfloat16() for a in (members, truths))
        exact = members.double().numpy(), truths.double().numpy()
    else:
        members, truths = exact = members.astype(kind), truths.astype(kind)
    whole = scored(members, truths)
    monkeypatch.setattr(scores, "BLOCK", 30)
    for found in (whole, scored(members, truths)):
        total = found.total
        assert (total.crps, total.crps_fair, total.spread, total.rmse) == pytest.approx(brute(*exact), rel=1e-12)
        assert total.spread_skill == pytest.approx(math.sqrt(6 / 5) * total.spread / total.rmse)
        assert sum(total.ranks) == truths.shape[0] * math.prod(shape)
        if len(shape) > 1:
            assert len(found.variables) == shape[0]
            for c, one in enumerate(found.variables):
                mine = brute(exact[0][:, :, c], exact[1][:, c])
                assert (one.crps, one.crps_fair, one.spread, one.rmse) == pytest.approx(mine, rel=1e-12)


def test_a_large_mean_costs_no_digits():
    """Temperatures in kelvin, spread 1e-4 of it: the scores are those of the anomalies."""
    rng = np.random.default_rng(2)
    members, truths = rng.normal(0, 0.03, (3, 8, 50)), rng.normal(0, 0.03, (3, 50))
    base = scored(members, truths).total
    found = scored(members + 300, truths + 300).total
    for name in ("crps", "crps_fair", "spread", "rmse"):
        assert getattr(found, name) == pytest.approx(getattr(base, name), rel=1e-11), name


@pytest.mark.parametrize("m", [2, 10, 50])
def test_the_fair_crps_of_gaussian_members_is_the_closed_form(m):
    """CRPS of N(0, σ) at y: σ·(z(2Φ(z) − 1) + 2φ(z) − 1/√π), whatever m; the standard one is larger by σ/(m√π)."""
    rng = np.random.default_rng(m)
    sigma, n, p = 1.7, 40, 2000
    truths = rng.normal(0.3, 1, (n, p))
    members = rng.normal(0, sigma, (n, m, p))
    z = truths / sigma
    exact = sigma * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    found = scored(members, truths)
    noise = 5 * found.crps_fair_error  # and that of the truths is common to both sides
    assert found.total.crps_fair == pytest.approx(exact.mean(), abs=noise)
    assert found.total.crps - found.total.crps_fair == pytest.approx(sigma / (m * math.sqrt(math.pi)), rel=0.02)
    assert noise < 0.02


@pytest.mark.parametrize("m", [2, 9])
def test_a_calibrated_ensemble_has_flat_ranks_and_spread_skill_one(m):
    """Truth and members from one law, another for each input and point."""
    rng = np.random.default_rng(m)
    n, p = 50, 2000
    centre, width = rng.normal(0, 3, (n, 1, p)), rng.uniform(0.5, 2, (n, 1, p))
    drawn = centre + width * rng.normal(size=(n, m + 1, p))
    found = scored(drawn[:, 1:], drawn[:, 0]).total
    N, share = n * p, 1 / (m + 1)
    spread = math.sqrt(N * share * (1 - share))  # of a binomial count
    assert all(abs(count - N * share) < 4 * spread for count in found.ranks)
    assert found.rank_deviation < 3 * math.sqrt(m / (2 * math.pi * N))
    assert found.spread_skill == pytest.approx(1, abs=0.02)


def test_a_narrow_ensemble_shows_as_one():
    rng = np.random.default_rng(0)
    found = scored(0.5 * rng.normal(size=(20, 7, 500)), rng.normal(size=(20, 500))).total
    assert found.spread_skill < 0.6
    assert min(found.ranks[0], found.ranks[-1]) > 1.5 * max(found.ranks[1:-1])
    assert 0.15 < found.rank_deviation < 0.5


def test_equal_values_share_their_ranks_by_a_fixed_lot():
    """A background that is the same in all members: flat, and the same in every run."""
    members, truths = np.zeros((2, 4, 3000), np.uint8), np.zeros((2, 3000), np.uint8)
    found = scored(members, truths).total
    assert found.ranks == scored(members, truths).total.ranks
    assert all(abs(count - 1200) < 4 * math.sqrt(6000 * 0.2 * 0.8) for count in found.ranks)
    assert found.ranks != scored(members, truths, seed=1).total.ranks
    assert found.spread_skill is None and found.crps == 0
    half = members.copy()
    half[:, 2:] = 1  # two members above: ranks 0, 1 and 2 are tied
    ranks = scored(half, truths).total.ranks
    assert ranks[3:] == (0, 0) and min(ranks[:3]) > 1800


def test_the_error_over_inputs_is_that_of_their_scores():
    rng = np.random.default_rng(3)
    members, truths = rng.normal(size=(6, 3, 2, 8)), rng.normal(size=(6, 2, 8))
    each = [brute(members[i : i + 1], truths[i : i + 1])[1] for i in range(6)]
    found = scored(members, truths)
    assert found.crps_fair_error == pytest.approx(np.std(each, ddof=1) / math.sqrt(6), rel=1e-12)
    assert scored(members[:1], truths[:1]).crps_fair_error is None


def test_a_row_is_json():
    import json

    rng = np.random.default_rng(3)
    found = scored(rng.normal(size=(2, 3, 2, 8)), rng.normal(size=(2, 2, 8))).row()
    again = json.loads(json.dumps(found))
    assert again == found and again["members"] == 3 and len(again["variables"]) == 2 and len(again["ranks"]) == 4


def test_bad_ensembles_are_one_sentence_with_the_input():
    good = np.zeros((3, 2, 4)), np.zeros((2, 4))

    def added(members, truth):
        scorer = EnsembleScorer()
        scorer.add(*good)
        scorer.add(members, truth)

    holed, endless = good[1].copy(), good[0].copy()
    holed[1, 2], endless[1, 0, 0] = np.nan, np.inf
    for arguments, message in (
        ((np.zeros((3, 2, 5)), good[1]), r"input 1 has members \[3, 2, 5\] and a truth \[2, 4\]"),
        ((np.zeros((2, 2, 4)), good[1]), "input 1 has 2 members, and those before it 3"),
        ((np.zeros((3, 2, 5)), np.zeros((2, 5))), r"truth 1 has the shape \[2, 5\], and those before it \[2, 4\]"),
        ((np.zeros((1, 2, 4)), good[1]), "input 1 has 1 member; an ensemble has at least 2"),
        ((good[0], holed), "truth 1 holds NaN or infinite values"),
        ((endless, good[1]), "a member of input 1 holds NaN or infinite values"),
        ((np.zeros(3), np.float64(0)), "with at least one dimension"),
    ):
        with pytest.raises(RestartValueError, match=message):
            added(*arguments)
    with pytest.raises(RestartTypeError, match="truth 1 must be an array of real numbers"):
        added(good[0], np.array(["a"] * 8).reshape(2, 4))
    with pytest.raises(RestartValueError, match="no ensemble was added"):
        EnsembleScorer().result()


def test_without_scoringrules_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scoringrules", None)
    with pytest.raises(BackendError, match=r"pip install 'restart-sampling\[ensembles\]'"):
        EnsembleScorer()
