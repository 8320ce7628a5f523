"""Quality: distances against closed forms, blocks that are drawn once, rows that are not made twice."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, ConfigError, RestartTypeError, RestartValueError
from restart_sampling.experiments.measure import agreement, candidate, claims, quality, rows
from restart_sampling.experiments.measure import image_cache as images
from restart_sampling.experiments.measure.distances import equal_classes, kid, manifolds, stats_of
from restart_sampling.experiments.measure.evaluator import Evaluator, evaluator_for, load_reference, save_stats
from restart_sampling.experiments.measure.features import Features, load_features

pytest.importorskip("torchmetrics")
pytest.importorskip("prdc")


class Pixels(nn.Module):
    """Four pixels as features: what they should be is known."""

    def forward(self, x):
        return x.flatten(1)[:, :4].float() / 8


def pictures(n, seed, mean=128.0, scale=30.0):
    g = torch.Generator().manual_seed(seed)
    return (mean + scale * torch.randn(n, 1, 4, 4, generator=g)).clamp(0, 255).to(torch.uint8)


def evaluator(reference=None, classifier=None):
    reference = pictures(600, 1) if reference is None else reference
    return Evaluator(Features(Pixels(), "pixels", pictures(1, 0)[0]), reference, classifier, "made up")


def frechet(a, b):
    """In float64 by scipy's matrix root, from the definition."""
    a, b = (x.flatten(1)[:, :4].double().numpy() / 8 for x in (a, b))
    A, B, d = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
    return d @ d + np.trace(A + B - 2 * sqrtm(A @ B).real)


def test_fd_is_the_frechet_distance():
    real, fake = pictures(600, 1), pictures(500, 2, mean=120.0, scale=40.0)
    assert evaluator(real).fd(fake) == pytest.approx(frechet(real, fake), rel=1e-9)
    assert evaluator(real).fd(real) == pytest.approx(0, abs=1e-6)


def test_kid_is_the_squared_mmd_of_the_cubic_kernel():
    """All samples in one subset: the unbiased estimate of its paper in float64 numpy."""
    a, b = (torch.randn(80, 5, generator=torch.Generator().manual_seed(s)) * (1 + 0.1 * s) for s in (0, 3))

    def k(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    x, y = a.double().numpy(), b.double().numpy()
    n = len(x)
    within = sum((k(z, z).sum() - np.trace(k(z, z))) / (n * (n - 1)) for z in (x, y))
    assert kid(a, b)["kid"] == pytest.approx(within - 2 * k(x, y).mean(), rel=1e-6)


def test_precision_and_recall_of_halves():
    """Fakes from one of two clusters are all plausible but cover half of the data."""
    g = torch.Generator().manual_seed(0)
    one, two = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 100
    found = manifolds(torch.cat([one, two]), torch.randn(600, 2, generator=g))
    assert found["precision"] > 0.9
    assert found["recall"] == pytest.approx(0.5, abs=0.03)
    assert 0.4 < found["coverage"] < 0.52


def test_statistics_give_the_distance_of_their_images(tmp_path):
    real, fake = pictures(600, 1), pictures(500, 2, mean=120.0)
    save_stats(tmp_path / "ref.npz", stats_of(Pixels()(real)))
    reference, name = load_reference(tmp_path / "ref.npz")
    assert name.startswith("ref.npz ")
    by_stats = evaluator(reference)
    assert by_stats.fd(fake) == pytest.approx(evaluator(real).fd(fake), rel=1e-12)
    assert set(by_stats.measure(fake)) == {"fd"}


def test_a_reference_of_images(tmp_path):
    real = pictures(50, 1)
    np.savez(tmp_path / "adm.npz", arr_0=real.permute(0, 2, 3, 1).numpy())
    reference, _ = load_reference(tmp_path / "adm.npz")
    assert torch.equal(reference, real)


def test_equal_classes_are_weights():
    """Weighted mean and covariance are numpy's; a class that is drawn twice as often counts no more."""
    values, labels = torch.randn(40, 4), torch.tensor([0] * 25 + [2] * 10 + [7] * 5)
    weights = equal_classes(labels)
    assert [float(weights[labels == c].sum()) for c in (0, 2, 7)] == pytest.approx([1 / 3] * 3)
    found = stats_of(values, weights)
    np.testing.assert_allclose(
        found.mu, np.average(values.double().numpy(), axis=0, weights=weights.numpy()), atol=1e-12
    )
    np.testing.assert_allclose(found.sigma, np.cov(values.double().numpy().T, aweights=weights.numpy()), atol=1e-12)
    even = torch.arange(40) % 4
    np.testing.assert_allclose(stats_of(values, equal_classes(even)).sigma, stats_of(values).sigma, atol=1e-12)


def test_the_balanced_distance_does_not_see_how_often_a_class_is_drawn():
    """Dark and bright images, 1:1 in the reference: drawn 3:1, they are far off by `fd`, and not by `fd_balanced`."""
    dark, bright = pictures(800, 0) // 4, pictures(800, 1) // 4 + 190
    known = Evaluator(
        Features(Pixels(), "pixels", dark[0]), torch.cat([dark[:400], bright[:400]]), None, "made up", balanced=True
    )
    drawn, labels = torch.cat([dark[400:700], bright[400:500]]), torch.tensor([0] * 300 + [1] * 100)
    found = known.measure(drawn, labels)
    assert found["fd_balanced"] < found["fd"] / 50
    assert known.fd_balanced(drawn, labels) == pytest.approx(found["fd_balanced"], rel=1e-12)
    assert "fd_balanced" not in known.measure(drawn)
    known.balanced = False
    assert "fd_balanced" not in known.measure(drawn, labels)


def test_accuracy():
    class ByMean(nn.Module):
        def forward(self, x):
            return torch.eye(2)[(x.float().mean((1, 2, 3)) > 128).long()]

    images_ = torch.cat([pictures(10, 0, mean=60), pictures(30, 1, mean=200)])
    labels = torch.tensor([0] * 10 + [1] * 20 + [0] * 10)
    assert evaluator(classifier=ByMean()).measure(images_, labels)["accuracy"] == 0.75
    assert "accuracy" not in evaluator(classifier=ByMean()).measure(images_, None)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda t: evaluator().fd(torch.zeros(3, 1, 4, 4)), RestartTypeError, "images must be uint8"),
        (lambda t: evaluator().fd(pictures(1, 0)), RestartValueError, "at least 2 images, got 1"),
        (
            lambda t: Features(nn.Identity(), "id", pictures(1, 0)[0]),
            RestartTypeError,
            r"must map uint8 .* to \[2, d\]",
        ),
        (lambda t: load_features("nothing"), RestartValueError, "package.module:NAME or a TorchScript file"),
        (lambda t: load_features("math:pi2"), RestartValueError, "cannot be made"),
        (lambda t: load_features("builtins:dict"), RestartTypeError, "must return an nn.Module, got dict"),
        (lambda t: load_features(str(t / "no.pt")), CheckpointError, "there is no file"),
        (lambda t: load_reference(t / "no.npz"), CheckpointError, "cannot read the reference"),
        (lambda t: evaluator_for("cifar.pkl"), ConfigError, "needs --features"),
        (lambda t: evaluator(stats_of(torch.randn(9, 7))), RestartValueError, "gives 4; use the extractor"),
    ],
)
def test_what_cannot_be_evaluated(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(tmp_path)


class Means(torch.nn.Module):
    """As docs/quality.md has it: a module of the user's around a network in TorchScript."""

    def __init__(self):
        super().__init__()
        self.network = torch.jit.load(os.environ["MEANS"])

    def forward(self, images):
        return self.network(images.float())


def test_networks_in_torchscript(tmp_path, monkeypatch):
    """The file itself, and a module around it: the same features as the network has in Python."""
    network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten())
    torch.jit.trace(network, torch.rand(3, 1, 4, 4)).save(str(tmp_path / "means.pt"))
    monkeypatch.setenv("MEANS", str(tmp_path / "means.pt"))
    images = pictures(50, 3)
    want = network(images.float())
    around = Features(load_features(f"{__name__}:Means"), "means", images[0])
    assert torch.equal(around(images), want) and around.num_features == want.shape[1]
    direct = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten())
    torch.jit.trace(lambda x: direct(x.float()), images).save(str(tmp_path / "traced.pt"))
    assert torch.equal(Features(load_features(str(tmp_path / "traced.pt")), "traced", images[0])(images), want)


def test_a_file_that_is_no_torchscript(tmp_path):
    (tmp_path / "x.pt").write_text("<html>")
    with pytest.raises(CheckpointError, match="is not a TorchScript file"):
        load_features(str(tmp_path / "x.pt"))


# --- blocks and rows ---------------------------------------------------------------------------------------------


class Counting:
    """A runner that counts what it draws."""

    nfe, network_calls, plan, key, network = 7, 7, None, "made-up-7-fp32", None

    def __init__(self, bad=()):
        self.drawn, self.bad = [], bad

    def draw(self, seeds, class_labels=None):
        self.drawn += list(seeds)
        x = rs.noise.normal(seeds, 0, (1, 4, 4)) * 0.3
        for i, seed in enumerate(seeds):
            if seed in self.bad:
                x[i] = float("nan")
        return x, None


@pytest.fixture
def setting(tmp_path):
    denoiser = rs.Denoiser.from_function(lambda x, sigma: x, (1, 4, 4))
    denoiser.info["sha256"] = "f" * 64
    runner = Counting()
    made_up = candidate.Candidate("made-up", "ode", "torch", "Made up", "here", lambda *a: runner)
    options = dict(
        first_seed=100, block=20, out=tmp_path / "out", cache=tmp_path / "cache", batch=8, evaluator=evaluator()
    )

    def measure(n):
        return quality.measure(denoiser, "made-up", [(made_up, 9)], n=n, **options)

    measure.evaluator = options["evaluator"]
    return measure, runner, tmp_path


def test_blocks_are_drawn_once_and_can_be_added(setting):
    measure, runner, folder = setting
    measure(40)
    assert runner.drawn == list(range(100, 140))
    found = measure(60)
    assert runner.drawn == list(range(100, 160))
    kinds = [row["kind"] for row in rows.read(folder / "out" / "quality.jsonl")]
    assert kinds.count("quality") == 3
    assert kinds.count("pooled") == 2  # of two blocks and of three
    assert [(row["n"], row["first_seed"]) for row in found[:3]] == [(20, 100), (20, 120), (20, 140)]
    assert measure(60) == found
    assert runner.drawn == list(range(100, 160))


def test_a_long_block_that_is_stopped_keeps_what_was_drawn(setting, monkeypatch):
    measure, runner, folder = setting
    monkeypatch.setattr(quality, "CACHED", 8)
    draw = runner.draw

    def stopped(seeds, class_labels=None):
        if seeds[0] >= 116:
            raise KeyboardInterrupt
        return draw(seeds, class_labels)

    runner.draw = stopped
    with pytest.raises(KeyboardInterrupt):
        measure(20)
    runner.draw = draw
    (row, _) = measure(20)
    assert runner.drawn == list(range(100, 120))  # none of them twice
    x = rs.noise.normal(range(100, 120), 0, (1, 4, 4)) * 0.3
    everything = (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
    assert row["fd"] == pytest.approx(frechet(pictures(600, 1), everything), rel=1e-5)
    assert len(list((folder / "cache").rglob("*.npz"))) == 3


def test_pooled_is_the_distance_of_all_samples_together(setting):
    measure, _, _ = setting
    *blocks, pooled = measure(60)
    x = rs.noise.normal(range(100, 160), 0, (1, 4, 4)) * 0.3
    everything = (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
    assert pooled["fd"] == pytest.approx(frechet(pictures(600, 1), everything), rel=1e-5)
    fds = [row["fd"] for row in blocks]
    assert pooled["fd_block_mean"] == pytest.approx(np.mean(fds), abs=1e-5)
    assert pooled["fd_block_std"] == pytest.approx(np.std(fds, ddof=1), abs=1e-5)
    assert (pooled["n"], pooled["blocks"], pooled["fd_block_n"]) == (60, 3, 20)


def test_rows_from_before_a_metric_are_measured_again(setting, monkeypatch):
    """Images are cached, so nothing is drawn; the newer row counts, and pooled rows have the metric of all samples."""
    measure, runner, folder = setting
    draw = runner.draw
    monkeypatch.setattr(
        runner, "draw", lambda seeds, labels=None: (draw(seeds)[0], torch.tensor([s % 7 % 3 for s in seeds]))
    )
    measure(40)
    assert all("fd_balanced" not in row for row in rows.read(folder / "out" / "quality.jsonl"))
    monkeypatch.setattr(measure.evaluator, "balanced", True)
    found = measure(40)
    assert runner.drawn == list(range(100, 140))
    assert [row["kind"] for row in found] == ["quality", "quality", "pooled"]
    assert found == rows.read(folder / "out" / "quality.jsonl")[-3:] == measure(40)
    cached = [np.load(path) for path in sorted((folder / "cache").rglob("*.npz"))]
    images, labels = (torch.cat([torch.from_numpy(f[name]) for f in cached]) for name in ("images", "labels"))
    assert found[2]["fd_balanced"] == round(measure.evaluator.fd_balanced(images, labels.long()), 6) != found[2]["fd"]
    both = [row["fd_balanced"] for row in found[:2]]
    assert found[2]["fd_balanced_block_mean"] == pytest.approx(sum(both) / 2, abs=2e-6)


def test_a_torn_file_is_drawn_again(setting):
    measure, runner, folder = setting
    measure(20)
    (path,) = (folder / "cache").rglob("*.npz")
    path.write_bytes(path.read_bytes()[:50])
    (folder / "out" / "quality.jsonl").unlink()
    measure(20)
    assert len(runner.drawn) == 40
    assert images.read(path, 20, (1, 4, 4)) is not None


def test_samples_that_are_not_finite_are_named_and_not_evaluated(setting):
    measure, runner, folder = setting
    runner.bad = (105,)
    with pytest.raises(rs.NonFiniteError, match="1 samples are NaN or infinite, seed 105 among them"):
        measure(20)
    assert not (folder / "out" / "quality.jsonl").exists()
    assert not list((folder / "cache").rglob("*.npz"))


# --- claims ------------------------------------------------------------------------------------------------------


def pooled_rows(curves):
    common = {
        "kind": "quality",
        "model_sha256": "a",
        "features": "f",
        "reference": "r",
        "n": 1000,
        "device": "d",
        "dtype": "fp32",
    }
    return [
        {**common, "family": family, "sampler": name, "nfe": nfe, "first_seed": 1000 * k, "fd": fd + 0.1 * k}
        for (family, name), points in curves.items()
        for nfe, fd in points
        for k in range(3)
    ]


def test_the_fraction_of_evaluations():
    """SDE is best at 127 with 5.0; Restart reaches 5.0 between 31 (6.0) and 63 (4.0): at √(31·63) on a log scale."""
    found = claims.fraction(
        pooled_rows({("sde", "s"): [(63, 7.0), (127, 5.0)], ("restart", "r"): [(31, 6.0), (63, 4.0)]})
    )
    assert found is not None
    assert found.nfe_sde == 127
    assert found.nfe_restart == pytest.approx((31 * 63) ** 0.5, rel=1e-6)
    assert found.fraction == pytest.approx((31 * 63) ** 0.5 / 127, rel=1e-6)
    assert found.blocks == 3
    assert found.between == (31, 63)  # which is said wherever the number is
    assert [(nfe, fd) for (_, _, nfe, _), fd in found.as_good] == [(63, pytest.approx(4.1))]
    rows_ = pooled_rows({("sde", "s"): [(127, 5.0)], ("restart", "r"): [(63, 4.0)]})
    found = claims.fraction(rows_)
    assert found is not None and found.between is None
    verdict, sentence = agreement.sentences(rows_)
    assert "63" in sentence and "127" in sentence and "equal classes" not in sentence
    assert "interpolated between" not in sentence
    loop = pooled_rows({("sde", "torch/s"): [(127, 1.0)]})  # the same sampler once more, with other noise
    assert agreement.sentences([*rows_, *({**row, "by": "torch"} for row in loop)]) == [verdict, sentence]
    _, sentence = agreement.sentences([{**row, "fd_balanced": row["fd"] + 1} for row in rows_])
    assert "FD 6.1 at 127" in sentence and "equal classes" in sentence


def test_the_sentence_is_of_the_rows_with_the_most_blocks():
    """Only the rows of both families that have the most blocks; rows on one block are counted and left out."""
    some = pooled_rows({("sde", "s"): [(63, 7.0), (127, 5.0)], ("restart", "r"): [(31, 6.0), (63, 4.0)]})
    some = [row for row in some if row["nfe"] != 127 or row["first_seed"] == 0]
    _, several = agreement.sentences(some)
    assert "63 NFE, s" in several and "3 blocks" in several
    assert "1 further SDE and Restart row on fewer blocks left out" in several
    # Rows of one family alone do not count, however many blocks they have: what both share is one block, too little to
    # tell.
    some = [row for row in some if row["family"] == "restart" or row["first_seed"] == 0]
    _, one = agreement.sentences(some)
    assert "too little to tell, 1 block of 1,000 samples" in one


def test_rows_of_other_plans_are_other_candidates():
    """Another interval at the same NFE does not replace the better one that was measured before it."""
    rows_ = pooled_rows({("sde", "s"): [(127, 5.0)], ("restart", "r"): [(63, 4.0)]})
    worse = pooled_rows({("restart", "r"): [(63, 9.0)]})
    both = [*({**row, "key": "one"} for row in rows_), *({**row, "key": "two"} for row in worse)]
    assert agreement.sentences(both) == agreement.sentences(rows_)


def test_pairs_share_their_seeds():
    """Differences by block, against numpy: with the nearest NFE of the same solver, and the SDE of the lowest mean."""
    rows_ = pooled_rows(
        {
            ("sde", "s"): [(63, 7.0), (127, 5.0)],
            ("restart", "h+restart"): [(40, 4.5)],
            ("ode", "h"): [(35, 6.0), (9, 4.0)],
            ("ode", "other"): [(40, 1.0)],
        }
    )
    rows_ = [row for row in rows_ if row["sampler"] != "s" or row["first_seed"] != 0]
    noise = iter(np.random.default_rng(0).normal(size=2 * len(rows_)))
    rows_ = [{**row, "fd": row["fd"] + next(noise), "fd_balanced": row["fd"] + next(noise)} for row in rows_]
    beside_heun, beside_sde = claims.pairs(rows_)

    def values(sampler, nfe):
        return np.array([row["fd_balanced"] for row in rows_ if (row["sampler"], row["nfe"]) == (sampler, nfe)])

    for pair, other, mine in (
        (beside_heun, values("h", 35), values("h+restart", 40)),
        (beside_sde, values("s", 127), values("h+restart", 40)[1:]),
    ):
        less = mine - other
        assert (pair.blocks, pair.n, pair.metric) == (len(less), 1000, "fd_balanced")
        assert pair.mean == pytest.approx(less.mean())
        assert pair.error == pytest.approx(less.std(ddof=1) / len(less) ** 0.5)
        assert pair.lower == (less < 0).sum()
    assert (beside_heun.other["nfe"], beside_sde.other["nfe"]) == (35, 127)
    named = [{**r, "sampler": "preset:p", "config": {"solver": "h"}} if r["family"] == "restart" else r for r in rows_]
    assert [(p.one["sampler"], p.other["sampler"], p.mean) for p in claims.pairs(named)] == [
        ("preset:p", "h", beside_heun.mean),
        ("preset:p", "s", beside_sde.mean),
    ]
    assert claims.pairs([row for row in rows_ if row["first_seed"] == 0]) == []
    assert claims.pairs([{**row, "model_sha256": row["family"]} for row in rows_]) == []


def test_the_best_sde_is_chosen_on_shared_blocks():
    """Two easy blocks alone give the worse SDE the lower mean; on the blocks that it shares it is above the other."""
    fd = {"r": [5.0] * 2 + [8.0] * 8, "worse": [5.2] * 2, "better": [4.6] * 2 + [7.6] * 8}
    rows_ = [
        {
            "kind": "quality",
            "family": "restart" if name == "r" else "sde",
            "sampler": name,
            "nfe": 50,
            "n": 1000,
            "first_seed": 1000 * k,
            "fd": value,
        }
        for name, values in fd.items()
        for k, value in enumerate(values)
    ]
    (pair,) = claims.pairs(rows_)
    assert (pair.other["sampler"], pair.blocks) == ("better", 10) and pair.mean == pytest.approx(0.4)


def test_a_claim_that_does_not_hold():
    """Not reached is an answer, and so is that there are no rows."""
    worse = pooled_rows({("sde", "s"): [(127, 5.0)], ("restart", "r"): [(31, 6.0), (63, 5.5)]})
    found = claims.fraction(worse)
    assert found is not None and found.fraction is None
    assert "does not reach" in agreement.sentences(worse)[1]
    assert claims.fraction(pooled_rows({("sde", "s"): [(127, 5.0)]})) is None
    assert agreement.sentences([]) == []
