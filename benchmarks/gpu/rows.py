"""Keyed rows of results, in one JSON file for each card.

A row is written the moment it is measured, so a killed run keeps its rows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from restart_sampling.experiments.measure.rows import commit
from restart_sampling.experiments.measure.timing import quartiles

KEY = ("stage", "what", "case", "variant")  # a row replaces the one that is equal in these


def card_slug(device: str) -> str:
    """Return a short name of the card for file names: "NVIDIA H100 80GB HBM3" is h100."""
    if not device.startswith("cuda"):
        return device
    name = nvidia_smi("name", device) or "gpu"
    known = re.search(r"\b(?:[ABHLT]\d{1,3}|GB?\d{3}|RTX \w+)\b", name)
    return re.sub(r"\W+", "-", (known[0] if known else name)).lower()


def smi_id(device: str) -> str:
    """Return how nvidia-smi, which does not know CUDA_VISIBLE_DEVICES, calls the card that is `device` to PyTorch."""
    index = int(device.partition(":")[2] or 0)
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names[index] if index < len(names) else str(index)


def nvidia_smi(query: str, device: str = "cuda") -> str:
    """Return one line of nvidia-smi about a card, or "" if there is no such card or no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={smi_id(device)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class Rows:
    """The rows of a stage, in the file of all stages.

    Args:
        path: the JSON file; its other rows stay.
        stage: the stage these rows belong to.
        seconds: how long the stage may take; `left()` is what remains.
        device: the device that is measured.
    """

    def __init__(self, path: Path, stage: str, seconds: float, device: str = "cuda") -> None:
        self.path, self.stage, self.end = path, stage, time.monotonic() + seconds
        self.common: dict[str, Any] = {
            "card": nvidia_smi("name", device) or "none",
            "driver": nvidia_smi("driver_version", device),
            "torch": _version("torch"),
            "triton": _version("triton"),
            "commit": _commit(),
        }

    def left(self) -> float:
        """Return the seconds that the stage has left."""
        return self.end - time.monotonic()

    def add(
        self,
        what: str,
        values: float | str | Sequence[float],
        unit: str = "",
        *,
        case: str = "",
        variant: str = "",
        **more: Any,
    ) -> None:
        """Write the row of `what` for `variant` in `case`; several values become median, quartiles and n."""
        row: dict[str, Any] = {"stage": self.stage, "what": what, "case": case, "variant": variant}
        if isinstance(values, (int, float, str)):
            row["value"] = values if isinstance(values, str) else round_to(values)
        else:
            q1, median, q3 = quartiles(list(values))
            row |= {"median": round_to(median), "q1": round_to(q1), "q3": round_to(q3), "n": len(values)}
        row |= {"unit": unit, **more, "date": time.strftime("%Y-%m-%d"), **self.common}
        save(self.path, row)
        number = row.get("value", row.get("median"))
        spread = f"  ({row['q1']} to {row['q3']}, n = {row['n']})" if "median" in row else ""
        notes = "".join(f"  {name} {value}" for name, value in more.items())
        print(f"{case:28} {variant:22} {what:32} {number} {unit}{spread}{notes}", flush=True)


def save(path: Path, row: dict[str, Any]) -> None:
    """Put one row into the file, in the place of the one with the same key."""
    rows = json.loads(path.read_text()) if path.exists() else []
    key = [row[name] for name in KEY]
    rows = [old for old in rows if [old[name] for name in KEY] != key] + [row]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    os.replace(temporary, path)
    if out := os.environ.get("OUT"):
        shutil.copy(path, Path(out) / path.name)


def round_to(value: float, digits: int = 5) -> float:
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _commit() -> str:
    """Return the commit of the checkout, or $COMMIT if the code was copied without its history."""
    return os.environ.get("COMMIT") or commit() or "unknown"


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
