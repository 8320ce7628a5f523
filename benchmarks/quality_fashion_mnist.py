r"""FD-classifier of the bundled model: Heun and Restart at several NFE, against the Fashion-MNIST test set.

FD-classifier is the Fréchet distance (Heusel et al., arXiv 1706.08500) between the 64 features of the shipped small classifier on
the 10,000 test images and on n samples. It is not FID: other features, other data, and biased upwards at small n, so rows are
comparable only at equal n. The row "train set" is the same distance for n real training images: what a perfect sampler would get.

    python benchmarks/quality_fashion_mnist.py --n 1000     # about 17 minutes on 2 cores; writes results/quality_fashion_mnist.*
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

import restart_sampling as rs
from restart_sampling.models.registry import DATA
from restart_sampling.output.images import to_uint8
from restart_sampling.training.classifier import Classifier, load_classifier
from restart_sampling.training.data import fashion_mnist

RESULTS = Path(__file__).parent / "results"
CONFIGURATIONS: list[dict[str, Any]] = [  # cheapest first: rows are written as they come
    {"steps": 5},
    {"steps": 9},
    {"steps": 9, "restart": "[3, 1, 0.30, 1.0]"},
    {"steps": 18},
    {"steps": 18, "restart": "[3, 2, 0.30, 1.0]"},
    {"steps": 18, "restart": "[3, 2, 0.14, 0.30]"},
    {"steps": 32},
    {"steps": 18, "restart": "[3, 7, 0.30, 1.0]"},
]


class Features(nn.Module):
    """The classifier's penultimate features in the form torchmetrics asks for."""

    num_features = 64

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n, 1, 28, 28] → [n, 64]."""
        return self.classifier.features(images.float() / 127.5 - 1)


def distance(features: Features, real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of two uint8 image sets [n, 1, 28, 28]."""
    metric = FrechetInceptionDistance(feature=features, normalize=False)
    for images, is_real in ((real, True), (fake, False)):
        for part in images.split(500):
            metric.update(part, real=is_real)
    return float(metric.compute())


def draw(plan: rs.Plan, n: int, first: int, batch: int = 125) -> tuple[Tensor, Tensor]:
    """(images uint8 [n, 1, 28, 28], the classes asked for [n]) of seeds first … first + n − 1."""
    sampler = rs.Sampler(rs.load("fashion-mnist"), plan, batch)
    images, labels = [], []
    for part in sampler.iterate(range(first, first + n)):
        if part.failures:
            raise rs.NonFiniteError(f"{len(part.failures)} samples are not finite", list(part.failures))
        images.append(torch.from_numpy(to_uint8(part.x)).permute(0, 3, 1, 2))
        labels.append(part.labels)
    return torch.cat(images), torch.cat(labels)  # type: ignore[arg-type]


def sha() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def measure(n: int, first: int) -> Iterator[dict[str, Any]]:
    """One row for the train set, then one for each configuration."""
    classifier = load_classifier(DATA / "fashion-mnist-classifier.safetensors")
    features = Features(classifier)
    test = torch.from_numpy(np.asarray(fashion_mnist("test").images))
    train = torch.from_numpy(np.asarray(fashion_mnist("train").images))
    keys = {
        "model": "fashion-mnist",
        "model_sha256": rs.load("fashion-mnist").info["sha256"][:12],
        "n": n,
        "first_seed": first,
    }
    keys |= {
        "device": "cpu",
        "dtype": "fp32",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git": sha(),
    }
    chosen = torch.from_numpy(np.random.default_rng(0).choice(len(train), n, replace=False))
    floor = {"sampler": "train set", "nfe": 0, "restart": "", "fd": distance(features, test, train[chosen])}
    yield floor | {"accuracy": "", "images_per_s": "", **keys}
    for options in CONFIGURATIONS:
        plan = rs.Plan.build(**options)
        started = time.perf_counter()
        images, labels = draw(plan, n, first)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            right = (
                torch.cat([classifier(p.float() / 127.5 - 1).argmax(1) for p in images.split(500)]) == labels
            )
        yield {
            "sampler": "restart" if "restart" in options else "heun",
            "nfe": plan.nfe,
            "restart": options.get("restart", ""),
            "fd": distance(features, test, images),
            "accuracy": float(right.float().mean()),
            "images_per_s": n / seconds,
            **keys,
        }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for sampler, style in (("heun", "o-"), ("restart", "^")):
        points = sorted((r["nfe"], r["fd"]) for r in rows if r["sampler"] == sampler)
        axes.plot(*zip(*points, strict=True), style, label=sampler)
    axes.axhline(rows[0]["fd"], color="grey", lw=1, label="train set")
    axes.set(
        xlabel="NFE",
        ylabel="FD-classifier",
        yscale="log",
        title=f"Bundled Fashion-MNIST model, n = {rows[0]['n']}",
    )
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with (arguments.out / "quality_fashion_mnist.csv").open("w", newline="") as file:
        for row in measure(arguments.n, arguments.first_seed):
            rounded = {k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}
            if not rows:
                writer = csv.DictWriter(file, fieldnames=list(row))
                writer.writeheader()
            writer.writerow(rounded)
            file.flush()
            rows.append(row)
            print(*list(rounded.values())[:6], flush=True)
    plot(rows, arguments.out / "quality_fashion_mnist.png")


if __name__ == "__main__":
    main()
