"""`restart-sampling score`: images in every format give what the benchmark's evaluator gives of them."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import restart_sampling as rs
from restart_sampling.cli.app import main
from restart_sampling.common.errors import ConfigError, OutputError, RestartValueError
from restart_sampling.experiments import datasets
from restart_sampling.experiments.measure import score, shipped
from restart_sampling.experiments.measure.distances import Stats
from restart_sampling.experiments.measure.evaluator import Evaluator
from restart_sampling.experiments.measure.features import Features
from restart_sampling.experiments.measure.image_sets import open_images
from restart_sampling.jobs.record import digest

pytest.importorskip("torchmetrics")
pytest.importorskip("prdc")

N, SEEDS = 90, range(100, 190)  # more images than features, so that covariances have full rank


@pytest.fixture(scope="module")
def drawn():
    """Images uint8 [90, 1, 28, 28] and classes: blobs whose place depends on the class, which is that of their seed."""
    labels = rs.noise.class_labels(SEEDS, 10)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 40, (N, 1, 28, 28), generator=g, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * int(label) : 2 * int(label) + 8, 8:20] += 150
    return images, labels


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, format=kind)
    return buffer.getvalue()


def in_npz(folder, images, labels):
    np.savez_compressed(folder / "x.npz", arr_0=images.permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy())
    return folder / "x.npz"


def in_cache(folder, images, labels):
    np.savez(folder / "x.npz", images=images.numpy(), labels=labels.numpy())
    return folder / "x.npz"


def in_folder(folder, images, labels):
    names = [f"{i:03d}/{i:03d}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(encoded(image))
    pairs = [[name, int(label)] for name, label in zip(names, labels, strict=True)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    return folder


def in_tars(folder, images, labels):
    for part, index in enumerate(torch.arange(len(images)).split(40)):
        with tarfile.open(folder / f"{part}.tar", "w") as archive:
            for i in index.tolist():  # the picture first, the other way than ours
                for suffix, content in (
                    ("png", encoded(images[i])),
                    ("cls", str(int(labels[i])).encode()),
                    ("txt", b"x"),
                ):
                    member = tarfile.TarInfo(f"./a.b/{i:06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def in_parquet(folder, images, labels):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"label": labels.numpy(), "image": [encoded(image) for image in images]})
    pq.write_table(table, folder / "x.parquet")
    return folder / "x.parquet"


def record_of(format="png", pixels="uint8", samples=""):
    """A run.json of the bundled model, complete."""
    plan = {"steps": 18}
    return {
        "model": "fashion-mnist",
        "model_sha256": None,
        "plan": plan,
        "plan_digest": digest(plan),
        "nfe": 35,
        "seeds": "100-189",
        "class": None,
        "batch": 8,
        "device": "cpu",
        "dtype": "fp32",
        "backend": "auto",
        "format": format,
        "pixels": pixels,
        "shard_size": 60,
        "samples": samples,
        "subfolders": False,
        "noise": "philox-v1",
    }


def in_run(format, pixels="uint8", under=""):
    """As `generate` writes it, with a contact sheet that is no sample; `under`: the folder of the samples."""

    def write(folder, images, labels):
        from restart_sampling.jobs.formats.base import ShardData
        from restart_sampling.jobs.formats.options import Options
        from restart_sampling.jobs.formats.registry import find
        from restart_sampling.jobs.shards import Shards
        from restart_sampling.sampler.seeds import parse_seeds

        (folder / "run.json").write_text(json.dumps(record_of(format, pixels, under)))
        for name in ("grid.png", "sheets/000000.png", "preview.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(encoded(torch.zeros(1, 90, 90, dtype=torch.uint8)))
        root = folder / under
        root.mkdir(exist_ok=True)
        for shard in Shards(parse_seeds("100-189"), 60):
            index = torch.tensor([seed - 100 for seed in shard.seeds])
            some = images[index].permute(0, 2, 3, 1).numpy()
            if pixels == "float32":
                some = (
                    images[index].float().add(0.25) / 127.5 - 128 / 127.5
                ).numpy()  # floor(127.5·x + 128) gives it back
            find(format).write(
                root, ShardData(shard, index.numpy() + 100, labels[index].numpy(), some, "plan"), Options(), "t"
            )
        (root / ".000105.png.r0.tmp").write_bytes(b"half")
        return folder

    return write


WAYS = {
    "npz": in_npz,
    "cache": in_cache,
    "folder": in_folder,
    "tars": in_tars,
    "parquet": in_parquet,
    **{f"run of {f}": in_run(f) for f in ("png", "npz", "wds", "parquet")},
    **{f"run of {f}, samples apart": in_run(f, under="samples") for f in ("png", "wds")},
    **{f"run of {f}, float32": in_run(f, "float32") for f in ("npz", "wds", "parquet")},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_format_holds_the_same_images_and_classes(way, tmp_path, drawn):
    found = list(open_images(WAYS[way](tmp_path, *drawn)).batches(40))
    assert [len(images) for images, _ in found] == [40, 40, 10]
    assert torch.equal(torch.cat([images for images, _ in found]), drawn[0])
    assert torch.equal(torch.cat([labels for _, labels in found]), drawn[1])


@pytest.fixture(scope="module")
def evaluators():
    """Two shipped extractors, with a reference of images and of statistics."""
    g = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (120, 1, 28, 28), generator=g, dtype=torch.uint8)
    networks = [(name, shipped.extractor(name)) for name in shipped.NAMES[:2]]
    stats = Stats(*shipped.statistics(shipped.NAMES[1]))
    (a, one), (b, two) = ((name, Features(network, name, real[0])) for name, network in networks)
    return [Evaluator(one, real, shipped.classifier(), a, balanced=True), Evaluator(two, stats, None, b, balanced=True)]


def test_a_stream_scores_as_all_at_once(evaluators, drawn):
    """Against `Evaluator.measure`, whatever the batches: 13 at a time, and classes that come one after the other."""
    images, labels = drawn
    order = labels.argsort()
    for at in (torch.arange(N), order):
        parts = zip(images[at].split(37), labels[at].split(37), strict=True)
        for scorer in score.score(evaluators, parts):
            want = scorer.evaluator.measure(images[at], labels[at])
            found = scorer.result()
            assert set(found) == set(want) and {"fd", "fd_balanced"} <= set(found)
            assert found == pytest.approx(want, rel=1e-9)
    assert {"kid", "precision", "accuracy"} <= set(score.score(evaluators, [drawn])[0].result())


def test_memory_does_not_grow_with_the_number_of_images(evaluators, drawn, monkeypatch):
    """Beyond STORED images no features are stored; what needs them is left out, and a note says so."""
    monkeypatch.setattr(score, "STORED", 2 * N)
    scorer = score.score(evaluators[:1], [drawn] * 3)[0]
    assert scorer.stored is None and scorer.n == 3 * N
    assert set(scorer.result()) == {"fd", "fd_balanced", "accuracy"}
    assert any("left out of more than 180 images" in note for note in scorer.notes())
    images, labels = (torch.cat([x] * 3) for x in drawn)
    want = evaluators[0].measure(images, labels)
    assert scorer.result() == pytest.approx({name: want[name] for name in scorer.result()}, rel=1e-9)


def test_a_label_that_is_missing_leaves_out_what_needs_it(evaluators, drawn):
    images, labels = drawn[0], drawn[1].clone()
    labels[20] = -1
    scorer = score.score(evaluators[:1], zip(images.split(30), labels.split(30), strict=True))[0]
    found = scorer.result()
    assert "fd_balanced" not in found and "accuracy" not in found
    assert found["fd"] == pytest.approx(evaluators[0].fd(images), rel=1e-9)
    assert any("1 of 90 images do not have a class" in note for note in scorer.notes())
    with pytest.raises(RestartValueError, match=r"class 10, and the reference has the classes 0 \.\. 9"):
        score.score(evaluators, [(images, labels + 10 - labels.max() + 0)])


@pytest.mark.parametrize("n", [2, 6, 7])
def test_few_images_leave_out_what_needs_neighbours(n, evaluators, drawn):
    """The sixth-nearest neighbour of an image needs six other images."""
    images, labels = (x[:n] for x in drawn)
    scorer = score.score([evaluator for evaluator in evaluators if evaluator.real is not None][:1], [(images, labels)])[
        0
    ]
    assert ("precision" in scorer.result()) == (n >= 7)
    assert any("need at least 7 images" in note for note in scorer.notes()) == (n < 7)


def test_the_command(tmp_path, capsys, drawn, monkeypatch):
    """All shipped extractors on a file, without the data set; the same numbers as a table, as JSON and as rows."""
    real = datasets.fashion_mnist
    monkeypatch.setattr(datasets, "fashion_mnist", lambda split: real(split, tmp_path))
    path = in_npz(tmp_path, *drawn)
    main_ok("score", path, "--json", "--out", tmp_path / "rows.jsonl")
    out, err = capsys.readouterr()
    assert err.count("note: ") == 1 and "kernel distance, precision, recall" in err
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["features"] for row in found] == list(shipped.NAMES)
    assert all((row["kind"], row["n"], row["format"]) == ("score", N, "npz") for row in found)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == found
    main_ok("score", path, "--features", "fashion-mnist-resnet")
    out = capsys.readouterr().out
    assert f"{found[1]['fd_balanced']:.4g}" in out and "FD, equal classes" in out and "classifier" not in out


def main_ok(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code in (0, None)


def test_own_features_and_reference(tmp_path, capsys, monkeypatch, drawn):
    """A file of the user's, and ADM's reference of 32×32 colour images: against scipy's definition in float64."""
    from scipy.linalg import sqrtm

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Means(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.float().mean((2, 3)) / 8\n"
    )
    g = torch.Generator().manual_seed(2)
    real, fake = (torch.randint(0, top, (40, 32, 32, 3), generator=g, dtype=torch.uint8).numpy() for top in (256, 200))
    np.savez("real.npz", arr_0=real)
    np.savez("fake.npz", arr_0=fake)
    main_ok("score", "fake.npz", "--features", "./mine.py:Means", "--reference", "real.npz", "--json")
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    a, b = (torch.from_numpy(x).double().mean((1, 2)).numpy() / 8 for x in (real, fake))
    A, B, d = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
    assert row["fd"] == pytest.approx(d @ d + np.trace(A + B - 2 * sqrtm(A @ B).real), rel=1e-5)
    assert row["features"].startswith("mine.py:Means ") and row["reference"].startswith("real.npz ")
    assert "kid" in row and "fd_balanced" not in row and "accuracy" not in row


def cut(path):
    path.write_bytes(path.read_bytes()[:-900])
    return path


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def mixed(folder, drawn):
    in_npz(folder, *drawn)
    (folder / "a.png").write_bytes(encoded(drawn[0][0]))
    return folder


def written(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda t, d: t / "no", "there is no file or folder"),
        (lambda t, d: t, "holds no images"),
        (lambda t, d: mixed(t, d), "holds files of several kinds"),
        (lambda t, d: written(t / "a.txt", b""), "neither an .npz nor a .tar nor a .parquet"),
        (lambda t, d: written(t / "a.npz", b"PK"), "a.npz cannot be read"),
        (lambda t, d: cut(in_cache(t, *d)), "x.npz cannot be read"),
        (lambda t, d: saved(t / "a.npz", mu=np.zeros(3)), r"holds mu; images are arr_0"),
        (lambda t, d: saved(t / "a.npz", arr_0=np.zeros((3, 4, 4, 1))), "is float64"),
        (
            lambda t, d: saved(t / "a.npz", arr_0=np.zeros((3, 28, 28, 1), np.uint8), arr_1=np.zeros(2, int)),
            "classes are",
        ),
        (lambda t, d: saved(t / "a.npz", arr_0=np.full((3, 1, 28, 28), np.nan, np.float32)), "NaN or infinite"),
        (lambda t, d: written(t / "a.tar", b"\0" * 100), "a.tar cannot be read"),
        (lambda t, d: written(t / "d" / "a.png", b"\x89PNG\r\n").parent, "is not a picture that can be read"),
        (lambda t, d: written(t / "d" / "run.json", b"[]").parent, r"does not hold a run \(run.json is not"),
        (lambda t, d: written(t / "d" / "run.json", json.dumps(record_of()).encode()).parent, "holds no samples yet"),
        (lambda t, d: written(in_folder(t, *d) / "dataset.json", b"{}").parent, "does not hold labels as EDM"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(make, message, tmp_path, drawn):
    with pytest.raises(OutputError, match=message):
        list(open_images(make(tmp_path, drawn)).batches())


def test_sizes_and_channels_that_do_not_fit(tmp_path, drawn, evaluators):
    images = drawn[0]
    (tmp_path / "a.png").write_bytes(encoded(images[0]))
    (tmp_path / "b.png").write_bytes(encoded(images[1, :, :20]))
    with pytest.raises(OutputError, match=r"b\.png holds an image of 20×28 with 1 channel, and .*a\.png one of 28×28"):
        list(open_images(tmp_path).batches())
    with pytest.raises(
        RestartValueError, match=r"takes images of 28×28 with 1 channel, and these are of 32×32 with 3 channels"
    ):
        score.score(evaluators, [(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2).long())])
    Image.new("RGBA", (28, 28)).save(tmp_path / "b.png")
    with pytest.raises(OutputError, match=r"b\.png is transparent"):
        list(open_images(tmp_path).batches())
    with pytest.raises(ConfigError, match="give a reference of the same size"):
        from restart_sampling.experiments.measure.evaluator import evaluators_of

        real = saved(tmp_path / "real.npz", arr_0=np.zeros((3, 32, 32, 3), np.uint8))
        (tmp_path / "b.png").unlink()
        evaluators_of("fashion-mnist-resnet", real, open_images(in_npz(tmp_path, *drawn)))
