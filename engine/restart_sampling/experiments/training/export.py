"""Write the averaged weights of a training run as a file to ship: float16, with a card that says what they are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ...models.files.weights import save_safetensors
from ..datasets import Images
from .loop import Run

LICENCES = {"fashion-mnist": {"weights": "Apache-2.0", "data": "MIT (Zalando SE)"}}


def card_of(run: Run, images: Images) -> dict[str, object]:
    """Return what is known about the averaged weights of `run`, for JSON."""
    return {
        "name": images.name,
        "classes": list(images.classes),
        "licence": LICENCES.get(images.name, "as the data"),
        "parameters": sum(p.numel() for p in run.ema.parameters()),
        "training": {
            "loss": "EDM, arXiv 2206.00364, eq. 8",
            "images": len(images.images),
            "steps": run.step,
            "seconds": round(run.seconds),
            "mean_loss": None if run.mean_loss is None else round(run.mean_loss, 5),
            **asdict(run.options),
        },
    }


def export_network(run: Run, images: Images, path: Path) -> Path:
    """Write the averaged weights of `run` to `path` (.safetensors, float16) and return it. Raises CheckpointError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(path, run.ema, card_of(run, images))
    return path
