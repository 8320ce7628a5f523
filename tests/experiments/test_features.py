"""Feature extractors: those that are shipped, a user's own, several in one run, and no data set."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.commands import run
from torch import nn

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, ConfigError, RestartTypeError, RestartValueError
from restart_sampling.experiments import datasets
from restart_sampling.experiments.measure import candidate, quality, rows, shipped
from restart_sampling.experiments.measure.distances import Stats, stats_of
from restart_sampling.experiments.measure.evaluator import Evaluator, evaluator_for, evaluators_for
from restart_sampling.experiments.measure.extractors import ARCHITECTURES, load_extractor, save_extractor
from restart_sampling.experiments.measure.features import Features, load_features, named_features
from restart_sampling.experiments.training.train_extractors import RECIPES, Recipe, train
from restart_sampling.models.registry import DATA

pytest.importorskip("torchmetrics")
pytest.importorskip("prdc")
needs_data = pytest.mark.skipif(
    not datasets.FASHION_MNIST.exists(), reason="Debian package dataset-fashion-mnist is not installed"
)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """A machine without the data set."""
    empty = tmp_path / "no-data"

    def missing(split="train", folder=empty):
        return real(split, folder)

    real = datasets.fashion_mnist
    monkeypatch.setattr(datasets, "fashion_mnist", missing)


# --- those that are shipped --------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("name", shipped.NAMES)
def test_shipped_statistics_are_those_of_the_images(name):
    """The distance to the shipped mean and covariance is that to the test set's images, to 1e-3; so is it with equal
    classes.
    """
    test, train_ = datasets.fashion_mnist("test"), datasets.fashion_mnist("train")
    images, labels = torch.from_numpy(train_.images[:300]), torch.from_numpy(train_.labels[:300])
    network = Features(shipped.extractor(name), name, images[0])
    by_images = stats_of(torch.cat([network(x) for x in torch.from_numpy(test.images).split(500)]))
    by_file = Evaluator(network, Stats(*shipped.statistics(name)), balanced=True)
    assert by_file.stats.n == 10_000 and len(set(np.bincount(test.labels))) == 1
    for found in (by_file.fd(images), by_file.fd_balanced(images, labels)):
        assert found > 0.01
    reference = Evaluator(network, by_images, balanced=True)
    assert by_file.fd(images) == pytest.approx(reference.fd(images), rel=1e-3)
    assert by_file.fd_balanced(images, labels) == pytest.approx(reference.fd_balanced(images, labels), rel=1e-3)


@needs_data
@pytest.mark.parametrize("name", shipped.NAMES)
def test_a_shipped_extractor_tells_good_from_bad(name):
    """Training images are nearest; noise and blur are farther the more there is of them."""
    pictures = datasets.fashion_mnist("train")
    images = torch.from_numpy(pictures.images[:600])
    evaluator = Evaluator(Features(shipped.extractor(name), name, images[0]), Stats(*shipped.statistics(name)))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = [evaluator.fd((images + s * noise).clamp(0, 255).to(torch.uint8)) for s in (0, 16, 32, 64)]
    blurred = [noisy[0]]
    for s in (0.6, 0.9, 1.3):
        kernel = torch.exp(-(torch.arange(-4.0, 5) ** 2) / (2 * s * s))
        kernel = torch.outer(kernel, kernel)[None, None] / kernel.sum() ** 2
        blurred.append(evaluator.fd(F.conv2d(images.float(), kernel, padding=4).round().clamp(0, 255).to(torch.uint8)))
    for values in (noisy, blurred):
        assert values == sorted(values) and values[-1] > 3 * values[0], values


def test_shipped_extractors_differ_and_say_how_they_were_made():
    cards = [load_extractor(DATA / f"{name}.safetensors").card for name in shipped.NAMES[1:]]
    assert [card["name"] for card in cards] == list(shipped.NAMES[1:]) == list(RECIPES)
    for key in ("architecture", "seed"):
        assert len({card[key] for card in cards}) == 3
    for card in cards:
        recipe = RECIPES[card["name"]]
        assert all(card[name] == getattr(recipe, name) for name in ("architecture", "task", "epochs", "seed", "lr"))
    assert {card["task"] for card in cards} == {"classes", "denoising"}
    assert all(card["test_accuracy"] > 0.88 for card in cards if card["task"] == "classes")
    for name in shipped.NAMES:
        assert (DATA / f"{name}.safetensors").stat().st_size < 400_000
        assert shipped.statistics_of(name).stat().st_size < 40_000


def pictures(n):
    """Two classes, a bright left or right half, with noise."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 60, (n, 1, 28, 28)), rng.integers(0, 2, n)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 14 * label :][:, :, :14] += 120
    return datasets.Images("halves", images.astype(np.uint8), labels, ("left", "right"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_is_repeatable_and_learns(architecture, tmp_path):
    images, test = pictures(256), pictures(64)
    task = "denoising" if architecture == "autoencoder" else "classes"
    recipe = Recipe(architecture, task, 3, 5, lr=5e-3, batch=32, flips=False, erase=4)
    state = torch.random.get_rng_state()
    one, two = (train("made up", images, test, recipe) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.card.get("test_accuracy", 1) > 0.9 and one.card.get("test_mse", 0) < 0.25
    save_extractor(one, tmp_path / "x.safetensors")
    again = load_extractor(tmp_path / "x.safetensors")
    x = torch.from_numpy(images.images[:200]).float() / 127.5 - 1
    found = again.features(x)
    assert again.card == one.card and found.shape == (200, 64)
    assert float((found - one.features(x)).abs().max()) < 0.02  # weights are stored as float16
    assert float(found.var(0).sum()) == pytest.approx(64, rel=0.25)


def test_a_file_that_is_no_extractor():
    with pytest.raises(CheckpointError, match="not a feature extractor of this package"):
        load_extractor(DATA / "fashion-mnist-classifier.safetensors")
    with pytest.raises(RestartValueError, match="there is no recipe 'x'"):
        train("x", pictures(8), pictures(8))


# --- a user's own ------------------------------------------------------------------------------------------------

MINE = """
import torch
from beside import SCALE

class Means(torch.nn.Module):
    def forward(self, images):
        return images.float().flatten(1)[:, :3] * SCALE

def fails(): raise RuntimeError("no weights\\nhere")
def needs(argument): pass
class Wrong(torch.nn.Module):
    def forward(self, images):
        return images @ torch.zeros(3, 3)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """./mine.py and ./beside.py in the current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("SCALE = 2.0")
    yield tmp_path
    for name in ("mine", "beside"):
        __import__("sys").modules.pop(name, None)


@pytest.mark.parametrize("text", ["./mine.py:Means", "mine.py:Means", "mine:Means", "{folder}/mine.py:Means"])
def test_features_of_a_file_or_a_module_in_the_current_folder(mine, text):
    images = torch.arange(2 * 784, dtype=torch.uint8).reshape(2, 1, 28, 28)
    network, name = named_features(text.format(folder=mine))
    assert network(images).tolist() == (images.flatten(1)[:, :3] * 2.0).tolist()
    assert name.startswith("mine.py:Means " if ".py" in text else "mine:Means")


def test_another_version_of_a_file_has_another_name(mine):
    """So that its rows are measured, and not taken for those of the old one."""
    before = named_features("mine.py:Means")[1]
    (mine / "mine.py").write_text(MINE.replace("* SCALE", "* SCALE + 1"))
    network, after = named_features("mine.py:Means")
    assert before != after and float(network(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))[0, 0]) == 1


@pytest.mark.parametrize(
    "text, error, message",
    [
        (
            "./mine.py",
            RestartValueError,
            r"say what in it: \./mine\.py:NAME; mine\.py defines Means, fails, needs, Wrong",
        ),
        ("mine.py:Mean", RestartValueError, "has no attribute 'Mean'.*mine.py defines Means"),
        ("mine.py:fails", RestartValueError, r"RuntimeError: no weights \(mine\.py, line 9\)$"),
        (
            "mine.py:needs",
            RestartValueError,
            "missing 1 required positional argument: '[a-z]+'; NAME is .* without arguments",
        ),
        ("gone.py:Means", RestartValueError, "^cannot read the features' file gone.py"),
        ("bad.py:Means", RestartValueError, r"SyntaxError: .* \(bad\.py, line 1\)"),
        ("nowhere:Means", RestartValueError, "No module named 'nowhere'"),
        ("fashion-mnist-resnett", RestartValueError, "did you mean 'fashion-mnist-resnet'"),
        ("nothing", RestartValueError, "FILE.py:NAME"),
        ("a:b c", RestartValueError, "FILE.py:NAME"),
    ],
)
def test_features_that_cannot_be_made_are_one_sentence(mine, text, error, message):
    (mine / "bad.py").write_text("def (")
    with pytest.raises(error, match=message) as caught:
        load_features(text)
    assert "\n" not in str(caught.value)


def test_features_that_fail_on_images_are_one_sentence(mine):
    with pytest.raises(
        RestartTypeError, match=r"features 'wrong' failed on uint8 images \(2, 1, 28, 28\): RuntimeError"
    ):
        Features(load_features("mine.py:Wrong"), "wrong", torch.zeros(1, 28, 28, dtype=torch.uint8))


# --- several in one run, and no data set -------------------------------------------------------------------------


def test_several_evaluators_share_the_images(tmp_path, monkeypatch):
    """Images are drawn once; each evaluator has the rows that it has alone, and a second run measures nothing."""

    class Runner:
        nfe, network_calls, plan, key, network = 7, 7, None, "made-up-7-fp32", None
        drawn = 0

        def draw(self, seeds, class_labels=None):
            self.drawn += len(seeds)
            return rs.noise.normal(seeds, 0, (1, 4, 4)) * 0.3, rs.noise.class_labels(seeds, 10)

    class Some(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, x):
            return x.flatten(1)[:, self.k : self.k + 3].float() / 8

    g = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (90, 1, 4, 4), generator=g, dtype=torch.uint8)
    evaluators = [Evaluator(Features(Some(k), f"some-{k}", real[0]), real, None, "r", balanced=k == 4) for k in (0, 4)]
    runner, denoiser = Runner(), rs.Denoiser.from_function(lambda x, sigma: x, (1, 4, 4))
    made_up = candidate.Candidate("made-up", "ode", "torch", "Made up", "here", lambda *a: runner)

    def measure(evaluator, out):
        return quality.measure(
            denoiser,
            "made-up",
            [(made_up, 9)],
            n=40,
            first_seed=0,
            block=20,
            out=tmp_path / out,
            evaluator=evaluator,
            cache=tmp_path / "cache",
        )

    denoiser.info["sha256"] = "f" * 64
    read = []
    block_of = quality.block_of
    monkeypatch.setattr(quality, "block_of", lambda *given: read.append(given) or block_of(*given))
    both = measure(evaluators, "both")
    assert runner.drawn == 40 and len(read) == 2 + 4  # each block once for both, and for either to pool
    assert [(row["kind"], row["features"]) for row in both] == [
        ("quality", "some-0"),
        ("quality", "some-4"),
        ("quality", "some-0"),
        ("quality", "some-4"),
        ("pooled", "some-0"),
        ("pooled", "some-4"),
    ]
    assert ["fd_balanced" in row for row in both] == [False, True] * 3
    assert measure(evaluators, "both") == both == rows.read(tmp_path / "both" / "quality.jsonl")
    for evaluator in evaluators:
        assert measure(evaluator, evaluator.features) == rows.find(both, features=evaluator.features)
    assert runner.drawn == 40


def test_all_stands_for_the_shipped_ones(no_data):
    found = evaluators_for("fashion-mnist", "all,fashion-mnist-resnet")
    assert [evaluator.features for evaluator in found] == list(shipped.NAMES)
    assert {evaluator.reference for evaluator in found} == {"fashion-mnist test"} and all(
        evaluator.balanced for evaluator in found
    )
    with pytest.raises(RestartValueError, match="names no extractor"):
        evaluators_for("fashion-mnist", " , ")
    with pytest.raises(ConfigError, match="needs --reference"):
        evaluators_for("other.pkl", "all")


@needs_data
def test_a_machine_without_the_data_set_measures_the_same_distance(monkeypatch, tmp_path):
    """The row has the same names, so that it stands beside others; what needs real images is left out and said so."""
    images, labels = (
        torch.from_numpy(x[:300])
        for x in (datasets.fashion_mnist("train").images, datasets.fashion_mnist("train").labels)
    )
    here = evaluator_for("fashion-mnist", "fashion-mnist-autoencoder")
    real = datasets.fashion_mnist
    monkeypatch.setattr(datasets, "fashion_mnist", lambda split: real(split, tmp_path))
    there = evaluator_for("fashion-mnist", "fashion-mnist-autoencoder")
    assert (there.features, there.reference, there.balanced) == (here.features, here.reference, here.balanced)
    assert there.training_set is None and "apt-get install dataset-fashion-mnist" in there.note and not here.note
    a, b = here.measure(images, labels), there.measure(images, labels)
    assert set(b) == {"fd", "fd_balanced", "accuracy"} and set(a) > {*b, "kid", "recall"}
    assert b == pytest.approx({name: a[name] for name in b}, rel=1e-6)


def test_bench_and_tune_run_without_the_data_set(no_data, tmp_path, capsys):
    """`bench --n` by two extractors, and `tune` by the one that is its default."""
    common = ["--first-seed", "5", "--batch", "8", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    what = ("--samplers", "euler@2", "--n", 8, "--rounds", 0, "--features", ",".join(shipped.NAMES[:2]))
    code, out, err = run(capsys, "bench", *what, "--out", tmp_path / "b", *common)
    assert code == 0, err
    assert err.count("kernel distance, precision, recall and training images are left out") == 1
    found = rows.read(tmp_path / "b" / "quality.jsonl")
    assert [row["features"] for row in found if row["kind"] == "quality"] == list(shipped.NAMES[:2])
    assert all(row["fd_balanced"] > 1 and row["sampler"] == "euler" for row in found)
    shown = [line for line in out.splitlines() if "euler" in line]
    assert "resnet" in out and all(f"{row['fd_balanced']:.4g}" in shown[0] for row in found[:2])
    what = ("--budget", 4, "--trials", 1, "--n", 8, "--min-nfe", 3, "--max-nfe", 5, "--solver", "euler")
    code, out, err = run(capsys, "tune", *what, "--no-confirm", "--out", tmp_path / "t", *common)
    assert code == 0, err
    (row,) = [json.loads(line) for line in (tmp_path / "t" / "tune.jsonl").read_text().splitlines()]
    assert row["features"] == shipped.TUNER and row["reference"] == "fashion-mnist test"


def test_own_features_without_the_data_set_say_what_is_missing(no_data, mine):
    with pytest.raises(ConfigError, match=r"need the images of the reference, or --reference: .*apt-get install"):
        evaluator_for("fashion-mnist", "mine.py:Means")


def test_the_old_name_of_evaluator_for_warns():
    from restart_sampling.experiments.measure import evaluator

    with pytest.warns(DeprecationWarning, match="judge_for is now evaluator_for"):
        assert evaluator.judge_for is evaluator_for
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        evaluator.nothing  # noqa: B018
