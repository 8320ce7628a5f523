r"""Images that exist already, read in batches: what `restart-sampling score` evaluates.

| given | what is read | classes |
|---|---|---|
| a folder that `generate` wrote | its samples, in any format and without contact sheets | see below |
| a folder of pictures | every PNG, JPEG, WebP and BMP in it and its sub-folders, by name | EDM's `dataset.json` |
| a folder of .npz, .tar or .parquet files | all of them, by name | as in the files |
| an .npz, .tar or .parquet file | see image_files.py | as in the file |

A picture of a run has no class in its file; it is that of run.json, or drawn from the seed in its name if the run is of
the bundled model. At most a batch is in memory, and of Parquet a row group. An OutputError says which file is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import OutputError
from ...common.images import PICTURES
from ...jobs.job import Definition
from ...sampler import noise
from .. import datasets
from . import shipped
from .image_files import Sample, samples

BATCH = 500
KINDS = {".npz": "npz", ".tar": "wds", ".parquet": "parquet"}
FORMATS = {"png": ".png", **{kind: suffix for suffix, kind in KINDS.items()}}
Label = Callable[[str], int | None]  # name of a picture → its class


@dataclass(frozen=True)
class ImageSet:
    """Images on the disk.

    Attributes:
        path: as it was given. kind: "png" (any pictures), "npz", "wds" or "parquet".
        files: in the order in which they are read. label: the class of a picture by its name; None if it has none.
    """

    path: Path
    kind: str
    files: tuple[Path, ...]
    label: Label = lambda name: None

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 [n, C, H, W], classes int64 [n], −1 for none) with n ≤ `size`, across the files' ends.

        Raises OutputError if a file cannot be read or images differ in shape.
        """
        waiting: list[Sample] = []
        first: tuple[Path, tuple[int, ...]] | None = None
        for file in self.files:
            for image, label in samples(file, self.kind):
                if first is None:
                    first = file, image.shape
                elif image.shape != first[1]:
                    raise OutputError(
                        f"{file} holds an image of {_size(image.shape)}, and {first[0]} one of {_size(first[1])}; "
                        f"all must have one size"
                    )
                waiting.append((image, _class(self.label(file.name) if self.kind == "png" else label, file)))
                if len(waiting) == size:
                    yield _stacked(waiting)
                    waiting = []
        if waiting:
            yield _stacked(waiting)

    def sample(self) -> Tensor:
        """Return the first image, uint8 [C, H, W]. Raises OutputError if there is none."""
        for images, _ in self.batches(1):
            return images[0]
        raise OutputError(f"{self.path} holds no images")


def open_images(path: str | Path) -> ImageSet:
    """Return the images at `path`; see the table at the top. Raises OutputError if nothing of a known kind is there."""
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        exists = path.is_file()
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not exists:
        raise OutputError(
            f"there is no file or folder {path}; give a folder of images, an .npz, a .tar or a .parquet file"
        )
    suffix = path.suffix.lower()
    if suffix in KINDS:
        return ImageSet(path, KINDS[suffix], (path,))
    raise OutputError(f"{path} is neither an .npz nor a .tar nor a .parquet file; pictures are scored by their folder")


def _folder(path: Path) -> ImageSet:
    """Return the images in a folder, which must be of one kind."""
    if (path / "run.json").is_file():
        return _run(path)
    files = sorted(p for p in path.rglob("*") if not p.name.startswith(".") and p.is_file())
    pictures = [p for p in files if p.suffix.lower() in PICTURES]
    found = {kind: [p for p in files if p.suffix.lower() == suffix] for suffix, kind in KINDS.items()}
    found = {kind: some for kind, some in {"png": pictures, **found}.items() if some}
    if not found:
        raise OutputError(
            f"{path} holds no images: neither pictures ({', '.join(PICTURES)}) nor .npz, .tar or .parquet files"
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(some):,} of {kind}" for kind, some in found.items())
        raise OutputError(f"{path} holds files of several kinds ({counts}); give a folder of one kind, or the file")
    ((kind, some),) = found.items()
    if kind == "png":
        return ImageSet(path, kind, tuple(some), _edm_labels(path))
    return ImageSet(path, kind, tuple(some))


def _run(path: Path) -> ImageSet:
    """Return the samples of a run of `generate`, without its contact sheets and unfinished files."""
    definition = Definition.read(path)
    format, kind = definition.format, definition.format.name
    if format.encodings and kind not in FORMATS:
        kind = "png"  # pictures, of any encoding
    if kind not in FORMATS:
        raise OutputError(f"{path} holds {kind}, which are no images; score reads {', '.join(FORMATS)} and pictures")
    suffix = f".{definition.options.encoding}" if kind == "png" else FORMATS[kind]
    name = re.compile(rf"[0-9]+\{suffix}" if kind == "png" else rf"shard-[0-9]+\{suffix}")
    folder = path / definition.samples
    files = sorted(p for p in folder.rglob(f"*{suffix}") if name.fullmatch(p.name) and p.parent.name != "sheets")
    if not files:
        raise OutputError(
            f"{path} holds no samples yet; draw them with: restart-sampling generate --repeat {path / 'run.json'}"
        )
    return ImageSet(path, kind, tuple(files), _run_labels(definition.record) if kind == "png" else lambda name: None)


def _run_labels(record: dict[str, Any]) -> Label:
    """Return the classes of a run of a bundled model; how many another model has is not known here."""
    if record.get("model") not in shipped.MODELS:
        return lambda name: None
    asked = record.get("class")
    if asked is None:
        return lambda name: int(noise.class_labels([int(Path(name).stem)], shipped.CLASSES)[0])
    names = [c.lower() for c in datasets.FASHION_MNIST_CLASSES]
    text = str(asked).lower()
    place = names.index(text) if text in names else int(text) if text.isdecimal() and int(text) < len(names) else None
    return lambda name: place


def _edm_labels(folder: Path) -> Label:
    """Return the classes of dataset.json, {"labels": [[file, class], …]}; none without it."""
    path = folder / "dataset.json"
    if not path.is_file():
        return lambda name: None
    try:
        pairs = json.loads(path.read_text())["labels"] or []
        known = {Path(str(file)).name: int(label) for file, label in pairs}
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise OutputError(f"{path} does not hold labels as EDM writes them ({error}); mend or remove it") from error
    return known.get


def _stacked(some: list[Sample]) -> tuple[Tensor, Tensor]:
    """Return images uint8 [n, C, H, W] and classes int64 [n], −1 for none."""
    images = torch.from_numpy(np.stack([image for image, _ in some])).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([-1 if label is None else int(label) for _, label in some], dtype=torch.int64)


def _class(label: Any, file: Path) -> int | None:
    """Return the class of an image. Raises OutputError if it is not a whole number that a class can be."""
    if label is None:
        return None
    whole = (type(label) is int) or (isinstance(label, float) and label.is_integer())
    if isinstance(label, str):
        whole = re.fullmatch("-?[0-9]{1,9}", label) is not None
    if not whole or abs(int(label)) >= 2**31:
        raise OutputError(f"{file} has the class {str(label)[:40]!r}; a class is an integer below 2^31")
    return int(label)


def _size(shape: tuple[int, ...]) -> str:
    """Return "28×28 with 1 channel" for [H, W, C] = [28, 28, 1]."""
    return f"{shape[0]}×{shape[1]} with {shape[2]} channel{'s' * (shape[2] != 1)}"
