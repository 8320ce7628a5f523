r"""A run's folder: run.json first, then one file per seed, then the contact sheet and the final run.json.

Nothing is written before all checks passed, nothing is left half written, and `overwrite` removes only what an earlier run of
ours wrote (it reads that run's run.json).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, RestartError
from ..seeds import parse_seeds
from .images import grid, save_png, write_output

FORMATS = ("png", "npz")
SHEET = 64


class RunFolder:
    """Writes the results of one run into `path`.

    Raises OutputError when the folder cannot be used: it is a file, cannot be written, or holds another run and `overwrite`
    was not given; or the disk cannot hold `expected_bytes`.
    """

    def __init__(
        self,
        path: Path,
        record: dict[str, Any],
        format: str = "png",
        overwrite: bool = False,
        expected_bytes: int = 0,
    ) -> None:
        if format not in FORMATS:
            raise OutputError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        self.path, self.record, self.format = path, record, format
        self._check_space(expected_bytes)
        self._claim(overwrite)
        self.sheet: list[np.ndarray] = []
        self.arrays: dict[int, np.ndarray] = {}
        self.written = 0
        self.save_record("running")

    def _check_space(self, expected: int) -> None:
        existing = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if expected > free:
            raise OutputError(
                f"the run may write {expected / 1e9:.3g} GB, and {existing} has {free / 1e9:.3g} GB free; ask for fewer seeds"
            )

    def _claim(self, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; give a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = sorted(os.listdir(self.path))
        except OSError as error:
            raise OutputError(f"cannot use folder {self.path}: {error.strerror or error}") from error
        if not os.access(self.path, os.W_OK):
            raise OutputError(f"folder {self.path} cannot be written; choose another")
        if entries and not overwrite:
            raise OutputError(
                f"folder {self.path} is not empty ({len(entries)} entries); choose another or add --overwrite"
            )
        if entries:
            self._remove_earlier_run()

    def _remove_earlier_run(self) -> None:
        """Remove the files of an earlier run, and only those."""
        record = self.path / "run.json"
        if not record.exists():
            return
        try:
            earlier = json.loads(record.read_text())
            names = (
                [f"{seed:06d}.png" for seed in parse_seeds(earlier["seeds"])]
                if earlier["format"] == "png"
                else []
            )
        except (OSError, ValueError, KeyError, TypeError, RestartError) as error:
            raise OutputError(f"{record} is not a run of ours ({error}); choose another folder") from error
        for name in [*names, "grid.png", "samples.npz", "run.json"]:
            (self.path / name).unlink(missing_ok=True)

    def add(self, seeds: list[int], images: np.ndarray, bad: set[int]) -> None:
        """Write images uint8 [n, H, W, C] of `seeds`, leaving out the seeds in `bad`."""
        for seed, image in zip(seeds, images, strict=True):
            if seed in bad:
                continue
            if self.format == "png":
                save_png(self.path / f"{seed:06d}.png", image)
            else:
                self.arrays[seed] = image
            if len(self.sheet) < SHEET:
                self.sheet.append(image)
            self.written += 1

    def finish(self, status: str, **results: Any) -> None:
        """Write the contact sheet and the final run.json; also after an interruption."""
        if self.arrays:
            seeds = np.array(list(self.arrays), dtype=np.int64)
            images = np.stack(list(self.arrays.values()))
            write_output(
                self.path / "samples.npz", lambda f: np.savez_compressed(f, images=images, seeds=seeds)
            )
        if self.sheet and self.sheet[0].shape[-1] in (1, 3):
            images = np.stack(self.sheet)
            save_png(self.path / "grid.png", grid(images, scale=max(1, 96 // images.shape[1])))
        self.save_record(status, **results)

    def save_record(self, status: str, **results: Any) -> None:
        """Write run.json."""
        record = {
            **self.record,
            "status": status,
            **({"results": {"written": self.written, **results}} if results else {}),
        }
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        write_output(self.path / "run.json", lambda file: file.write(text.encode()))
