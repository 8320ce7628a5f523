"""Training: the data readers, the loss, and runs that can be killed and resumed."""

from __future__ import annotations

import gzip
import math
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import restart_sampling.models
from restart_sampling.common.errors import CheckpointError, RestartValueError
from restart_sampling.experiments.datasets import (
    FASHION_MNIST,
    FASHION_MNIST_CLASSES,
    DataError,
    Images,
    fashion_mnist,
    load_images,
)
from restart_sampling.experiments.measure.extractors import load_classifier, save_classifier
from restart_sampling.experiments.training import averages, loop
from restart_sampling.experiments.training.classifier import accuracy, train_classifier
from restart_sampling.experiments.training.export import export_network
from restart_sampling.experiments.training.train import main, network_config
from restart_sampling.models import build_network, load_safetensors, registry

pytestmark = pytest.mark.usefixtures("one_thread")

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 3
RAMP = np.add.outer(np.arange(8), 2 * np.arange(8))  # smooth pictures, so that there is something to learn
PIXELS = (60 * LABELS[:, None, None] + 5 * RAMP + RNG.integers(0, 20, (40, 1, 1))).astype(np.uint8)
DATA = Images("tiny", PIXELS[:, None], LABELS.astype(np.int64), ("a", "b", "c"))
OPTIONS = loop.Options(batch=4, lr=1e-2, warmup_steps=1, decay_steps=2)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def config(label_dropout: float = 0.1) -> dict:
    return network_config(DATA, 8, "1,2", 1, "4", label_dropout)


def start(seed: int = 0) -> loop.Run:
    return loop.start(config(), loop.Options(**{**OPTIONS.__dict__, "seed": seed}), "tiny", torch.device("cpu"))


def weights(network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_idx_npz_and_folders_give_the_same_images(tmp_path):
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    (tmp_path / "y-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS)))
    np.savez(tmp_path / "z.npz", images=PIXELS, labels=LABELS)
    for label in range(3):
        (tmp_path / "folder" / "abc"[label]).mkdir(parents=True)
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "folder" / "abc"[i % 3] / f"{i:02d}.png")

    plain = load_images(tmp_path / "x-images-idx3-ubyte")
    assert np.array_equal(plain.images, PIXELS[:, None]) and np.array_equal(plain.labels, LABELS)
    unlabelled = load_images(tmp_path / "y-images-idx3-ubyte.gz")
    assert np.array_equal(unlabelled.images, plain.images) and unlabelled.labels is None
    npz = load_images(tmp_path / "z.npz")
    assert np.array_equal(npz.images, plain.images) and npz.classes == ("0", "1", "2")
    folder = load_images(tmp_path / "folder")
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(folder.images, plain.images[order]) and np.array_equal(folder.labels, LABELS[order])
    assert folder.classes == ("a", "b", "c")
    assert math.isclose(plain.sigma_data, np.sqrt(np.mean((PIXELS / 127.5 - 1) ** 2)))


def test_bad_data_is_named(tmp_path):
    def refused(content: bytes | None, name: str, message: str) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_images(path)

    refused(None, "absent", "no such file or folder")
    refused(b"hello", "a-images-idx3-ubyte", "not an IDX file")
    refused(idx(PIXELS)[:-1], "b-images-idx3-ubyte", "promises .* holds 2559")
    refused(b"\x1f\x8b broken", "c-images-idx3-ubyte.gz", "cannot be read")
    refused(gzip.compress(idx(PIXELS))[:-20], "d-images-idx3-ubyte.gz", "cannot be read")
    refused(b"no zip", "e.npz", "not a readable .npz")
    np.savez(tmp_path / "f.npz", pictures=PIXELS)
    refused(None, "f.npz", "no array `images`; it holds pictures")
    np.savez(tmp_path / "g.npz", images=PIXELS.astype(np.float32))
    refused(None, "g.npz", "must be uint8, got float32")
    np.savez(tmp_path / "h.npz", images=PIXELS, labels=LABELS[:5])
    refused(None, "h.npz", "labels must be 40 integers")
    np.savez(tmp_path / "i.npz", images=PIXELS[:, :4])
    refused(None, "i.npz", r"need \[N, H, H\]")
    (tmp_path / "empty").mkdir()
    refused(None, "empty", "no pictures")
    (tmp_path / "empty" / "x.png").write_bytes(b"not a picture")
    refused(None, "empty", "x.png: not a readable picture")


def test_missing_fashion_mnist_names_the_package(tmp_path):
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist(folder=tmp_path)
    with pytest.raises(DataError, match="split must be train or test"):
        fashion_mnist("valid")


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist():
    test = fashion_mnist("test")
    assert test.images.shape == (10000, 1, 28, 28) and test.labels is not None
    assert np.array_equal(np.bincount(test.labels), [1000] * 10) and 0.8 < test.sigma_data < 0.85


def test_sigma_is_stratified_log_normal():
    sigma = loop.draw_sigma(np.random.default_rng(0), 1000, -1.2, 1.5)
    z = np.sort((np.log(sigma) + 1.2) / 1.5)
    share = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    # One draw in each thousandth of probability, so the k-th smallest lies in [k, k+1]/1000.
    assert (share >= np.arange(1000) / 1000 - 1e-9).all() and (share <= np.arange(1, 1001) / 1000 + 1e-9).all()
    assert not np.array_equal(sigma, np.sort(sigma))


def test_the_loss_is_the_weighted_denoising_error():
    network = build_network(config(), seed=0)
    y = torch.from_numpy(PIXELS[:4, None] / 127.5 - 1).float()
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    sigma = np.array([0.02, 0.3, 1.0, 20.0])
    trained, loss = loop.edm_loss(network, network, y, None, sigma, noise)
    assert float(trained) == float(loss)
    c = network.parameterization.coefficients(sigma)
    want = []
    for i in range(4):
        x = y[i : i + 1].double() + sigma[i] * noise[i : i + 1].double()
        F = network(c.c_in[i] * x, torch.tensor([c.c_noise[i]]))
        D = c.c_skip[i] * x + c.c_out[i] * F
        d = network.config["sigma_data"]
        weight = (sigma[i] ** 2 + d**2) / (sigma[i] * d) ** 2  # EDM eq. 8, λ(σ)
        want.append(weight * float((D - y[i : i + 1]).square().mean()))
    assert math.isclose(float(loss), float(np.mean(want)), rel_tol=1e-4)


def test_rate_and_average_need_no_horizon():
    options = loop.Options(lr=1.0, warmup_steps=10, decay_steps=100)
    assert [options.rate(s) for s in (1, 10, 100, 400)] == [0.1, 1.0, 1.0, 0.5]
    assert averages.beta(1, 0.1) == 0.0  # the first average is the first weights, not the initial ones
    # The remembered share does not depend on the length: after n steps the weight of the last tenth is 1 − 0.9^(γ+1).
    assert averages.gamma_of(0.1) == pytest.approx(6.94, abs=5e-3)  # the two of EDM2, section 3.1
    assert averages.gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)
    for n in (1000, 5000):
        kept = math.prod(averages.beta(t, 0.1) for t in range(int(0.9 * n) + 1, n + 1))
        assert math.isclose(kept, 0.9**7.94, rel_tol=2e-2)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"lr": -1.0}, {"P_std": 0.0}])
def test_bad_options(bad):
    with pytest.raises(RestartValueError, match=f"{next(iter(bad))} must be > 0"):
        loop.Options(**bad)


def test_training_lowers_the_loss(tmp_path):
    run = start()
    seen: list[float] = []
    loop.train(run, DATA, tmp_path, minutes=1, max_steps=24, every=8, report=lambda _, loss, __: seen.append(loss))
    assert len(seen) == 3 and seen[-1] < 0.8 * seen[0]
    lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert lines[0] == "step,seconds,loss,lr,grad_norm" and [int(line.split(",")[0]) for line in lines[1:]] == [
        8,
        16,
        24,
    ]


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    device = torch.device("cpu")
    whole, parts = start(), start()
    loop.train(whole, DATA, tmp_path / "whole", minutes=1, max_steps=4)
    loop.train(parts, DATA, tmp_path / "parts", minutes=1, max_steps=2)
    parts = loop.resume(tmp_path / "parts" / "checkpoint.pt", device)
    assert parts.step == 2 and parts.options == whole.options
    loop.train(parts, DATA, tmp_path / "parts", minutes=1, max_steps=4)
    for a, b in ((whole.network, parts.network), (whole.ema, parts.ema)):
        assert torch.allclose(weights(a), weights(b), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights(start(1).network), weights(start(0).network))


def test_a_killed_run_leaves_no_row_of_steps_that_are_made_again(tmp_path):
    loop.train(start(), DATA, tmp_path, minutes=1, max_steps=4, every=2)  # its checkpoint is at step 4
    with (tmp_path / "loss.csv").open("a") as table:
        table.write("6,1.0,0.5,0.001,1.0\n8,2.0,0.4")  # killed at step 8, in the middle of a row
    run = loop.resume(tmp_path / "checkpoint.pt", torch.device("cpu"))
    loop.train(run, DATA, tmp_path, minutes=1, max_steps=8, every=2)
    lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4", "6", "8"]
    assert "6,1.0,0.5,0.001,1.0" not in lines


def test_classes_are_dropped_at_the_stated_rate():
    seen: list[torch.Tensor] = []
    run = start()
    run.options = replace(run.options, label_dropout=0.25)

    def record(x, c_noise, labels):
        seen.append(labels.clone())
        return x * run.network.model.map_layer0.bias[0]

    for _ in range(50):
        loop.one_step(run, record, torch.from_numpy(DATA.images), torch.from_numpy(DATA.labels))
    rows = torch.cat(seen).sum(1)
    assert set(rows.tolist()) == {0.0, 1.0} and 0.6 < float(rows.mean()) < 0.9


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    loop.save(start(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        loop.save(start(1), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_bad_checkpoints_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        loop.resume(path, torch.device("cpu"))
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a readable training checkpoint"):
        loop.resume(path, torch.device("cpu"))
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="not a training checkpoint of this version"):
        loop.resume(path, torch.device("cpu"))


def test_export_holds_the_averaged_weights_and_a_card(tmp_path):
    run = start()
    loop.train(run, DATA, tmp_path, minutes=1, max_steps=2)
    network, card = load_safetensors(export_network(run, DATA, tmp_path / "sub" / "net.safetensors"))
    assert torch.allclose(weights(network), weights(run.ema), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(weights(network), weights(run.network), rtol=1e-3, atol=1e-6)
    assert card["classes"] == ["a", "b", "c"] and card["training"]["steps"] == 2
    assert network.config["sigma_data"] == round(DATA.sigma_data, 3)


def test_command_line(tmp_path):
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    app = typer.Typer()
    app.command()(main)
    small = ["--data", str(tmp_path / "d.npz"), "--out", str(tmp_path / "run"), "--model-channels", "8", "--attn", "4"]
    small += ["--channel-mult", "1,2", "--num-blocks", "1", "--batch", "4"]
    out = str(tmp_path / "n.safetensors")
    assert CliRunner().invoke(app, [*small, "--steps", "2", "--export", out]).exit_code == 0
    assert load_safetensors(out)[0].label_dim == 3
    again = CliRunner().invoke(app, [*small, "--steps", "3"])
    assert again.exit_code == 2 and "add --resume" in again.output.replace("\n", " ")
    assert CliRunner().invoke(app, [*small, "--steps", "3", "--resume"]).exit_code == 0
    absent = CliRunner().invoke(app, ["--data", str(tmp_path / "x.npz")])
    assert absent.exit_code == 2 and "error:" in absent.output
    bad = CliRunner().invoke(app, [*small, "--out", str(tmp_path / "o"), "--channel-mult", "1;2"])
    assert bad.exit_code == 2 and "expected integers like 1,2,4" in bad.output.replace("\n", " ")


def test_command_line_for_edm2(tmp_path):
    """Train, go on, and export an average of another length, as docs/training.md says."""
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    app = typer.Typer()
    app.command()(main)
    run, out = str(tmp_path / "run"), str(tmp_path / "n.safetensors")
    train = [
        "--data",
        str(tmp_path / "d.npz"),
        "--out",
        run,
        "--network",
        "edm2",
        "--model-channels",
        "8",
        "--attn",
        "4",
    ]
    train += ["--channel-mult", "1,2", "--num-blocks", "1", "--batch", "4", "--channels-per-head", "8"]
    assert CliRunner().invoke(app, [*train, "--steps", "4", "--store-steps", "2"]).exit_code == 0
    export = ["--data", str(tmp_path / "d.npz"), "--out", run, "--resume", "--minutes", "0", "--export", out]
    assert CliRunner().invoke(app, [*export, "--ema-std", "0.07"]).exit_code == 0
    network, card = load_safetensors(out)
    assert (network.config["class_name"], network.config["channels_per_head"]) == ("Precond", 8)
    assert card["training"]["average"] == 0.07
    bad = CliRunner().invoke(app, [*train, "--out", str(tmp_path / "o"), "--network", "adm"])
    assert bad.exit_code == 2 and "--network must be" in bad.output.replace("\n", " ")


def test_classifier_learns_and_survives_its_file(tmp_path):
    level = np.array([20, 120, 220])[np.arange(300) % 3]
    noise = RNG.integers(-15, 16, (300, 1, 28, 28))
    images = Images("grey", (level[:, None, None, None] + noise).astype(np.uint8), np.arange(300) % 3, ("x", "y", "z"))
    state = torch.get_rng_state()
    classifier = train_classifier(images, epochs=2, batch=25)
    assert torch.equal(torch.get_rng_state(), state)
    assert accuracy(classifier, images) > 0.95
    save_classifier(classifier, tmp_path / "c.safetensors")
    loaded = load_classifier(tmp_path / "c.safetensors")
    x = torch.from_numpy(images.images[:5]).float() / 127.5 - 1
    assert loaded.features(x).shape == (5, 64) and loaded.card["classes"] == ["x", "y", "z"]
    assert torch.allclose(loaded(x), classifier(x), atol=0.05)
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(tmp_path / "absent")
    (tmp_path / "c.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        load_classifier(tmp_path / "c.safetensors")
    export_network(start(), DATA, tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match="not a classifier of this package"):
        load_classifier(tmp_path / "n.safetensors")


BUNDLED = Path(restart_sampling.models.__file__).parent / "data"


MODELS = {  # name → (most parameters, most bytes), of the file in float16
    "fashion-mnist": (2e6, 4e6),
    "fashion-mnist-edm2": (2e6, 4e6),
    "fashion-mnist-edm2-guide": (0.5e6, 1e6),
}


@pytest.mark.parametrize("name", MODELS)
def test_bundled_models_are_small_and_say_what_they_are(name):
    path = BUNDLED / f"{name}.safetensors"
    network, card = load_safetensors(path)
    parameters = sum(p.numel() for p in network.parameters())
    assert path.stat().st_size <= MODELS[name][1] and card["classes"] == list(FASHION_MNIST_CLASSES)
    assert (network.shape, network.label_dim) == ((1, 28, 28), 10)
    assert card["parameters"] == parameters <= MODELS[name][0] and card["training"]["steps"] > 1000
    assert card["licence"]["weights"] == "Apache-2.0"
    assert network.config["sigma_data"] == 0.826 and network.parameterization.name == "edm"
    assert network.class_null == 0.0  # so that guidance without a guide works


def test_every_bundled_model_is_tested():
    assert set(MODELS) == set(registry.BUNDLED)


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="Debian package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("name", MODELS)
def test_bundled_models_denoise_and_use_the_class(name):
    network, _ = load_safetensors(BUNDLED / f"{name}.safetensors")
    test = fashion_mnist("test")
    y = torch.from_numpy(test.images[:20]).float() / 127.5 - 1
    labels = torch.eye(10)[torch.from_numpy(test.labels[:20])]
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(y.shape, dtype=np.float32))
    for sigma, most in ((0.2, 0.25), (1.0, 0.2), (5.0, 0.35)):
        levels = np.full(20, sigma)
        right, none, wrong = (
            float(loop.edm_loss(network, network, y, one_hot, levels, noise)[1])
            for one_hot in (labels, None, labels.roll(1, 1))
        )
        assert right < most
        if sigma >= 1:
            assert right < none < wrong


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="Debian package dataset-fashion-mnist is not installed")
def test_bundled_classifier_is_as_good_as_its_card():
    classifier = load_classifier(BUNDLED / "fashion-mnist-classifier.safetensors")
    test = fashion_mnist("test")
    part = Images("part", test.images[:2000], test.labels[:2000], test.classes)
    assert abs(accuracy(classifier, part) - classifier.card["test_accuracy"]) < 0.02
    assert classifier.card["test_accuracy"] > 0.9


@pytest.mark.parametrize("std", [0.0, 0.3, -1.0])
def test_a_length_that_no_average_has(std):
    with pytest.raises(RestartValueError, match="the length of an average, sigma_rel, must be"):
        loop.Options(ema_stds=(std,))


@pytest.mark.parametrize("std", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
def test_averages_of_other_lengths_are_made_of_stored_ones(std):
    """Against the average itself, of a path of known values, far from steady: an error of a hundredth of its change."""
    path = [math.exp(-t / 150) + 0.3 * math.sin(t / 40) for t in range(1, 641)]
    stored, now = {}, dict.fromkeys((0.05, 0.1), 0.0)
    wanted = 0.0
    for t, value in enumerate(path, 1):
        wanted += (1 - averages.beta(t, std)) * (value - wanted)
        for one in now:
            now[one] += (1 - averages.beta(t, one)) * (value - now[one])
        if t % 16 == 0:
            stored |= {(t, one): now[one] for one in now}
    shares = averages.weights(list(stored), 640, std)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert float(shares @ np.array(list(stored.values()))) == pytest.approx(wanted, abs=5e-3)


def test_an_average_that_was_stored_is_made_of_itself():
    stored = [(t, s) for t in (100, 200, 300) for s in (0.05, 0.1)]
    shares = averages.weights(stored, 200, 0.05)
    assert shares == pytest.approx([0, 0, 1, 0, 0, 0], abs=1e-6)


def edm2(**options) -> loop.Run:
    config = network_config(DATA, 8, "1,2", 1, "4", 0.1, "edm2", 8)
    return loop.start(config, replace(OPTIONS, **options), "tiny", torch.device("cpu"))


def test_the_loss_of_a_network_that_predicts_its_uncertainty():
    """EDM2, eq. 21: error/exp(u) + u, and its least value over u is at u = ln(error)."""
    network = build_network(network_config(DATA, 8, "1,2", 1, "4", 0.1, "edm2", 8), seed=0)
    network.requires_grad_(True)
    y = torch.from_numpy(PIXELS[:4, None] / 127.5 - 1).float()
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    sigma = np.array([0.02, 0.3, 1.0, 20.0])
    trained, loss = loop.edm_loss(network, network, y, None, sigma, noise)
    c_noise = torch.from_numpy(np.log(sigma) / 4).float()
    u = network.logvar(c_noise).double()
    errors = torch.stack(
        [loop.edm_loss(network, network, y[i : i + 1], None, sigma[i : i + 1], noise[i : i + 1])[1] for i in range(4)]
    )
    assert float(loss) == pytest.approx(float(errors.mean()), rel=1e-5)
    assert float(trained.detach()) == pytest.approx(float((errors / u.exp() + u).mean().detach()), rel=1e-5)


def test_training_edm2_keeps_weights_at_unit_length_and_learns(tmp_path):
    run = edm2()
    seen: list[float] = []
    loop.train(
        run,
        DATA,
        tmp_path,
        minutes=1,
        max_steps=24,
        every=8,
        store_steps=8,
        report=lambda _, loss, __: seen.append(loss),
    )
    assert seen[-1] < 0.8 * seen[0]
    run.network.constrain()
    for name, weight in run.network.named_parameters():
        if weight.ndim:
            rms = weight.detach().square().mean(dim=tuple(range(1, weight.ndim))).sqrt()
            assert torch.allclose(rms, torch.ones_like(rms), atol=1e-3), name
    assert [(one.step, one.std) for one in averages.stored_in(tmp_path / "averages")] == [
        (step, std) for step in (8, 16, 24) for std in (0.05, 0.1)
    ]
    network, card = load_safetensors(export_network(run, DATA, tmp_path / "net.safetensors", tmp_path, 0.08))
    assert card["training"]["average"] == 0.08
    between = [weights(net) for net in (run.averages[0.05], run.averages[0.1])]
    gap = float((between[0] - between[1]).norm())
    assert float((weights(network) - between[1]).norm()) < gap  # between the two
    with pytest.raises(CheckpointError, match="no stored averages"):
        export_network(run, DATA, tmp_path / "net.safetensors", tmp_path / "nowhere", 0.08)


def test_edm2_resumes_as_an_unbroken_run(tmp_path):
    whole, parts = edm2(), edm2()
    loop.train(whole, DATA, tmp_path / "whole", minutes=1, max_steps=4)
    loop.train(parts, DATA, tmp_path / "parts", minutes=1, max_steps=2)
    parts = loop.resume(tmp_path / "parts" / "checkpoint.pt", torch.device("cpu"))
    loop.train(parts, DATA, tmp_path / "parts", minutes=1, max_steps=4)
    for one, other in (
        (whole.network, parts.network),
        *zip(whole.averages.values(), parts.averages.values(), strict=True),
    ):
        assert torch.allclose(weights(one), weights(other), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_the_loss_is_nearly_the_same_and_weights_stay_float32(tmp_path, monkeypatch):
    """The network sees bfloat16 in its convolutions; the options are kept, so that a resumed run goes on so."""
    seen: dict[bool, list[float]] = {False: [], True: []}
    kinds = set()
    convolve = torch.nn.functional.conv2d

    def watched(*arguments, **options):
        result = convolve(*arguments, **options)
        kinds.add(result.dtype)
        return result

    for bf16, losses in seen.items():
        monkeypatch.setattr(torch.nn.functional, "conv2d", watched if bf16 else convolve)
        config = network_config(DATA, 8, "1,2", 1, "4", 0.1, "edm2", 8)
        run = loop.start(config, loop.Options(batch=8, bf16=bf16), "test", torch.device("cpu"))
        loop.train(
            run,
            DATA,
            tmp_path / str(bf16),
            minutes=1,
            max_steps=4,
            every=1,
            report=lambda _, loss, __, into=losses: into.append(loss),
        )
    assert kinds == {torch.bfloat16}
    assert seen[True] != seen[False]
    assert seen[True] == pytest.approx(seen[False], rel=0.02)
    assert {p.dtype for net in (run.network, run.ema) for p in net.parameters()} == {torch.float32}
    assert loop.resume(tmp_path / "True" / "checkpoint.pt", torch.device("cpu")).options.bf16


@pytest.mark.parametrize(("dropout", "null"), [(0.0, None), (0.1, 0.0)])
def test_a_network_trained_without_dropping_classes_has_no_null(dropout, null):
    """So that guidance without a guide is refused, where it would mix with an output that was never trained."""
    network = build_network(network_config(DATA, 8, "1,2", 1, "4", dropout, "edm2", 8))
    assert network.class_null == null


@pytest.mark.parametrize("std", [0.005, 0.03, 0.05, 0.1, 0.28])
def test_the_profile_has_the_length_that_was_asked_for(std):
    """σ_rel is the standard deviation of t/n under the profile (γ + 1)·t^γ on [0, 1], here from its moments."""
    gamma = averages.gamma_of(std)
    first, second = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(second - first**2) == pytest.approx(std, rel=1e-6)


def test_inner_products_of_profiles_are_integrals():
    t = (np.arange(200_000) + 0.5) / 200_000 * 300  # midpoints up to the longer of the two

    def profile(n, gamma):
        return np.where(t <= n, (gamma + 1) / n ** (gamma + 1) * t**gamma, 0.0)

    for a, b in (((300, 6.94), (300, 16.97)), ((120, 6.94), (300, 3.0)), ((300, 2.5), (300, 2.5))):
        integral = float((profile(*a) * profile(*b)).sum() * 300 / len(t))
        assert averages.inner(*a, *b) == pytest.approx(integral, rel=1e-3)


def test_weights_are_constrained_before_every_step(tmp_path, monkeypatch):
    run = edm2()
    calls = []
    constrain = type(run.network).constrain
    monkeypatch.setattr(type(run.network), "constrain", lambda self: (calls.append(run.step), constrain(self)))
    loop.train(run, DATA, tmp_path, minutes=1, max_steps=3)
    assert calls == [1, 2, 3]


def test_gains_are_stored_as_they_are(tmp_path):
    """A gain acts on a whole layer, so it stays float32 in a file of float16."""
    run = edm2()
    loop.train(run, DATA, tmp_path, minutes=1, max_steps=2)
    network, _ = load_safetensors(export_network(run, DATA, tmp_path / "net.safetensors"))
    gains = {name: p for name, p in run.ema.named_parameters() if not p.ndim}
    assert any(float(gain) != float(gain.half()) for gain in gains.values())
    assert all(float(dict(network.named_parameters())[name]) == float(gain) for name, gain in gains.items())
