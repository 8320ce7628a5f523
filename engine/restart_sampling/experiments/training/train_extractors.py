r"""Train the feature extractors of extractors.py on Fashion-MNIST's training set.

    python -m restart_sampling.experiments.training.train_extractors fashion-mnist-resnet --folder .   # minutes each

A recipe is a row of RECIPES. The weights depend on the recipe and its seed, and by rounding on the number of threads;
torch's global generator is left as it was. Classes are told by a linear layer on the features. The autoencoder
minimises the squared error of the image restored from x + s·ε, s uniform in [0, 0.5], and never sees a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from ...common.errors import RestartValueError
from ..datasets import Images, fashion_mnist
from ..measure.extractors import ARCHITECTURES, WIDTH, Decoder, Extractor, save_extractor
from .command import console, errors_in_one_line
from .epochs import batches, scaled, share_right, shifted, tensors

NOISE = 0.5  # most noise that the autoencoder removes, in units of the images' [−1, 1]


@dataclass(frozen=True)
class Recipe:
    """How an extractor is trained.

    Attributes:
        architecture: a name of ARCHITECTURES. task: a name of TASKS. epochs, lr, batch: of the training.
        seed: of the initial weights and the order of images.
        shift: most pixels by which an image is moved. flips: half of the images are mirrored.
        erase: side of a square that is blanked, or 0. smoothing: of the labels.
    """

    architecture: str
    task: str
    epochs: int
    seed: int
    lr: float = 2e-3
    batch: int = 128
    shift: int = 2
    flips: bool = False
    erase: int = 0
    smoothing: float = 0.0


RECIPES = {
    "fashion-mnist-resnet": Recipe("resnet", "classes", 6, 11, flips=True, erase=8, smoothing=0.05),
    "fashion-mnist-autoencoder": Recipe("autoencoder", "denoising", 8, 12, shift=1),
    "fashion-mnist-patches": Recipe("patches", "classes", 6, 13, shift=1),
}


def _augmented(x: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Return a batch [B, 1, H, W] moved by up to `shift` pixels, mirrored and with a square blanked, by the recipe."""
    x = shifted(x, recipe.shift, rng)
    if recipe.flips:
        x = torch.where(torch.from_numpy(rng.random(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)
    if recipe.erase:
        height, width = x.shape[2:]
        top, left = rng.integers(0, height - recipe.erase), rng.integers(0, width - recipe.erase)
        x = x.clone()
        x[:, :, top : top + recipe.erase, left : left + recipe.erase] = -1.0
    return x


class _Classes(nn.Module):
    """The loss of telling classes: cross entropy of a linear layer on the features."""

    def __init__(self, extractor: Extractor, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.extractor, self.smoothing = extractor, recipe.smoothing
        self.head = nn.Linear(WIDTH, classes)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.extractor.embed(x))

    def forward(self, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        return F.cross_entropy(self.logits(x), labels, label_smoothing=self.smoothing)


class _Denoising(nn.Module):
    """The loss of denoising: mean squared error of the image that the bottleneck restores."""

    def __init__(self, extractor: Extractor, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.extractor, self.decoder = extractor, Decoder()

    def restored(self, x: Tensor) -> Tensor:
        return self.decoder(self.extractor.embed(x))

    def forward(self, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        s = rng.uniform(0, NOISE, (len(x), 1, 1, 1))
        noisy = x + torch.from_numpy(s * rng.standard_normal(x.shape)).float()
        return F.mse_loss(self.restored(noisy), x)


TASKS: dict[str, Callable[..., Any]] = {"classes": _Classes, "denoising": _Denoising}


def train(name: str, images: Images, test: Images, recipe: Recipe | None = None) -> Extractor:
    """Return the extractor `name`, trained on `images` with AdamW and a one-cycle rate.

    `card` of the result holds the recipe and what it reached on `test`. Raises RestartValueError if there is no such
    recipe.
    """
    if recipe is None and name not in RECIPES:
        raise RestartValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = recipe or RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        extractor = ARCHITECTURES[recipe.architecture]()
        task = TASKS[recipe.task](extractor, recipe, len(images.classes))
    pixels, labels = tensors(images)
    rng = np.random.default_rng(recipe.seed)
    per_epoch = len(pixels) // recipe.batch
    optimizer = torch.optim.AdamW(task.parameters(), lr=recipe.lr, weight_decay=0.01)
    for step, (index, share) in enumerate(batches(len(pixels), recipe.batch, recipe.epochs, rng)):
        x = _augmented(scaled(pixels[index]), recipe, rng)
        optimizer.param_groups[0]["lr"] = recipe.lr * share
        optimizer.zero_grad(set_to_none=True)
        loss = task(x, labels[index], rng)
        loss.backward()
        optimizer.step()
        if step % per_epoch == per_epoch - 1:
            console.print(f"{name}: epoch {step // per_epoch + 1}, last loss {loss.item():.4g}")
    task.eval().requires_grad_(False)
    found = torch.cat([extractor.embed(scaled(part)) for part in pixels.split(1000)])
    extractor.scale.copy_((found.double().var(0).mean() ** 0.5).float().half())  # as the file will hold it
    extractor.card = {
        "name": name,
        "data": images.name,
        "images": len(pixels),
        "features": WIDTH,
        **asdict(recipe),
        **_reached(task, test),
        "licence": {"weights": "Apache-2.0", "data": "MIT (Zalando SE)"},
    }
    return extractor


def _reached(task: Any, test: Images) -> dict[str, float]:
    """Return the accuracy, or the squared error of restored images without noise, on `test`."""
    if isinstance(task, _Denoising):
        parts = [scaled(part) for part in tensors(test)[0].split(1000)]
        return {"test_mse": round(float(torch.cat([(task.restored(x) - x) ** 2 for x in parts]).mean()), 5)}
    return {"test_accuracy": round(share_right(task.logits, test), 4)}


@errors_in_one_line
def main(
    names: Annotated[list[str] | None, typer.Argument(help="Recipes to train.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the files are written.")] = Path("."),
) -> None:
    """Train the named extractors on Fashion-MNIST's 60,000 training images."""
    images, test = fashion_mnist("train"), fashion_mnist("test")
    for name in names or ():
        extractor = train(name, images, test)
        save_extractor(extractor, folder / f"{name}.safetensors")
        console.print(f"wrote {folder / name}.safetensors: {extractor.card}")


if __name__ == "__main__":
    typer.run(main)
