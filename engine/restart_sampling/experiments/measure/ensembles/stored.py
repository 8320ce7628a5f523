r"""Ensembles that a job has drawn: the members of each input, read from its shards input by input.

Samples are read one by one in the order of their seeds, so at most the members of one input are in memory, and of
Parquet a row group. Zarr and netCDF are grids: `samples` [input, member, *shape], and `seed` [input, member]. float32
samples are as they were drawn, and pictures are their bytes; both are [C, H, W] or whatever the model's shape is.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import OutputError, RestartValueError
from ....common.images import read_picture
from ....common.zarr_files import open_zarr
from ....jobs.job import Definition
from ..image_files import DAMAGE, ROWS, array_in, array_rows, keyed
from .reference import Reference
from .scores import EnsembleScorer, Scores

Sample = tuple[int, np.ndarray]  # seed, [*shape]


@dataclass(frozen=True)
class Ensembles:
    """What a job has drawn of its inputs.

    Attributes:
        folder: of the job. record: its run.json.
        inputs, members: how many inputs, and samples of each.
    """

    folder: Path
    record: dict[str, Any]
    inputs: int
    members: int

    def scored(self, reference: Path | None) -> bool:
        """Whether `score` with this reference means ensembles: always of conditions; of images with an array of truths.

        Images that samples begin with, or keep, may as well be scored as a set, whose reference is an .npz.
        """
        conditions = self.record["inputs"]["kind"] == "conditions"
        return bool(conditions or (reference is not None and reference.suffix in (".npy", ".zarr")))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the members [members, *shape] of each input, in order.

        Raises OutputError: a file cannot be read, or an input does not have all its members.
        """
        first = self.record["inputs"]["first"]
        number = 0
        members: list[np.ndarray] = []
        for seed, sample in self._samples():
            here = (seed - first) // self.members
            if here != number:
                yield self._whole(number, members)
                number, members = number + 1, []
                if here != number:
                    self._whole(number, [])
            members.append(sample)
        yield self._whole(number, members)
        if number + 1 < self.inputs:
            self._whole(number + 1, [])

    def _whole(self, number: int, members: list[np.ndarray]) -> np.ndarray:
        """Return the members of an input as one array. Raises OutputError unless all are there, of one shape."""
        if len(members) != self.members:
            raise OutputError(
                f"input {number} (from 0) of {self.folder} has {len(members)} of {self.members} members; `restart-"
                f"sampling status {self.folder}` says what is missing, and the job's command draws it"
            )
        if len(shapes := {member.shape for member in members}) > 1:
            raise OutputError(f"input {number} (from 0) of {self.folder} has members of shapes {sorted(shapes)}")
        return np.stack(members)

    def _samples(self) -> Iterator[Sample]:
        """Yield the samples of all shards."""
        kind = self.record["format"]
        if kind not in READERS:
            raise OutputError(
                f"{self.folder} holds {kind}, which are not read as ensembles; draw with --format {', '.join(READERS)}"
            )
        pattern, read = READERS[kind]
        folder = self.folder / self.record["samples"]
        for path in sorted(folder.rglob(pattern), key=lambda path: (len(path.stem), path.stem)):
            if path.parent.name != "sheets":
                try:
                    yield from read(path)
                except OutputError:
                    raise
                except DAMAGE as error:
                    raise OutputError(f"{path} cannot be read: {error or type(error).__name__}") from error


def open_ensembles(folder: str | Path) -> Ensembles | None:
    """Return the ensembles of a job; None for anything but a job of several samples of each condition or image."""
    folder = Path(folder).expanduser()
    if not (folder / "run.json").is_file():
        return None
    record = Definition.read(folder).record
    inputs = record.get("inputs")
    if inputs is None or inputs["kind"] == "prompts" or inputs["per_input"] < 2:
        return None
    return Ensembles(folder, record, inputs["count"], inputs["per_input"])


def score(ensembles: Ensembles, truths: Reference) -> Scores:
    """Return the scores of ensembles against the truths of their inputs, read one input after the other.

    Raises:
        OutputError, RestartValueError: one sentence with the input: members or truths that are missing, of other
        shapes or kinds, or not finite.
    """
    scorer = EnsembleScorer()
    for number, members in enumerate(ensembles):
        if not number:
            truths.fit(members.shape[1:], ensembles.inputs, f"{ensembles.folder} has samples of")
        if (members.dtype == np.uint8) != (truths.array.dtype == np.uint8):
            raise RestartValueError(
                f"samples in {ensembles.folder} are {members.dtype}, and truths in {truths.path} {truths.array.dtype}; "
                "compare bytes with bytes, or draw with --pixels float32"
            )
        scorer.add(members, truths[number])
    return scorer.result()


def _npz(path: Path) -> Iterator[Sample]:
    with zipfile.ZipFile(path) as archive, archive.open("seeds.npy") as file, archive.open("arr_0.npy") as main:
        seeds, samples = array_rows(file, f"{path}, seeds"), array_rows(main, f"{path}, arr_0")
        next(seeds)
        _, dtype = next(samples)
        for seed, sample in zip(seeds, samples, strict=True):
            yield int(seed), _channels_first(sample) if dtype == np.uint8 else sample


def _wds(path: Path) -> Iterator[Sample]:
    for key, members in keyed(path):
        what = f"{path}, {key}"
        if "npy" in members:
            yield _seed(key, what), array_in(members["npy"], what)
            continue
        picture = next((content for suffix, content in members.items() if suffix != "cls"), None)
        if picture is None:
            raise OutputError(f"{what} has no sample")
        yield _seed(key, what), _picture(picture, what)


def _parquet(path: Path) -> Iterator[Sample]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OutputError("Parquet needs pyarrow; install it with: pip install 'restart-sampling[parquet]'") from None
    try:
        with pq.ParquetFile(path) as table:
            shape = (table.schema_arrow.metadata or {}).get(b"shape", b"").decode()
            column = "sample" if "sample" in table.schema_arrow.names else "image"
            for batch in table.iter_batches(ROWS, columns=["seed", column]):
                for seed, value in zip(batch["seed"].to_pylist(), batch[column], strict=True):
                    if column == "sample":
                        sizes = [int(size) for size in shape.split(",")]
                        yield seed, np.asarray(value.values.to_numpy(), np.float32).reshape(sizes)
                    else:
                        yield seed, _picture(value.as_py()["bytes"], f"{path}, seed {seed}")
    except pa.ArrowException as error:
        raise OutputError(f"{path} is not a Parquet file that can be read: {error}") from error


def _zarr(path: Path) -> Iterator[Sample]:
    group = open_zarr(path)
    yield from _grid(np.asarray(group["seed"][...]), group["samples"])


def _netcdf(path: Path) -> Iterator[Sample]:
    try:
        import netCDF4
    except ImportError:
        raise OutputError("netCDF needs netCDF4; install it with: pip install 'restart-sampling[netcdf]'") from None
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        yield from _grid(np.asarray(file.variables["seed"][...]), file.variables["samples"])


def _grid(seeds: np.ndarray, samples: Any) -> Iterator[Sample]:
    """Yield the samples [*axes, *shape] of seeds [*axes]; where there is none, the seed is −1."""
    for place in np.ndindex(seeds.shape):
        if seeds[place] >= 0:
            yield int(seeds[place]), np.asarray(samples[place])


def _pictures(path: Path) -> Iterator[Sample]:
    yield _seed(path.stem, str(path)), _picture(path.read_bytes(), str(path))


def _picture(content: bytes, what: str) -> np.ndarray:
    return _channels_first(read_picture(lambda: content, what))


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(image, -1, 0)


def _seed(name: str, what: str) -> int:
    try:
        return int(name.rpartition("/")[2])
    except ValueError:
        raise OutputError(f"{what} is not named by its seed, as a job's samples are") from None


READERS: dict[str, tuple[str, Callable[[Path], Iterator[Sample]]]] = {
    "npz": ("shard-*.npz", _npz),
    "wds": ("shard-*.tar", _wds),
    "parquet": ("shard-*.parquet", _parquet),
    "zarr": ("samples.zarr", _zarr),
    "netcdf": ("shard-*.nc", _netcdf),
    "png": ("[0-9]*.png", _pictures),
}
