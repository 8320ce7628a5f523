"""Write the averaged weights of a training run as a file to ship: float16, with a card that says what they are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ...common.errors import RestartValueError
from ...models import build_network
from ...models.files.weights import load_weights, save_safetensors
from ..datasets import Images
from .averages import reconstruct
from .loop import AVERAGES, Run

LICENCES = {"fashion-mnist": {"weights": "Apache-2.0", "data": "MIT (Zalando SE)"}}


def card_of(run: Run, images: Images, std: float) -> dict[str, object]:
    """Return what is known about the average of length `std` of the weights of `run`, for JSON."""
    return {
        "name": images.name,
        "classes": list(images.classes),
        "licence": LICENCES.get(images.name, "as the data"),
        "parameters": sum(p.numel() for p in run.ema.parameters()),
        "training": {
            "loss": "EDM, arXiv 2206.00364, eq. 8",
            "average": std,
            "images": len(images.images),
            "steps": run.step,
            "seconds": round(run.seconds),
            "mean_loss": None if run.mean_loss is None else round(run.mean_loss, 5),
            **asdict(run.options),
        },
    }


def export_network(run: Run, images: Images, path: Path, out: Path | None = None, std: float | None = None) -> Path:
    """Write averaged weights of `run` to `path` (.safetensors, float16) and return it.

    Args:
        out: the folder of the run, where averages were stored; only for lengths that the run does not keep.
        std: the length of the average, σ_rel; by default the longest that the run keeps.

    Raises:
        CheckpointError, RestartValueError: the file cannot be written, or no average can have that length.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    std = max(run.averages) if std is None else std
    network = run.averages.get(std)
    if network is None:
        if out is None:
            raise RestartValueError(f"the run keeps averages of {sorted(run.averages)}; another one needs its folder")
        network = build_network(run.network.config)
        load_weights(network, reconstruct(out / AVERAGES, std), out)
    save_safetensors(path, network, card_of(run, images, std))
    return path
