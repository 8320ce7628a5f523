r"""The truths that ensembles are scored against: an array [inputs, *shape] in a file.

| given | what it is |
|---|---|
| .npy | the array; read input by input, so it may be larger than the memory |
| .npz | its only array, or the one called reference or truth; read whole |
| .zarr | an array, or a group with one, or with one called reference or truth; read input by input |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import RestartValueError
from ....common.files import NPZ_DAMAGE
from ....common.zarr_files import open_zarr

NAMES = ("reference", "truth")


@dataclass(frozen=True)
class Reference:
    """The truths in a file.

    Attributes:
        path: the file. array: [inputs, *shape], in memory, on the disk or in zarr.
    """

    path: Path
    array: Any

    def __len__(self) -> int:
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a truth."""
        return tuple(self.array.shape[1:])

    def __getitem__(self, number: int) -> np.ndarray:
        """Return the truth of an input [*shape]. Raises RestartValueError for NaN and infinite values."""
        found = np.asarray(self.array[number])
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise RestartValueError(f"{self.path} has NaN or infinite values at input {number} (from 0)")
        return found

    def fit(self, shape: tuple[int, ...], inputs: int, what: str) -> Reference:
        """Return this reference, if it has a truth of this shape for each of so many inputs.

        Raises RestartValueError, which calls those inputs `what`.
        """
        if self.shape != shape:
            raise RestartValueError(
                f"{self.path} has truths of the shape {list(self.shape)}, and samples have {list(shape)}; it must be "
                f"[{', '.join(map(str, ('inputs', *shape)))}]"
            )
        if len(self) != inputs:
            raise RestartValueError(f"{self.path} has truths of {len(self):,} inputs, and {what} {inputs:,}")
        return self

    def name(self) -> str:
        """Return what rows call it: the file's name and the first 12 digits of the SHA-256 of shape, dtype and values.

        It reads and checks all truths.
        """
        sha256 = hashlib.sha256(repr((tuple(self.array.shape), np.dtype(self.array.dtype).str)).encode())
        for truth in self:
            sha256.update(np.ascontiguousarray(truth).tobytes())
        return f"{self.path.name} {sha256.hexdigest()[:12]}"

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


def open_reference(path: str | Path) -> Reference:
    """Return the truths in a file; see the table at the top.

    Raises:
        RestartValueError: one sentence about what cannot be read. BackendError: zarr is not installed.
    """
    path = Path(path).expanduser()
    try:
        array = _opened(path)
    except FileNotFoundError:
        raise RestartValueError(f"there is no reference {path}") from None
    except NPZ_DAMAGE as error:
        raise RestartValueError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if array.ndim < 2 or not all(array.shape) or np.dtype(array.dtype).kind not in "fiu":
        raise RestartValueError(
            f"{path} holds {array.dtype} {list(array.shape)}; a reference is an array of numbers [inputs, …]"
        )
    return Reference(path, array)


def _opened(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return archive[_only(path, dict.fromkeys(archive.files))]
    if path.suffix == ".zarr":
        return _zarr(path)
    raise RestartValueError(f"{path} is no reference that is known (.npy, .npz, .zarr); its array is [inputs, …]")


def _zarr(path: Path) -> Any:
    found = open_zarr(path)
    if hasattr(found, "ndim"):
        return found
    arrays = dict(found.arrays())
    return arrays[_only(path, arrays)]


def _only(path: Path, arrays: Mapping[str, Any]) -> str:
    """Return the name of the array that is the reference."""
    named = list(arrays) if len(arrays) == 1 else [name for name in NAMES if name in arrays]
    if len(named) != 1:
        raise RestartValueError(
            f"{path} holds the arrays {', '.join(sorted(arrays)) or 'none'}; call one of them {NAMES[0]}"
        )
    return named[0]
