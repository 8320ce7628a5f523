r"""Conditions of a job, from arrays: one value for each input, by the names of the network's conditions.

| given | what it is |
|---|---|
| .npz | an array [inputs, *shape] for each condition, by its name |
| a folder of .npy | likewise, NAME.npy; read batch by batch, so it may be larger than the memory |
| .npy | the array of the network's only condition |
| .zarr, a folder | a group of arrays by name; read batch by batch |

They are hashed and checked for NaN once, block by block. Integers become the condition's dtype if it is one; floats are
rounded to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.checks import did_you_mean
from ...common.errors import RestartValueError
from ...common.files import NPZ_DAMAGE
from ...common.zarr_files import open_zarr
from ...models.conditions import FLOATS, Condition

BLOCK = 1 << 24  # numbers that are looked at at once


@dataclass(eq=False)
class Arrays:
    """Arrays of conditions.

    Attributes:
        path: the file or folder. arrays: by condition, [inputs, *shape].
        count: of the inputs. sha256: of all values.
    """

    path: Path
    specs: Mapping[str, Condition]
    arrays: Mapping[str, Any]
    count: int
    sha256: str

    def __len__(self) -> int:
        return self.count

    def of(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the values of these inputs by condition, [n, *shape] in the condition's dtype."""
        places = np.asarray(numbers, np.int64)
        found, where = np.unique(places, return_inverse=True)  # zarr wants ascending places, and each is read once
        return {
            name: torch.from_numpy(np.ascontiguousarray(_rows(array, found)[where])).to(self.specs[name].dtype)
            for name, array in self.arrays.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle arrays by their path: workers read them themselves, and they must still be the same."""
        return _again, (self.path, dict(self.specs), self.sha256)


def read_arrays(path: str | Path, conditions: Mapping[str, Condition]) -> Arrays:
    """Return the conditions in a file or folder, checked against those that a network declares.

    Raises:
        RestartValueError: one sentence about what cannot be read or does not fit. BackendError: zarr is not installed.
    """
    path = Path(path).expanduser().resolve()
    specs = {name: spec for name, spec in conditions.items() if not spec.shared}
    arrays = _opened(path, specs)
    counts: dict[str, int] = {}
    for name, array in arrays.items():
        spec = specs.get(name)
        if spec is None:
            there = f"the network's are {', '.join(specs)}" if specs else "the network has none"
            raise RestartValueError(
                f"{path} has an array {name!r}, which is no condition{did_you_mean(name, specs, there)}"
            )
        wanted = f"[inputs{''.join(f', {size}' for size in spec.shape)}]"
        if array.ndim != len(spec.shape) + 1 or tuple(array.shape[1:]) != spec.shape:
            raise RestartValueError(f"{path}: {name!r} has the shape {list(array.shape)}; it must be {wanted}")
        kinds = "iub" if spec.dtype not in FLOATS else "fiu"
        if np.dtype(array.dtype).kind not in kinds:
            raise RestartValueError(f"{path}: {name!r} holds {array.dtype}; the condition is {spec}")
        counts[name] = len(array)
    if not arrays or not all(counts.values()):
        raise RestartValueError(f"{path} holds no conditions; the network's are {', '.join(specs) or 'none'}")
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise RestartValueError(f"{path} has arrays for different numbers of inputs ({told}); give as many of each")
    return Arrays(path, specs, arrays, next(iter(counts.values())), _digest(path, arrays))


def _again(path: Path, specs: dict[str, Condition], sha256: str) -> Arrays:
    found = read_arrays(path, specs)
    if found.sha256 != sha256:
        raise RestartValueError(f"{path} has changed while the job runs; start the job again with the same values")
    return found


def _opened(path: Path, specs: Mapping[str, Condition]) -> dict[str, Any]:
    """Return the arrays of a file or folder by name, memory-mapped where that is possible."""
    try:
        if path.suffix == ".zarr":
            group = open_zarr(path)
            if not hasattr(group, "arrays"):
                raise RestartValueError(
                    f"{path} is one array; give a group with an array for each condition, by its name"
                )
            return dict(group.arrays())
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        if path.suffix == ".npy":
            if len(specs) != 1:
                raise RestartValueError(
                    f"{path} is one array, and the network has {len(specs)} conditions ({', '.join(specs) or 'none'}); "
                    "give a .npz or a folder with an array for each, by its name"
                )
            return {next(iter(specs)): np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except RestartValueError:
        raise
    except FileNotFoundError:
        raise RestartValueError(f"there is no file of conditions {path}") from None
    except NPZ_DAMAGE as error:
        raise RestartValueError(f"{path} cannot be read: {error or type(error).__name__}") from error
    raise RestartValueError(f"{path} holds no conditions that are known (.npz, .npy, a folder of .npy, .zarr)")


def _rows(array: Any, places: np.ndarray) -> np.ndarray:
    """Return rows of an array in memory, on the disk or in zarr, by ascending places."""
    if isinstance(array, np.ndarray):
        return np.asarray(array[places])
    return np.asarray(array.oindex[places])


def _digest(path: Path, arrays: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, shapes, dtypes and values. Raises RestartValueError for NaN and infinities."""
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(repr((name, tuple(array.shape), np.dtype(array.dtype).str)).encode())
        rows = max(1, BLOCK // max(1, int(np.prod(array.shape[1:], dtype=np.int64))))
        for start in range(0, len(array), rows):
            block = np.ascontiguousarray(array[start : start + rows])
            if block.dtype.kind == "f" and not (ok := np.isfinite(block.reshape(len(block), -1)).all(1)).all():
                raise RestartValueError(
                    f"{path}: {name!r} has NaN or infinite values at input {start + int(np.argmin(ok))} (from 0)"
                )
            sha256.update(block.tobytes())
    return sha256.hexdigest()
