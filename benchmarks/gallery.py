r"""Pictures of edits for docs/editing.md: starting from an image, keeping a part of one, filling in between pixels.

    python benchmarks/gallery.py        # a minute on one core; writes docs/gallery-start.png, docs/gallery-keep.png

Every row of a picture is one way to draw, every column one seed. Beside the rows that keep a part stands how well the
drawn part fits it: the mean step between neighbouring pixels across the border, in units of that of whole images that
the same model draws. 1 is a border that cannot be seen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import restart_sampling as rs
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import GREYS

ROOT = Path(__file__).resolve().parents[1]
MODEL, BATCH = "fashion-mnist", 32
PLAIN = rs.Plan.build(steps=18, solver="dpm++2m")
MASKED = {  # title → plan, paste
    "replacement": (PLAIN, "initial"),
    "replacement, fresh noise": (PLAIN, "fresh"),
    "Restart": (rs.Plan.build(steps=18, solver="dpm++2m", restart="[3, 2, 0.3, 1.0], [4, 2, 1.0, 6.0]"), "fresh"),
    "RePaint (j = 3, r = 3)": (rs.Plan.build(steps=12, solver="dpm++2m", restart="repaint:j=3,r=3"), "fresh"),
    "RePaint, ddpm (j = 10, r = 10)": (rs.Plan.build(steps=50, solver="ddpm", restart="repaint:j=10,r=10"), "fresh"),
}
Row = tuple[str, Tensor]


def starting(den: rs.Denoiser) -> list[Row]:
    """Return rows that begin with a sneaker and become sandals, by strength."""
    shoes = rs.sample(den, PLAIN, range(8), batch_size=BATCH, class_labels="Sneaker")
    rows: list[Row] = [("sneakers", shoes)]
    for strength in (0.3, 0.5, 0.7, 0.9):
        x = rs.sample(den, PLAIN, range(8), batch_size=BATCH, class_labels="Sandal", start=shoes, strength=strength)
        rows.append((f"to sandals, strength {strength:g}", x))
    return rows


def keeping(den: rs.Denoiser, mask: Tensor, label: str, n: int) -> list[Row]:
    """Return rows that keep an image where `mask` is 0: the image, what is kept, and the ways to draw the rest."""
    image = rs.sample(den, PLAIN, [3], batch_size=BATCH, class_labels=label)[0]
    whole = rs.sample(den, PLAIN, range(100, 100 + n), batch_size=BATCH, class_labels=label)
    usual = step(whole, mask)
    shown = torch.where(mask.bool(), torch.full_like(image, -0.2), image)
    rows: list[Row] = [(f"{label}, and what is kept of it", torch.stack([image, shown]))]
    for title, (plan, paste) in MASKED.items():
        x = rs.sample(den, plan, range(n), batch_size=BATCH, class_labels=label, known=image, mask=mask, paste=paste)
        rows.append((f"{title}, {plan.nfe} NFE: {step(x, mask) / usual:.2f}", x))
    return rows


def step(x: Tensor, mask: Tensor) -> float:
    """Return the mean absolute step between neighbours of x [n, 1, H, W] of which one is kept and one is drawn."""
    found = []
    for axis in (2, 3):
        across = mask.diff(dim=axis - 1).abs() > 0
        found.append(x.diff(dim=axis).abs()[:, across])
    return float(torch.cat(found, 1).mean())


def picture(rows: list[Row], path: Path) -> None:
    """Draw rows of images with a title over each."""
    with canvas.drawing():
        made, axes = canvas.figure(0.95 * len(rows), rows=len(rows))
        for (title, images), panel in zip(rows, axes, strict=True):
            strip = torch.ones(28, 8 * 31)
            for k, image in enumerate(images[:8, 0]):
                strip[:, 31 * k : 31 * k + 28] = image
            panel.imshow(strip.numpy(), cmap=GREYS, vmin=-1, vmax=1)
            panel.set_axis_off()
            panel.set_title(title)
        canvas.save(made, path)
    print(path)


def main() -> int:
    den: Any = rs.load(MODEL)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    picture(starting(den), ROOT / "docs" / "gallery-start.png")
    lower = torch.zeros(1, 28, 28)
    lower[:, 14:] = 1.0
    picture(keeping(den, lower, "Pullover", n), ROOT / "docs" / "gallery-keep.png")
    between = torch.ones(1, 28, 28)
    between[:, ::2, ::2] = 0.0
    picture(keeping(den, between, "Ankle boot", n), ROOT / "docs" / "gallery-between.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
