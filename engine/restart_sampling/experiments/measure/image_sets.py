r"""Images that exist already, read in batches: what `restart-sampling score` looks at.

| given | what is read | classes |
|---|---|---|
| a folder that `generate` wrote | its samples, of any format, in `samples/` or beside run.json; no contact sheets | see below |
| a folder of pictures | every PNG, JPEG, WebP and BMP in it and its sub-folders, by name | `dataset.json`, as EDM has it |
| a folder of .npz, .tar or .parquet files | all of them, by name | as in the files |
| `.npz` | `arr_0` uint8 [N, H, W, C], `images` uint8 [N, C, H, W], or float32 [N, C, H, W] in [−1, 1] | `arr_1` or `labels` |
| `.tar` | WebDataset: one picture or .npy for each key | `.cls` |
| `.parquet` | `image`, encoded or as `datasets` keeps it, or `sample` | `class` or `label` |

A picture of a run has no class in its file; it is that of run.json, or drawn from the seed in its name where the run is
of the bundled model. Nothing is read whole: at most a batch is in memory, and of Parquet a row group. OutputError says
which file is wrong."""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...common.errors import OutputError
from ...common.files import NPZ_DAMAGE
from ...common.images import to_uint8
from ...jobs.job import Definition
from ...sampler import noise
from . import shipped

BATCH = 500
LARGEST = 256 << 20  # bytes of one image; a file may claim any size, and what it claims is not allocated
ENCODINGS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # what a picture may be, whatever its name says
# What the readers of archives and pictures raise for files that are damaged or something else.
DAMAGE = (*NPZ_DAMAGE, tarfile.TarError, Image.DecompressionBombError)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
KINDS = {".npz": "npz", ".tar": "wds", ".parquet": "parquet"}
FORMATS = {"png": ".png", **{kind: suffix for suffix, kind in KINDS.items()}}
Label = Callable[[str], int | None]  # name of a picture → its class
Sample = tuple[np.ndarray, int | None]  # uint8 [H, W, C], class


@dataclass(frozen=True)
class ImageSet:
    """Images on the disk: `kind` is png (any pictures), npz, wds or parquet, `files` are read in this order."""

    path: Path
    kind: str
    files: tuple[Path, ...]
    label: Label = lambda name: None

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """(images uint8 [n, C, H, W], classes int64 [n], −1 where there is none), n ≤ `size`, across the files' ends.

        Raises OutputError: a file cannot be read, or images differ in shape.
        """
        kept: list[Sample] = []
        first: tuple[Path, tuple[int, ...]] | None = None
        for file in self.files:
            for image, label in self._samples(file):
                if first is None:
                    first = file, image.shape
                elif image.shape != first[1]:
                    raise OutputError(
                        f"{file} holds an image of {_size(image.shape)}, and {first[0]} one of {_size(first[1])}; "
                        f"all must have one size"
                    )
                kept.append((image, _class(label, file)))
                if len(kept) == size:
                    yield _stacked(kept)
                    kept = []
        if kept:
            yield _stacked(kept)

    def sample(self) -> Tensor:
        """The first image, uint8 [C, H, W]. OutputError where there is none."""
        for images, _ in self.batches(1):
            return images[0]
        raise OutputError(f"{self.path} holds no images")

    def _samples(self, file: Path) -> Iterator[Sample]:
        if self.kind == "png":
            yield _picture(file.read_bytes, str(file)), self.label(file.name)
            return
        try:
            yield from {"npz": _npz, "wds": _wds, "parquet": _parquet}[self.kind](file)
        except OutputError:
            raise
        except DAMAGE as error:
            raise OutputError(f"{file} cannot be read: {_reason(error)}") from error


def open_images(path: str | Path) -> ImageSet:
    """The images at `path`; see the module. OutputError: nothing is there, or it is of no known kind."""
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
    """The samples of a run of `generate`, without its contact sheets and unfinished files."""
    definition = Definition.read(path)
    kind = definition.format.name
    suffix = FORMATS[kind]
    name = re.compile(r"[0-9]+\.png" if kind == "png" else rf"shard-[0-9]+\{suffix}")
    folder = path / definition.samples
    files = sorted(p for p in folder.rglob(f"*{suffix}") if name.fullmatch(p.name) and p.parent.name != "sheets")
    if not files:
        raise OutputError(
            f"{path} holds no samples yet; draw them with: restart-sampling generate --repeat {path / 'run.json'}"
        )
    return ImageSet(path, kind, tuple(files), _run_labels(definition.record) if kind == "png" else lambda name: None)


def _run_labels(record: dict[str, Any]) -> Label:
    """Classes of a run of the bundled model; for other models how many classes there are is not known here."""
    from ..datasets import FASHION_MNIST_CLASSES as CLASSES

    if record.get("model") != shipped.MODEL:
        return lambda name: None
    asked = record.get("class")
    if asked is None:
        return lambda name: int(noise.class_labels([int(Path(name).stem)], len(CLASSES))[0])
    names = [c.lower() for c in CLASSES]
    text = str(asked).lower()
    place = names.index(text) if text in names else int(text) if text.isdecimal() and int(text) < len(names) else None
    return lambda name: place


def _edm_labels(folder: Path) -> Label:
    """Classes of dataset.json, {"labels": [[file, class], …]}; none without it."""
    path = folder / "dataset.json"
    if not path.is_file():
        return lambda name: None
    try:
        pairs = json.loads(path.read_text())["labels"] or []
        known = {Path(str(file)).name: int(label) for file, label in pairs}
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise OutputError(f"{path} does not hold labels as EDM writes them ({error}); mend or remove it") from error
    return known.get


def _npz(file: Path) -> Iterator[Sample]:
    with zipfile.ZipFile(file) as archive:
        names = {Path(name).stem: name for name in archive.namelist()}
        main = next((name for name in ("arr_0", "images") if name in names), None)
        if main is None:
            raise OutputError(
                f"{file} holds {', '.join(sorted(names)[:10])}; images are arr_0 [N, H, W, C] or images [N, C, H, W]"
            )
        classes = next((names[name] for name in ("arr_1", "labels") if name in names), None)
        with archive.open(names[main]) as member:
            rows = _rows(member, f"{file}, {main}")
            shape, dtype = next(rows)
            if len(shape) != 4 or dtype not in (np.uint8, np.float32):
                raise OutputError(
                    f"{file}: {main} is {dtype} {list(shape)}; images are uint8 or float32 with four dimensions"
                )
            last = dtype == np.uint8 and (main == "arr_0" or shape[1] not in (1, 3))
            labels = _classes(archive, classes, shape[0], file)
            for row in rows:
                label = next(labels)
                yield (row if last else _bytes(row, file)), label


def _rows(member: IO[bytes], what: str) -> Iterator[Any]:
    """(shape, dtype) of an .npy stream, then its rows."""
    shape, dtype, fortran = _header(member, what)
    if (fortran and len(shape) > 1) or not shape:
        raise OutputError(f"{what} is not an array in C order; save it with numpy.savez")
    yield shape, dtype
    size = _bytes_of(shape[1:], dtype, what)
    for _ in range(shape[0]):
        content = member.read(size)
        if len(content) != size:
            raise OutputError(f"{what} ends before its {shape[0]:,} rows do: the file is cut off")
        yield np.frombuffer(content, dtype).reshape(shape[1:])


def _header(member: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """(shape, dtype, Fortran order) of an .npy stream, read up to its data."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise OutputError(f"{what} holds Python objects; save it as an array of numbers")
    return shape, dtype, fortran


def _bytes_of(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> int:
    """Bytes of an array. OutputError: it has none, or more than an image can have."""
    size = math.prod(shape) * dtype.itemsize
    if not all(n > 0 for n in shape) or not 0 < size <= LARGEST:
        raise OutputError(f"{what} claims images of {list(shape)}; an image has 1 byte to {LARGEST >> 20} MiB")
    return size


def _classes(archive: zipfile.ZipFile, name: str | None, n: int, file: Path) -> Iterator[int | None]:
    if name is None:
        while True:
            yield None
    with archive.open(name) as member:
        rows = _rows(member, f"{file}, {name}")
        shape, dtype = next(rows)
        if shape != (n,) or dtype.kind not in "iu":
            raise OutputError(f"{file}: classes are {dtype} {list(shape)} for {n:,} images; they are {n:,} integers")
        for row in rows:
            yield int(row)


def _wds(file: Path) -> Iterator[Sample]:
    """Members of one key follow each other; the key is the name up to the first dot of its last part."""
    with tarfile.open(file, "r|*") as archive:
        key = ""
        members: dict[str, bytes] = {}
        for member in archive:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if f"{folder}/{stem}" != key:
                if members:
                    yield _sample(members, f"{file}, {key}")
                key, members = f"{folder}/{stem}", {}
            if f".{suffix.lower()}" in (*PICTURES, ".npy", ".cls"):
                if member.size > LARGEST:
                    raise OutputError(
                        f"{file}, {member.name} has {member.size:,} bytes; an image has at most {LARGEST >> 20} MiB"
                    )
                content = archive.extractfile(member)
                members[suffix.lower()] = content.read() if content is not None else b""
        if members:
            yield _sample(members, f"{file}, {key}")


def _sample(members: dict[str, bytes], what: str) -> Sample:
    label = None
    if "cls" in members:
        text = members["cls"].decode(errors="replace").strip()
        if not re.fullmatch("-?[0-9]{1,9}", text):
            raise OutputError(f"{what}: the class is {text[:20]!r}; it is an integer")
        label = int(text)
    if "npy" in members:
        return _bytes(_array(members["npy"], what), what), label
    suffix = next((suffix for suffix in members if suffix != "cls"), None)
    if suffix is None:
        raise OutputError(f"{what} has a class and no image")
    return _picture(lambda: members[suffix], what), label


def _array(content: bytes, what: str) -> np.ndarray:
    """The array of an .npy file. Its header is checked first: NumPy allocates what it claims."""
    stream = io.BytesIO(content)
    shape, dtype, _ = _header(stream, what)
    _bytes_of(shape, dtype, what)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _parquet(file: Path) -> Iterator[Sample]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OutputError("Parquet needs pyarrow; install it with: pip install 'restart-sampling[parquet]'") from None
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            image = next((name for name in ("image", "sample") if name in names), None)
            if image is None:
                raise OutputError(
                    f"{file} has the columns {', '.join(names[:10])}; images are the column image or sample"
                )
            classes = next((name for name in ("class", "label") if name in names), None)
            shape = (table.schema_arrow.metadata or {}).get(b"shape", b"").decode()
            for batch in table.iter_batches(BATCH, columns=[image, *([classes] if classes else [])]):
                labels = batch[classes].to_pylist() if classes else [None] * len(batch)
                for row, label in zip(batch[image], labels, strict=True):
                    if image == "sample":
                        sizes = [int(size) for size in shape.split(",")]
                        yield _bytes(np.asarray(row.as_py(), np.float32).reshape(sizes), file), label
                    else:
                        value = row.as_py()
                        content = value.get("bytes") if isinstance(value, dict) else value
                        if not isinstance(content, bytes):
                            raise OutputError(f"{file}: its images are not in the file itself but {str(value)[:60]}")
                        yield _picture(lambda content=content: content, str(file)), label  # type: ignore[misc]
    except pa.ArrowException as error:
        raise OutputError(f"{file} is not a Parquet file that can be read: {error}") from error


def _picture(read: Callable[[], bytes], what: str) -> np.ndarray:
    """uint8 [H, W, C], C = 1 for grey and 3 for colour."""
    try:
        with Image.open(io.BytesIO(read()), formats=ENCODINGS) as image:
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                raise OutputError(f"{what} is transparent; put it on a background first")
            if image.mode.startswith(("I", "F")):
                raise OutputError(f"{what} has more than 8 bits a channel; convert it to 8 bits first")
            array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except OutputError:
        raise
    except DAMAGE as error:
        raise OutputError(f"{what} is not a picture that can be read: {_reason(error)}") from error
    return array[..., None] if array.ndim == 2 else array


def _bytes(image: np.ndarray, what: Any) -> np.ndarray:
    """uint8 [H, W, C] of a sample [C, H, W], uint8 or float32 in [−1, 1]."""
    if image.ndim != 3 or image.dtype not in (np.uint8, np.float32):
        raise OutputError(
            f"{what}: a sample is {image.dtype} {list(image.shape)}; samples are [C, H, W], uint8 or float32"
        )
    if image.dtype == np.uint8:
        return image.transpose(1, 2, 0)
    if not np.isfinite(image).all():
        raise OutputError(f"{what} holds a sample that is NaN or infinite; leave it out")
    return to_uint8(torch.from_numpy(image.copy())[None])[0]


def _stacked(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([-1 if label is None else int(label) for _, label in samples], dtype=torch.int64)


def _class(label: Any, file: Path) -> int | None:
    """The class of an image. OutputError: it is not a whole number that a class can be."""
    if label is None:
        return None
    whole = (type(label) is int) or (isinstance(label, float) and label.is_integer())
    if isinstance(label, str):
        whole = re.fullmatch("-?[0-9]{1,9}", label) is not None
    if not whole or abs(int(label)) >= 2**31:
        raise OutputError(f"{file} has the class {str(label)[:40]!r}; a class is an integer below 2^31")
    return int(label)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _size(shape: tuple[int, ...]) -> str:
    """ "28×28 with 1 channel" of [H, W, C]."""
    return f"{shape[0]}×{shape[1]} with {shape[2]} channel{'s' * (shape[2] != 1)}"
